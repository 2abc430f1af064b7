use bytes::Bytes;

use crate::{Codec, Error, Input, Output, Result};

/// Frames of the same length.
///
/// ```
/// # use perihelion_pipeline::{Codec, FixedLength, Input};
/// let mut input = Input::default();
/// input.push("onetwoth".into());
/// let mut codec = FixedLength::new(3);
/// assert_eq!(codec.decode(&mut input).unwrap().unwrap(), "one");
/// assert_eq!(codec.decode(&mut input).unwrap().unwrap(), "two");
/// assert!(codec.decode(&mut input).unwrap().is_none());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct FixedLength {
    length: usize,
}

impl FixedLength {
    /// Frames of this many bytes.
    ///
    /// # Panics
    /// If it is 0.
    pub fn new(length: usize) -> Self {
        assert!(length > 0, "a frame has one byte at least");
        FixedLength { length }
    }
}

impl Codec for FixedLength {
    type Frame = Bytes;
    type Item = Bytes;

    #[inline]
    fn decode(&mut self, input: &mut Input) -> Result<Option<Bytes>> {
        Ok((input.len() >= self.length).then(|| input.take(self.length)))
    }

    #[inline]
    fn encode(&mut self, item: Bytes, output: &mut Output) -> Result<()> {
        if item.len() != self.length {
            let (has, length) = (item.len(), self.length);
            return Err(Error::msg(format!("a frame of {has} bytes, where all have {length}")));
        }
        output.put_bytes(item);
        Ok(())
    }
}
