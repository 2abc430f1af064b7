//! Codecs that many protocols share.

mod length_prefixed;
mod lines;
mod raw;

pub use length_prefixed::{ByteOrder, FrameTooLong, LengthPrefixed};
pub use lines::{LineTooLong, Lines};
pub use raw::Raw;
