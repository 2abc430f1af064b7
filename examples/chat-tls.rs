//! A chat over TLS, with the messages of ProtoSocket's SSL sample: what one client says, all others hear, on whichever
//! core they are. As there, a connection begins as a peer in passive mode, and becomes an active one over TLS.
//!
//! ```text
//! cargo run --example chat-tls -- --listen tls://127.0.0.1:7443 --cert cert.pem --key key.pem
//! cargo run --example chat-tls-client -- tls://127.0.0.1:7443 --ca ca.pem
//! ```
//!
//! # Wire format
//! A message, both ways and inside TLS, is its length as an unsigned number of two bytes, the least significant first,
//! and then so many bytes of UTF-8.
//!
//! The others get it with a name before it, `NAME: TEXT`: that of the client's certificate, or `guest NUMBER`. What gets
//! too long by this comes in two messages. Whoever has sent it gets an empty message when all cores have taken it; an
//! empty one goes to nobody else. A message that is no UTF-8 closes the connection.
//!
//! # Who speaks too fast, who listens too slowly
//! The next message of a client is not read before all cores have taken the last. For a client that doesn't keep up,
//! 64 messages wait beside those that are being sent; with the next its connection is closed.

mod shared;
#[path = "shared/tls.rs"]
mod tls;

use clap::Parser;
use perihelion::prelude::*;
use perihelion::tls::Session;
use perihelion::transports::{PeerGroup, Slow};
use shared::ServerArguments;
use tls::{Security, TlsArguments};

/// Brings what each client says to all others. Stops in order on SIGINT and SIGTERM.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    #[command(flatten)]
    tls: TlsArguments,
}

/// What a length of two bytes can say.
const MESSAGE_BYTES_MAX: usize = u16::MAX as usize;
/// Messages that wait for one listener.
const QUEUE_MESSAGES: usize = 64;

fn messages() -> LengthPrefixed {
    LengthPrefixed::new(2, ByteOrder::Little, MESSAGE_BYTES_MAX)
}

async fn serve(guest: Peer<Bytes, Bytes>, security: &Security, room: &PeerGroup<Bytes>) -> Result<()> {
    guest.set_mode(Mode::Passive); // the first byte is for TLS
    guest.upgrade(codec(security.stage()).codec(messages())).await?;
    guest.set_mode(Mode::Active);
    let speaker = guest.id();
    let session = guest.get::<Session>();
    let name = match session.as_ref().and_then(|session| session.peer_names().next()) {
        Some(name) => name.into(),
        None => format!("guest {speaker}"),
    };
    let _member = room.join(&guest);
    while let Some(message) = guest.recv().await? {
        let text = str::from_utf8(&message)
            .map_err(|error| Error::msg(format!("{name} has sent a message that is no UTF-8: {error}")))?;
        for message in with_name(&name, text) {
            let others = move |other: &PeerSender<Bytes>| other.id() != speaker;
            room.send_to(message, Slow::Close, others).await;
        }
        guest.send(Bytes::new()).await?; // this waits too, for a speaker that doesn't read its replies
    }
    Ok(())
}

/// The text with the name before it: one message, or two where it gets too long by that, or none for no text.
fn with_name(name: &str, text: &str) -> Vec<Bytes> {
    let room = MESSAGE_BYTES_MAX - name.len() - ": ".len();
    let (first, rest) = text.split_at(text.floor_char_boundary(room));
    let parts = [first, rest].into_iter().filter(|part| !part.is_empty());
    parts.map(|part| format!("{name}: {part}").into()).collect()
}

fn main() -> Result<()> {
    let Arguments { server: arguments, tls } = Arguments::parse();
    let mut config = arguments.config()?;
    config.channel.unsent_frames_max = QUEUE_MESSAGES;
    let without =
        || Error::msg("this chat is over TLS: write --listen tls://HOST:PORT --cert FILE --key FILE");
    let security = tls.load(&arguments.listen, &config.tls)?.ok_or_else(without)?;
    arguments.serve(|runtime| {
        let room = PeerGroup::new(runtime);
        let server = tls
            .bind(&arguments.listen)
            .channel(config.channel)
            .peer(|_conn| codec(messages()), async move |guest| serve(guest, &security, &room).await);
        Ok(server.start(runtime)?)
    })
}
