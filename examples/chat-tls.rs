//! A chat over TLS, with the messages of ProtoSocket's SSL sample: what one client says, all others hear, on whichever
//! core they are.
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
use perihelion::pipeline::EventSender;
use perihelion::prelude::*;
use perihelion::runtime::{self, Handle};
use perihelion::tls::{Established, Session};
use shared::ServerArguments;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
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
/// After so long a full mailbox is tried again.
const MAILBOX_PAUSE: Duration = Duration::from_millis(1);

thread_local! {
    /// Who listens on this core, by number. Nobody else looks here, so it needs no lock.
    static ROOM: RefCell<HashMap<u64, Listener>> = RefCell::default();
}

struct Listener {
    writer: Writer<Bytes>,
    events: EventSender,
}

/// A listener has not kept up.
struct TooSlow;

/// One client.
struct Member {
    number: u64,
    name: String,
    writer: Writer<Bytes>,
    cores: Handle,
}

impl Member {
    fn new(writer: Writer<Bytes>, cores: Handle) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Member { number, name: format!("guest {number}"), writer, cores }
    }
}

impl Tail for Member {
    type In = Bytes;
    type Out = Bytes;

    fn event(&mut self, cx: &mut Context<'_, Bytes>, event: &mut Event) -> Result<()> {
        if event.take::<Established>().is_some() {
            // Not earlier: before the handshake nobody knows who this is.
            let session = cx.get::<Session>();
            if let Some(name) = session.as_ref().and_then(|session| session.peer_names().next()) {
                self.name = name.into();
            }
            let listener = Listener { writer: self.writer.clone(), events: cx.events() };
            ROOM.with_borrow_mut(|room| room.insert(self.number, listener));
        } else if event.take::<TooSlow>().is_some() {
            let name = &self.name;
            return Err(Error::msg(format!(
                "{name} reads too slowly: {QUEUE_MESSAGES} messages wait for it"
            )));
        }
        Ok(())
    }

    fn read(&mut self, cx: &mut Context<'_, Bytes>, message: Bytes) -> Result<()> {
        let name = &self.name;
        let text = str::from_utf8(&message)
            .map_err(|error| Error::msg(format!("{name} has sent a message that is no UTF-8: {error}")))?;
        let messages = with_name(name, text);
        cx.pause();
        let (demand, writer) = (cx.demand(), self.writer.clone());
        let (cores, speaker) = (self.cores.clone(), self.number);
        drop(spawn_local(async move {
            say(&cores, speaker, messages).await;
            // This waits too, for a speaker that doesn't read its replies.
            if writer.write(Bytes::new()).await.is_ok() {
                demand.resume();
            }
        }));
        Ok(())
    }

    fn closed(&mut self, _why: Option<&Error>) {
        ROOM.with_borrow_mut(|room| room.remove(&self.number));
    }
}

/// The text with the name before it: one message, or two where it gets too long by that, or none for no text.
fn with_name(name: &str, text: &str) -> Vec<Bytes> {
    let room = MESSAGE_BYTES_MAX - name.len() - ": ".len();
    let (first, rest) = text.split_at(text.floor_char_boundary(room));
    let parts = [first, rest].into_iter().filter(|part| !part.is_empty());
    parts.map(|part| format!("{name}: {part}").into()).collect()
}

/// Gives messages to all cores, and waits until each has taken them. So those of one speaker keep their order.
async fn say(cores: &Handle, speaker: u64, messages: Vec<Bytes>) {
    let tell = |core| spawn_local(tell(cores.clone(), core, speaker, messages.clone()));
    let told: Vec<JoinHandle<()>> = (0..cores.workers()).map(tell).collect();
    for core in told {
        let _ = core.await; // one that stops has no listeners
    }
}

async fn tell(cores: Handle, core: usize, speaker: u64, messages: Vec<Bytes>) {
    loop {
        let messages = messages.clone();
        match cores.ask(core, move |_io| hear(speaker, &messages)).await {
            Err(runtime::Error::MailboxFull) => sleep(MAILBOX_PAUSE).await,
            _ => return,
        }
    }
}

/// Queues messages for everyone on this core but the speaker.
fn hear(speaker: u64, messages: &[Bytes]) {
    ROOM.with_borrow_mut(|room| {
        room.retain(|number, listener| {
            let takes = |message: &Bytes| listener.writer.try_write(message.clone()).is_ok();
            let heard = *number == speaker || messages.iter().all(takes);
            if !heard {
                let _ = listener.events.send(TooSlow); // refused if it is closed already
            }
            heard
        });
    });
}

/// The stages of one connection.
fn pipeline(security: &Security, cores: &Handle) -> impl Pipeline<In = Bytes, Out = Bytes> + use<> {
    let writer = Writer::new(QUEUE_MESSAGES);
    codec(security.stage())
        .codec(LengthPrefixed::new(2, ByteOrder::Little, MESSAGE_BYTES_MAX))
        .tail_with_writer(Member::new(writer.clone(), cores.clone()), &writer)
}

fn main() -> Result<()> {
    let Arguments { server: arguments, tls } = Arguments::parse();
    let without =
        || Error::msg("this chat is over TLS: write --listen tls://HOST:PORT --cert FILE --key FILE");
    let security = tls.load(&arguments.listen, &arguments.config()?.tls)?.ok_or_else(without)?;
    arguments.serve(|runtime| {
        let cores = runtime.handle();
        let server = arguments.bind().pipeline(move |_conn| pipeline(&security, &cores));
        Ok(server.start(runtime)?)
    })
}
