//! Accepting that is stopped and started again and again, while connections come in: none is lost, none is accepted
//! twice, and every descriptor is given back. In a process of its own, since it counts descriptors.

mod common;

use common::*;
use perihelion::prelude::*;
use perihelion::runtime::{ServerConfig, WhenFull};
use std::net::TcpStream;
use std::thread;

const THREADS: usize = 4;
const PER_THREAD: usize = 200;

#[test]
fn what_comes_in_while_accepting_stops_is_neither_lost_nor_leaked() {
    let before = descriptors();
    let fixture = Fixture::new();
    // With one place, nearly every connection stops accepting, and nearly every end starts it again: the cancellation
    // of an accept races with those that it has taken, and with its own restart.
    let limits = ServerConfig { connections_max: 1, when_full: WhenFull::Wait, ..ServerConfig::default() };
    let server = Server::bind(V4).limits(limits).pipeline(echo).start(&fixture).unwrap();
    let address = address_of(&server);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for number in 0..PER_THREAD {
                    let client = connect(address);
                    if number % 3 == 0 {
                        reset(client); // perhaps before it is accepted
                    } else {
                        ask(&client, "hello");
                    }
                }
            });
        }
    });
    let report = server.report();
    assert!(report.connections <= (THREADS * PER_THREAD) as u64, "{report}");
    assert_eq!(report.refused, 0);

    // A server that stops closes those that still wait.
    let inside = connect(address);
    ask(&inside, "inside");
    let waiting: Vec<TcpStream> = (0..20).map(|_| connect(address)).collect();
    for _ in 0..20 {
        ask(&inside, "meanwhile"); // the worker has seen them
    }
    let stopped = thread::spawn(move || server.stop(DRAIN));
    assert_eq!(read_to_end(&inside).0, b"");
    drop(inside);
    let report = stopped.join().unwrap();
    assert_eq!((report.open, report.aborted), (0, 0), "{report}");
    drop(waiting);
    fixture.stop();
    eventually("every descriptor is given back", || descriptors() <= before);
}
