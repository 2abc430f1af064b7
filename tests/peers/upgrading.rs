//! Upgrades: no byte is lost, doubled or read by the wrong stages.

use perihelion::prelude::*;
use perihelion::runtime::simulation::Simulation;
use perihelion::testing::{Ending, Faults, TestChannel, each_seed};

use crate::stages::{Waits, Xor};
use crate::world::*;

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

#[test]
fn an_end_behind_what_has_not_been_read_is_seen_by_the_new_stages() {
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
