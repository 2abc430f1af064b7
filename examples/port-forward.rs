//! A port forwarder: each connection that comes in is joined to one to a target. The kernel moves the bytes, in both
//! directions, without a copy into this process.
//!
//! ```text
//! cargo run --release --example port-forward -- --listen 127.0.0.1:7001 --target example.org:80
//! printf 'GET / HTTP/1.0\r\nHost: example.org\r\n\r\n' | nc 127.0.0.1 7001
//! ```
//!
//! Any protocol over TCP: nothing is added to it, and nothing is looked at. The end of either side is passed on to the
//! other, and so is a reset. A client whose target can't be reached is reset.

mod shared;

use clap::Parser;
use perihelion::prelude::*;
use shared::ServerArguments;

/// Relays connections to a target. Stops on SIGINT and SIGTERM, when they have ended or the time to drain is over.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    /// Where to relay connections to: HOST:PORT. A name is looked up once, at the start.
    #[arg(long)]
    target: String,
}

fn main() -> Result<()> {
    let Arguments { server, target } = Arguments::parse();
    server.serve(|runtime| Ok(Server::bind(&server.listen).relay_to(&target).start(runtime)?))
}
