use bytes::Bytes;

use crate::{Codec, Input, Output, Result};

/// Bytes as they come: a frame is whatever was received together.
pub struct Raw;

impl Codec for Raw {
    type Frame = Bytes;
    type Item = Bytes;

    #[inline]
    fn decode(&mut self, input: &mut Input) -> Result<Option<Bytes>> {
        Ok((!input.is_empty()).then(|| input.take_all()))
    }

    #[inline]
    fn encode(&mut self, item: Bytes, output: &mut Output) -> Result<()> {
        output.put_bytes(item);
        Ok(())
    }
}
