//! The TLS stage in a pipeline, driven as an event loop drives it, against rustls's own connections and itself.

mod closing;
#[path = "../../../pipeline/tests/pipeline/common.rs"]
#[allow(dead_code, unused_imports, reason = "not all of it is needed here")]
mod common;
mod data;
mod handshakes;
mod hostile;
mod keys;
mod oracle;
mod protocols;
mod random;
