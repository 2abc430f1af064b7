//! A server that answers requests when it can, and not in their order: an identifier says which reply belongs to which
//! request.
//!
//! ```text
//! cargo run --example request-reply -- --listen 127.0.0.1:7000
//! cargo run --example request-reply-client -- 127.0.0.1:7000 --requests 1000
//! ```
//!
//! # Wire format
//! Both ways. Numbers are unsigned, the least significant byte first.
//!
//! | length of what follows | identifier | payload |
//! |---|---|---|
//! | 4 bytes | 8 bytes | 0 to 65,536 bytes |
//!
//! The client chooses the identifiers. The reply to a request has its identifier and its payload with the last byte
//! first, and comes after a short while, of random length. Of one client, 256 requests are answered at once; the next is
//! not read before the oldest of them is done. What is no such frame closes the connection.

#[path = "shared/frames.rs"]
mod frames;
mod shared;

use clap::Parser;
use frames::{Frame, Frames, answer};
use perihelion::prelude::*;
use shared::ServerArguments;
use std::collections::VecDeque;
use std::time::Duration;

/// Answers requests, and not in their order. Stops in order on SIGINT and SIGTERM.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    /// How long an answer takes at most, in milliseconds.
    #[arg(long, default_value_t = 20)]
    delay_ms: u64,
}

/// Requests of one client that are answered at once.
const ANSWERS_MAX: usize = 256;

async fn serve(peer: Peer<Frame, Frame>, delay_ms: u64) -> Result<()> {
    let mut answers = VecDeque::new();
    while let Some(Frame { id, payload }) = peer.recv().await? {
        if answers.len() == ANSWERS_MAX {
            wait_for(answers.pop_front()).await;
        }
        let sender = peer.sender();
        answers.push_back(spawn_local(async move {
            sleep(Duration::from_millis(fastrand::u64(0..=delay_ms))).await;
            let _ = sender.send(Frame { id, payload: answer(&payload) }).await; // nobody may be there any more
        }));
    }
    // The client sends no more requests, but waits for replies.
    while !answers.is_empty() {
        wait_for(answers.pop_front()).await;
    }
    Ok(())
}

async fn wait_for(answer: Option<JoinHandle<()>>) {
    if let Some(answer) = answer {
        let _ = answer.await;
    }
}

fn main() -> Result<()> {
    let Arguments { server: arguments, delay_ms } = Arguments::parse();
    let server = Server::bind(&arguments.listen)
        .peer(|_conn| codec(Frames::new()), async move |peer| serve(peer, delay_ms).await);
    arguments.serve(|runtime| Ok(server.start(runtime)?))
}
