//! Perihelion: a thread-per-core networking runtime on io_uring, with typed pipelines.
//!
//! A connection belongs to one core for life: that core's event loop reads and writes it through io_uring, and runs
//! its pipeline of typed handlers synchronously, so no user code needs a lock or a `Send` bound.
//!
//! ```
//! use perihelion::prelude::*;
//! use std::time::Duration;
//!
//! const IDLE: Duration = Duration::from_secs(30);
//!
//! struct Counter {
//!     seen: u64,
//! }
//!
//! impl Tail for Counter {
//!     type In = Bytes;
//!     type Out = Bytes;
//!     fn read(&mut self, cx: &mut Context<'_, Bytes>, frame: Bytes) -> Result<(), Error> {
//!         self.seen += 1;
//!         cx.write(frame)
//!     }
//! }
//!
//! fn main() -> Result<(), Error> {
//!     let runtime = Runtime::new()?;
//!     let server = Server::bind("tcp://127.0.0.1:0")
//!         .pipeline(|_conn| codec(LengthPrefixed::u32_be(1 << 20)).then(Idle::after(IDLE)).tail(Counter { seen: 0 }))
//!         .start(&runtime)?;
//!     println!("{}", server.stop(Duration::from_secs(1))); // a real one: `runtime.run_until_signal(server)`
//!     Ok(())
//! }
//! ```
#![forbid(unsafe_code)]

pub use perihelion_pipeline as pipeline;
pub use perihelion_pipeline::{handlers, proxy_protocol};
pub use perihelion_runtime as runtime;
#[cfg(feature = "tls")]
pub use perihelion_tls as tls;
pub use perihelion_transports as transports;
pub use perihelion_transports::{middleware, testing};

/// What most programs need.
pub mod prelude {
    pub use bytes::Bytes;
    pub use perihelion_pipeline::{
        ByteOrder, Codec, Context, Error, Event, Flow, Handler, Hold, Input, LengthPrefixed, Lines,
        Operation, Output, Pipeline, Protocol, Raw, Result, SlotKey, SwitchKey, Tail, Wire, Writer, Written,
        codec, handlers::Idle, transport,
    };
    pub use perihelion_runtime::{
        Config, JoinHandle, Runtime, Service, run_blocking, sleep, spawn_local, timeout,
    };
    pub use perihelion_transports::{
        Acceptor, Address, ChannelHandle, Client, Connection, ConnectionError, MessageReader, MessageWriter,
        Mode, NewConnection, Next, Peer, PeerGroup, PeerSender, RunningServer, Server,
    };
}
