//! A client of the chat: sends each line of standard input as a message, and prints what the others say, `NAME: TEXT`.
//!
//! ```text
//! cargo run --example chat-client -- 127.0.0.1:6060 --name ada --room kitchen
//! ```
//!
//! `/stats` prints what the connection has done, `/quit` ends it, and `/perf` shows how fast the server takes messages
//! of 64,000 bytes, three for each flush, which all in the room hear.
//!
//! The wire format, and what else can be said, is in chat.rs.

#[path = "shared/chat.rs"]
mod chat;
#[path = "shared/client.rs"]
#[expect(dead_code, reason = "a peer needs no writer")]
mod client;

use chat::{Chat, Message, summary};
use clap::Parser;
use client::{next_line, run};
use perihelion::prelude::*;
use perihelion::transports::Handling;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Sends each line of standard input to a chat server, and prints what the others say.
#[derive(Parser)]
struct Arguments {
    /// The server: HOST:PORT or tcp://HOST:PORT.
    #[arg(default_value = "127.0.0.1:7000")]
    server: Address,
    /// Who you are.
    #[arg(long)]
    name: String,
    /// Where you are.
    #[arg(long, default_value = "lobby")]
    room: String,
    /// How long `/perf` takes, in milliseconds.
    #[arg(long, default_value_t = 3000)]
    perf_ms: u64,
}

/// How `/perf` fills the connection.
const PERF_TEXT_BYTES: usize = 64_000;
const PERF_MESSAGES_PER_FLUSH: usize = 3;

type Chatter = Peer<Message, Message>;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    run("chat-client", move |config| converse(arguments, config))
}

/// Gives why the connection ended, unless in order.
async fn converse(arguments: Arguments, config: Config) -> Result<Option<String>> {
    let Arguments { server, name, room, perf_ms } = arguments;
    let chatter = Client::new(&config).peer(&server, codec(Chat)).await?;
    chatter.on_received(|message| {
        print(message);
        Handling::Handled
    });
    let name = Arc::from(name);
    chatter.send(Message { text: format!("#join {room}").into(), name: Arc::clone(&name) }).await?;
    let input = chatter.clone();
    let perf_time = Duration::from_millis(perf_ms);
    drop(spawn_local(async move { send_input(&input, name, perf_time).await }));
    chatter.ended().await;
    Ok(chatter.close().await)
}

fn print(Message { text, name }: &Message) {
    // What strangers send must not work the terminal, nor look like a message of another.
    let text = text.replace(char::is_control, "\u{fffd}");
    if name.is_empty() { println!("* {text}") } else { println!("{name}: {text}") }
}

async fn send_input(chatter: &Chatter, name: Arc<str>, perf_time: Duration) -> Result<()> {
    while let Some(line) = next_line().await {
        match line.as_str() {
            "/quit" => break,
            "/stats" => println!("{}", summary(&chatter.statistics())),
            "/perf" => perform(chatter, &name, perf_time).await?,
            _ => chatter.send(Message { text: line.into(), name: Arc::clone(&name) }).await?,
        }
    }
    chatter.close_output();
    Ok(())
}

/// Sends for so long as fast as the server takes it.
async fn perform(chatter: &Chatter, name: &Arc<str>, time: Duration) -> Result<()> {
    let message = Message { text: "x".repeat(PERF_TEXT_BYTES).into(), name: Arc::clone(name) };
    let (start, before) = (Instant::now(), chatter.statistics().bytes_out);
    loop {
        for _ in 0..PERF_MESSAGES_PER_FLUSH {
            chatter.queue(message.clone())?;
        }
        chatter.flush().await?;
        let (bytes, elapsed) = (chatter.statistics().bytes_out - before, start.elapsed());
        if elapsed >= time {
            println!(
                "{:.1} MB/s: {bytes} bytes in {elapsed:.1?}",
                bytes as f64 / 1e6 / elapsed.as_secs_f64()
            );
            return Ok(());
        }
    }
}
