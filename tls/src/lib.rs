//! TLS and DTLS as pipeline stages. Nothing is here yet: the stages are still to be written.
#![forbid(unsafe_code)]
#![allow(dead_code)] // until the stages use what is for them

mod certificates;
mod client;
mod client_certificates;
mod config_error;
mod files;
mod limits;
mod names;
mod provider;
mod server;
mod tickets;
mod verify;

pub use client::{ClientTls, ClientTlsBuilder};
pub use client_certificates::ClientCertificates;
pub use config_error::ConfigError;
pub use limits::HandshakeLimits;
pub use server::{HostBuilder, ServerTls, ServerTlsBuilder};
pub use verify::PinMismatch;
