//! Peers and connections, over the simulated world and over sockets.

#[allow(dead_code, reason = "not all of it is needed here")]
#[path = "../tls/authority.rs"]
mod authority;
#[path = "../common/mod.rs"]
mod common;

mod delivery;
mod functions;
mod giving_up;
mod groups;
mod middleware;
mod passive;
mod raw;
mod reentry;
mod remote;
mod requests;
mod sending;
mod upgrading;
mod world;
