use std::marker::PhantomData;
use tokio_util::codec::{Decoder, Encoder};

use crate::{BY_REFERENCE_BYTES, Codec, Error, Input, Output, Result, spare};

/// A codec that was written for `tokio-util`: `C` decodes its frames and encodes items of type `I`. Needs the feature
/// `tokio-codec`, and no Tokio runtime.
///
/// ```
/// use perihelion_pipeline::{Codec, Input, TokioCodec};
/// use tokio_util::codec::LinesCodec;
///
/// let mut codec = TokioCodec::<_, String>::new(LinesCodec::new());
/// let mut input = Input::default();
/// input.push("one\ntwo".into());
/// assert_eq!(codec.decode(&mut input).unwrap().unwrap(), "one");
/// assert!(codec.decode(&mut input).unwrap().is_none());
/// ```
///
/// Such a codec takes its bytes from a `BytesMut`, so everything that is received is copied into one, once. It is
/// borrowed from the worker's spare buffers while there are bytes in it: an idle connection holds none.
#[derive(Clone, Debug)]
pub struct TokioCodec<C, I> {
    codec: C,
    item: PhantomData<fn(I)>,
}

impl<C, I> TokioCodec<C, I> {
    /// An adapter for this codec.
    pub fn new(codec: C) -> Self {
        TokioCodec { codec, item: PhantomData }
    }
}

impl<C, I> Codec for TokioCodec<C, I>
where
    C: Decoder<Error: Into<Error>> + Encoder<I, Error: Into<Error>>,
{
    type Frame = <C as Decoder>::Item;
    type Item = I;

    fn decode(&mut self, input: &mut Input) -> Result<Option<Self::Frame>> {
        input.with_buffer(|buffer| self.codec.decode(buffer)).map_err(Into::into)
    }

    fn decode_eof(&mut self, input: &mut Input) -> Result<Option<Self::Frame>> {
        input.with_buffer(|buffer| self.codec.decode_eof(buffer)).map_err(Into::into)
    }

    fn encode(&mut self, item: I, output: &mut Output) -> Result<()> {
        let mut buffer = spare::gather(BY_REFERENCE_BYTES);
        self.codec.encode(item, &mut buffer).map_err(Into::into)?;
        if buffer.len() < BY_REFERENCE_BYTES {
            output.put_slice(&buffer);
            spare::give_gather(buffer);
        } else {
            output.put_bytes(buffer.freeze());
        }
        Ok(())
    }
}
