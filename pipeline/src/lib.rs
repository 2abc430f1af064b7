//! Codecs, handlers and the typed pipeline of Perihelion. Sans-IO: no socket, no clock, no thread.
//!
//! A pipeline is made of stages, from the transport to the application: a [`Codec`] or [`Protocol`] turns bytes into
//! frames and back, [`Handler`]s turn messages into messages, and a [`Tail`] or an asynchronous function ends it.
//! [`codec`] begins one. It is one nested type: neighbours that don't fit don't compile, and no message costs a
//! virtual call.
//!
//! It is *pulled*: a codec gives one frame, which travels to the tail and whose replies travel back before the next
//! frame is decoded. So a stage is never entered twice, back-pressure acts between two messages, and a burst can be
//! cut at any message.
//!
//! Features, none of them on by default: `json` (`JsonValues`, `Json`), `messagepack` (`MessagePack`), `postcard`
//! (`Postcard`) and `tokio-codec` (`TokioCodec`).
#![forbid(unsafe_code)]

mod builder;
mod chain;
mod change;
mod channel;
mod codec;
mod codecs;
mod context;
mod demand;
mod error;
mod event;
mod features;
mod flow;
mod framed;
mod handler;
pub mod handlers;
mod hold;
mod input;
mod link;
mod operation;
mod outbound;
mod output;
mod pipeline;
mod promise;
pub mod proxy_protocol;
mod queue;
mod runner;
mod service;
mod slot;
mod spare;
mod switch;
mod tail;
pub mod testing;
mod traffic;
mod writer;

pub use builder::{Builder, Coded, Fits, Fold, FoldOnSwitch, Stack, Then, Transport, codec, transport};
pub use chain::Chain;
pub use change::StageGone;
pub use channel::{Channel, Limits, StageId, Work};
pub use codec::{Codec, Protocol, Truncated};
#[cfg(feature = "tokio-codec")]
pub use codecs::TokioCodec;
pub use codecs::{
    ByteOrder, Delimited, FixedLength, FrameTooLong, FrameWithoutEnd, InvalidNetstring, LengthField,
    LengthFieldBuilder, LengthPrefixed, LengthTooSmall, LineTooLong, Lines, Netstring, Raw, Varint,
    VarintTooLong,
};
#[cfg(any(feature = "json", feature = "messagepack", feature = "postcard"))]
pub use codecs::{Format, FormatError, Typed};
#[cfg(feature = "json")]
pub use codecs::{Json, JsonFormat, JsonValues};
#[cfg(feature = "messagepack")]
pub use codecs::{MessagePack, MessagePackFormat};
#[cfg(feature = "postcard")]
pub use codecs::{Postcard, PostcardFormat};
pub use context::{Context, Wire};
pub use demand::DemandHandle;
pub use error::{Error, Result};
pub use event::{Event, EventRefused, EventSender};
pub use features::Features;
pub use flow::{Flow, Later, Step};
pub use framed::Framed;
pub use handler::{Handler, Pass};
pub use hold::Hold;
pub use input::Input;
pub use operation::{Operation, Target};
pub use outbound::Outbound;
pub use output::{BY_REFERENCE_BYTES, Output, PART_BYTES_MAX, Segment};
pub use pipeline::{Pipeline, Signal};
pub use promise::{Promise, Written};
pub use queue::Queue;
pub use runner::{Runner, WaitTooLong};
pub use service::Service;
pub use slot::{RemoteSlotKey, Slot, SlotKey};
pub use spare::{recycle_buffer, release_spare_buffers, spare_buffer};
pub use switch::{BytesLeft, RemoteSwitchKey, Switch, SwitchKey};
pub use tail::{Tail, TailStage};
pub use traffic::{Record, Traffic};
pub use writer::{Attachment, ChannelClosed, Room, Writer};
