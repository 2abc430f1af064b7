//! The errors of frames that are longer than allowed.

use std::fmt;

/// A frame is longer than allowed, or its length has no room in the prefix.
#[derive(Debug)]
pub struct FrameTooLong {
    /// The frame's length in bytes.
    pub length: u64,
    /// The greatest length allowed.
    pub max: usize,
}

/// A frame that says its end only where it ends has not ended within the length allowed.
#[derive(Debug)]
pub struct FrameWithoutEnd {
    /// The greatest length allowed.
    pub max: usize,
}

impl fmt::Display for FrameTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a frame of {} bytes: at most {} are allowed", self.length, self.max)
    }
}

impl fmt::Display for FrameWithoutEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a frame does not end within the {} bytes that are allowed", self.max)
    }
}

impl std::error::Error for FrameTooLong {}

impl std::error::Error for FrameWithoutEnd {}

/// An error if a frame of `length` bytes is longer than allowed.
#[inline]
pub(crate) fn check_length(length: usize, max: usize) -> crate::Result<()> {
    if length > max { Err(too_long(length as u64, max)) } else { Ok(()) }
}

#[cold]
pub(crate) fn too_long(length: u64, max: usize) -> crate::Error {
    FrameTooLong { length, max }.into()
}
