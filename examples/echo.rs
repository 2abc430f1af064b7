//! An echo server: what comes in goes back.
//!
//! ```text
//! cargo run --release --example echo -- --listen 127.0.0.1:7000 --codec lines
//! ```

mod shared;

use clap::{Parser, ValueEnum};
use perihelion::prelude::*;
use shared::ServerArguments;

/// Sends back what it receives. Stops in order on SIGINT and SIGTERM.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    /// How bytes become messages.
    #[arg(long, value_enum, default_value_t = CodecName::Raw)]
    codec: CodecName,
    /// The longest message that the codecs `length` and `lines` take, in bytes.
    #[arg(long, default_value_t = 16 << 20)]
    max_message: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum CodecName {
    /// Bytes as they come.
    Raw,
    /// Frames behind a length of four bytes, the most significant first.
    Length,
    /// Lines of text that end with a line feed.
    Lines,
}

struct Echo;

impl Tail for Echo {
    type In = Bytes;
    type Out = Bytes;

    #[inline]
    fn read(&mut self, cx: &mut Context<'_, Bytes>, message: Bytes) -> Result<()> {
        cx.write(message)
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let (bind, max) = (Server::bind(&arguments.server.listen), arguments.max_message);
    let server = match arguments.codec {
        CodecName::Raw => bind.pipeline(|_conn| codec(Raw).tail(Echo)),
        CodecName::Length => bind.pipeline(move |_conn| codec(LengthPrefixed::u32_be(max)).tail(Echo)),
        CodecName::Lines => {
            bind.pipeline(move |_conn| codec(Lines::lf(max)).service(async |line: String| Ok(line)))
        }
    };
    arguments.server.serve(|runtime| Ok(server.start(runtime)?))
}
