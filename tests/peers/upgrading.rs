//! Upgrades: no byte is lost, doubled or read by the wrong stages, and whatever fails on the way fails everything.

use perihelion::prelude::*;
use perihelion::runtime::simulation::Simulation;
use perihelion::testing::{Ending, Faults, TestChannel, each_seed};
use perihelion::tls::rustls::ClientConnection;
use perihelion::tls::{ClientTls, ServerTls, Session};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::sync::{Arc, OnceLock};

use crate::authority::Authority;
use crate::world::*;

/// What both sides of TLS need.
struct Certified {
    server: ServerTls,
    client: ClientTls,
}

impl Certified {
    fn new() -> Arc<Self> {
        static CERTIFIED: OnceLock<Arc<Certified>> = OnceLock::new();
        let make = || {
            let authority = Authority::new();
            let identity = authority.issue("localhost");
            let server = ServerTls::builder().certificate(&identity.cert, &identity.key).build().unwrap();
            let client = ClientTls::builder().roots(authority.ca()).build().unwrap();
            Arc::new(Certified { server, client })
        };
        Arc::clone(CERTIFIED.get_or_init(make))
    }
}

/// Bytes that nobody else can read, nearly.
pub(crate) struct Xor(pub(crate) u8);

impl Codec for Xor {
    type Frame = Bytes;
    type Item = Bytes;
    fn decode(&mut self, input: &mut Input) -> Result<Option<Bytes>> {
        let bytes = input.take_all();
        Ok((!bytes.is_empty()).then(|| self.apply(&bytes)))
    }
    fn encode(&mut self, bytes: Bytes, output: &mut Output) -> Result<()> {
        output.put_bytes(self.apply(&bytes));
        Ok(())
    }
}

impl Xor {
    pub(crate) fn apply(&self, bytes: &[u8]) -> Bytes {
        bytes.iter().map(|byte| byte ^ self.0).collect()
    }
}

/// A handshake of few words, after which bytes pass as they are. It tells nobody when it is done.
struct Knocks {
    done: bool,
}

impl Protocol for Knocks {
    type Frame = Bytes;
    type Item = Bytes;
    fn open(&mut self, wire: &mut Wire<'_>) -> Result<()> {
        wire.set_needs_input(true);
        wire.output().put_slice(b"knock");
        Ok(())
    }
    fn read(&mut self, wire: &mut Wire<'_>, input: &mut Input) -> Result<Flow<Bytes>> {
        if !self.done {
            if input.len() < 5 {
                return if input.is_ended() { Err(Error::msg("nobody knocks")) } else { Ok(Flow::Done) };
            }
            if input.take(5) != "knock" {
                return Err(Error::msg("this is no knocking"));
            }
            self.done = true;
            wire.set_needs_input(false);
        }
        let bytes = input.take_all();
        Ok(if bytes.is_empty() { Flow::Done } else { Flow::Next(bytes) })
    }
    fn write(&mut self, wire: &mut Wire<'_>, bytes: Bytes) -> Result<()> {
        wire.output().put_bytes(bytes);
        Ok(())
    }
}

/// A server's and a client's peer that speak lines in clear, in steps.
fn clear(seed: u64) -> (Pair, Lined, Lined) {
    let (left, server) = open(seed, Faults::survivable());
    let (right, client) = open(seed + 1_000_000, Faults::survivable());
    server.set_mode(Mode::Passive);
    client.set_mode(Mode::Passive);
    (Pair::new(left, right), server, client)
}

fn contains(bytes: &[u8], part: &str) -> bool {
    bytes.windows(part.len()).any(|window| window == part.as_bytes())
}

#[test]
fn peers_upgrade_to_tls_and_then_to_more() {
    let certified = Certified::new();
    each_seed(0..40, |seed| {
        let (mut pair, server, client) = clear(seed);
        let (tls, config) = (certified.server.clone(), certified.client.clone());
        let served = start(&mut pair.left, async move {
            assert_eq!(server.recv().await?.as_deref(), Some("STARTTLS"));
            server.send("go ahead".into()).await?;
            server.queue("queued in clear, sent over TLS".into())?;
            server.upgrade(codec(tls.accept()).codec(lines())).await?;
            assert!(server.get::<Session>().is_some(), "it is ready");
            server.send("and this".into()).await?;
            // A second stage above it.
            assert_eq!(server.recv().await?.as_deref(), Some("XOR"));
            server.send("with what?".into()).await?;
            assert_eq!(server.recv().await?.as_deref(), Some("7"));
            server.queue("queued over TLS, sent by both".into())?;
            server.upgrade(codec(Xor(7)).codec(lines())).await?;
            server.flush().await?;
            server.set_mode(Mode::Active);
            while let Some(line) = server.recv().await? {
                server.send(line).await?;
            }
            Ok::<_, Error>(())
        });
        let random = fastrand::Rng::with_seed(seed);
        let asked = start(&mut pair.right, async move {
            let mut random = random;
            client.send("STARTTLS".into()).await?;
            assert_eq!(client.recv().await?.as_deref(), Some("go ahead"));
            client.upgrade(codec(config.connect("localhost").unwrap()).codec(lines())).await?;
            assert_eq!(client.recv().await?.as_deref(), Some("queued in clear, sent over TLS"));
            assert_eq!(client.recv().await?.as_deref(), Some("and this"));
            client.send("XOR".into()).await?;
            assert_eq!(client.recv().await?.as_deref(), Some("with what?"));
            client.send("7".into()).await?;
            client.upgrade(codec(Xor(7)).codec(lines())).await?;
            assert_eq!(client.recv().await?.as_deref(), Some("queued over TLS, sent by both"));
            client.set_mode(Mode::Active);
            for number in 0..30 {
                client.queue(format!("{number} {}", "x".repeat(random.usize(0..80))))?;
            }
            client.flush().await?;
            for number in 0..30 {
                assert!(client.recv().await?.unwrap().starts_with(&format!("{number} ")));
            }
            client.close_output();
            assert_eq!(client.recv().await?, None);
            Ok::<_, Error>(())
        });
        pair.talk();
        asked.take().expect("the client is done").unwrap();
        served.take().expect("the server is done").unwrap();
        assert!(pair.there.starts_with(b"go ahead\n"), "what was sent before goes out before");
        assert!(!contains(&pair.there, "queued") && !contains(&pair.back, "XOR"), "and nothing else");
        assert_eq!((pair.left.closed(), pair.right.closed()), (Some(None), Some(None)));
    });
}

#[test]
fn connections_upgrade_to_tls_and_then_to_more() {
    let certified = Certified::new();
    each_seed(0..40, |seed| {
        let simulation = |seed| Simulation::new(seed, Faults::survivable());
        let config = Config::default();
        let (left, server) = TestChannel::connection(simulation(seed), &config);
        let (right, client) = TestChannel::connection(simulation(seed + 1_000_000), &config);
        let mut pair = Pair::new(left, right);
        let (tls, config) = (certified.server.clone(), certified.client.clone());
        let served = start(&mut pair.left, async move {
            server.write("in clear\n".into()).await?;
            let server = server.upgrade(codec(tls.accept())).await?;
            assert!(server.get::<Session>().is_some(), "it is ready");
            server.write("over TLS\n".into()).await?;
            let server = server.upgrade(codec(Xor(3))).await?;
            let peer = server.peer(codec(lines()));
            while let Some(line) = peer.recv().await? {
                peer.send(line).await?;
            }
            Ok::<_, Error>(())
        });
        let asked = start(&mut pair.right, async move {
            let mut client = client;
            let mut greeting = Vec::new();
            while !greeting.ends_with(b"\n") {
                greeting.extend(read_up_to(&mut client, 1).await?.expect("there is more"));
            }
            assert_eq!(greeting, b"in clear\n");
            let mut client = client.upgrade(codec(config.connect("localhost").unwrap())).await?;
            let mut greeting = Vec::new();
            while !greeting.ends_with(b"\n") {
                greeting.extend(read_up_to(&mut client, 1).await?.expect("there is more"));
            }
            assert_eq!(greeting, b"over TLS\n");
            let client = client.upgrade(codec(Xor(3))).await?;
            for number in 0..100 {
                client.write(format!("{number}\n").into()).await?;
            }
            client.flush().await?;
            client.close_output();
            let mut echoed = Vec::new();
            while let Some(bytes) = client.read().await? {
                echoed.extend(bytes);
            }
            Ok::<_, Error>(echoed)
        });
        pair.talk();
        let echoed = asked.take().expect("the client is done").unwrap();
        served.take().expect("the server is done").unwrap();
        assert_eq!(
            echoed,
            (0..100).flat_map(|number| format!("{number}\n").into_bytes()).collect::<Vec<_>>()
        );
        assert!(pair.there.starts_with(b"in clear\n") && !contains(&pair.there, "over TLS"));
    });
}

#[cfg(all(feature = "gzip", feature = "zstd"))]
#[test]
fn compression_stands_above_tls_and_below_a_peer() {
    use perihelion::handlers::{Compression, ExpansionLimits};
    let certified = Certified::new();
    let limits = ExpansionLimits::default();
    each_seed(0..20, |seed| {
        let simulation = |seed| Simulation::new(seed, Faults::survivable());
        let (left, server) = TestChannel::connection(simulation(seed), &Config::default());
        let (right, client) =
            TestChannel::peer(simulation(seed + 1_000_000), &Config::default(), codec(lines()));
        client.set_mode(Mode::Passive);
        let mut pair = Pair::new(left, right);
        let (tls, config) = (certified.server.accept(), certified.client.connect("localhost").unwrap());
        let served = start(&mut pair.left, async move {
            server.write("zstd\n".into()).await?;
            let server = server.upgrade(codec(Compression::zstd(3, limits))).await?;
            server.write("tls\n".into()).await?;
            let server = server.upgrade(codec(tls).codec(Compression::gzip(6, limits))).await?;
            let peer = server.peer(codec(lines()));
            while let Some(line) = peer.recv().await? {
                peer.send(line).await?;
            }
            Ok::<_, Error>(())
        });
        let asked = start(&mut pair.right, async move {
            assert_eq!(client.recv().await?.as_deref(), Some("zstd"));
            client.upgrade(codec(Compression::zstd(3, limits)).codec(lines())).await?;
            assert_eq!(client.recv().await?.as_deref(), Some("tls"));
            client.upgrade(codec(config).codec(Compression::gzip(6, limits)).codec(lines())).await?;
            client.set_mode(Mode::Active);
            for number in 0..100 {
                client.send(format!("{number} {}", "x".repeat(80))).await?;
                assert!(client.recv().await?.expect("there is more").starts_with(&format!("{number} ")));
            }
            client.close_output();
            assert_eq!(client.recv().await?, None);
            Ok::<_, Error>(())
        });
        pair.talk();
        asked.take().expect("the client is done").unwrap();
        served.take().expect("the server is done").unwrap();
        assert_eq!((pair.left.closed(), pair.right.closed()), (Some(None), Some(None)));
    });
}

/// The other side of TLS, by rustls alone, and what it has read.
struct Far {
    connection: ClientConnection,
    read: Vec<u8>,
}

impl Far {
    fn new(certified: &Certified) -> Self {
        let name = "localhost".try_into().unwrap();
        let connection = ClientConnection::new(Arc::clone(certified.client.config()), name).unwrap();
        Far { connection, read: Vec::new() }
    }

    fn write(&mut self, text: &str) {
        self.connection.writer().write_all(text.as_bytes()).unwrap();
    }

    fn outgoing(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    fn take(&mut self, mut received: &[u8]) {
        while !received.is_empty() {
            self.connection.read_tls(&mut received).unwrap();
            self.connection.process_new_packets().unwrap();
            match self.connection.reader().read_to_end(&mut self.read) {
                Err(error) if error.kind() != ErrorKind::WouldBlock => panic!("{error}"),
                _ => {}
            }
        }
    }

    /// Goes on until nothing moves, and gives what it has read.
    fn talk(&mut self, channel: &mut TestChannel) -> Vec<u8> {
        loop {
            let outgoing = self.outgoing();
            channel.send(&outgoing);
            let received = channel.received();
            if outgoing.is_empty() && received.is_empty() {
                return std::mem::take(&mut self.read);
            }
            self.take(&received);
        }
    }
}

#[test]
fn what_comes_with_the_last_frame_in_clear_goes_to_the_handshake_wherever_it_is_cut() {
    let certified = Certified::new();
    let hello = Far::new(&certified).outgoing().len();
    let cuts = (0..60).chain((60..hello + 9).step_by(29)).chain([hello + 8]);
    for (cut, by_peer) in cuts.flat_map(|cut| [(cut, true), (cut, false)]) {
        let tls = certified.server.accept();
        let simulation = Simulation::new(cut as u64, Faults::none());
        let mut channel = if by_peer {
            let (mut channel, peer) = TestChannel::peer(simulation, &Config::default(), codec(lines()));
            peer.set_mode(Mode::Passive);
            drop(start(&mut channel, async move {
                assert_eq!(peer.recv().await.unwrap().as_deref(), Some("STARTTLS"));
                peer.upgrade(codec(tls).codec(lines())).await.unwrap();
                let line = peer.recv().await.unwrap().unwrap();
                peer.send(line).await.unwrap();
            }));
            channel
        } else {
            let (mut channel, connection) = TestChannel::connection(simulation, &Config::default());
            drop(start(&mut channel, async move {
                let mut connection = connection;
                let mut command = Vec::new();
                while !command.ends_with(b"\n") {
                    command.extend(read_up_to(&mut connection, 1).await.unwrap().expect("there is more"));
                }
                assert_eq!(command, b"STARTTLS\n");
                let connection = connection.upgrade(codec(tls)).await.unwrap();
                let line = connection.read().await.unwrap().unwrap();
                connection.write(line).await.unwrap();
            }));
            channel
        };
        let mut far = Far::new(&certified);
        let together = [&b"STARTTLS\n"[..], &far.outgoing()].concat();
        let (now, later) = together.split_at(cut.min(together.len()));
        channel.send(now);
        channel.send(later);
        far.write("hello\n");
        assert_eq!(far.talk(&mut channel), b"hello\n", "cut at {cut}");
        assert_eq!(channel.closed(), None);
    }
}

#[test]
fn upgrades_lose_nothing_wherever_a_stream_is_cut_and_whatever_waits() {
    each_seed(0..300, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut channel, peer) =
            open_with(seed, Faults::survivable(), "high_water_bytes = 300\nlow_water_bytes = 100");
        peer.set_mode(Mode::Passive);
        let upgrades = random.usize(1..6);
        // Each part is read through one stage more, and what is answered goes out through it.
        let (mut keys, mut sent, mut expected, mut answers) = (0, Vec::new(), Vec::new(), Vec::<u8>::new());
        for part in 0..=upgrades {
            for _ in 0..random.usize(0..8) {
                let line = format!("{part} {}", "x".repeat(random.usize(0..50)));
                sent.extend(&Xor(keys).apply(format!("{line}\n").as_bytes())[..]);
                answers.extend(&Xor(keys).apply(b"got it\n")[..]);
                expected.push(line);
            }
            if part < upgrades {
                let key = random.u8(1..);
                let line = format!("up {key}");
                sent.extend(&Xor(keys).apply(format!("{line}\n").as_bytes())[..]);
                keys ^= key;
                let answer = format!("queued before {key}\ngot it\n");
                answers.extend(&Xor(keys).apply(answer.as_bytes())[..]);
            }
        }
        let received = start(&mut channel, async move {
            let mut received = Vec::new();
            while let Some(line) = peer.recv().await.unwrap() {
                match line.strip_prefix("up ").map(|key| key.parse().unwrap()) {
                    Some(key) => {
                        peer.queue(format!("queued before {key}")).unwrap();
                        peer.upgrade(codec(Xor(key)).codec(lines())).await.unwrap();
                    }
                    None => received.push(line),
                }
                peer.send("got it".into()).await.unwrap();
                if received.len() % 3 == 0 {
                    peer.set_mode(Mode::Active);
                    peer.set_mode(Mode::Passive);
                }
            }
            received
        });
        let mut rest = &sent[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(random.usize(1..=rest.len()));
            // Unwritable or not.
            channel.set_window(random.bool().then(|| random.usize(0..200)));
            channel.send(now);
            channel.advance(MILLISECOND * random.u32(0..40));
            rest = later;
        }
        channel.end();
        channel.set_window(None);
        channel.advance(SECOND);
        assert_eq!(received.take().expect("it has come to the end"), expected);
        assert_eq!(channel.closed(), Some(None));
        assert!(channel.received() == answers, "what was sent went out through the stages of its time");
    });
}

#[test]
fn what_waits_to_be_sent_keeps_its_order_through_an_upgrade_of_a_channel_that_is_full() {
    each_seed(0..100, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let keys = "unsent_frames_max = 3\nhigh_water_bytes = 100\nlow_water_bytes = 50";
        let (mut channel, peer) = open_with(seed, Faults::survivable(), keys);
        peer.set_mode(Mode::Passive);
        channel.set_window(Some(random.usize(0..200)));
        let sending = peer.sender();
        let sent = start(&mut channel, async move {
            for number in 0..100 {
                sending.send(format!("line {number}")).await.unwrap();
            }
        });
        assert!(!sent.is_there());
        let upgrading = peer.clone();
        let upgrade =
            start(&mut channel, async move { upgrading.upgrade(codec(Xor(9)).codec(lines())).await });
        upgrade.take().expect("it needs nobody who reads").unwrap();
        channel.set_window(None);
        channel.simulation().run();
        assert!(sent.is_there());
        // In clear at first, and then never again.
        let (received, mut number) = (channel.received(), 0);
        let mut rest = &received[..];
        for key in [0, 9] {
            while let Some(left) =
                rest.strip_prefix(&Xor(key).apply(format!("line {number}\n").as_bytes())[..])
            {
                (rest, number) = (left, number + 1);
            }
        }
        assert_eq!((number, rest.len()), (100, 0));
    });
}

#[test]
fn a_handshake_goes_on_in_a_channel_that_was_full() {
    let certified = Certified::new();
    each_seed(0..20, |seed| {
        let (mut channel, peer) = open_with(seed, Faults::survivable(), "unsent_frames_max = 3");
        peer.set_mode(Mode::Passive);
        channel.set_window(Some(0));
        let sending = peer.sender();
        drop(start(&mut channel, async move {
            for _ in 0..2000 {
                sending.send("x".repeat(90)).await.unwrap();
            }
        }));
        let (tls, upgrading) = (certified.server.accept(), peer.clone());
        let upgrade = start(&mut channel, async move { upgrading.upgrade(codec(tls).codec(lines())).await });
        let mut far = Far::new(&certified);
        let hello = far.outgoing();
        channel.send(&hello);
        assert!(!upgrade.is_there());
        channel.set_window(None);
        let (received, line) = (channel.received(), "x".repeat(90) + "\n");
        let (mut in_clear, mut handshake) = (0, &received[..]);
        while let Some(rest) = handshake.strip_prefix(line.as_bytes()) {
            (in_clear, handshake) = (in_clear + 1, rest);
        }
        far.take(handshake);
        let over_tls = far.talk(&mut channel);
        upgrade.take().expect("it is done").unwrap();
        assert_eq!(in_clear * line.len() + over_tls.len(), 2000 * line.len());
        assert!(in_clear > 0 && !over_tls.is_empty());
    });
}

#[test]
fn a_connections_own_function_upgrades_it() {
    let certified = Certified::new();
    each_seed(0..20, |seed| {
        let tls = certified.server.clone();
        let server = Server::bind("127.0.0.1:0").peer(
            |_| codec(lines()),
            async move |peer: Lined| {
                peer.set_mode(Mode::Passive);
                assert_eq!(peer.recv().await?.as_deref(), Some("STARTTLS"));
                peer.send("go ahead".into()).await?;
                peer.upgrade(codec(tls.accept()).codec(lines())).await?;
                while let Some(line) = peer.recv().await? {
                    peer.send(line).await?;
                    // Within TLS, and out of a peer and back.
                    let connection = peer.detach()?;
                    connection.write("raw\n".into()).await?;
                    peer.attach(connection, codec(lines()))?;
                    peer.send("attached".into()).await?;
                }
                Ok(())
            },
        );
        let mut simulation = Simulation::new(seed, Faults::survivable());
        drop(server.start(simulation.handle()).unwrap());
        simulation.run();
        let line = simulation.knock();
        simulation.advance(SECOND);
        let mut far = Far::new(&certified);
        line.send([&b"STARTTLS\n"[..], &far.outgoing()].concat());
        simulation.run();
        far.take(line.received().strip_prefix(b"go ahead\n").expect("in clear"));
        far.write("one\ntwo\n");
        loop {
            let outgoing = far.outgoing();
            line.send(&outgoing);
            simulation.run();
            let received = line.received();
            if outgoing.is_empty() && received.is_empty() {
                break;
            }
            far.take(&received);
        }
        assert_eq!(String::from_utf8(far.read).unwrap(), "one\nraw\nattached\ntwo\nraw\nattached\n");
    });
}

#[test]
fn raw_bytes_are_upgraded_and_given_back_to_the_peer() {
    let certified = Certified::new();
    each_seed(0..20, |seed| {
        let (mut pair, server, client) = clear(seed);
        let (tls, config) = (certified.server.accept(), certified.client.connect("localhost").unwrap());
        let served = start(&mut pair.left, async move {
            server.queue("queued in clear".into())?;
            let connection = server.detach()?.upgrade(codec(tls)).await?;
            connection.write("raw\n".into()).await?;
            server.attach(connection, codec(Xor(5)).codec(lines()))?;
            server.flush().await?;
            let line = server.recv().await?;
            Ok::<_, Error>(line)
        });
        let asked = start(&mut pair.right, async move {
            client.upgrade(codec(config).codec(lines())).await?;
            assert_eq!(client.recv().await?.as_deref(), Some("raw"));
            client.upgrade(codec(Xor(5)).codec(lines())).await?;
            assert_eq!(client.recv().await?.as_deref(), Some("queued in clear"));
            client.send("hello".into()).await?;
            client.flush().await?;
            Ok::<_, Error>(())
        });
        pair.talk();
        asked.take().expect("the client is done").unwrap();
        assert_eq!(served.take().expect("the server is done").unwrap().as_deref(), Some("hello"));
    });
}

#[test]
fn a_passive_peer_receives_through_an_upgrade_though_a_subscription_is_full() {
    let (mut channel, peer) = open_with(1, Faults::none(), "unread_frames_max = 4");
    let mut unread = peer.subscribe(|_| true);
    channel.send("x\n".repeat(4));
    peer.set_mode(Mode::Passive);
    let receiving = peer.clone();
    let received = start(&mut channel, async move { receiving.recv().await });
    let upgrading = peer.clone();
    run(&mut channel, async move { upgrading.upgrade(codec(Xor(1)).codec(lines())).await }).unwrap();
    channel.send(Xor(1).apply(b"hello\n"));
    assert_eq!(received.take().expect("it is there").unwrap().as_deref(), Some("hello"));
    let shown = run(&mut channel, async move { unread.next().await });
    assert_eq!(shown.as_deref(), Some("x"));
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Trouble {
    Garbage,
    /// The other side ends in the middle of a handshake.
    End,
    Deadline,
    Reset,
    Close,
    Abort,
    /// Whoever upgrades gives it up.
    Drop,
}

#[test]
fn an_upgrade_that_fails_half_way_closes_for_that_reason_and_fails_all_that_waits() {
    let certified = Certified::new();
    let troubles = [
        (Trouble::Garbage, Some("the other side doesn't speak TLS: it began with E")),
        (Trouble::End, Some("ended during the TLS handshake")),
        (Trouble::Deadline, Some("took longer than 10s")),
        (Trouble::Reset, Some("reset")),
        (Trouble::Close, None),
        (Trouble::Abort, None),
    ];
    for (trouble, expected) in troubles {
        each_seed(0..10, |seed| {
            let (mut channel, peer) = open_with(seed, Faults::survivable(), "unsent_frames_max = 2");
            let asking = peer.clone();
            let asked = start(&mut channel, async move { asking.request_in_order("asked".into()).await });
            peer.set_mode(Mode::Passive);
            let (tls, upgrading) = (certified.server.accept(), peer.clone());
            let upgrade =
                start(&mut channel, async move { upgrading.upgrade(codec(tls).codec(lines())).await });
            assert!(!upgrade.is_there());
            let acked = start(&mut channel, peer.queue_acked("queued".into()).unwrap());
            let (receiving, ending, sending) = (peer.clone(), peer.clone(), peer.sender());
            let received = start(&mut channel, async move { receiving.recv().await });
            let ended = start(&mut channel, async move { ending.ended().await });
            let flushed = start(&mut channel, async move { sending.flush().await });
            let handle = peer.sender();
            let closed = start(&mut channel, async move { handle.closed().await });
            match trouble {
                Trouble::Garbage => channel.send("EHLO\n"),
                Trouble::End => {
                    let hello = Far::new(&certified).outgoing();
                    channel.send(&hello[..100]);
                }
                Trouble::Deadline => channel.advance(SECOND * 11),
                Trouble::Reset => channel.reset(),
                Trouble::Close => drop(peer.close()),
                Trouble::Abort => drop(peer.abort()),
                Trouble::Drop => unreachable!("it is tested below"),
            }
            channel.end();
            channel.simulation().run();
            let reason = closed.take().unwrap_or_else(|| panic!("{trouble:?}: it is open"));
            match expected {
                None => assert_eq!(reason, None, "{trouble:?}"),
                Some(part) => {
                    assert!(reason.as_ref().is_some_and(|reason| reason.contains(part)), "{reason:?}");
                }
            }
            let is_closed = |error: ConnectionError| match error {
                ConnectionError::Closed { reason: given } => assert_eq!(given, reason, "{trouble:?}"),
                error => panic!("{trouble:?}: {error}"),
            };
            is_closed(upgrade.take().expect("it has failed").unwrap_err());
            is_closed(asked.take().expect("it has failed").unwrap_err());
            is_closed(received.take().expect("it has failed").unwrap_err());
            is_closed(flushed.take().expect("it has failed").unwrap_err());
            assert!(acked.take().expect("it has failed").is_err());
            assert!(ended.is_there());
        });
    }
}

#[test]
fn an_upgrade_of_a_connection_that_fails_half_way_closes_for_that_reason() {
    let certified = Certified::new();
    let troubles = [
        (Trouble::Garbage, Some("the other side doesn't speak TLS: it began with E")),
        (Trouble::End, Some("ended during the TLS handshake")),
        (Trouble::Deadline, Some("took longer than 10s")),
        (Trouble::Reset, Some("reset")),
        (Trouble::Close, None),
        (Trouble::Abort, None),
        (Trouble::Drop, None),
    ];
    for (trouble, expected) in troubles {
        each_seed(0..10, |seed| {
            let simulation = Simulation::new(seed, Faults::survivable());
            let (mut channel, connection) = TestChannel::connection(simulation, &Config::default());
            let (tls, handle) = (certified.server.accept(), connection.handle());
            let upgrade = start(&mut channel, async move {
                let upgrading = connection.upgrade(codec(tls));
                let patience = if trouble == Trouble::Drop { SECOND } else { SECOND * 100 };
                timeout(patience, upgrading).await.map(|upgraded| upgraded.err())
            });
            assert!(!upgrade.is_there());
            match trouble {
                Trouble::Garbage => channel.send("EHLO\n"),
                Trouble::End => {
                    let hello = Far::new(&certified).outgoing();
                    channel.send(&hello[..100]);
                }
                Trouble::Deadline => channel.advance(SECOND * 11),
                Trouble::Reset => channel.reset(),
                Trouble::Close => drop(handle.close()),
                Trouble::Abort => drop(handle.abort()),
                Trouble::Drop => channel.advance(SECOND * 2),
            }
            channel.end();
            channel.simulation().run();
            let reason = channel.closed().unwrap_or_else(|| panic!("{trouble:?}: it is open"));
            match expected {
                None => assert_eq!(reason, None, "{trouble:?}"),
                Some(part) => {
                    assert!(reason.as_ref().is_some_and(|reason| reason.contains(part)), "{reason:?}");
                }
            }
            match upgrade.take().expect("it is over") {
                Err(_given_up) => assert_eq!(trouble, Trouble::Drop),
                Ok(Some(ConnectionError::Closed { reason: given })) => assert_eq!(given, reason),
                Ok(other) => panic!("{trouble:?}: {other:?}"),
            }
        });
    }
}

#[test]
fn an_upgrade_needs_the_passive_mode_and_the_bytes() {
    let (mut channel, peer) = open(1, Faults::none());
    let active = run(&mut channel, async move {
        let refused = peer.upgrade(codec(lines())).await.unwrap_err();
        (refused, peer)
    });
    assert!(matches!(active.0, ConnectionError::WrongMode { needs: Mode::Passive, .. }));
    let peer = active.1;
    peer.set_mode(Mode::Passive);
    let detached = peer.detach().unwrap();
    let upgrading = peer.clone();
    let refused = run(&mut channel, async move { upgrading.upgrade(codec(lines())).await });
    assert!(matches!(refused, Err(ConnectionError::Detached)));
    channel.close();
    channel.end();
    drop(detached);
    let late = run(&mut channel, async move { peer.upgrade(codec(lines())).await });
    assert!(late.is_err());
}

#[test]
fn of_two_upgrades_at_once_both_are_done_and_stand_one_on_the_other() {
    each_seed(0..50, |seed| {
        let (mut channel, peer) = open(seed, Faults::survivable());
        peer.set_mode(Mode::Passive);
        let (first, second) = (peer.clone(), peer.clone());
        let task = start(&mut channel, async move {
            let one = spawn_local(async move { first.upgrade(codec(Xor(5)).codec(lines())).await });
            let two = spawn_local(async move { second.upgrade(codec(Xor(9)).codec(lines())).await });
            (one.await.unwrap(), two.await.unwrap())
        });
        let (one, two) = task.take().expect("they are done");
        assert!(one.is_ok() && two.is_ok());
        let receiving = peer.clone();
        let received = start(&mut channel, async move { receiving.recv().await });
        channel.send(Xor(5 ^ 9).apply(b"hello\n"));
        assert_eq!(received.take().unwrap().unwrap().as_deref(), Some("hello"));
        run(&mut channel, async move { peer.send("hello".into()).await.unwrap() });
        assert_eq!(channel.received(), Xor(5 ^ 9).apply(b"hello\n"));
    });
}

/// Takes its time for each line.
struct Waits;

impl Handler for Waits {
    type In = String;
    type Next = String;
    type Write = String;
    type Out = String;
    fn read(&mut self, _cx: &mut Context<'_, String>, line: String) -> Result<Flow<String>> {
        Ok(Flow::later(async move {
            if line == "for ever" {
                std::future::pending::<()>().await;
            }
            sleep(SECOND).await;
            Ok(Flow::Next(line))
        }))
    }
    fn write(&mut self, cx: &mut Context<'_, String>, line: String) -> Result<()> {
        cx.write(line)
    }
}

#[test]
fn an_upgrade_waits_for_a_stage_that_works_also_in_a_pause_and_not_for_ever() {
    each_seed(0..50, |seed| {
        let stages = || codec(lines()).then(Waits);
        let simulation = Simulation::new(seed, Faults::survivable());
        let (mut channel, peer) = TestChannel::peer(simulation, &Config::default(), stages());
        channel.send(b"slow\n".iter().chain(&Xor(9).apply(b"behind it\n")[..]).copied().collect::<Vec<_>>());
        peer.set_mode(Mode::Passive);
        let upgrading = peer.clone();
        let upgrade =
            start(&mut channel, async move { upgrading.upgrade(codec(Xor(9)).codec(lines())).await });
        assert!(!upgrade.is_there());
        channel.advance(SECOND * 2);
        upgrade.take().expect("it is done").unwrap();
        assert_eq!(peer.try_recv().as_deref(), Some("slow"), "by the old stages");
        let receiving = peer.clone();
        let received = run(&mut channel, async move { receiving.recv().await });
        assert_eq!(received.unwrap().as_deref(), Some("behind it"), "by the new ones");

        let simulation = Simulation::new(seed, Faults::survivable());
        let (mut channel, peer) = TestChannel::peer(simulation, &Config::default(), stages());
        channel.send("for ever\n");
        peer.set_mode(Mode::Passive);
        let upgrade = start(&mut channel, async move { peer.upgrade(codec(lines())).await });
        channel.advance(SECOND * 31);
        channel.end();
        let error = upgrade.take().expect("it is over").unwrap_err().to_string();
        assert!(error.contains("waited for longer than 30s"), "{error}");
    });
}

#[test]
fn what_is_sent_while_an_upgrade_waits_goes_through_the_new_stages() {
    each_seed(0..50, |seed| {
        let simulation = Simulation::new(seed, Faults::survivable());
        let stages = codec(lines()).then(Waits);
        let (mut channel, peer) = TestChannel::peer(simulation, &Config::default(), stages);
        channel.send("slow\n");
        peer.set_mode(Mode::Passive);
        peer.queue("queued".into()).unwrap();
        let (before, after, upgrading) = (peer.sender(), peer.sender(), peer.clone());
        let upgraded = channel.simulation().spawn(async move {
            before.send("before".into()).await.unwrap();
            before.queue("queued again".into()).unwrap();
            upgrading.upgrade(codec(Xor(9)).codec(lines())).await
        });
        let sent = start(&mut channel, async move {
            after.send("secret".into()).await.unwrap();
            after.flush().await
        });
        assert_eq!(channel.received(), b"queued\nbefore\n");
        assert!(!sent.is_there());
        channel.advance(SECOND * 2);
        channel.simulation().finish(upgraded).expect("it is done").unwrap();
        sent.take().expect("it is done").unwrap();
        assert_eq!(channel.received(), Xor(9).apply(b"queued again\nsecret\n"));
        drop(peer);
    });
}

#[test]
fn a_passive_peer_shakes_hands_without_being_asked_for_a_frame() {
    let certified = Certified::new();
    each_seed(0..20, |seed| {
        let stages = codec(certified.server.accept()).codec(lines());
        let simulation = Simulation::new(seed, Faults::survivable());
        let (mut channel, peer) = TestChannel::peer(simulation, &Config::default(), stages);
        peer.set_mode(Mode::Passive);
        let mut far = Far::new(&certified);
        let sending = peer.clone();
        let sent = start(&mut channel, async move {
            sending.send("hello".into()).await?;
            sending.flush().await
        });
        far.write("one\ntwo\n");
        assert_eq!(far.talk(&mut channel), b"hello\n");
        sent.take().expect("it is done").unwrap();
        assert_eq!(statistics(&mut channel, &peer).frames_in, 0, "nobody has asked");
        let receiving = peer.clone();
        let received = run(&mut channel, async move { (receiving.recv().await, receiving.recv().await) });
        assert_eq!(received.0.unwrap().as_deref(), Some("one"));
        assert_eq!(received.1.unwrap().as_deref(), Some("two"));
    });
}

#[test]
fn stages_that_are_ready_without_a_word_are_found_to_be() {
    each_seed(0..50, |seed| {
        let knocks = || codec(Knocks { done: false });
        let (mut channel, peer) = open(seed, Faults::survivable());
        peer.set_mode(Mode::Passive);
        let upgrading = peer.clone();
        let upgrade = start(&mut channel, async move { upgrading.upgrade(knocks().codec(lines())).await });
        channel.send("kno");
        assert!(!upgrade.is_there());
        channel.send("ckone\ntwo\n");
        upgrade.take().expect("it is done").unwrap();
        assert!(statistics(&mut channel, &peer).frames_in <= 1, "the one that came with it");
        let received = run(&mut channel, async move { peer.recv().await });
        assert_eq!(received.unwrap().as_deref(), Some("one"));

        let simulation = Simulation::new(seed, Faults::survivable());
        let (mut channel, connection) = TestChannel::connection(simulation, &Config::default());
        let upgrade = start(&mut channel, async move { connection.upgrade(knocks()).await });
        channel.send("kno");
        assert!(!upgrade.is_there());
        channel.send("ck");
        drop(upgrade.take().expect("it is done").unwrap());
    });
}

#[test]
fn an_end_before_an_upgrade_is_seen_by_the_new_stages() {
    let certified = Certified::new();
    // In a handshake it is an error.
    let (mut channel, peer) = open(1, Faults::none());
    channel.end();
    peer.set_mode(Mode::Passive);
    let upgrading = peer.clone();
    let knocks = codec(Knocks { done: false }).codec(lines());
    let upgrade = start(&mut channel, async move { upgrading.upgrade(knocks).await });
    let error = upgrade.take().expect("it is over").unwrap_err().to_string();
    assert!(error.contains("nobody knocks"), "{error}");
    // TLS without a byte is an end in order.
    let (mut channel, peer) = open(1, Faults::none());
    channel.end();
    peer.set_mode(Mode::Passive);
    let (tls, upgrading) = (certified.server.accept(), peer.clone());
    let upgrade = start(&mut channel, async move { upgrading.upgrade(codec(tls).codec(lines())).await });
    assert!(upgrade.is_there());
    assert_eq!(channel.closed(), Some(None));
    // Behind what has not been read.
    each_seed(0..100, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let simulation = Simulation::new(seed, Faults::survivable());
        let (mut channel, connection) =
            TestChannel::connection(simulation, &configured("messages_per_turn = 10"));
        let sent = random.usize(0..300);
        channel.send(Xor(4).apply("line\n".repeat(sent).as_bytes()));
        channel.end();
        let received = start(&mut channel, async move {
            let peer = connection.upgrade(codec(Xor(4))).await.unwrap().peer(codec(lines()));
            let mut received = 0;
            while peer.recv().await.unwrap().is_some() {
                received += 1;
            }
            received
        });
        assert_eq!(received.take(), Some(sent), "and then the end");
        assert_eq!(channel.closed(), Some(None));
        assert_eq!(channel.peer_sees(), Ending::Closed);
    });
}

#[test]
fn what_this_side_has_ended_stays_so_through_an_upgrade() {
    each_seed(0..50, |seed| {
        let (mut channel, peer) = open(seed, Faults::survivable());
        peer.set_mode(Mode::Passive);
        peer.queue("last".into()).unwrap();
        peer.close_output();
        let upgrading = peer.clone();
        run(&mut channel, async move { upgrading.upgrade(codec(Xor(1)).codec(lines())).await }).unwrap();
        assert_eq!(channel.received(), b"last\n");
        assert_eq!(channel.peer_sees(), Ending::Ended);
        let sending = peer.sender();
        let late = run(&mut channel, async move { sending.send("late".into()).await });
        assert!(matches!(late, Err(ConnectionError::Closed { .. })));
        channel.send(Xor(1).apply(b"still read\n"));
        let received = run(&mut channel, async move { peer.recv().await });
        assert_eq!(received.unwrap().as_deref(), Some("still read"));
    });
}

/// Panics at the first byte.
struct Panics;

impl Codec for Panics {
    type Frame = Bytes;
    type Item = Bytes;
    fn decode(&mut self, input: &mut Input) -> Result<Option<Bytes>> {
        assert!(input.is_empty(), "on purpose");
        Ok(None)
    }
    fn encode(&mut self, bytes: Bytes, output: &mut Output) -> Result<()> {
        output.put_bytes(bytes);
        Ok(())
    }
}

#[test]
fn whoever_reads_above_a_stage_that_panics_is_told() {
    let (mut channel, connection) =
        TestChannel::connection(Simulation::new(1, Faults::none()), &Config::default());
    let read =
        start(&mut channel, async move { connection.upgrade(codec(Panics)).await.unwrap().read().await });
    channel.send("x");
    let error = read.take().expect("it is over").unwrap_err().to_string();
    assert!(error.contains("panicked"), "{error}");

    let (mut channel, peer) = open(1, Faults::none());
    peer.set_mode(Mode::Passive);
    let knocking = peer.clone();
    let stages = codec(Panics).codec(Knocks { done: false }).codec(lines());
    let upgrade = start(&mut channel, async move { knocking.upgrade(stages).await });
    channel.send("x");
    let error = upgrade.take().expect("it is over").unwrap_err().to_string();
    assert!(error.contains("panicked"), "{error}");
}

#[test]
fn an_upgrade_of_a_channel_that_is_closing_fails_when_it_is_closed() {
    each_seed(0..50, |seed| {
        let simulation = Simulation::new(seed, Faults::survivable());
        let (mut channel, connection) = TestChannel::connection(simulation, &Config::default());
        channel.close();
        assert_eq!(channel.closed(), None, "the other side has not ended");
        let upgrade = start(&mut channel, async move { connection.upgrade(codec(Xor(1))).await.err() });
        channel.end();
        let failed = upgrade.take().expect("it is over");
        assert!(matches!(failed, Some(ConnectionError::Closed { reason: None })), "{failed:?}");

        let (mut channel, peer) = open(seed, Faults::survivable());
        peer.set_mode(Mode::Passive);
        channel.close();
        let upgrade = start(&mut channel, async move { peer.upgrade(codec(Xor(1)).codec(lines())).await });
        channel.end();
        let failed = upgrade.take().expect("it is over");
        assert!(matches!(failed, Err(ConnectionError::Closed { reason: None })), "{failed:?}");
    });
}

#[test]
fn modes_change_during_a_handshake_and_nothing_is_lost() {
    let certified = Certified::new();
    each_seed(0..60, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut channel, peer) = open(seed, Faults::survivable());
        peer.set_mode(Mode::Passive);
        let (tls, upgrading) = (certified.server.accept(), peer.clone());
        let upgrade = start(&mut channel, async move { upgrading.upgrade(codec(tls).codec(lines())).await });
        let mut far = Far::new(&certified);
        far.write("one\ntwo\nthree\n");
        let mut waiting = VecDeque::new();
        for _ in 0..10 {
            match random.u8(0..4) {
                0 => peer.set_mode(Mode::Active),
                1 => peer.set_mode(Mode::Passive),
                2 => {
                    let (receiving, patience) = (peer.clone(), MILLISECOND * random.u32(1..50));
                    waiting.push_back(start(&mut channel, async move {
                        timeout(patience, receiving.recv()).await
                    }));
                }
                _ => {
                    let outgoing = far.outgoing();
                    channel.send(outgoing);
                    channel.advance(MILLISECOND * random.u32(0..20));
                }
            }
        }
        far.talk(&mut channel);
        channel.advance(SECOND);
        far.talk(&mut channel);
        upgrade.take().expect("it is done").unwrap();
        let mut received: Vec<String> = waiting
            .iter()
            .filter_map(|outcome| outcome.take().expect("it is over").ok())
            .filter_map(|line| line.ok().flatten()) // two at once are an error
            .collect();
        for _ in received.len()..3 {
            let receiving = peer.clone();
            received.push(run(&mut channel, async move { receiving.recv().await }).unwrap().unwrap());
        }
        assert_eq!(received, ["one", "two", "three"]);
    });
}
