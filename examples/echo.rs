//! An echo server: what comes in goes back.
//!
//! ```text
//! cargo run --release --example echo -- --listen 127.0.0.1:7000 --codec lines
//! cargo run --release --example echo -- --listen tls://127.0.0.1:7443 --cert cert.pem --key key.pem
//! ```

mod shared;
#[path = "shared/tls.rs"]
mod tls;

use clap::{Parser, ValueEnum};
use perihelion::prelude::*;
use shared::ServerArguments;
use tls::TlsArguments;

/// Sends back what it receives. Stops in order on SIGINT and SIGTERM.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    #[command(flatten)]
    tls: TlsArguments,
    /// How bytes become messages.
    #[arg(long, value_enum, default_value_t = CodecName::Raw)]
    codec: CodecName,
    /// The longest message that the codecs `length` and `lines` take, in bytes.
    #[arg(long, default_value_t = 16 << 20)]
    max_message: usize,
    /// Answer from an asynchronous function, instead of from a handler; with the codec `length`.
    #[arg(long)]
    peer: bool,
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
    let max = arguments.max_message;
    match arguments.codec {
        CodecName::Length if arguments.peer => serve_peers(&arguments, max),
        _ if arguments.peer => Err(Error::msg("--peer goes with --codec length only")),
        CodecName::Raw => serve(&arguments, || codec(Raw).tail(Echo)),
        CodecName::Length => serve(&arguments, move || codec(LengthPrefixed::u32_be(max)).tail(Echo)),
        CodecName::Lines => {
            serve(&arguments, move || codec(Lines::lf(max)).service(async |line: String| Ok(line)))
        }
    }
}

/// Serves each connection with a pipeline of this kind, on TLS if that is wanted.
fn serve<P>(arguments: &Arguments, pipeline: impl Fn() -> P + Clone + Send + Sync + 'static) -> Result<()>
where
    P: Pipeline<In = Bytes, Out = Bytes> + 'static,
{
    let (bind, config) = (arguments.tls.bind(&arguments.server.listen), arguments.server.config()?);
    let server = match arguments.tls.load(&arguments.server.listen, &config.tls)? {
        Some(security) => bind.pipeline(move |_conn| codec(security.stage()).pipeline(pipeline())),
        None => bind.pipeline(move |_conn| pipeline()),
    };
    arguments.server.serve(|runtime| Ok(server.start(runtime)?))
}

/// Serves each connection with an asynchronous function.
fn serve_peers(arguments: &Arguments, max: usize) -> Result<()> {
    let (bind, config) = (arguments.tls.bind(&arguments.server.listen), arguments.server.config()?);
    let frames = move || LengthPrefixed::u32_be(max);
    let server = match arguments.tls.load(&arguments.server.listen, &config.tls)? {
        Some(security) => bind.peer(move |_conn| codec(security.stage()).codec(frames()), echo),
        None => bind.peer(move |_conn| codec(frames()), echo),
    };
    arguments.server.serve(|runtime| Ok(server.start(runtime)?))
}

async fn echo(peer: Peer<Bytes, Bytes>) -> Result<()> {
    while let Some(message) = peer.recv().await? {
        peer.send(message).await?;
    }
    Ok(())
}
