//! Sends what it reads from standard input line by line, and prints what comes back.
//!
//! ```text
//! cargo run --release --example echo -- --codec lines
//! cargo run --release --example echo-client -- 127.0.0.1:7000
//! ```

#[path = "shared/client.rs"]
mod client;

use clap::Parser;
use client::{QUEUE_LINES, run, send_input};
use perihelion::prelude::*;
use std::process::ExitCode;

/// The longest line, in bytes.
const LINE_MAX: usize = 1 << 20;

/// Sends what it reads from standard input line by line, and prints what comes back.
#[derive(Parser)]
struct Arguments {
    /// The server: HOST:PORT or tcp://HOST:PORT.
    #[arg(default_value = "127.0.0.1:7000")]
    server: Address,
}

/// Prints lines, and closes when the server does.
struct Print;

impl Tail for Print {
    type In = String;
    type Out = String;

    fn read(&mut self, _cx: &mut Context<'_, String>, line: String) -> Result<()> {
        println!("{line}");
        Ok(())
    }
}

fn main() -> ExitCode {
    let Arguments { server } = Arguments::parse();
    run("echo-client", move |config| converse(server, config))
}

/// Gives why the connection ended, unless in order.
async fn converse(server: Address, config: Config) -> Result<Option<String>> {
    let writer = Writer::new(QUEUE_LINES);
    let pipeline = codec(Lines::lf(LINE_MAX)).tail_with_writer(Print, &writer);
    let channel = Client::new(&config).connect(&server, pipeline).await?;
    drop(spawn_local(send_input(writer, |line| line)));
    Ok(channel.closed().await)
}
