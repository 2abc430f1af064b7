//! A server of Minecraft Classic: players on all cores, in one world.
//!
//! ```text
//! cargo run --release --example minecraft-classic -- --listen 0.0.0.0:25565 --size 256x64x256
//! ```
//!
//! The wire format is in packets.rs. Names are believed; blocks are forgotten when the server stops.
//!
//! | the client sends | the server |
//! |---|---|
//! | identification, with version 7 | identification, the level, a spawn of the player itself and of each other |
//! | move, shift | the same to the others |
//! | ask for a block | set block, to all |
//! | message | the same to all, `NAME: TEXT` |
//! | message `/text TEXT` | set block for each dot of the text, which begins where the player is |
//! | message `/clear` | the level as it was at first, to all |
//!
//! After some time in which nothing happens there is a ping. Who does something else, says nothing for a minute, or comes
//! as the 128th, gets a disconnect with the reason; what is no packet closes the connection.
//!
//! # Who owns the world
//! One task, on the first core. The connections, on all cores, send it what their players do, and wait until it has taken
//! that; it tells what happens to a group of all players. So everybody sees the same changes in the same order.

mod game;
mod packets;
#[path = "../shared/mod.rs"]
mod shared;
mod world;

use clap::Parser;
use game::{Deed, Game, Kick, Number, Welcome};
use packets::{Classic, PROTOCOL, Packet};
use perihelion::prelude::*;
use shared::ServerArguments;
use std::time::Duration;
use world::{AIR, BLOCK_MAX, Size};

/// A server of Minecraft Classic. Stops in order on SIGINT and SIGTERM.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    /// The size of the world: WIDTHxHEIGHTxDEPTH, each from 16 to 256.
    #[arg(long, default_value = "64x32x64")]
    size: Size,
    /// After how long there is a ping, in milliseconds.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    ping_ms: u64,
}

const NAME_BYTES_MAX: usize = 16;
/// How long a client may say nothing.
const SILENCE_MAX: Duration = Duration::from_secs(60);

type Client = Peer<Packet, Packet>;

async fn serve(client: Client, game: &Game, size: Size) -> Result<()> {
    let result = play(&client, game, size).await;
    if let Err(error) = &result
        && let Some(Kick(reason)) = error.downcast_ref()
    {
        client.send(Packet::Disconnect { reason: reason.clone() }).await?;
    }
    result
}

async fn play(client: &Client, game: &Game, size: Size) -> Result<()> {
    let name = match hear(client).await? {
        Some(Packet::Identification { version: PROTOCOL, name, .. }) => name,
        Some(Packet::Identification { version, .. }) => {
            return Err(Kick(format!("version {PROTOCOL} is spoken here, not {version}")).into());
        }
        Some(_) => return Err(Kick("say who you are".into()).into()),
        None => return Ok(()),
    };
    if !is_name(&name) {
        return Err(Kick(format!("a name is 1 to {NAME_BYTES_MAX} letters, digits and _")).into());
    }
    let Welcome { number, packets, entered } = game.enter(name).await?;
    client.features().insert(number);
    let member = game.everybody.join(client);
    for packet in packets {
        client.queue(packet)?;
    }
    let _ = entered.send(()); // and what the game tells everybody comes behind it
    let result = relay(client, game, number, size).await;
    drop(member);
    game.leave(number).await?;
    result
}

/// Tells the game what a player does, until it leaves.
async fn relay(client: &Client, game: &Game, number: Number, size: Size) -> Result<()> {
    client.flush().await?;
    while let Some(packet) = hear(client).await? {
        let deed = match packet {
            Packet::Move { place, .. } => Deed::Move(place),
            Packet::Shift { by, yaw, pitch, .. } => Deed::Shift(by, yaw, pitch),
            Packet::AskBlock { at, mode: 0, .. } if size.contains(at) => Deed::Build(at, AIR),
            Packet::AskBlock { at, mode: 1, block } if size.contains(at) && block <= BLOCK_MAX => {
                Deed::Build(at, block)
            }
            Packet::AskBlock { at, block, .. } => {
                return Err(Kick(format!("there is no block {block} at {at:?}")).into());
            }
            Packet::Message { text, .. } => Deed::Say(text),
            _ => return Err(Kick("a client doesn't say that".into()).into()),
        };
        game.act(number, deed).await?;
    }
    Ok(())
}

async fn hear(client: &Client) -> Result<Option<Packet>> {
    let silence = |_| Kick("you have said nothing for a minute".into());
    Ok(timeout(SILENCE_MAX, client.recv()).await.map_err(silence)??)
}

fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed)
}

fn main() -> Result<()> {
    let Arguments { server: arguments, size, ping_ms } = Arguments::parse();
    let mut channel = arguments.config()?.channel;
    channel.unsent_frames_max += size.level_packets_max();
    arguments.serve(|runtime| {
        let game = Game::start(runtime, size, Duration::from_millis(ping_ms))?;
        let server = Server::bind(&arguments.listen)
            .channel(channel)
            .peer(|_conn| codec(Classic), async move |client| serve(client, &game, size).await);
        Ok(server.start(runtime)?)
    })
}
