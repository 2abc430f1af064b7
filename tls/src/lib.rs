//! TLS as a stage of any pipeline, by rustls. Sans-IO, like the pipeline.
#![forbid(unsafe_code)]

mod alpn;
mod client;
mod engine;
mod error;
mod hello;
mod server;
mod session;
mod stage;

pub use alpn::{Chosen, by_protocol};
pub use client::ClientTls;
pub use error::TlsError;
pub use rustls;
pub use server::{HandshakeLimits, ServerTls};
pub use session::{Established, Session};
pub use stage::{Tls, UpdateKeys};
