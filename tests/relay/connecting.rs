//! The connection to the target: refused, not answered, given up, or made in the end.

use perihelion::prelude::*;
use perihelion::runtime::simulation::Simulation;
use perihelion::testing::{Ending, Faults};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};

use crate::common::*;

fn relay_to(fixture: &Fixture, target: impl AsRef<str>) -> (RunningServer, SocketAddr) {
    let server = Server::bind(V4).relay_to(target).start(fixture).unwrap();
    let address = address_of(&server);
    (server, address)
}

#[test]
fn a_client_whose_target_refuses_is_reset_and_the_next_one_is_served() {
    let fixture = Fixture::new();
    let target = TcpListener::bind(V4).unwrap().local_addr().unwrap();
    let (server, address) = relay_to(&fixture, target.to_string());
    for _ in 0..3 {
        expect_reset(address);
    }
    let target = TcpListener::bind(target).unwrap();
    let mut client = connect(address);
    client.write_all(b"hello").unwrap();
    target.accept().unwrap().0.read_exact(&mut [0; 5]).unwrap();
    drop(client);
    assert_eq!(fixture.stop_all(server).connections, 4);
}

#[test]
fn a_client_whose_target_does_not_answer_is_reset_when_the_time_is_over() {
    let fixture = Fixture::with(|config| config.channel.connect_ms = 50);
    let (_listener, _waiting, target) = full_listener();
    let (server, address) = relay_to(&fixture, target.to_string());
    let mut client = connect(address);
    client.write_all(b"is anybody there?").unwrap();
    assert_eq!(read_to_end(&client), (vec![], End::Reset));
    fixture.stop_all(server);
}

/// The connect would go on for longer than the test is patient.
#[test]
fn a_connect_ends_with_the_client_and_with_the_server() {
    let fixture = Fixture::with(|config| config.channel.connect_ms = 600_000);
    let (_listener, _waiting, target) = full_listener();
    let (server, address) = relay_to(&fixture, target.to_string());
    for bytes in [&b""[..], b"hello"] {
        let mut client = connect(address);
        client.write_all(bytes).unwrap();
        eventually("it is accepted", || server.report().open == 1);
        reset(client);
        eventually("it is given up", || server.report().open == 0);
    }
    let client = connect(address);
    eventually("it is accepted", || server.report().open == 1);
    assert_eq!(server.stop(std::time::Duration::ZERO).aborted, 1);
    assert_eq!(read_to_end(&client).1, End::Reset);
    fixture.stop();
}

/// The kernel asks a target that does not answer again, after a second.
#[test]
fn what_a_client_sends_during_the_connect_is_kept_also_if_it_ends() {
    let fixture = Fixture::with(|config| config.channel.connect_ms = 600_000);
    let (listener, waiting, target) = full_listener();
    let (server, address) = relay_to(&fixture, target.to_string());
    let mut client = connect(address);
    client.write_all(b"hello").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    eventually("it is accepted", || server.report().open == 1);
    assert_eq!(server.report().bytes_in, 0);
    drop(waiting);
    loop {
        let accepted = listener.accept().unwrap().0.into();
        let (bytes, _) = read_to_end(&accepted);
        if bytes == b"hello" {
            (&accepted).write_all(b"welcome").unwrap();
            break;
        }
    }
    assert_eq!(read_to_end(&client), (b"welcome".to_vec(), End::InOrder));
    fixture.stop_all(server);
}

#[test]
fn every_address_of_the_target_is_tried() {
    for any in [V4, V6] {
        let fixture = Fixture::new();
        let target = TcpListener::bind(any).unwrap();
        let listens = target.local_addr().unwrap();
        let name = format!("localhost:{}", listens.port());
        if name.parse::<Address>().unwrap().resolve().unwrap().contains(&listens) {
            let (server, address) = relay_to(&fixture, &name);
            let mut client = connect(address);
            client.write_all(b"hello").unwrap();
            target.accept().unwrap().0.read_exact(&mut [0; 5]).unwrap();
            drop(client);
            fixture.stop_all(server);
        }
    }
}

#[test]
fn a_target_that_is_none_is_an_error_at_the_start() {
    let fixture = Fixture::new();
    for (target, why) in [
        ("nowhere", "there is no port"),
        ("no-such-host.invalid:1", "tcp://no-such-host.invalid:1 can't be resolved"),
    ] {
        let error = Server::bind(V4).relay_to(target).start(&fixture).err().unwrap().to_string();
        assert!(error.contains(why), "{error}");
    }
    fixture.stop();
}

/// There is no kernel in a simulated world that could move bytes.
#[test]
fn a_simulated_world_has_no_relays() {
    let mut simulation = Simulation::new(0, Faults::none());
    let target: SocketAddr = "127.0.0.1:1".parse().unwrap();
    simulation.answer_at(target);
    let server = Server::bind(V4).relay_to(target.to_string()).start(simulation.handle()).unwrap();
    simulation.run();
    let peer = simulation.knock();
    simulation.run();
    assert_eq!(peer.sees(), Ending::Reset);
    assert_eq!((server.report().connections, server.report().open), (1, 0));
}
