//! Who is let in: limits that refuse or wait, and filters, on sockets and in a simulated world.

mod common;

use common::*;
use perihelion::prelude::*;
use perihelion::runtime::simulation::Simulation;
use perihelion::runtime::{ServerConfig, WhenFull};
use perihelion::testing::{Ending, Faults, each_seed};
use std::net::TcpStream;
use std::time::Duration;

fn limits(connections_max: usize, when_full: WhenFull) -> ServerConfig {
    ServerConfig { connections_max, when_full, ..ServerConfig::default() }
}

fn serve(fixture: &Fixture, limits: ServerConfig) -> (RunningServer, std::net::SocketAddr) {
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
    assert_eq!((server.report().connections, server.report().refused), (3, 1));
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

/// A client with another address of the loopback.
fn connect_from(local: &str, address: std::net::SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::new(local.parse().unwrap(), 0).into()).unwrap();
    socket.connect(&address.into()).unwrap();
    socket.into()
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
