//! Peers and connections, over the simulated world and over sockets.

#[allow(dead_code, reason = "not all of it is needed here")]
#[path = "../tls/authority.rs"]
mod authority;
#[path = "../common/mod.rs"]
mod common;

mod certified;
mod delivery;
mod failed_upgrades;
mod functions;
mod giving_up;
mod groups;
mod handshakes;
mod middleware;
mod passive;
mod raw;
mod reentry;
mod remote;
mod requests;
mod sending;
mod stages;
mod upgrading;
mod world;
