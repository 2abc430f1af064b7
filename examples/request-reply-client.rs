//! Makes many requests at once, and says how many replies were right.
//!
//! ```text
//! cargo run --example request-reply-client -- 127.0.0.1:7000 --requests 1000
//! ```
//!
//! The wire format is in request-reply.rs.

#[path = "shared/client.rs"]
#[expect(dead_code, reason = "it reads no lines")]
mod client;
#[path = "shared/frames.rs"]
mod frames;

use clap::Parser;
use client::run;
use frames::{Frame, Frames, PAYLOAD_BYTES_MAX, answer};
use perihelion::prelude::*;
use std::process::ExitCode;

/// Makes many requests at once, and says how many replies were right. Fails unless all were.
#[derive(Parser)]
struct Arguments {
    /// The server: HOST:PORT or tcp://HOST:PORT.
    #[arg(default_value = "127.0.0.1:7000")]
    server: Address,
    /// How many requests.
    #[arg(long, default_value_t = 1000)]
    requests: u64,
    /// How many of them wait for their replies at once.
    #[arg(long, default_value_t = 1000)]
    at_once: usize,
    /// How long each waits, in milliseconds: for its turn and for its reply.
    #[arg(long, default_value_t = 10_000)]
    deadline_ms: u64,
    /// Up to so many random bytes are in each.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(..=PAYLOAD_BYTES_MAX as i64))]
    bytes: u32,
}

enum Outcome {
    Right,
    Wrong,
    NoReply(ConnectionError),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    run("request-reply-client", move |config| converse(arguments, config))
}

async fn converse(arguments: Arguments, mut config: Config) -> Result<Option<String>> {
    let Arguments { server, requests, at_once, deadline_ms, bytes } = arguments;
    config.channel.requests_max = at_once;
    config.channel.request_ms = deadline_ms;
    config.check()?;
    let peer = Client::new(&config).peer(&server, codec(Frames::new())).await?;
    let ask = |id| {
        let peer = peer.clone();
        spawn_local(async move { ask(&peer, id, bytes).await })
    };
    let asked: Vec<JoinHandle<Outcome>> = (0..requests).map(ask).collect();
    let (mut right, mut wrong, mut why) = (0, 0, None);
    for outcome in asked {
        match outcome.await? {
            Outcome::Right => right += 1,
            Outcome::Wrong => wrong += 1,
            Outcome::NoReply(error) => why = Some(error),
        }
    }
    println!("of {requests} replies, {right} were right and {wrong} wrong");
    match why {
        Some(error) => Err(error.into()),
        None if wrong > 0 => Err(Error::msg("this server doesn't answer as request-reply does")),
        None => Ok(peer.close().await),
    }
}

async fn ask(peer: &Peer<Frame, Frame>, id: u64, bytes: u32) -> Outcome {
    let payload: Bytes = (0..fastrand::u32(0..=bytes)).map(|_| fastrand::u8(..)).collect();
    match peer.request(Frame { id, payload: payload.clone() }).await {
        Ok(reply) if reply.payload == answer(&payload) => Outcome::Right,
        Ok(_) => Outcome::Wrong,
        Err(error) => Outcome::NoReply(error),
    }
}
