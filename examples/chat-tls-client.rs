//! A client of the chat server: sends each line of standard input as a message, and prints what the others say.
//!
//! ```text
//! cargo run --example chat-tls-client -- tls://localhost:7443 --ca ca.pem
//! ```
//!
//! The wire format is in chat-tls.rs.

#[path = "shared/client.rs"]
mod client;
#[path = "shared/tls_client.rs"]
mod tls_client;

use clap::Parser;
use client::{QUEUE_LINES, run, send_input};
use perihelion::prelude::*;
use std::process::ExitCode;
use tls_client::TlsClientArguments;

/// Sends each line of standard input to a chat server, and prints what the others say.
#[derive(Parser)]
struct Arguments {
    /// The server: HOST:PORT or tls://HOST:PORT. Its certificate must be for HOST.
    #[arg(default_value = "tls://127.0.0.1:7443", value_parser = address)]
    server: Address,
    #[command(flatten)]
    tls: TlsClientArguments,
    /// Put before each message, for a server that knows its clients by number only.
    #[arg(long)]
    name: Option<String>,
}

/// What a length of two bytes can say.
const MESSAGE_BYTES_MAX: usize = u16::MAX as usize;

/// Prints messages, and closes when the server does.
struct Print;

impl Tail for Print {
    type In = Bytes;
    type Out = Bytes;

    fn read(&mut self, _cx: &mut Context<'_, Bytes>, message: Bytes) -> Result<()> {
        let text = str::from_utf8(&message)?;
        // An empty one only says that the server has taken one of ours.
        if !text.is_empty() {
            // What strangers send must not work the terminal, nor look like a message of another.
            println!("{}", text.replace(char::is_control, "\u{fffd}"));
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    run("chat-tls-client", move |config| converse(arguments, config))
}

async fn converse(arguments: Arguments, config: Config) -> Result<Option<String>> {
    let Arguments { server, tls, name } = arguments;
    let tls = run_blocking(move || tls.load()).await??;
    let writer = Writer::new(QUEUE_LINES);
    let pipeline = codec(tls.connect(server.host())?)
        .codec(LengthPrefixed::new(2, ByteOrder::Little, MESSAGE_BYTES_MAX))
        .tail_with_writer(Print, &writer);
    let channel = Client::new(&config).connect(&server, pipeline).await?;
    let message = move |line| match &name {
        Some(name) => format!("{name}: {line}").into(),
        None => Bytes::from(line),
    };
    drop(spawn_local(send_input(writer, message)));
    Ok(channel.closed().await)
}

fn address(text: &str) -> Result<Address, perihelion::transports::Error> {
    text.strip_prefix("tls://").unwrap_or(text).parse()
}
