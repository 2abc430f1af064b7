//! Upgrades to TLS and to other stages with a handshake.

use perihelion::prelude::*;
use perihelion::runtime::simulation::Simulation;
use perihelion::testing::{Faults, TestChannel, each_seed};
use perihelion::tls::Session;
use std::collections::VecDeque;

use crate::certified::{Certified, Far};
use crate::stages::{Knocks, Xor};
use crate::world::*;

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
        let knocks = || codec(Knocks::default());
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
