use bytes::Bytes;
use std::fmt;

use super::limits::{check_length, too_long};
use crate::{Codec, Input, Output, Result};

/// A frame behind its length as a Protocol Buffers varint: seven bits a byte, the least significant first, all but
/// the last with their highest bit set. It is what `writeDelimitedTo` and `prost`'s `encode_length_delimited` write.
///
/// ```
/// # use perihelion_pipeline::{Codec, Input, Varint};
/// let mut input = Input::default();
/// input.push("\x05hello".into());
/// assert_eq!(Varint::new(1000).decode(&mut input).unwrap().unwrap(), "hello");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Varint {
    max: usize,
}

/// A varint length is over 32 bits.
#[derive(Debug)]
pub struct VarintTooLong;

/// The most bytes of a number of 32 bits.
const WIDTH_MAX: usize = 5;

impl Varint {
    /// Frames of at most `max` bytes.
    ///
    /// # Panics
    /// If `max` is over `u32::MAX`.
    pub fn new(max: usize) -> Self {
        assert!(u32::try_from(max).is_ok(), "a maximum of {max} bytes has no room in 32 bits");
        Varint { max }
    }
}

/// The number at the beginning and how many bytes it takes, or `None` while it is not whole.
#[inline]
fn varint(bytes: &[u8]) -> Result<Option<(u32, usize)>> {
    let mut number = 0;
    for (n, byte) in bytes.iter().take(WIDTH_MAX).enumerate() {
        if n == WIDTH_MAX - 1 && *byte > 0x0f {
            return Err(VarintTooLong.into()); // four bits are left, and no other byte may follow
        }
        number |= u32::from(byte & 0x7f) << (7 * n);
        if byte & 0x80 == 0 {
            return Ok(Some((number, n + 1)));
        }
    }
    Ok(None)
}

impl Codec for Varint {
    type Frame = Bytes;
    type Item = Bytes;

    #[inline]
    fn decode(&mut self, input: &mut Input) -> Result<Option<Bytes>> {
        let Some((length, width)) = varint(input.as_slice())? else { return Ok(None) };
        let length = length as usize;
        if length > self.max {
            return Err(too_long(length as u64, self.max));
        }
        if input.len() - width < length {
            return Ok(None);
        }
        input.advance(width);
        Ok(Some(input.take(length)))
    }

    #[inline]
    fn encode(&mut self, item: Bytes, output: &mut Output) -> Result<()> {
        check_length(item.len(), self.max)?;
        let mut length = item.len();
        let buffer = output.put_buf();
        while length > 0x7f {
            buffer.push(length as u8 | 0x80);
            length >>= 7;
        }
        buffer.push(length as u8);
        output.put_bytes(item);
        Ok(())
    }
}

impl fmt::Display for VarintTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a varint length is over 32 bits or {WIDTH_MAX} bytes")
    }
}

impl std::error::Error for VarintTooLong {}
