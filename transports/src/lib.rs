//! Channels, servers and clients of Perihelion: a transport and a pipeline on an event loop.
//!
//! A [`Server`] listens on every worker of a runtime; a [`Client`] connects from a task of one. Both put a pipeline on
//! each connection, and the connection stays on its worker for life.
#![forbid(unsafe_code)]

mod address;
mod admission;
mod channel;
mod client;
mod connection;
mod connector;
mod error;
mod group;
mod listener;
mod relay;
mod server;
mod socket;
pub mod testing;
mod watch;

pub use address::Address;
pub use client::Client;
pub use connection::Connection;
pub use error::Error;
pub use relay::RelayTo;
pub use server::{NoPipeline, PerCore, Relayed, RunningServer, Server, ServerReport};
pub use watch::{ChannelHandle, Closed};
