//! Codecs that many protocols share.

mod byte_order;
mod delimited;
mod fixed_length;
#[cfg(feature = "json")]
mod json_values;
mod length_field;
mod length_prefixed;
mod limits;
mod lines;
mod netstring;
mod raw;
#[cfg(feature = "tokio-codec")]
mod tokio_codec;
#[cfg(any(feature = "json", feature = "messagepack", feature = "postcard"))]
mod typed;
mod varint;

pub use byte_order::ByteOrder;
pub use delimited::Delimited;
pub use fixed_length::FixedLength;
#[cfg(feature = "json")]
pub use json_values::JsonValues;
pub use length_field::{LengthField, LengthFieldBuilder, LengthTooSmall};
pub use length_prefixed::LengthPrefixed;
pub use limits::{FrameTooLong, FrameWithoutEnd};
pub use lines::{LineTooLong, Lines};
pub use netstring::{InvalidNetstring, Netstring};
pub use raw::Raw;
#[cfg(feature = "tokio-codec")]
pub use tokio_codec::TokioCodec;
#[cfg(any(feature = "json", feature = "messagepack", feature = "postcard"))]
pub use typed::{Format, FormatError, Typed};
#[cfg(feature = "json")]
pub use typed::{Json, JsonFormat};
#[cfg(feature = "messagepack")]
pub use typed::{MessagePack, MessagePackFormat};
#[cfg(feature = "postcard")]
pub use typed::{Postcard, PostcardFormat};
pub use varint::{Varint, VarintTooLong};
