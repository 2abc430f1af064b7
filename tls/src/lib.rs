//! TLS as a stage of any pipeline, by rustls with aws-lc-rs. Sans-IO, like the pipeline.
//!
//! [`ServerTls`] and [`ClientTls`] hold certificates and rules; each connection gets a stage of its own from them,
//! which stands below the codec of the messages:
//!
//! ```no_run
//! use bytes::Bytes;
//! use perihelion_pipeline::{LengthPrefixed, Pipeline, codec};
//! use perihelion_tls::ServerTls;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let tls = ServerTls::builder().certificate("cert.pem", "key.pem").build()?;
//! let pipeline = move || {
//!     codec(tls.accept())
//!         .codec(LengthPrefixed::u32_be(1 << 20))
//!         .service(async |frame: Bytes| Ok(frame))
//! };
//! # fn check(_: impl Pipeline<In = Bytes, Out = Bytes>) {}
//! # check(pipeline());
//! # Ok(())
//! # }
//! ```
//!
//! It can also be switched in later (STARTTLS): the bytes that have come go to it. [`by_protocol`] chooses the pipeline
//! above it by ALPN, and [`Session`] tells the stages who is there.
//!
//! # What it protects from
//! Against somebody who reads, changes, holds back, replays or makes up what is on the wire: with TLS 1.3 or 1.2,
//! authenticated encryption and forward secrecy, whatever either side would prefer. There is no older version, no RSA
//! key exchange, no CBC, no compression, no renegotiation and no early data (which could be replayed). Keys are agreed
//! on with X25519MLKEM768 where both sides can, so what is recorded today can't be read by a quantum computer later.
//!
//! A cut-off is noticed: an end without a close_notify is [`TlsError::Truncated`]. A client that sends nothing, too
//! little or too much costs no more than [`HandshakeLimits`] allow; until its first byte has come, nothing is made
//! for it.
//!
//! It does *not* hide who talks to whom, when and how much, nor the name of the host (SNI). It does not protect from
//! somebody who has the private key, or who can read this process's memory. Whom clients and servers trust is for the
//! configuration to say; what turns verification off has `danger` in its name.
//!
//! # Defaults
//! | | |
//! |---|---|
//! | versions | TLS 1.3, 1.2 |
//! | cipher suites | AES-256-GCM, AES-128-GCM, ChaCha20-Poly1305, in this order, but a server takes what the client prefers; with TLS 1.2 only with ECDHE |
//! | key exchange | X25519MLKEM768, X25519, P-256, P-384 |
//! | a handshake | 10 s, 128 KiB |
//! | client certificates | not asked for |
//! | trusted by clients | the platform's authorities; revocation only by lists that are given |
//! | resumption | tickets, whose keys change every 6 hours and are shared by all workers; 2 for each full handshake |
//! | early data | never |
//!
//! # What is logged
//! Why a connection ended is the reason of its channel's close: the alert that the other side sent, or what was wrong
//! with what it sent. The event loop logs it once, at the level `info`, unless a stage handles it. A reload of
//! certificates is logged at `info`, one that failed at `error`. Names of hosts that clients ask for stand in errors,
//! and the first 16 bytes of what is no TLS; keys, certificates and data are never logged. `SSLKEYLOGFILE` has an
//! effect only where [`key_log`](ServerTlsBuilder::key_log) is called: whoever reads that file reads everything.
//!
//! # To rotate certificates
//! Put the new files in the place of the old. [`ServerTls::watch`] sees it; [`ServerTls::reload_at_hangup`] waits for a
//! SIGHUP; [`ServerTls::reload`] does it at once. New connections get what is in force, open ones go on. Files that
//! can't be used, because they are half written or the key doesn't belong to the certificate yet, change nothing.
//! Tickets stay good, unless the authorities of client certificates or their revocation lists have changed.
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
mod in_place;
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
pub use provider::crypto_provider;
pub use rustls;
pub use server::{HostBuilder, ServerTls, ServerTlsBuilder};
pub use session::{Established, Session};
pub use stage::{Tls, UpdateKeys};
pub use verify::PinMismatch;
pub use watch::Watch;
