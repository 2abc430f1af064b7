//! The game: one task on the first core, which alone changes the world and says in which order what happens is heard.

use futures_channel::{mpsc, oneshot};
use perihelion::prelude::*;
use perihelion::runtime::Handle;
use perihelion::transports::{PeerGroup, Slow};
use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::time::Duration;

use crate::packets::{PROTOCOL, Packet, Place, Position, TEXT_BYTES};
use crate::world::{Size, World};

/// What players do and the game has not seen yet, beside one for each of them.
const ORDERS_MAX: usize = 64;
/// The numbers of players.
const NUMBERS: std::ops::RangeInclusive<i8> = 0..=126;
/// How a player is called to itself.
const YOU: i8 = -1;

/// The game, for the connections of its players, on all cores.
pub(crate) struct Game {
    orders: mpsc::Sender<Order>,
    pub(crate) everybody: PeerGroup<Packet>,
}

/// Who a connection is: a feature of it.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Number(pub(crate) i8);

/// Why somebody has to go.
#[derive(Debug)]
pub(crate) struct Kick(pub(crate) String);

/// What a player is told who comes in.
pub(crate) struct Welcome {
    pub(crate) number: Number,
    pub(crate) packets: Vec<Packet>,
    /// To be told when they are queued and the player is one of everybody: the game waits, so that nothing is missed.
    pub(crate) entered: oneshot::Sender<()>,
}

/// What a player does.
pub(crate) enum Deed {
    Move(Place),
    Shift([i8; 3], u8, u8),
    Build(Position, u8),
    Say(String),
}

enum Order {
    Enter(String, oneshot::Sender<Result<Welcome, Kick>>),
    Do(Number, Deed),
    Leave(Number),
}

struct State {
    world: World,
    players: BTreeMap<i8, Player>,
    everybody: PeerGroup<Packet>,
}

struct Player {
    name: String,
    place: Place,
}

impl Game {
    /// Begins. When nothing happens for so long, everybody is sent a ping.
    pub(crate) fn start(runtime: &Handle, size: Size, ping: Duration) -> Result<Self> {
        let (orders, mut received) = mpsc::channel(ORDERS_MAX);
        let everybody = PeerGroup::new(runtime);
        let game = Game { orders, everybody: everybody.clone() };
        let run = move || async move {
            let mut state = State { world: World::new(size), players: BTreeMap::new(), everybody };
            loop {
                match timeout(ping, received.recv()).await {
                    Ok(Ok(order)) => state.obey(order).await,
                    Ok(Err(_)) => return, // there is nobody who could say anything
                    Err(_) => {
                        state.everybody.send(Packet::Ping, Slow::Close).await;
                    }
                }
            }
        };
        drop(runtime.spawn_on(0, run)?);
        Ok(game)
    }

    pub(crate) async fn enter(&self, name: String) -> Result<Welcome> {
        let (reply, welcome) = oneshot::channel();
        self.order(Order::Enter(name, reply)).await?;
        Ok(welcome.await??)
    }

    pub(crate) async fn act(&self, who: Number, deed: Deed) -> Result<()> {
        self.order(Order::Do(who, deed)).await
    }

    pub(crate) async fn leave(&self, who: Number) -> Result<()> {
        self.order(Order::Leave(who)).await
    }

    async fn order(&self, order: Order) -> Result<()> {
        let mut orders = self.orders.clone();
        poll_fn(|task| orders.poll_ready(task)).await?;
        Ok(orders.start_send(order)?)
    }
}

impl State {
    async fn obey(&mut self, order: Order) {
        match order {
            Order::Enter(name, reply) => self.enter(name, reply).await,
            Order::Do(Number(id), deed) => self.act(id, deed).await,
            Order::Leave(Number(id)) => self.leave(id).await,
        }
    }

    async fn enter(&mut self, name: String, reply: oneshot::Sender<Result<Welcome, Kick>>) {
        let (entered, has_entered) = oneshot::channel();
        let welcome = self.welcome(&name, entered).await;
        let number = welcome.as_ref().ok().map(|welcome| welcome.number);
        let gone = reply.send(welcome).is_err() || has_entered.await.is_err();
        let Some(Number(id)) = number.filter(|_| !gone) else { return };
        let player = Player { name, place: self.world.size().start() };
        self.tell_others(id, spawn(id, &player), Slow::Close).await;
        self.tell_all(format!("{} has come", player.name)).await;
        self.players.insert(id, player);
    }

    async fn welcome(&self, name: &str, entered: oneshot::Sender<()>) -> Result<Welcome, Kick> {
        if self.players.values().any(|player| player.name == name) {
            return Err(Kick(format!("{name} is here already")));
        }
        let free = NUMBERS.into_iter().find(|id| !self.players.contains_key(id));
        let number = Number(free.ok_or_else(|| Kick("the server is full".into()))?);
        let mut packets = vec![Packet::Identification {
            version: PROTOCOL,
            name: "Perihelion".into(),
            key: "/text TEXT and /clear".into(),
            kind: 0,
        }];
        let busy = |_| Kick("the server is busy: try again".into());
        packets.extend(self.world.level().await.map_err(busy)?);
        let you = Player { name: name.into(), place: self.world.size().start() };
        packets.push(spawn(YOU, &you));
        packets.extend(self.players.iter().map(|(id, player)| spawn(*id, player)));
        Ok(Welcome { number, packets, entered })
    }

    async fn leave(&mut self, id: i8) {
        if let Some(Player { name, .. }) = self.players.remove(&id) {
            self.tell_others(id, Packet::Despawn { id }, Slow::Close).await;
            self.tell_all(format!("{name} has left")).await;
        }
    }

    async fn act(&mut self, id: i8, deed: Deed) {
        let Some(Player { name, place }) = self.players.get_mut(&id) else { return };
        match deed {
            Deed::Move(to) => {
                *place = to;
                // Who is too slow for one learns from the next where the player is.
                self.tell_others(id, Packet::Move { id, place: to }, Slow::Skip).await;
            }
            Deed::Shift(by, yaw, pitch) => {
                let at = std::array::from_fn(|axis| place.at[axis].wrapping_add(by[axis].into()));
                *place = Place { at, yaw, pitch };
                self.tell_others(id, Packet::Shift { id, by, yaw, pitch }, Slow::Close).await;
            }
            Deed::Build(at, block) => {
                self.world.set(at, block);
                self.everybody.send(Packet::SetBlock { at, block }, Slow::Close).await;
            }
            Deed::Say(text) => match text.split_once(' ').unwrap_or((&text, "")) {
                ("/text", text) => {
                    let [x, y, z] = place.at.map(|at| at.div_euclid(32));
                    for change in self.world.write(text, [x.saturating_add(1), y, z]) {
                        self.everybody.send(change, Slow::Close).await;
                    }
                }
                ("/clear", "") => self.clear().await,
                _ => {
                    let text = format!("{name}: {text}");
                    self.tell_all(text).await;
                }
            },
        }
    }

    /// A new world, in which everybody is where it was.
    async fn clear(&mut self) {
        let world = World::new(self.world.size());
        let Ok(level) = world.level().await else {
            return self.tell_all("the server is busy: try again".into()).await;
        };
        self.world = world;
        for packet in level {
            self.everybody.send(packet, Slow::Close).await;
        }
        for (id, player) in &self.players {
            let number = Number(*id);
            let you = move |member: &PeerSender<Packet>| member.get().as_deref() == Some(&number);
            self.everybody.send_to(spawn(YOU, player), Slow::Close, you).await;
            self.tell_others(*id, spawn(*id, player), Slow::Close).await;
        }
    }

    async fn tell_others(&self, id: i8, packet: Packet, slow: Slow) {
        let others = move |member: &PeerSender<Packet>| member.get().as_deref() != Some(&Number(id));
        self.everybody.send_to(packet, slow, others).await;
    }

    /// Everybody reads it, in as many messages as it needs.
    async fn tell_all(&self, text: String) {
        for part in text.as_bytes().chunks(TEXT_BYTES) {
            let text = String::from_utf8_lossy(part).into();
            self.everybody.send(Packet::Message { id: YOU, text }, Slow::Close).await;
        }
    }
}

fn spawn(id: i8, Player { name, place }: &Player) -> Packet {
    Packet::Spawn { id, name: name.clone(), place: *place }
}

impl fmt::Display for Kick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Kick {}
