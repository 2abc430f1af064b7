//! Filters that take their time: others get in meanwhile, and whatever a filter does costs its connection alone.

mod common;

use common::*;
use perihelion::prelude::*;
use perihelion::runtime::simulation::Simulation;
use perihelion::runtime::{ServerConfig, WhenFull};
use perihelion::testing::{Faults, each_seed};
use std::cell::Cell;
use std::future::{pending, poll_fn};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;

/// What filters wait for, until the test rings it.
#[derive(Clone, Default)]
struct Bell(Arc<Mutex<Ring>>);

#[derive(Default)]
struct Ring {
    rung: bool,
    waiting: Vec<Waker>,
}

impl Bell {
    async fn wait(&self) {
        poll_fn(|task| {
            let mut ring = self.0.lock().unwrap();
            if ring.rung {
                return Poll::Ready(());
            }
            ring.waiting.push(task.waker().clone());
            Poll::Pending
        })
        .await
    }

    fn ring(&self) {
        let mut ring = self.0.lock().unwrap();
        ring.rung = true;
        ring.waiting.drain(..).for_each(Waker::wake);
    }
}

/// A server with this asynchronous filter and these limits.
fn serve(
    fixture: &Fixture,
    limits: ServerConfig,
    wanted: impl AsyncFn(&NewConnection<'_>) -> bool + Send + Sync + 'static,
) -> (RunningServer, SocketAddr) {
    let server = Server::bind(V4).limits(limits).filter_async(wanted).pipeline(echo);
    let server = server.start(fixture).unwrap();
    let address = address_of(&server);
    (server, address)
}

#[test]
fn those_that_a_filter_is_slow_about_keep_nobody_else_waiting() {
    let fixture = Fixture::new();
    let (bell, slow) = (Bell::default(), IpAddr::from([127, 0, 0, 2]));
    let theirs = bell.clone();
    let (server, address) = serve(&fixture, ServerConfig::default(), async move |connection| {
        if connection.peer_addr().is_ok_and(|peer| peer.ip() == slow) {
            theirs.wait().await;
        }
        true
    });
    let waiting: Vec<TcpStream> = (0..200).map(|_| connect_from("127.0.0.2", address)).collect();
    waiting.iter().for_each(|client| send(client, "at last"));
    for _ in 0..20 {
        ask(&connect(address), "meanwhile");
    }
    assert_eq!(server.report().connections, 20);
    bell.ring();
    for client in &waiting {
        assert_eq!(receive(client), b"at last");
    }
    drop(waiting);
    let report = fixture.stop_all(server);
    assert_eq!((report.connections, report.refused), (220, 0));
}

#[test]
fn no_more_are_under_decision_than_may_be_and_each_gets_its_turn() {
    let fixture = Fixture::new();
    let (bell, asked) = (Bell::default(), Arc::new(AtomicUsize::new(0)));
    let (theirs, counted) = (bell.clone(), Arc::clone(&asked));
    let limits = ServerConfig { filtering_max: 8, ..ServerConfig::default() };
    let (server, address) = serve(&fixture, limits, async move |_| {
        counted.fetch_add(1, SeqCst);
        theirs.wait().await;
        true
    });
    let clients: Vec<TcpStream> = (0..60).map(|_| connect(address)).collect();
    eventually("there are as many as may be", || asked.load(SeqCst) == 8);
    for _ in 0..100 {
        fixture.block_on(|| async {}).unwrap(); // the worker turns
    }
    assert_eq!(asked.load(SeqCst), 8);
    bell.ring();
    clients.iter().for_each(|client| ask(client, "at last"));
    assert_eq!(asked.load(SeqCst), 60);
    drop(clients);
    assert_eq!(fixture.stop_all(server).connections, 60);
}

#[test]
fn a_filter_that_never_decides_loses_its_connection_when_the_time_is_over() {
    let fixture = Fixture::new();
    let limits = ServerConfig { filter_ms: 50, ..ServerConfig::default() };
    let first = AtomicUsize::new(0);
    let (server, address) = serve(&fixture, limits, async move |_| {
        if first.fetch_add(1, SeqCst) < 3 {
            pending::<()>().await;
        }
        true
    });
    let never: Vec<TcpStream> = (0..3).map(|_| connect(address)).collect();
    let served = connect(address);
    ask(&served, "meanwhile");
    for client in never {
        assert_eq!(read_to_end(&client), (vec![], End::InOrder));
    }
    drop(served);
    let report = fixture.stop_all(server);
    assert_eq!((report.connections, report.refused, report.refusals.undecided), (1, 3, 3));
}

#[test]
fn a_filter_has_its_time_and_no_more() {
    let mut simulation = Simulation::new(0, Faults::none());
    let server = Server::bind(V4)
        .filter_async(async |_| pending().await)
        .pipeline(|_| codec(Raw).tail(Echo))
        .start(simulation.handle())
        .unwrap();
    simulation.run();
    simulation.knock();
    simulation.advance(Duration::from_millis(4_990));
    assert_eq!(server.report().refused, 0);
    simulation.advance(Duration::from_millis(20));
    assert_eq!((server.report().refused, server.report().refusals.undecided), (1, 1));
}

/// Panics when it is dropped.
struct Grenade;

impl Drop for Grenade {
    fn drop(&mut self) {
        std::panic::resume_unwind(Box::new("on purpose"));
    }
}

#[test]
fn a_filter_that_panics_costs_its_connection_alone() {
    let fixture = Fixture::new();
    let limits = ServerConfig { filter_ms: 50, ..ServerConfig::default() };
    let asked = AtomicUsize::new(0);
    let (server, address) = serve(&fixture, limits, async move |_| match asked.fetch_add(1, SeqCst) {
        0 => std::panic::resume_unwind(Box::new("on purpose")),
        1 => {
            sleep(Duration::from_millis(1)).await;
            std::panic::resume_unwind(Box::new("on purpose"))
        }
        2 => {
            let _grenade = Grenade;
            pending().await // until it is late
        }
        _ => true,
    });
    for _ in 0..3 {
        assert_eq!(read_to_end(&connect(address)), (vec![], End::InOrder));
    }
    ask(&connect(address), "hello");
    let report = fixture.stop_all(server);
    assert_eq!((report.connections, report.refused), (1, 3));
}

#[test]
fn only_those_that_the_other_filter_wants_are_asked_about() {
    let fixture = Fixture::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let server = Server::bind(V4)
        .filter(|connection| {
            connection.peer_addr().is_ok_and(|peer| peer.ip() != IpAddr::from([127, 0, 0, 2]))
        })
        .filter_async(async move |connection| {
            counted.fetch_add(1, SeqCst);
            connection.peer_addr().is_ok_and(|peer| peer.ip() != IpAddr::from([127, 0, 0, 3]))
        })
        .pipeline(echo)
        .start(&fixture)
        .unwrap();
    let address = address_of(&server);
    for _ in 0..5 {
        assert_eq!(read_to_end(&connect_from("127.0.0.2", address)).0, b"");
        assert_eq!(read_to_end(&connect_from("127.0.0.3", address)).0, b"");
        ask(&connect_from("127.0.0.4", address), "wanted");
    }
    assert_eq!(asked.load(SeqCst), 10);
    let report = fixture.stop_all(server);
    assert_eq!((report.connections, report.refused, report.refusals.unwanted), (5, 10, 10));
}

/// Ends a server, or its runtime with it, while the filter is deciding on connections.
fn end_while_filters_run(end: impl FnOnce(Fixture, RunningServer) -> Option<Fixture>) {
    let before = descriptors();
    let fixture = Fixture::new();
    let running = Arc::new(());
    let witness = Arc::clone(&running);
    let (server, address) = serve(&fixture, ServerConfig::default(), async move |_| {
        let _witness = Arc::clone(&witness);
        pending().await
    });
    let clients: Vec<TcpStream> = (0..50).map(|_| connect(address)).collect();
    eventually("the filter has been asked about each", || Arc::strong_count(&running) == 52);
    let left = end(fixture, server);
    assert_eq!(Arc::strong_count(&running), 1, "every filter is dropped, and the function too");
    clients.iter().for_each(|client| assert_eq!(read_to_end(client).0, b""));
    drop((clients, left));
    eventually("every descriptor is given back", || descriptors() == before);
}

#[test]
fn a_server_that_stops_drops_those_under_decision_at_once() {
    in_child("stop a server", || {
        end_while_filters_run(|fixture, server| {
            let report = server.stop(Duration::MAX);
            assert_eq!((report.connections, report.refused, report.aborted), (0, 0, 0));
            Some(fixture)
        });
    });
}

#[test]
fn a_runtime_that_is_dropped_drops_those_under_decision() {
    in_child("drop a runtime", || {
        end_while_filters_run(|fixture, server| {
            drop(fixture);
            drop(server);
            None
        });
    });
}

/// What a filter does to a client, which both know by its port.
fn fate(port: u16) -> u16 {
    port % 6
}

async fn decide(connection: &NewConnection<'_>) -> bool {
    let Ok(peer) = connection.peer_addr() else { return false };
    match fate(peer.port()) {
        0 => true,
        1 | 2 => {
            sleep(Duration::from_millis(1)).await;
            true
        }
        3 => false,
        4 => {
            sleep(Duration::from_millis(1)).await;
            std::panic::resume_unwind(Box::new("on purpose"))
        }
        _ => pending().await,
    }
}

#[test]
fn whatever_filters_and_clients_do_nothing_is_leaked() {
    in_child("come and go", || {
        let before = descriptors();
        let fixture = Fixture::with(|config| config.runtime.workers = 0);
        let limits = ServerConfig {
            connections_max: 3,
            when_full: WhenFull::Wait,
            waiting_max: 2,
            filtering_max: 5,
            filter_ms: 10,
            connections_per_address_max: 1000,
            ..ServerConfig::default()
        };
        let (server, address) = serve(&fixture, limits, decide);
        let served = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for number in 0..100 {
                        let client = connect(address);
                        match fate(client.local_addr().unwrap().port()) {
                            _ if number % 7 == 0 => reset(client), // perhaps before the filter is asked
                            0..=2 => {
                                ask(&client, "hello");
                                served.fetch_add(1, SeqCst);
                            }
                            _ => assert_eq!(read_to_end(&client).0, b""),
                        }
                    }
                });
            }
        });
        let report = fixture.stop_all(server);
        assert!(report.connections >= served.into_inner() as u64, "{report}");
        assert!(report.connections + report.refused <= 800, "{report}");
        eventually("every descriptor is given back", || descriptors() == before);
    });
}

/// One of those that are counted, until it is dropped.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

#[test]
fn whatever_filters_decide_and_when_each_connection_is_served_or_refused() {
    each_seed(0..60, |seed| {
        const FILTERING_MAX: usize = 3;
        let mut simulation = Simulation::new(seed, Faults::survivable());
        let (asking, decisions) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new([0; 3])));
        let (counted, decided) = (Arc::clone(&asking), Arc::clone(&decisions));
        let random = Mutex::new(fastrand::Rng::with_seed(seed));
        let limits = ServerConfig {
            connections_max: 2,
            when_full: WhenFull::Wait,
            wait_ms: 600_000,
            waiting_max: 2,
            filtering_max: FILTERING_MAX,
            filter_ms: 50,
            ..ServerConfig::default()
        };
        let server = Server::bind(V4)
            .limits(limits)
            .filter_async(async move |_| {
                let (fate, delay_ms) = {
                    let mut random = random.lock().unwrap();
                    (random.usize(0..3), random.u64(0..45))
                };
                decided.lock().unwrap()[fate] += 1;
                assert!(counted.fetch_add(1, SeqCst) < FILTERING_MAX);
                let _counted = Counted(Arc::clone(&counted));
                sleep(Duration::from_millis(delay_ms)).await;
                match fate {
                    0 => true,
                    1 => false,
                    _ => pending().await,
                }
            })
            .pipeline(|_| codec(Raw).tail(Echo))
            .start(simulation.handle())
            .unwrap();
        simulation.run();
        let mut random = fastrand::Rng::with_seed(seed);
        let mut peers = Vec::new();
        for round in 0..400 {
            if peers.len() < 30 && random.bool() {
                let peer = simulation.knock();
                peer.send("x");
                peers.push((peer, Cell::new(false)));
            }
            simulation.advance(Duration::from_millis(random.u64(0..200)));
            assert!(server.report().open <= 2);
            for (peer, served) in &peers {
                if !peer.received().is_empty() {
                    served.set(true);
                    peer.end();
                }
            }
            let report = server.report();
            if peers.len() == 30 && (report.connections + report.refused, report.open) == (30, 0) {
                break;
            }
            assert!(round < 399, "some were neither served nor refused: {report:?}");
        }
        let (report, [wanted, unwanted, undecided]) = (server.report(), *decisions.lock().unwrap());
        assert_eq!(report.connections, wanted);
        assert_eq!((report.refusals.unwanted, report.refusals.undecided), (unwanted, undecided));
        assert_eq!(peers.iter().filter(|(_, served)| served.get()).count() as u64, wanted);
        assert_eq!(asking.load(SeqCst), 0);
    });
}
