//! What servers and clients are configured with, tried out in handshakes in memory.

mod client_certificates;
mod common;
mod errors;
mod hosts;
mod names;
mod protocols;
mod reload;
mod resumption;
mod trust;
