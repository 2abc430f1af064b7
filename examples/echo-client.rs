//! Sends what it reads from standard input line by line, and prints what comes back.
//!
//! ```text
//! cargo run --release --example echo -- --codec lines
//! cargo run --release --example echo-client -- 127.0.0.1:7000
//! cargo run --release --example echo-client -- tls://localhost:7443 --ca cert.pem
//! ```

#[path = "shared/client.rs"]
mod client;
#[path = "shared/tls_client.rs"]
mod tls_client;

use clap::Parser;
use client::{QUEUE_LINES, run, send_input};
use perihelion::prelude::*;
use std::process::ExitCode;
use tls_client::TlsClientArguments;

/// The longest line, in bytes.
const LINE_MAX: usize = 1 << 20;

/// Sends what it reads from standard input line by line, and prints what comes back.
#[derive(Parser)]
struct Arguments {
    /// The server: HOST:PORT, tcp://HOST:PORT or tls://HOST:PORT.
    #[arg(default_value = "127.0.0.1:7000")]
    server: String,
    #[command(flatten)]
    tls: TlsClientArguments,
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
    let arguments = Arguments::parse();
    run("echo-client", move |config| converse(arguments, config))
}

/// Gives why the connection ended, unless in order.
async fn converse(Arguments { server, tls }: Arguments, config: Config) -> Result<Option<String>> {
    let (writer, client) = (Writer::new(QUEUE_LINES), Client::new(&config));
    let lines = codec(Lines::lf(LINE_MAX)).tail_with_writer(Print, &writer);
    let channel = match server.strip_prefix("tls://") {
        Some(server) => {
            let server: Address = server.parse()?;
            let tls = run_blocking(move || tls.load()).await??;
            client.connect(&server, codec(tls.connect(server.host())?).pipeline(lines)).await?
        }
        None => client.connect(&server.parse()?, lines).await?,
    };
    drop(spawn_local(send_input(writer, |line| line)));
    Ok(channel.closed().await)
}
