//! A chat with rooms, in the format of ProtoSocket's: what one says, all others in the room hear, on whichever core they
//! are.
//!
//! ```text
//! cargo run --example chat -- --listen 127.0.0.1:6060
//! cargo run --example chat-client -- 127.0.0.1:6060 --name ada --room kitchen
//! ```
//!
//! # Wire format
//! Both ways. Numbers are unsigned, the least significant byte first; the total is 3 + text + name, without itself.
//!
//! | total | length of the text | text | length of the name | name |
//! |---|---|---|---|---|
//! | 2 bytes | 2 bytes | UTF-8 | 1 byte | UTF-8 |
//!
//! The name says who speaks; without a name it is the system. What is no such message closes the connection.
//!
//! # What a client says
//! Its first message gives it its name, in the room `lobby`, if nobody has that name there. Names and rooms are letters,
//! digits, `-` and `_`, at most 32 bytes. All in a room hear who comes and goes.
//!
//! | text | |
//! |---|---|
//! | `#join ROOM` | to another room, if nobody has the name there |
//! | `#list` | who is in the room |
//! | `#stats` | what the connection has done |
//! | anything else | the others in the room hear it |
//!
//! # Who speaks too fast, who listens too slowly
//! The next message of a client is not read before all cores have taken the last. For a client that doesn't keep up,
//! `channel.unsent_frames_max` messages wait; with the next its connection is reset.

#[path = "shared/chat.rs"]
mod chat;
mod shared;

use chat::{Chat, Message, summary};
use clap::Parser;
use perihelion::prelude::*;
use perihelion::runtime::{self, Handle};
use perihelion::transports::{Membership, PeerGroup, Slow};
use shared::ServerArguments;
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// Brings what each client says to all others in its room. Stops in order on SIGINT and SIGTERM.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
}

const LOBBY: &str = "lobby";
const NAME_BYTES_MAX: usize = 32;
/// After so long a full mailbox is tried again.
const MAILBOX_PAUSE: Duration = Duration::from_millis(1);

thread_local! {
    /// On the first core only: so a name is claimed once, whichever cores its claimants are on.
    static ROOMS: RefCell<Rooms> = RefCell::default();
}

/// The rooms in which somebody is.
type Rooms = HashMap<String, Room>;

struct Room {
    group: PeerGroup<Message>,
    names: BTreeSet<Arc<str>>,
}

/// Where a client is, under its name.
struct Place {
    cores: Handle,
    room: String,
    name: Arc<str>,
    group: PeerGroup<Message>,
    membership: Membership,
}

/// A feature of those who have a name.
struct Name(Arc<str>);

type Guest = Peer<Message, Message>;

async fn serve(guest: Guest, cores: &Handle) -> Result<()> {
    let mut place = None;
    let result = converse(&guest, cores, &mut place).await;
    if let Some(place) = place {
        place.leave().await?;
    }
    result
}

async fn converse(guest: &Guest, cores: &Handle, place: &mut Option<Place>) -> Result<()> {
    while let Some(message) = guest.recv().await? {
        hear(guest, cores, place, message).await?;
    }
    Ok(())
}

async fn hear(guest: &Guest, cores: &Handle, place: &mut Option<Place>, message: Message) -> Result<()> {
    let Message { text, name } = message;
    let (command, argument) = text.split_once(' ').unwrap_or((&text, ""));
    let room = match &*place {
        Some(Place { name: known, .. }) if *known != name => {
            return tell(guest, format!("you are {known} here")).await;
        }
        _ if command == "#join" => argument,
        Some(Place { room, .. }) => room,
        None => LOBBY,
    };
    if let Some(wrong) = [&*name, room].into_iter().find(|name| !is_name(name)) {
        let rule = format!("`{wrong}` is no name: at most {NAME_BYTES_MAX} letters, digits, - and _");
        return tell(guest, rule).await;
    }
    if place.as_ref().is_none_or(|place| place.room != room) {
        let Some(new) = Place::enter(guest, cores, room, &name).await? else {
            return tell(guest, format!("another is {name} in {room}")).await;
        };
        if let Some(left) = place.replace(new) {
            left.leave().await?;
        }
    }
    let Some(place) = place else { return Ok(()) };
    match (command, argument) {
        ("#join", _) => Ok(()),
        ("#list", "") => tell(guest, place.names().await?).await,
        ("#stats", "") => tell(guest, summary(&guest.statistics())).await,
        _ if text.starts_with('#') => tell(guest, "there are #join ROOM, #list and #stats".into()).await,
        _ => {
            place.say(Message { text, name }).await;
            Ok(())
        }
    }
}

async fn tell(guest: &Guest, text: String) -> Result<()> {
    Ok(guest.send(system(text)).await?)
}

impl Place {
    /// `None`: another has the name there.
    async fn enter(guest: &Guest, cores: &Handle, room: &str, name: &Arc<str>) -> Result<Option<Place>> {
        let (cores, room, name) = (cores.clone(), room.to_owned(), Arc::clone(name));
        let claim = {
            let (cores, room, name) = (cores.clone(), room.clone(), Arc::clone(&name));
            move |rooms: &mut Rooms| claim(rooms, &cores, &room, &name)
        };
        let Some(group) = ask(&cores, claim).await? else { return Ok(None) };
        guest.features().insert(Name(Arc::clone(&name)));
        let membership = group.join(guest);
        group.send(system(format!("{name} has come to {room}")), Slow::Close).await;
        Ok(Some(Place { cores, room, name, group, membership }))
    }

    async fn leave(self) -> Result<()> {
        let Place { cores, room, name, group, membership } = self;
        drop(membership);
        let gone = system(format!("{name} has left {room}"));
        ask(&cores, move |rooms| release(rooms, &room, &name)).await?;
        group.send(gone, Slow::Close).await;
        Ok(())
    }

    /// To the others in the room.
    async fn say(&self, message: Message) {
        let speaker = Arc::clone(&message.name);
        let others =
            move |member: &PeerSender<Message>| member.get::<Name>().is_none_or(|name| name.0 != speaker);
        self.group.send_to(message, Slow::Close, others).await;
    }

    async fn names(&self) -> Result<String> {
        let room = self.room.clone();
        ask(&self.cores, move |rooms| {
            let names = rooms.get(&room).into_iter().flat_map(|room| &room.names);
            names.map(|name| &**name).collect::<Vec<_>>().join(", ")
        })
        .await
    }
}

/// Calls a function with the rooms, on the core that has them.
async fn ask<T: Send + 'static>(
    cores: &Handle,
    call: impl Fn(&mut Rooms) -> T + Clone + Send + 'static,
) -> Result<T> {
    loop {
        let call = call.clone();
        match cores.ask(0, move |_io| ROOMS.with_borrow_mut(call)).await {
            Err(runtime::Error::MailboxFull) => sleep(MAILBOX_PAUSE).await,
            asked => return Ok(asked?),
        }
    }
}

fn claim(rooms: &mut Rooms, cores: &Handle, room: &str, name: &Arc<str>) -> Option<PeerGroup<Message>> {
    let new = || Room { group: PeerGroup::new(cores), names: BTreeSet::new() };
    let room = rooms.entry(room.into()).or_insert_with(new);
    room.names.insert(Arc::clone(name)).then(|| room.group.clone())
}

fn release(rooms: &mut Rooms, room: &str, name: &str) {
    if let Some(Room { names, .. }) = rooms.get_mut(room) {
        names.remove(name);
        if names.is_empty() {
            rooms.remove(room);
        }
    }
}

fn is_name(text: &str) -> bool {
    let allowed = |char: char| char.is_alphanumeric() || char == '-' || char == '_';
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.chars().all(allowed)
}

fn system(text: String) -> Message {
    Message { text: text.into(), name: "".into() }
}

fn main() -> Result<()> {
    let Arguments { server: arguments } = Arguments::parse();
    arguments.serve(|runtime| {
        let cores = runtime.handle();
        let server = Server::bind(&arguments.listen)
            .peer(|_conn| codec(Chat), async move |peer| serve(peer, &cores).await);
        Ok(server.start(runtime)?)
    })
}
