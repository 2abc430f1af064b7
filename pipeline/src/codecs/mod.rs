//! Codecs that many protocols share.

mod byte_order;
mod delimited;
mod fixed_length;
mod length_field;
mod length_prefixed;
mod limits;
mod lines;
mod netstring;
mod raw;
mod varint;

pub use byte_order::ByteOrder;
pub use delimited::Delimited;
pub use fixed_length::FixedLength;
pub use length_field::{LengthField, LengthFieldBuilder, LengthTooSmall};
pub use length_prefixed::LengthPrefixed;
pub use limits::{FrameTooLong, FrameWithoutEnd};
pub use lines::{LineTooLong, Lines};
pub use netstring::{InvalidNetstring, Netstring};
pub use raw::Raw;
pub use varint::{Varint, VarintTooLong};
