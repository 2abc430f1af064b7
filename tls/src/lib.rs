//! TLS as a stage of any pipeline, by rustls. Sans-IO, like the pipeline.
#![forbid(unsafe_code)]

mod alpn;
mod certificates;
mod client;
mod client_certificates;
mod config_error;
mod engine;
mod error;
mod files;
mod hello;
mod limits;
mod names;
mod provider;
mod server;
mod session;
mod stage;
mod tickets;
mod verify;
mod watch;

pub use alpn::{Chosen, by_protocol};
pub use client::{ClientTls, ClientTlsBuilder};
pub use client_certificates::ClientCertificates;
pub use config_error::ConfigError;
pub use error::TlsError;
pub use limits::HandshakeLimits;
pub use rustls;
pub use server::{HostBuilder, ServerTls, ServerTlsBuilder};
pub use session::{Established, Session};
pub use stage::{Tls, UpdateKeys};
pub use verify::PinMismatch;
pub use watch::Watch;
