//! Workers, event loop, I/O drivers, tasks and timers of Perihelion.
//!
//! A [`Runtime`] has a worker for each CPU. A worker's event loop drives [`Endpoint`]s through [`Io`], and runs tasks
//! that need no `Send` ([`spawn_local`]). Workers share nothing but their mailboxes.
//!
//! This is the only crate of the project with `unsafe` code. It stands in few modules, each of which begins with its
//! rules: `driver::uring` and its parts, `waker`, `sys`. What they keep is one promise: the kernel owns what it was
//! lent until the last completion says otherwise.

mod awake;
mod blocking;
mod config;
mod counters;
mod cpus;
mod driver;
mod endpoint;
mod error;
mod io;
mod local;
mod mailbox;
mod pipe;
mod prefetch;
mod runtime;
mod signals;
pub mod simulation;
mod sys;
mod task;
mod timer;
mod token;
mod waker;
mod worker;

pub use blocking::{BlockingError, run_blocking};
pub use config::{
    ChannelConfig, Config, CpuList, DriverChoice, PipesConfig, PoolConfig, ReceiveConfig, ReconnectConfig,
    RelayConfig, RingConfig, RuntimeConfig, ServerConfig, TcpConfig, TlsConfig, WhenFull,
};
pub use counters::WorkerStats;
pub use driver::{Capabilities, Completion, Outgoing, PIECES_MAX, Piece};
pub use endpoint::Endpoint;
pub use error::Error;
pub use io::Io;
pub use local::{defer, now};
pub use pipe::Pipe;
pub use prefetch::prefetch;
pub use runtime::{Handle, Runtime, Service};
pub use signals::Signals;
pub use sys::raise_descriptor_limit;
pub use task::{Aborted, JoinHandle, spawn_local};
pub use timer::{Sleep, TimedOut, TimerId, sleep, sleep_until, timeout};
pub use token::EndpointId;
