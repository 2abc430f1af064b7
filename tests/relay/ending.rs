//! How relays end: in order, when both sides have, or by a reset that is passed on.

use perihelion::prelude::*;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use crate::common::*;
use crate::setup::{Setup, write_until_blocked};

#[test]
fn one_side_may_end_long_before_the_other() {
    let setup = Setup::new();
    for target_ends_first in [false, true] {
        let (client, target) = setup.pair();
        let (mut first, mut second) = if target_ends_first { (target, client) } else { (client, target) };
        first.write_all(b"that is all").unwrap();
        first.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&second), (b"that is all".to_vec(), End::InOrder));
        for round in 0..10 {
            let bytes = text(round, 100_000);
            second.write_all(&bytes).unwrap();
            let mut received = vec![0; bytes.len()];
            first.read_exact(&mut received).unwrap();
            assert!(received == bytes);
        }
        assert_eq!(setup.server.report().open, 1);
        second.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&first), (vec![], End::InOrder));
        eventually("the relay is over", || setup.server.report().open == 0);
    }
    setup.stop();
}

/// What one side does before it resets the connection.
#[derive(Clone, Copy, Debug)]
enum Before {
    Nothing,
    /// It has said something, and the other side has heard it.
    Talk,
    /// It has sent more than the other side takes.
    Flood,
    /// The other side has sent more than it takes.
    IsFlooded,
    /// It has ended.
    End,
}

fn reset_after(setup: &Setup, before: Before, client_resets: bool) {
    let (client, target) = setup.pair();
    let (one, other) = if client_resets { (client, target) } else { (target, client) };
    match before {
        Before::Nothing => {}
        Before::Talk => {
            send(&one, "hello");
            assert_eq!(receive(&other), b"hello");
        }
        Before::Flood => drop(write_until_blocked(&one)),
        Before::IsFlooded => drop(write_until_blocked(&other)),
        Before::End => {
            one.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_to_end(&other), (vec![], End::InOrder));
        }
    }
    reset(one);
    // Though the other side neither reads nor writes.
    eventually("the relay is over", || setup.server.report().open == 0);
    if !matches!(before, Before::End) {
        assert_eq!(read_to_end(&other).1, End::Reset, "{before:?}, by the client: {client_resets}");
    }
    eventually("it is reset", || (&other).write(b"too late").is_err());
}

#[test]
fn a_reset_is_passed_on_whatever_was_before() {
    let setup = Setup::with(|config| {
        (config.tcp.send_buffer_bytes, config.tcp.receive_buffer_bytes) = (64 << 10, 64 << 10);
    });
    for before in [Before::Nothing, Before::Talk, Before::Flood, Before::IsFlooded, Before::End] {
        for client_resets in [true, false] {
            reset_after(&setup, before, client_resets);
        }
    }
    assert_eq!(setup.stop().connections, 10);
}

/// Transfers without end, in both directions.
fn busy(setup: &Setup, count: usize) -> Vec<thread::JoinHandle<()>> {
    let endlessly = |stream: TcpStream| {
        let mut reading = stream.try_clone().unwrap();
        let writer = thread::spawn(move || while (&stream).write_all(&[7; 10_000]).is_ok() {});
        thread::spawn(move || {
            while reading.read(&mut [0; 10_000]).is_ok_and(|n| n > 0) {}
            writer.join().unwrap();
        })
    };
    (0..count).flat_map(|_| <[TcpStream; 2]>::from(setup.pair())).map(endlessly).collect()
}

#[test]
fn a_server_that_stops_resets_what_goes_on_when_the_time_is_over() {
    let setup = Setup::with(|config| config.runtime.workers = 2);
    let threads = busy(&setup, 20);
    let idle = setup.pair();
    let moves = || setup.server.report().bytes_out > 10_000_000;
    eventually("there is load", moves);
    let report = setup.server.stop(Duration::from_millis(100));
    assert_eq!((report.connections, report.open, report.aborted), (21, 0, 21));
    assert_eq!([&idle.0, &idle.1].map(|stream| read_to_end(stream).1), [End::Reset; 2]);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(TcpStream::connect(setup.address).is_err());
    setup.fixture.stop();
}

#[test]
fn a_server_that_stops_lets_relays_end() {
    let setup = Setup::new();
    let (mut client, mut target) = setup.pair();
    client.write_all(b"request").unwrap();
    let Setup { fixture, server, address, target: listener } = setup;
    drop(listener); // so that whoever comes before the end is refused
    let stopping = thread::spawn(move || fixture.stop_all(server));
    eventually("it listens no more", || TcpStream::connect(address).is_err());
    target.read_exact(&mut [0; 7]).unwrap();
    target.write_all(b"answer").unwrap();
    drop(target);
    assert_eq!(read_to_end(&client), (b"answer".to_vec(), End::InOrder));
    drop(client);
    stopping.join().unwrap();
}

#[test]
fn a_runtime_that_stops_resets_both_sides() {
    let setup = Setup::new();
    let threads = busy(&setup, 5);
    let (client, target) = setup.pair();
    setup.fixture.stop();
    assert_eq!([&client, &target].map(|stream| read_to_end(stream).1), [End::Reset; 2]);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}
