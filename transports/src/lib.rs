//! Channels, servers and clients of Perihelion: a transport and a pipeline on an event loop.
//!
//! A [`Server`] listens on every worker of a runtime; a [`Client`] connects from a task of one, and an [`Acceptor`]
//! lets a task take connections when it wants them. Each puts a pipeline on each connection, and the connection stays on
//! its worker for life.
#![forbid(unsafe_code)]

mod acceptor;
mod address;
mod admission;
mod channel;
mod client;
mod connection;
mod connector;
mod entrance;
mod error;
mod filter;
mod group;
mod listener;
mod per_address;
mod server;
mod socket;
pub mod testing;
mod watch;

pub use acceptor::{Accepted, Acceptor};
pub use address::Address;
pub use admission::Refusals;
pub use client::Client;
pub use connection::Connection;
pub use error::Error;
pub use server::{NoPipeline, PerCore, RunningServer, Server, ServerReport};
pub use watch::{ChannelHandle, Closed};
