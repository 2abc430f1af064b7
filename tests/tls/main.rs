//! TLS on real sockets, against programs that others wrote: openssl, curl and Python's ssl.

mod authority;
#[path = "../common/mod.rs"]
mod common;
mod hostile;
mod openssl;
mod others;
mod programs;
mod reloading;
mod server;
mod simulated;
