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
#![forbid(unsafe_code)]

mod builder;
mod chain;
mod channel;
mod codec;
mod codecs;
mod context;
mod error;
mod flow;
mod framed;
mod handler;
mod input;
mod outbound;
mod output;
mod pipeline;
mod runner;
mod service;
mod spare;
mod tail;
mod writer;

pub use builder::{Builder, Coded, Fits, Fold, Stack, Then, Transport, codec, transport};
pub use chain::Chain;
pub use channel::{Channel, Limits};
pub use codec::{Codec, Protocol, Truncated};
pub use codecs::{ByteOrder, FrameTooLong, LengthPrefixed, LineTooLong, Lines, Raw};
pub use context::{Context, Wire};
pub use error::{Error, Result};
pub use flow::{Flow, Later, Step};
pub use framed::Framed;
pub use handler::{Handler, Pass};
pub use input::Input;
pub use outbound::Outbound;
pub use output::{BY_REFERENCE_BYTES, Output, Segment};
pub use pipeline::{DynPipeline, Pipeline, Signal};
pub use runner::Runner;
pub use service::Service;
pub use spare::release_spare_buffers;
pub use tail::{Tail, TailStage};
pub use writer::{ChannelClosed, Writer};
