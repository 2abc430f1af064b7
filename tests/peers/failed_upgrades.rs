//! Upgrades that fail half-way: they close for that reason, and fail everything that waits.

use perihelion::prelude::*;
use perihelion::runtime::simulation::Simulation;
use perihelion::testing::{Faults, TestChannel, each_seed};

use crate::certified::{Certified, Far};
use crate::stages::{Knocks, Panics, Xor};
use crate::world::*;

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

/// With what each is to be closed for. Those that this side has asked for have no reason.
const TROUBLES: [(Trouble, Option<&str>); 6] = [
    (Trouble::Garbage, Some("the other side doesn't speak TLS: it began with E")),
    (Trouble::End, Some("ended during the TLS handshake")),
    (Trouble::Deadline, Some("took longer than 10s")),
    (Trouble::Reset, Some("reset")),
    (Trouble::Close, None),
    (Trouble::Abort, None),
];

#[test]
fn an_upgrade_that_fails_half_way_closes_for_that_reason_and_fails_all_that_waits() {
    let certified = Certified::new();
    for (trouble, expected) in TROUBLES {
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
    for (trouble, expected) in TROUBLES.into_iter().chain([(Trouble::Drop, None)]) {
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
fn an_end_before_a_handshake_is_seen_by_it() {
    let certified = Certified::new();
    // In a handshake it is an error.
    let (mut channel, peer) = open(1, Faults::none());
    channel.end();
    peer.set_mode(Mode::Passive);
    let upgrading = peer.clone();
    let knocks = codec(Knocks::default()).codec(lines());
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
    let stages = codec(Panics).codec(Knocks::default()).codec(lines());
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
