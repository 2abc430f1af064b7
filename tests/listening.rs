//! Addresses that can't be had: the error names the address, the cause and what to do.

mod common;

use common::*;
use perihelion::prelude::*;
use std::net::{SocketAddr, TcpListener};

/// What starting a server there says.
fn refusal(fixture: &Fixture, address: &str) -> String {
    match Server::bind(address).pipeline(echo).start(fixture) {
        Ok(server) => panic!("it listens on {}", server.address()),
        Err(error) => error.to_string(),
    }
}

/// With one worker, and with as many as there are CPUs.
fn fixtures() -> [Fixture; 2] {
    [1, 0].map(|workers| Fixture::with(|config| config.runtime.workers = workers))
}

fn assert_in_use(error: &str, address: SocketAddr) {
    assert_eq!(
        error,
        format!(
            "can't listen on tcp://{address}: Address already in use (os error 98); another socket listens there: \
             stop its process, or choose another port"
        )
    );
}

#[test]
fn an_address_that_another_server_has_is_refused() {
    for fixture in fixtures() {
        for any in [V4, V6] {
            let (server, address) = fixture.serve_on(any, echo);
            assert_in_use(&refusal(&fixture, &address.to_string()), address);
            // The first is unharmed.
            ask(&connect(address), "hello");
            assert_eq!(server.stop(DRAIN).connections, 1);
        }
        fixture.stop();
    }
}

#[test]
fn an_address_that_another_program_has_is_refused() {
    for fixture in fixtures() {
        for any in [V4, V6] {
            let listener = TcpListener::bind(any).unwrap();
            let address = listener.local_addr().unwrap();
            assert_in_use(&refusal(&fixture, &address.to_string()), address);
        }
        fixture.stop();
    }
}

#[test]
fn a_program_is_refused_an_address_that_a_server_has() {
    for fixture in fixtures() {
        let (server, address) = fixture.serve(echo);
        assert_eq!(TcpListener::bind(address).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
        fixture.stop_all(server);
    }
}

#[test]
fn an_address_that_is_not_of_this_machine_is_refused() {
    for fixture in fixtures() {
        assert_eq!(
            refusal(&fixture, "192.0.2.1:7000"),
            "can't listen on tcp://192.0.2.1:7000: Cannot assign requested address (os error 99); no interface of \
             this machine has that address"
        );
        fixture.stop();
    }
}

#[test]
fn what_is_no_address_is_said_to_be_none() {
    let fixture = Fixture::new();
    for (text, why) in [
        ("", "there is no port; write HOST:PORT"),
        ("localhost", "there is no port; write HOST:PORT"),
        (":7000", "there is no host; 0.0.0.0 or [::] is every address of this machine"),
        ("udp://127.0.0.1:7000", "the scheme is not `tcp`"),
        ("://", "the scheme is not `tcp`"),
        ("tcp://", "there is no port; write HOST:PORT"),
        ("127.0.0.1:70000", "the port is no number from 0 to 65535"),
        ("127.0.0.1:-1", "the port is no number from 0 to 65535"),
        ("127.0.0.1:7000/path", "the port is no number from 0 to 65535"),
        ("127.0.0.1:", "the port is no number from 0 to 65535"),
        ("::1:7000", "an IPv6 address stands in brackets: [::1]:7000"),
        ("[::1:7000", "an IPv6 address stands in brackets: [::1]:7000"),
    ] {
        assert_eq!(refusal(&fixture, text), format!("`{text}` is no address: {why}"));
    }
    for text in ["no such host.invalid:7000", "[::g]:7000", "256.0.0.1:7000", "nul\0byte:7000"] {
        let error = refusal(&fixture, text);
        assert!(error.starts_with(&format!("tcp://{text} can't be resolved: ")), "{error}");
    }
    fixture.stop();
}

#[test]
fn both_families_can_listen_on_one_port() {
    let fixture = Fixture::with(|config| config.runtime.workers = 0);
    let (v6, address) = fixture.serve_on("[::]:0", echo);
    let (v4, _) = fixture.serve_on(&format!("0.0.0.0:{}", address.port()), echo);
    for host in ["127.0.0.1", "[::1]"] {
        ask(&connect(format!("{host}:{}", address.port()).parse().unwrap()), host);
    }
    assert_eq!(v4.stop(DRAIN).connections, 1);
    assert_eq!(fixture.stop_all(v6).connections, 1);
}
