//! Relays on real sockets, between a client and a target that the test plays.

#[path = "../common/mod.rs"]
mod common;
mod connecting;
mod ending;
mod limits;
mod setup;
mod transfers;
