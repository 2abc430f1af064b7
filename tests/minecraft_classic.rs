//! Minecraft Classic: everybody sees the same world, and who doesn't keep to the protocol has to go.

mod common;
#[path = "../examples/minecraft-classic/packets.rs"]
mod packets;

use common::*;
use flate2::read::GzDecoder;
use packets::{CHUNK_BYTES, Classic, PROTOCOL, Packet, Place, Position};
use perihelion::pipeline::testing::{encode, verify_bytes, verify_codec};
use perihelion::prelude::*;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;

/// A server on two workers.
struct Server {
    program: Program,
    address: SocketAddr,
    _limit: Limit,
}

/// One side of a connection.
struct Player {
    stream: TcpStream,
    input: Input,
}

/// What a player is told when it comes in.
struct Entered {
    player: Player,
    level: Level,
    /// The others who are there.
    others: Vec<(i8, String)>,
}

#[derive(PartialEq)]
struct Level {
    size: Position,
    blocks: Vec<u8>,
}

impl Server {
    fn start(more: &[&str]) -> Self {
        let limit = Limit::new();
        let arguments = [&["--listen", V4, "--workers", "2"], more].concat();
        let (program, line) = Program::start(&example("minecraft-classic"), &arguments);
        Server { program, address: address_in(&line), _limit: limit }
    }

    fn connect(&self) -> Player {
        Player { stream: connect(self.address), input: Input::default() }
    }

    fn enter(&self, name: &str) -> Entered {
        let mut player = self.connect();
        player.say(identification(PROTOCOL, name));
        let welcome = player.hear();
        assert!(matches!(welcome, Packet::Identification { version: PROTOCOL, .. }), "{welcome:?}");
        let level = player.level();
        let mut others = Vec::new();
        loop {
            match player.hear() {
                Packet::Spawn { id: -1, name: own, .. } => assert_eq!(own, name),
                Packet::Spawn { id, name, .. } => others.push((id, name)),
                Packet::Message { text, .. } if text == format!("{name} has come") => break,
                packet => panic!("{packet:?}"),
            }
        }
        Entered { player, level, others }
    }

    /// Stops it while these are there, and gives what it has said.
    fn stop<P>(self, players: P) -> String {
        self.program.signal("TERM");
        drop(players);
        let (code, said) = self.program.wait();
        assert_eq!(code, Some(0), "{said}");
        said
    }
}

impl Player {
    fn send(&self, bytes: impl AsRef<[u8]>) {
        (&self.stream).write_all(bytes.as_ref()).unwrap();
    }

    fn say(&self, packet: Packet) {
        self.send(encode(Classic, [packet]));
    }

    fn ask(&self, at: Position, block: u8) {
        self.say(Packet::AskBlock { at, mode: 1, block });
    }

    fn chat(&self, text: &str) {
        self.say(Packet::Message { id: -1, text: text.into() });
    }

    fn try_hear(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = Classic.decode(&mut self.input).unwrap() {
                return Some(packet);
            }
            let mut bytes = [0; 4096];
            match (&self.stream).read(&mut bytes).unwrap() {
                0 => return None,
                length => self.input.push(Bytes::copy_from_slice(&bytes[..length])),
            }
        }
    }

    fn hear(&mut self) -> Packet {
        self.try_hear().expect("it goes on")
    }

    fn hears(&mut self, expected: Packet) {
        assert_eq!(self.hear(), expected);
    }

    fn hears_text(&mut self, expected: &str) {
        let packet = self.hear();
        assert!(matches!(&packet, Packet::Message { text, .. } if text == expected), "{packet:?}");
    }

    /// The number of another who comes.
    fn hears_coming(&mut self, expected: &str) -> i8 {
        let Packet::Spawn { id, name, .. } = self.hear() else { panic!("{expected} comes") };
        assert_eq!(name, expected);
        self.hears_text(&format!("{expected} has come"));
        id
    }

    fn level(&mut self) -> Level {
        self.hears(Packet::LevelInitialize);
        let (mut gzip, mut last) = (Vec::new(), 0);
        loop {
            match self.hear() {
                Packet::LevelChunk { data, percent } => {
                    assert!(last <= percent && percent <= 100);
                    last = percent;
                    gzip.extend_from_slice(&data);
                }
                Packet::LevelFinalize { size } => {
                    assert_eq!(last, 100);
                    return Level::unpack(size, &gzip);
                }
                packet => panic!("{packet:?}"),
            }
        }
    }

    /// Why it has to go, which it then must.
    fn kicked(mut self) -> String {
        let Packet::Disconnect { reason } = self.hear() else { panic!("it has to go") };
        assert_eq!(self.try_hear(), None);
        reason
    }
}

impl Level {
    fn unpack(size: Position, gzip: &[u8]) -> Self {
        let mut bytes = Vec::new();
        GzDecoder::new(gzip).read_to_end(&mut bytes).unwrap();
        let (count, blocks) = bytes.split_first_chunk().unwrap();
        assert_eq!(i32::from_be_bytes(*count) as usize, blocks.len());
        assert_eq!(blocks.len(), size.map(|size| size as usize).iter().product::<usize>());
        Level { size, blocks: blocks.into() }
    }

    fn index(&self, at: Position) -> usize {
        let ([x, y, z], [width, _, depth]) = (at.map(|at| at as usize), self.size.map(|size| size as usize));
        (y * depth + z) * width + x
    }

    fn at(&self, at: Position) -> u8 {
        self.blocks[self.index(at)]
    }
}

fn identification(version: u8, name: &str) -> Packet {
    Packet::Identification { version, name: name.into(), key: "-".into(), kind: 0 }
}

fn place(at: Position) -> Place {
    Place { at, yaw: 64, pitch: 200 }
}

fn all_packets() -> Vec<Packet> {
    let (at, text) = ([1, -2, 300], "x".repeat(64));
    vec![
        Packet::Identification { version: PROTOCOL, name: "ada".into(), key: text.clone(), kind: 1 },
        Packet::Ping,
        Packet::LevelInitialize,
        Packet::LevelFinalize { size: at },
        Packet::AskBlock { at, mode: 1, block: 49 },
        Packet::SetBlock { at, block: 200 },
        Packet::Spawn { id: -1, name: String::new(), place: place(at) },
        Packet::Move { id: 126, place: place(at) },
        Packet::Shift { id: 3, by: [-1, 0, 127], yaw: 255, pitch: 1 },
        Packet::Despawn { id: 0 },
        Packet::Message { id: -1, text: "a  b".into() },
        Packet::Disconnect { reason: text },
    ]
}

#[test]
fn packets_are_the_same_however_they_are_cut() {
    verify_codec(|| Classic, &all_packets());
    for length in [0, 1, CHUNK_BYTES] {
        let chunk = Packet::LevelChunk { data: vec![7; length].into(), percent: 100 };
        let (packets, error) = verify_bytes(|| Classic, &encode(Classic, [chunk.clone(), Packet::Ping]));
        assert!(error.is_none() && packets == [chunk, Packet::Ping]);
    }
    let ask = Packet::AskBlock { at: [1, 2, -1], mode: 1, block: 41 };
    assert_eq!(encode(Classic, [ask]), b"\x05\0\x01\0\x02\xff\xff\x01\x29");
    let lengths: Vec<usize> =
        all_packets().into_iter().map(|packet| encode(Classic, [packet]).len()).collect();
    assert_eq!(lengths, [131, 1, 1, 7, 9, 8, 74, 10, 7, 2, 66, 65]);
}

#[test]
fn what_is_no_packet_is_an_error() {
    let message = |byte| [&[0x0d, 0xff][..], &[byte; 64]].concat();
    let chunk = |length: i16| [&[0x03][..], &length.to_be_bytes(), &[0; 1025]].concat();
    for (wire, why) in [
        (vec![0x0a], "there is no packet 0x0a"),
        (vec![0x01, 0xff, 0x01], "there is no packet 0xff"),
        (message(0), "no ASCII"),
        (message(0xe9), "no ASCII"),
        (chunk(1025), "a piece of a level of 1025 bytes"),
        (chunk(-1), "a piece of a level of 65535 bytes"),
        (vec![0x05, 0, 0], "ended inside a frame, after 3 bytes"),
    ] {
        let error = verify_bytes(|| Classic, &wire).1.unwrap().to_string();
        assert!(error.contains(why), "{error}");
    }
    for packet in [
        Packet::Disconnect { reason: "x".repeat(65) },
        Packet::Message { id: 0, text: "\u{e9}".into() },
        Packet::LevelChunk { data: vec![0; 1025].into(), percent: 0 },
    ] {
        let mut output = Output::default();
        assert!(Classic.encode(packet, &mut output).is_err() && output.is_empty());
    }
}

#[test]
fn players_see_each_other_and_what_they_build() {
    let server = Server::start(&["--size", "32x16x48"]);
    let Entered { player: mut ada, level, others } = server.enter("ada");
    assert_eq!((level.size, others), ([32, 16, 48], vec![]));
    assert_eq!(
        [3, 2, 0].map(|block| level.blocks.iter().filter(|at| **at == block).count()),
        [10752, 1536, 12288]
    );
    let Entered { player: mut alan, others, .. } = server.enter("alan");
    assert_eq!(others, [(0, "ada".into())]);
    let alans = ada.hears_coming("alan");
    assert_ne!(alans, 0);

    alan.say(Packet::Move { id: -1, place: place([320, 300, 330]) });
    ada.hears(Packet::Move { id: alans, place: place([320, 300, 330]) });
    alan.say(Packet::Shift { id: -1, by: [32, -1, 0], yaw: 1, pitch: 2 });
    ada.hears(Packet::Shift { id: alans, by: [32, -1, 0], yaw: 1, pitch: 2 });
    ada.chat("hello");
    for player in [&mut ada, &mut alan] {
        player.hears_text("ada: hello");
    }
    ada.chat(&"x".repeat(64));
    alan.hears_text(&format!("ada: {}", "x".repeat(59)));
    alan.hears_text("xxxxx");
    ada.hear();
    ada.hear();

    ada.ask([31, 15, 47], 49);
    alan.say(Packet::AskBlock { at: [0, 7, 0], mode: 0, block: 5 }); // away with it
    for player in [&mut ada, &mut alan] {
        let mut changes = [player.hear(), player.hear()];
        changes.sort_by_key(|change| matches!(change, Packet::SetBlock { block: 0, .. }));
        let expected = [([31, 15, 47], 49), ([0, 7, 0], 0)].map(|(at, block)| Packet::SetBlock { at, block });
        assert_eq!(changes, expected);
    }
    let Entered { player: late, level, others } = server.enter("late");
    assert_eq!([[31, 15, 47], [0, 7, 0], [1, 7, 0]].map(|at| level.at(at)), [49, 0, 2]);
    assert_eq!(others, [(0, "ada".into()), (alans, "alan".into())]);
    let lates = ada.hears_coming("late");
    drop(late);
    ada.hears(Packet::Despawn { id: lates });
    ada.hears_text("late has left");
    server.stop((ada, alan));
}

#[test]
fn a_newcomer_sees_players_where_they_are() {
    let server = Server::start(&[]);
    let mut ada = server.enter("ada").player;
    ada.say(Packet::Move { id: -1, place: place([320, 300, 330]) });
    ada.say(Packet::Shift { id: -1, by: [1, -2, 3], yaw: 9, pitch: 8 });
    ada.chat("now");
    ada.hears_text("ada: now");
    let mut alan = server.connect();
    alan.say(identification(PROTOCOL, "alan"));
    alan.hear();
    alan.level();
    alan.hear(); // itself
    let there = Place { at: [321, 298, 333], yaw: 9, pitch: 8 };
    alan.hears(Packet::Spawn { id: 0, name: "ada".into(), place: there });
    server.stop((ada, alan));
}

#[test]
fn all_see_the_same_changes_in_the_same_order_whichever_core_they_are_on() {
    const BUILDERS: usize = 8;
    const BLOCKS: usize = 100;
    let server = Server::start(&["--size", "16x16x16"]);
    let builders: Vec<Player> =
        (0..BUILDERS).map(|number| server.enter(&format!("builder_{number}")).player).collect();
    // They all build at the same few places, at once.
    let seen: Vec<Vec<(Position, u8)>> = thread::scope(|scope| {
        let build = |(number, builder): (usize, Player)| {
            scope.spawn(move || {
                let mut random = Random(number as u64);
                let (sender, mut listener) = (builder.stream.try_clone().unwrap(), builder);
                let asks: Vec<Packet> = (0..BLOCKS)
                    .map(|_| Packet::AskBlock {
                        at: [random.below(3) as i16, 9, 0],
                        mode: 1,
                        block: random.below(50) as u8,
                    })
                    .collect();
                (&sender).write_all(&encode(Classic, asks)).unwrap();
                let mut seen = Vec::new();
                while seen.len() < BUILDERS * BLOCKS {
                    if let Packet::SetBlock { at, block } = listener.hear() {
                        seen.push((at, block));
                    }
                }
                seen
            })
        };
        let building: Vec<_> = builders.into_iter().enumerate().map(build).collect();
        building.into_iter().map(|builder| builder.join().unwrap()).collect()
    });
    assert!(seen.iter().all(|other| *other == seen[0]));
    let late = server.enter("late");
    for x in 0..3 {
        let last = seen[0].iter().rfind(|(at, _)| at[0] == x);
        assert_eq!(last.map(|(_, block)| *block), Some(late.level.at([x, 9, 0])));
    }
    server.stop(late.player);
}

#[test]
fn who_comes_while_others_build_misses_nothing() {
    let server = Server::start(&["--size", "16x16x16"]);
    let builder = server.enter("builder").player;
    let mut random = Random(1);
    let mut number = |end| random.below(end) as i16;
    let asks = (0..2000).map(|_| {
        let at = [number(16), number(16), number(16)];
        Packet::AskBlock { at, mode: 1, block: number(50) as u8 }
    });
    let bytes = encode(Classic, asks);
    let newcomers: Vec<Entered> = thread::scope(|scope| {
        scope.spawn(|| builder.send(bytes));
        (0..16).map(|number| server.enter(&format!("p{number}"))).collect()
    });
    builder.chat("done");
    let worlds: Vec<Level> = newcomers
        .into_iter()
        .map(|Entered { mut player, mut level, .. }| {
            loop {
                match player.hear() {
                    Packet::SetBlock { at, block } => {
                        let index = level.index(at);
                        level.blocks[index] = block;
                    }
                    Packet::Message { text, .. } if text == "builder: done" => return level,
                    _ => {}
                }
            }
        })
        .collect();
    let last = server.enter("last");
    assert!(worlds.iter().all(|world| *world == last.level));
    server.stop((builder, last.player));
}

#[test]
fn text_is_drawn_in_blocks_and_cleared() {
    let server = Server::start(&["--size", "32x32x32"]);
    let Entered { player: mut ada, level: empty, .. } = server.enter("ada");
    let mut alan = server.enter("alan").player;
    ada.hears_coming("alan");
    ada.say(Packet::Move { id: -1, place: place([5 * 32, 20 * 32, 9 * 32]) });
    ada.chat("/text Hi, this does not fit");
    ada.chat("done");
    alan.hear();
    let mut drawn = Vec::new();
    loop {
        match alan.hear() {
            Packet::SetBlock { at, block: 41 } => drawn.push(at),
            Packet::Message { text, .. } => break assert_eq!(text, "ada: done"),
            packet => panic!("{packet:?}"),
        }
    }
    let picture: Vec<String> = (20..25)
        .rev()
        .map(|y| (6..13).map(|x| if drawn.contains(&[x, y, 9]) { '#' } else { ' ' }).collect())
        .collect();
    assert_eq!(picture, ["# # ###", "# #  # ", "###  # ", "# #  # ", "# # ###"]);
    assert!(drawn.iter().all(|[x, ..]| (6..32).contains(x)));
    let late = server.enter("late");
    assert!(drawn.iter().all(|at| late.level.at(*at) == 41));

    alan.hears_coming("late");
    alan.chat("/clear");
    assert!(alan.level() == empty);
    let Packet::Spawn { id: 0, .. } = alan.hear() else { panic!("ada is still there") };
    let Packet::Spawn { id: -1, .. } = alan.hear() else { panic!("alan is still there") };
    assert!(server.enter("later").level == empty);
    server.stop((ada, alan, late.player));
}

#[test]
fn who_does_not_keep_to_the_protocol_has_to_go_and_is_told_why() {
    let server = Server::start(&["--size", "16x16x16"]);
    for (packet, why) in [
        (identification(6, "eve"), "version 7 is spoken here, not 6"),
        (identification(PROTOCOL, ""), "a name is 1 to 16 letters, digits and _"),
        (identification(PROTOCOL, "two words"), "a name is 1 to 16 letters, digits and _"),
        (identification(PROTOCOL, &"x".repeat(17)), "a name is 1 to 16 letters, digits and _"),
        (Packet::Message { id: -1, text: "hello".into() }, "say who you are"),
    ] {
        let stranger = server.connect();
        stranger.say(packet);
        assert_eq!(stranger.kicked(), why);
    }
    for (packet, why) in [
        (Packet::AskBlock { at: [16, 0, 0], mode: 1, block: 1 }, "there is no block 1 at [16, 0, 0]"),
        (Packet::AskBlock { at: [0, -1, 0], mode: 0, block: 1 }, "there is no block 1 at [0, -1, 0]"),
        (Packet::AskBlock { at: [0, 0, 0], mode: 1, block: 50 }, "there is no block 50 at [0, 0, 0]"),
        (Packet::AskBlock { at: [0, 0, 0], mode: 2, block: 1 }, "there is no block 1 at [0, 0, 0]"),
        (Packet::Despawn { id: 0 }, "a client doesn't say that"),
        (identification(PROTOCOL, "eve"), "a client doesn't say that"),
    ] {
        let eve = server.enter("eve").player;
        eve.say(packet);
        assert_eq!(eve.kicked(), why);
    }
    let ada = server.enter("ada");
    let another = server.connect();
    another.say(identification(PROTOCOL, "ada"));
    assert_eq!(another.kicked(), "ada is here already");
    let said = server.stop(ada.player);
    assert!(said.contains("version 7 is spoken here, not 6"), "{said}");
}

#[test]
fn what_is_no_packet_closes_the_connection_and_the_log_says_why() {
    let server = Server::start(&["--size", "16x16x16"]);
    let mut ada = server.enter("ada").player;
    let stranger = server.connect();
    stranger.send(b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(read_to_end(&stranger.stream).0, b"");
    let half = server.enter("half").player;
    ada.hears_coming("half");
    half.send([0x05, 0, 0]);
    half.stream.shutdown(Shutdown::Write).unwrap();
    read_to_end(&half.stream);
    assert!(matches!(ada.hear(), Packet::Despawn { .. }));
    ada.hears_text("half has left");
    let said = server.stop((ada, stranger, half));
    assert!(said.contains("there is no packet 0x47"), "{said}");
    assert!(said.contains("ended inside a frame, after 3 bytes"), "{said}");
}

#[test]
fn the_server_pings_when_nothing_happens() {
    let server = Server::start(&["--ping-ms", "5"]);
    let mut ada = server.enter("ada").player;
    ada.hears(Packet::Ping);
    ada.chat("hello");
    while ada.hear() != (Packet::Message { id: -1, text: "ada: hello".into() }) {}
    ada.hears(Packet::Ping);
    server.stop(ada);
}

#[test]
fn there_are_127_players_and_who_leaves_makes_room() {
    let server = Server::start(&["--size", "16x16x16"]);
    let mut players: Vec<Player> =
        (0..127).map(|number| server.enter(&format!("p{number}")).player).collect();
    let late = server.connect();
    late.say(identification(PROTOCOL, "late"));
    assert_eq!(late.kicked(), "the server is full");
    reset(players.remove(50).stream);
    while players[0].hear() != (Packet::Despawn { id: 50 }) {}
    let late = server.enter("late");
    assert_eq!(late.others.len(), 126);
    assert!(late.others.iter().all(|(id, _)| *id != 50));
    server.stop((players, late.player));
}

#[test]
fn options_that_can_not_be_used_are_said_to_be_so() {
    for (arguments, part) in [
        (["--size", "64"], "WIDTHxHEIGHTxDEPTH"),
        (["--size", "15x16x16"], "from 16 to 256"),
        (["--size", "16x16x257"], "from 16 to 256"),
        (["--ping-ms", "0"], "0 is not in 1.."),
    ] {
        let (code, _, said) = run_on(&example("minecraft-classic"), &arguments, "");
        assert!(code == Some(2) && said.contains(part), "{said}");
    }
}
