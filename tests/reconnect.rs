//! Connections that are kept up, to servers that go away, never answer or close at once.

mod common;

use common::*;
use perihelion::prelude::*;
use perihelion::runtime::simulation::{Ending, Far, Faults, Simulation, each_seed};
use perihelion::transports::{self, Backoff, Reconnect, ReconnectState};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

fn target() -> SocketAddr {
    "192.0.2.1:1".parse().unwrap()
}

/// As configured by default, but for the seed.
fn backoff(seed: u64) -> Backoff {
    Backoff::from(&Config::default().reconnect).seed(seed)
}

/// Keeps connections to the target up, with a back-off each. Counts the attempts.
fn keep(simulation: &mut Simulation, backoffs: Vec<Backoff>) -> (Vec<Reconnect>, Rc<Cell<usize>>) {
    let attempts = Rc::new(Cell::new(0));
    let count = Rc::clone(&attempts);
    let kept = simulation.spawn(async move {
        let (client, address) = (Client::new(&Config::default()), Address::from(target()));
        let keep = |backoff| {
            let count = Rc::clone(&count);
            client.keep_connected(&address, backoff, move || {
                count.set(count.get() + 1);
                codec(frames()).tail(Echo)
            })
        };
        backoffs.into_iter().map(keep).collect()
    });
    (simulation.finish(kept).unwrap(), attempts)
}

fn keep_one(simulation: &mut Simulation, backoff: Backoff) -> (Reconnect, Rc<Cell<usize>>) {
    let (mut kept, attempts) = keep(simulation, vec![backoff]);
    (kept.remove(0), attempts)
}

fn answered(simulation: &mut Simulation) -> Vec<Far> {
    std::iter::from_fn(|| simulation.answered()).collect()
}

/// The most that fall into one of so many equal parts of this time from now on.
fn most_at_once(kept: &[Reconnect], simulation: &Simulation, within: Duration, parts: usize) -> usize {
    let mut counts = vec![0; parts + 1];
    for kept in kept {
        if let ReconnectState::Waiting { until, .. } = kept.state() {
            let from_now = until.saturating_duration_since(simulation.now());
            counts[(from_now.as_secs_f64() / within.as_secs_f64() * parts as f64) as usize] += 1;
        }
    }
    counts.into_iter().max().unwrap()
}

#[test]
fn a_thousand_clients_come_back_to_a_server_that_was_gone_and_not_all_at_once() {
    const CLIENTS: usize = 1000;
    let _ = perihelion::runtime::raise_descriptor_limit();
    let mut simulation = Simulation::new(1, Faults::none());
    simulation.answer_at(target());
    let backoffs = (0..CLIENTS as u64).map(backoff).collect();
    let (kept, attempts) = keep(&mut simulation, backoffs);
    let connected = || kept.iter().filter(|kept| kept.state() == ReconnectState::Connected).count();
    assert_eq!(connected(), CLIENTS);
    simulation.advance(SECOND * 11); // they are stable

    simulation.refuse_at(target());
    answered(&mut simulation).iter().for_each(Far::reset);
    simulation.run();
    assert_eq!(connected(), 0);
    let most = most_at_once(&kept, &simulation, MILLISECOND * 100, 10);
    assert!(most < CLIENTS / 5, "{most} in a hundredth of a second");

    simulation.advance(SECOND * 60);
    assert_eq!(connected(), 0);
    assert!(attempts.get() < CLIENTS * 20, "{} attempts in a minute", attempts.get());
    let most = most_at_once(&kept, &simulation, SECOND * 30, 30);
    assert!(most < CLIENTS / 5, "{most} in a second");

    simulation.answer_at(target());
    simulation.advance(SECOND * 31);
    assert_eq!(connected(), CLIENTS);
    let peers = answered(&mut simulation);
    assert_eq!(peers.len(), CLIENTS);
    for peer in &peers {
        peer.send(frame("hello"));
    }
    simulation.run();
    assert!(peers.iter().all(|peer| peer.received() == frame("hello")));

    drop(kept);
    simulation.run();
    assert!(peers.iter().all(|peer| peer.sees() == Ending::Ended), "they are closed in order");
}

/// Lets the time pass that it waits, if it does.
fn wait(simulation: &mut Simulation, kept: &Reconnect) {
    if let ReconnectState::Waiting { until, .. } = kept.state() {
        simulation.advance(until.saturating_duration_since(simulation.now()) + MILLISECOND);
    }
    simulation.run();
}

#[test]
fn a_target_that_never_answers_is_tried_for_as_long_as_it_may_and_again_until_it_is_given_up() {
    each_seed(0..50, |seed| {
        let mut simulation = Simulation::new(seed, Faults::survivable());
        simulation.ignore_at(target());
        let (mut kept, attempts) = keep_one(&mut simulation, backoff(seed).attempts_max(3));
        let unanswered = "can't connect to tcp://192.0.2.1:1: no answer within channel.connect_ms";
        for attempt in 1..=4u32 {
            assert_eq!(kept.state(), ReconnectState::Connecting { attempt });
            assert_eq!(attempts.get(), attempt as usize);
            simulation.advance(SECOND * 10 - MILLISECOND * 50);
            while kept.state() == (ReconnectState::Connecting { attempt }) {
                simulation.advance(MILLISECOND);
            }
            if let ReconnectState::Waiting { until, cause } = kept.state() {
                assert_eq!(cause, unanswered);
                let delay = until.saturating_duration_since(simulation.now());
                assert!(delay <= MILLISECOND * 100 * (1 << (attempt - 1)), "{delay:?}");
            }
            wait(&mut simulation, &kept);
        }
        let given_up = ReconnectState::GaveUp { cause: unanswered.into() };
        assert_eq!(kept.state(), given_up);
        let told = simulation.spawn(async move { (kept.changed().await, kept.changed().await) });
        assert_eq!(simulation.finish(told), Some((given_up.clone(), given_up)));
        simulation.advance(SECOND * 100);
        assert_eq!(attempts.get(), 4);
    });
}

#[test]
fn delays_begin_anew_only_when_a_connection_has_lasted() {
    each_seed(0..50, |seed| {
        let mut simulation = Simulation::new(seed, Faults::survivable());
        simulation.answer_at(target());
        let (kept, attempts) = keep_one(&mut simulation, backoff(seed).attempts_max(5));
        for (number, lasts) in [9, 9, 9, 11, 9, 9, 9, 9, 9].into_iter().enumerate() {
            assert_eq!(kept.state(), ReconnectState::Connected);
            assert_eq!(attempts.get(), number + 1);
            simulation.advance(SECOND * lasts);
            simulation.answered().unwrap().end();
            simulation.run();
            wait(&mut simulation, &kept);
        }
        assert_eq!(kept.state(), ReconnectState::GaveUp { cause: "it was closed in order".into() });
        assert_eq!(attempts.get(), 9);
    });
}

#[test]
fn whatever_it_does_it_stops_when_it_is_dropped() {
    let start = |prepare: fn(&mut Simulation)| {
        let mut simulation = Simulation::new(1, Faults::none());
        prepare(&mut simulation);
        let (kept, attempts) = keep_one(&mut simulation, backoff(1));
        (simulation, kept, attempts)
    };
    let (mut simulation, kept, attempts) = start(|simulation| simulation.answer_at(target()));
    let peer = simulation.answered().unwrap();
    drop(kept);
    simulation.run();
    assert_eq!(peer.sees(), Ending::Ended);
    peer.end();
    simulation.advance(SECOND * 100);
    assert_eq!((peer.sees(), attempts.get()), (Ending::Closed, 1));

    let (mut simulation, kept, attempts) = start(|simulation| simulation.ignore_at(target()));
    assert_eq!(kept.state(), ReconnectState::Connecting { attempt: 1 });
    drop(kept);
    simulation.run();
    simulation.answer_at(target());
    simulation.advance(SECOND * 100);
    assert!(simulation.answered().is_none());
    assert_eq!(attempts.get(), 1);

    let (mut simulation, kept, attempts) = start(|_| ());
    assert!(matches!(kept.state(), ReconnectState::Waiting { .. }));
    drop(kept);
    simulation.advance(SECOND * 100);
    assert_eq!(attempts.get(), 1);
}

#[test]
fn a_close_waits_for_the_end_of_the_connection() {
    let mut simulation = Simulation::new(1, Faults::none());
    simulation.answer_at(target());
    let (mut kept, _) = keep_one(&mut simulation, backoff(1));
    let peer = simulation.answered().unwrap();
    let states = Rc::new(Cell::new(None));
    let theirs = Rc::clone(&states);
    let closing = simulation.spawn(async move {
        kept.close().await;
        theirs.set(Some(kept.state()));
    });
    simulation.run();
    assert_eq!((peer.sees(), states.take()), (Ending::Ended, None));
    peer.end();
    simulation.finish(closing);
    assert_eq!(states.take(), Some(ReconnectState::Stopped));
}

#[test]
fn changes_are_seen_as_they_come() {
    let mut simulation = Simulation::new(1, Faults::none());
    simulation.answer_at(target());
    let (mut kept, _) = keep_one(&mut simulation, backoff(1));
    let peer = simulation.answered().unwrap();
    let watching = simulation.spawn(async move {
        let mut states = Vec::new();
        while states.last() != Some(&ReconnectState::Connecting { attempt: 2 }) {
            states.push(kept.changed().await);
        }
        states
    });
    simulation.run();
    peer.reset();
    simulation.advance(SECOND);
    let states = simulation.finish(watching).unwrap();
    let [ReconnectState::Connected, ReconnectState::Waiting { cause, .. }, _] = &states[..] else {
        panic!("{states:?}");
    };
    assert!(cause.contains("Connection reset by peer"), "{cause}");
}

#[test]
fn after_a_panic_nobody_waits_in_vain() {
    let mut simulation = Simulation::new(1, Faults::none());
    let kept = simulation.spawn(async {
        let mut kept = Reconnect::new(backoff(1), SECOND, async || -> Result<ChannelHandle> {
            std::panic::resume_unwind(Box::new("on purpose"))
        });
        (kept.changed().await, kept.changed().await)
    });
    let given_up = ReconnectState::GaveUp { cause: "making it panicked".into() };
    assert_eq!(simulation.finish(kept), Some((given_up.clone(), given_up)));
}

#[test]
fn a_peer_is_made_again_when_the_other_side_has_ended_or_broken_off() {
    let mut simulation = Simulation::new(1, Faults::none());
    simulation.answer_at(target());
    let current = Rc::new(RefCell::new(None::<Peer<String, String>>));
    let theirs = Rc::clone(&current);
    let kept = simulation.spawn(async move {
        let client = Client::new(&Config::default());
        Reconnect::new(backoff(1), SECOND, async move || {
            let peer = client.peer(&target().into(), codec(Lines::lf(100))).await?;
            theirs.replace(Some(peer.clone()));
            Ok::<_, transports::Error>(peer)
        })
    });
    let kept = simulation.finish(kept).unwrap();
    for (end, why) in [(Far::end as fn(&Far), "it was closed in order"), (Far::reset, "Connection reset")] {
        assert_eq!(kept.state(), ReconnectState::Connected);
        let (far, peer) = (simulation.answered().unwrap(), current.take().unwrap());
        far.send("last words\n");
        simulation.run();
        end(&far);
        simulation.run();
        assert_eq!(peer.try_recv().as_deref(), Some("last words"));
        assert!(peer.is_closed());
        let ReconnectState::Waiting { cause, .. } = kept.state() else { panic!("{:?}", kept.state()) };
        assert!(cause.contains(why), "{cause}");
        wait(&mut simulation, &kept);
    }
    let far = simulation.answered().unwrap();
    drop(kept);
    simulation.run();
    assert_eq!(far.sees(), Ending::Ended, "it is closed, though somebody has it");
}

/// Over sockets: the server stops, and another one listens on its port.
#[test]
fn a_client_comes_back_to_a_server_that_was_restarted() {
    let fixture = Fixture::with(|config| (config.reconnect.first_ms, config.reconnect.max_ms) = (5, 20));
    let (server, address) = fixture.serve(echo);
    let (config, journal) = (fixture.config().clone(), Journal::default());
    let theirs = journal.clone();
    let keeping = fixture.spawn_on(0, move || async move {
        let name = format!("localhost:{}", address.port()).parse().unwrap();
        let make = move || codec(Raw).then(theirs.stage()).tail(Echo);
        let kept = Client::new(&config).keep_connected(&name, Backoff::from(&config.reconnect), make);
        std::future::pending::<()>().await;
        drop(kept);
    });
    journal.wait_for("open");
    let report = server.stop(DRAIN);
    assert_eq!((report.connections, report.open), (1, 0));
    journal.wait_for("closed");
    let (server, _) = fixture.serve_on(&address.to_string(), echo);
    journal.wait_for_some(2, "open");
    assert_eq!(server.stop(DRAIN).connections, 1);
    fixture.stop();
    assert!(keeping.unwrap().recv().is_err(), "it was dropped");
}
