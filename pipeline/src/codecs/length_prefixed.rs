use bytes::Bytes;
use std::fmt;

use crate::{Codec, Error, Input, Output, Result};

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

/// Which byte of a number comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteOrder {
    /// The most significant (network byte order).
    Big,
    /// The least significant.
    Little,
}

/// A frame is longer than allowed, or its length has no room in the prefix.
#[derive(Debug)]
pub struct FrameTooLong {
    /// The frame's length in bytes.
    pub length: u64,
    /// The greatest length allowed.
    pub max: usize,
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
            _ => self.length_of_any_width(bytes),
        }
    }

    fn length_of_any_width(&self, bytes: &[u8]) -> Option<u64> {
        let prefix = bytes.get(..self.width.into())?;
        let add = |length: u64, byte: &u8| length << 8 | u64::from(*byte);
        Some(match self.order {
            ByteOrder::Big => prefix.iter().fold(0, add),
            ByteOrder::Little => prefix.iter().rev().fold(0, add),
        })
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
        if item.len() > self.max {
            return Err(too_long(item.len() as u64, self.max));
        }
        let length = (item.len() as u64).to_be_bytes();
        let width = usize::from(self.width);
        match (self.width, self.order) {
            (4, ByteOrder::Big) => output.put_slice(&(item.len() as u32).to_be_bytes()),
            (_, ByteOrder::Big) => output.put_slice(&length[8 - width..]),
            (_, ByteOrder::Little) => output.put_slice(&(item.len() as u64).to_le_bytes()[..width]),
        }
        output.put_bytes(item);
        Ok(())
    }
}

#[cold]
fn too_long(length: u64, max: usize) -> Error {
    FrameTooLong { length, max }.into()
}

impl fmt::Display for FrameTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a frame of {} bytes: at most {} are allowed", self.length, self.max)
    }
}

impl std::error::Error for FrameTooLong {}
