//! Channels, servers and clients of Perihelion: a transport and a pipeline on an event loop.
//!
//! A [`Server`] listens on every worker of a runtime; a [`Client`] connects from a task of one. Both put a pipeline on
//! each connection, and the connection stays on its worker for life.
#![forbid(unsafe_code)]

mod address;
mod admission;
mod backoff;
mod channel;
mod client;
mod connection;
mod connector;
mod counters;
mod error;
mod function;
mod group;
mod happy_eyeballs;
mod listener;
mod middleware;
mod new_connection;
mod peer;
mod pool;
mod reconnect;
mod server;
mod socket;
pub mod testing;
mod watch;

pub use address::Address;
pub use backoff::Backoff;
pub use client::Client;
pub use connection::Connection;
pub use error::{ConnectionError, Error, FailedAttempt};
pub use middleware::Next;
pub use new_connection::NewConnection;
pub use peer::{
    Handling, Heard, Membership, Mode, Peer, PeerGroup, PeerSender, PeerStatistics, PeerTail, RemotePeer,
    Reply, Request, Slow, Subscription, Unclaimed,
};
pub use pool::{Pool, PoolError, PoolStatistics, Poolable, Pooled};
pub use reconnect::{Connected, Reconnect, ReconnectState};
pub use server::{NoPipeline, PerCore, RunningServer, Server, ServerReport};
pub use watch::{Addresses, ChannelHandle, Closed, Side};
