//! Peers and connections, over the simulated world and over sockets.

#[path = "../common/mod.rs"]
mod common;

mod delivery;
mod functions;
