//! Channels, servers and clients of Perihelion: a transport and a pipeline on an event loop.
//!
//! A [`Server`] listens on every worker of a runtime; a [`Client`] connects from a task of one, and an [`Acceptor`]
//! lets a task take connections when it wants them. Each puts a pipeline on each connection, and the connection stays on
//! its worker for life.
#![forbid(unsafe_code)]

mod acceptor;
mod address;
mod admission;
mod backoff;
mod channel;
mod client;
mod connection;
mod connector;
mod counters;
mod entrance;
mod error;
mod filter;
mod function;
mod group;
mod happy_eyeballs;
mod line;
mod listener;
pub mod middleware;
mod new_channel;
mod new_connection;
mod peer;
mod per_address;
mod pool;
mod reconnect;
mod relay;
mod report;
mod server;
mod socket;
pub mod testing;
mod watch;

pub use acceptor::{Accepted, Acceptor};
pub use address::Address;
pub use backoff::Backoff;
pub use client::Client;
pub use connection::{Connection, MessageReader, MessageTooLong, MessageWriter, Parse};
pub use error::{ConnectionError, Error, FailedAttempt};
pub use middleware::Next;
pub use new_connection::NewConnection;
pub use peer::{
    Handling, Heard, Membership, Mode, Peer, PeerGroup, PeerSender, PeerStatistics, PeerTail, Receiving,
    RemotePeer, Reply, Request, Sending, Slow, Subscription, Unclaimed,
};
pub use pool::{Pool, PoolError, PoolStatistics, Poolable, Pooled};
pub use reconnect::{Connected, Reconnect, ReconnectState};
pub use relay::RelayTo;
pub use report::{Refusals, ServerReport};
pub use server::{NoPipeline, PerCore, RunningServer, Server};
pub use watch::{Addresses, ChannelHandle, Closed, Side};
