//! Who is let in: limits that refuse or wait, and filters, on sockets and in a simulated world.

mod common;

use common::*;
use perihelion::prelude::*;
use perihelion::runtime::simulation::Simulation;
use perihelion::runtime::{ServerConfig, WhenFull};
use perihelion::testing::{Ending, Faults, each_seed};
use std::future::pending;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

fn limits(connections_max: usize, when_full: WhenFull) -> ServerConfig {
    ServerConfig { connections_max, when_full, ..ServerConfig::default() }
}

fn serve(fixture: &Fixture, limits: ServerConfig) -> (RunningServer, SocketAddr) {
    let server = Server::bind(V4).limits(limits).pipeline(echo);
    let server = server.start(fixture).unwrap();
    let address = address_of(&server);
    (server, address)
}

#[test]
fn a_full_server_refuses_and_has_room_again() {
    let fixture = Fixture::new();
    let (server, address) = serve(&fixture, limits(3, WhenFull::Refuse));
    let inside: Vec<TcpStream> = (0..3).map(|_| connect(address)).collect();
    inside.iter().for_each(|client| ask(client, "inside"));
    let refused = connect(address);
    assert_eq!(read_to_end(&refused).0, b"", "it is closed without a word");
    let report = server.report();
    assert_eq!((report.connections, report.refused, report.refusals.full), (3, 1, 1));
    drop(inside);
    eventually("the places are free", || server.report().open == 0);
    ask(&connect(address), "again");
    fixture.stop_all(server);
}

#[test]
fn a_full_server_lets_others_wait_and_loses_none_of_them() {
    let fixture = Fixture::new();
    let (server, address) = serve(&fixture, limits(3, WhenFull::Wait));
    let inside: Vec<TcpStream> = (0..3).map(|_| connect(address)).collect();
    inside.iter().for_each(|client| ask(client, "inside"));
    let waiting: Vec<TcpStream> = (0..10).map(|_| connect(address)).collect();
    for _ in 0..50 {
        inside.iter().for_each(|client| ask(client, "meanwhile")); // the worker has turned for each
    }
    assert_eq!(server.report().connections, 3);
    drop(inside);
    for client in waiting {
        ask(&client, "at last"); // and makes room for the next
    }
    assert_eq!((server.report().connections, server.report().refused), (13, 0));
    fixture.stop_all(server);
}

#[test]
fn a_filter_is_asked_before_there_is_a_channel() {
    let fixture = Fixture::new();
    let wanted = "127.0.0.2".parse::<std::net::IpAddr>().unwrap();
    let server = Server::bind(V4)
        .filter(move |connection| connection.peer_addr().is_ok_and(|peer| peer.ip() == wanted))
        .pipeline(echo);
    let server = server.start(&fixture).unwrap();
    let address = address_of(&server);
    for _ in 0..5 {
        ask(&connect_from("127.0.0.2", address), "wanted");
        assert_eq!(read_to_end(&connect_from("127.0.0.3", address)).0, b"");
    }
    assert_eq!((server.report().connections, server.report().refused), (5, 5));
    fixture.stop_all(server);
}

#[test]
fn a_filter_that_panics_costs_its_connection_alone() {
    let fixture = Fixture::new();
    let asked = std::sync::atomic::AtomicBool::new(false);
    let server = Server::bind(V4)
        .filter(move |_| {
            asked.swap(true, std::sync::atomic::Ordering::Relaxed) || panic!("a filter that panics")
        })
        .pipeline(echo);
    let server = server.start(&fixture).unwrap();
    let address = address_of(&server);
    assert_eq!(read_to_end(&connect(address)).0, b"");
    ask(&connect(address), "hello");
    fixture.stop_all(server);
}

#[test]
fn whatever_comes_late_there_are_never_more_than_may_be_and_each_gets_its_turn() {
    each_seed(0..40, |seed| {
        let mut simulation = Simulation::new(seed, Faults::survivable());
        let server = Server::bind("127.0.0.1:0")
            .limits(limits(2, WhenFull::Wait))
            .pipeline(|_conn| codec(Raw).service(async |bytes: Bytes| Ok(bytes)))
            .start(simulation.handle())
            .unwrap();
        simulation.run();
        let peers: Vec<_> = (0..12).map(|_| simulation.knock()).collect();
        for peer in &peers {
            peer.send("x");
        }
        for round in 0..200 {
            simulation.advance(Duration::from_millis(100));
            assert!(server.report().open <= 2);
            let served: Vec<_> = peers.iter().filter(|peer| !peer.received().is_empty()).collect();
            served.iter().for_each(|peer| peer.end());
            if peers.iter().all(|peer| peer.sees() == Ending::Closed) {
                break;
            }
            assert!(round < 199, "some were never served");
        }
        assert_eq!(server.report().connections, 12);
    });
}

#[test]
fn whoever_waits_too_long_is_refused() {
    let mut simulation = Simulation::new(0, Faults::none());
    let limits = ServerConfig { wait_ms: 10_000, waiting_max: 2, ..limits(1, WhenFull::Wait) };
    let server = Server::bind(V4).limits(limits).pipeline(|_| codec(Raw).tail(Echo));
    let server = server.start(simulation.handle()).unwrap();
    simulation.run();
    let peers: Vec<_> = (0..6)
        .map(|_| {
            let peer = simulation.knock();
            simulation.run();
            peer
        })
        .collect();
    simulation.advance(Duration::from_millis(9_990));
    assert_eq!((server.report().connections, server.report().refused), (1, 0));
    // The two that wait. Then the time of the next two begins.
    simulation.advance(Duration::from_millis(20));
    assert_eq!((server.report().refused, server.report().refusals.late), (2, 2));
    simulation.advance(Duration::from_secs(9));
    assert_eq!(server.report().refused, 2);
    // A place comes free in time for one of them; the other has had its time.
    peers[0].end();
    simulation.advance(Duration::from_millis(500));
    assert_eq!((server.report().connections, server.report().refused), (2, 2));
    simulation.advance(Duration::from_secs(1));
    assert_eq!((server.report().connections, server.report().refused), (2, 3));
}

#[test]
fn those_for_whom_there_is_no_room_wait_in_the_kernel() {
    in_child("a crowd", || {
        let fixture = Fixture::new();
        let (mine, address) = fixture.serve(echo);
        let inside = connect(address);
        let full = ServerConfig { waiting_max: 3, ..limits(1, WhenFull::Wait) };
        let undecided = ServerConfig { filtering_max: 3, ..ServerConfig::default() };
        let servers = [
            Server::bind(V4).limits(full).pipeline(echo).start(&fixture).unwrap(),
            Server::bind(V4)
                .limits(undecided)
                .filter_async(async |_| pending().await)
                .pipeline(echo)
                .start(&fixture)
                .unwrap(),
        ];
        for server in servers {
            let (address, before) = (address_of(&server), descriptors());
            let crowd: Vec<TcpStream> = (0..100)
                .map(|_| {
                    ask(&inside, "the worker turns");
                    connect(address)
                })
                .collect();
            let held = descriptors() - before - crowd.len();
            assert!((3..10).contains(&held), "{held}");
            drop(crowd);
            server.stop(DRAIN);
        }
        drop(inside);
        fixture.stop_all(mine);
    });
}

#[test]
fn an_address_has_so_many_connections_over_all_workers_and_others_have_theirs() {
    let fixture = Fixture::with(|config| config.runtime.workers = 0);
    for when_full in [WhenFull::Refuse, WhenFull::Wait] {
        let limits = ServerConfig { connections_per_address_max: 3, ..limits(100, when_full) };
        let (server, address) = serve(&fixture, limits);
        let inside: Vec<TcpStream> = ["127.0.0.2", "127.0.0.3", "127.0.0.4"]
            .into_iter()
            .flat_map(|local| {
                let inside: Vec<TcpStream> = (0..3).map(|_| connect_from(local, address)).collect();
                inside.iter().for_each(|client| ask(client, "inside"));
                for _ in 0..5 {
                    assert_eq!(
                        read_to_end(&connect_from(local, address)).0,
                        b"",
                        "it is closed without a word"
                    );
                }
                inside
            })
            .collect();
        inside.iter().for_each(|client| ask(client, "still inside"));
        let report = server.report();
        assert_eq!((report.connections, report.refused, report.refusals.address_full), (9, 15, 15));
        drop(inside);
        eventually("all have left", || server.report().open == 0);
        ask(&connect_from("127.0.0.2", address), "again");
        server.stop(DRAIN);
    }
    fixture.stop();
}

const LOCALS: [&str; 3] = ["127.0.0.2", "127.0.0.3", "127.0.0.4"];
const GUESTS_MAX: usize = 2;

/// How many channels each of the addresses has, and has had at most.
#[derive(Default)]
struct Guests([(AtomicUsize, AtomicUsize); 3]);

/// Echoes, and is one of its address's guests until it is dropped.
struct Guest(Arc<Guests>, usize);

impl Guest {
    fn new(guests: &Arc<Guests>, address: &SocketAddr) -> Self {
        let number = LOCALS.iter().position(|local| address.ip().to_string() == *local).unwrap();
        let (present, most) = &guests.0[number];
        most.fetch_max(present.fetch_add(1, SeqCst) + 1, SeqCst);
        Guest(Arc::clone(guests), number)
    }
}

impl Tail for Guest {
    type In = Bytes;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, message: Bytes) -> Result<()> {
        cx.write(message)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.0[self.1].0.fetch_sub(1, SeqCst);
    }
}

/// Whether a client was let in.
fn is_served(mut client: &TcpStream) -> bool {
    client.write_all(&frame("hello")).is_ok() && try_receive(client).is_ok()
}

#[test]
fn however_connections_come_and_go_an_address_has_as_many_as_it_may_and_never_more() {
    let fixture = Fixture::with(|config| config.runtime.workers = 0);
    let limits = ServerConfig { connections_per_address_max: GUESTS_MAX, ..limits(5, WhenFull::Wait) };
    let guests = Arc::<Guests>::default();
    let theirs = Arc::clone(&guests);
    let server = Server::bind(V4)
        .limits(limits)
        .filter_async(async |connection| {
            sleep(Duration::from_millis(1)).await;
            connection.peer_addr().is_ok_and(|peer| peer.port() % 5 > 0)
        })
        .pipeline(move |connection| {
            let peer = connection.peer_addr();
            // One that is gone already loses its channel here.
            let peer = peer.unwrap_or_else(|gone| std::panic::resume_unwind(Box::new(gone)));
            codec(frames()).tail(Guest::new(&theirs, &peer))
        });
    let server = server.start(&fixture).unwrap();
    let address = address_of(&server);
    thread::scope(|scope| {
        for seed in 0..6 {
            scope.spawn(move || {
                let mut random = Random(seed);
                let mut open = Vec::new();
                for _ in 0..100 {
                    if open.len() < 2 {
                        open.push(connect_from(LOCALS[random.below(3)], address));
                        continue;
                    }
                    let client = open.swap_remove(random.below(2));
                    match random.below(3) {
                        0 => reset(client),
                        1 => drop(client),
                        _ => _ = is_served(&client),
                    }
                }
            });
        }
    });
    for local in LOCALS {
        let mut inside = Vec::new();
        eventually("an address has as many as it may", || {
            inside.push(connect_from(local, address));
            inside.retain(is_served);
            inside.len() == GUESTS_MAX
        });
        assert!(!is_served(&connect_from(local, address)));
    }
    for (_, most) in &guests.0 {
        assert_eq!(most.load(SeqCst), GUESTS_MAX);
    }
    fixture.stop_all(server);
}

#[test]
fn limits_that_nobody_could_pass_are_refused() {
    let fixture = Fixture::new();
    let limits = ServerConfig { waiting_max: 0, ..ServerConfig::default() };
    let error = Server::bind(V4).limits(limits).pipeline(echo).start(&fixture).err().unwrap().to_string();
    assert_eq!(error, "server.waiting_max = 0: it must be at least 1");
    fixture.stop();
}
