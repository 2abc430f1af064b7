use bytes::Bytes;

use super::limits::{check_length, too_long};
use crate::{ByteOrder, Codec, Input, Output, Result};

/// A frame behind its length: an unsigned number of 1 to 8 bytes that counts the frame alone.
///
/// ```
/// # use perihelion_pipeline::{ByteOrder, Codec, Input, LengthPrefixed, Output};
/// let mut codec = LengthPrefixed::new(2, ByteOrder::Little, 1000);
/// let mut input = Input::default();
/// input.push("\x05\0hello\x05\0wor".into());
/// assert_eq!(codec.decode(&mut input).unwrap().unwrap(), "hello");
/// assert!(codec.decode(&mut input).unwrap().is_none());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct LengthPrefixed {
    width: u8,
    order: ByteOrder,
    max: usize,
}

impl LengthPrefixed {
    /// A prefix of `width` bytes in this order, for frames of at most `max` bytes.
    ///
    /// # Panics
    /// If `width` is not 1 to 8, or `max` has no room in that many bytes.
    pub fn new(width: u8, order: ByteOrder, max: usize) -> Self {
        assert!((1..=8).contains(&width), "a length prefix has 1 to 8 bytes, not {width}");
        assert!(
            width == 8 || (max as u64) >> (8 * width) == 0,
            "a maximum of {max} bytes has no room in a prefix of {width}"
        );
        LengthPrefixed { width, order, max }
    }

    /// A prefix of four bytes, the most significant first.
    ///
    /// # Panics
    /// If `max` is over `u32::MAX`.
    pub fn u32_be(max: usize) -> Self {
        Self::new(4, ByteOrder::Big, max)
    }

    /// The length that the prefix says, or `None` while there are not enough bytes.
    #[inline]
    fn length(&self, bytes: &[u8]) -> Option<u64> {
        // The two in common use get code of their own.
        match (self.width, self.order) {
            (4, ByteOrder::Big) => bytes.first_chunk().map(|b| u64::from(u32::from_be_bytes(*b))),
            (2, ByteOrder::Big) => bytes.first_chunk().map(|b| u64::from(u16::from_be_bytes(*b))),
            _ => bytes.get(..self.width.into()).map(|prefix| self.order.number(prefix)),
        }
    }
}

impl Codec for LengthPrefixed {
    type Frame = Bytes;
    type Item = Bytes;

    #[inline]
    fn decode(&mut self, input: &mut Input) -> Result<Option<Bytes>> {
        let Some(length) = self.length(input.as_slice()) else { return Ok(None) };
        if length > self.max as u64 {
            return Err(too_long(length, self.max));
        }
        let width = usize::from(self.width);
        if ((input.len() - width) as u64) < length {
            return Ok(None);
        }
        input.advance(width);
        Ok(Some(input.take(length as usize)))
    }

    #[inline]
    fn encode(&mut self, item: Bytes, output: &mut Output) -> Result<()> {
        check_length(item.len(), self.max)?;
        match (self.width, self.order) {
            (4, ByteOrder::Big) => output.put_slice(&(item.len() as u32).to_be_bytes()),
            _ => self.order.put(item.len() as u64, self.width.into(), output),
        }
        output.put_bytes(item);
        Ok(())
    }
}
