//! Echo over real sockets: whatever is sent comes back, byte for byte and in order, however it is cut.

mod common;

use common::*;
use perihelion::prelude::*;
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;
use std::thread;

/// Sizes around those of the buffers that the bytes go through.
const SIZES: [usize; 11] = [1, 2, 63, 1500, 4095, 4097, 16_380, 16_385, 65_536, 1 << 20, 4 << 20];

/// Writes the bytes in pieces of random size, and reads back the same.
fn give_and_take(address: SocketAddr, bytes: &[u8], seed: u64) {
    let stream = connect(address);
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, mut rest, mut random) = (&stream, bytes, Random(seed));
            while !rest.is_empty() {
                let longest = [1, 16, 5_000, 200_000][random.below(4)];
                let (piece, after) = rest.split_at((1 + random.below(longest)).min(rest.len()));
                stream.write_all(piece).unwrap();
                rest = after;
            }
            stream.shutdown(Shutdown::Write).unwrap();
        });
        let (back, end) = read_to_end(&stream);
        assert_eq!(back.len(), bytes.len());
        assert!(back == bytes, "a byte was changed, or they are in another order");
        assert_eq!(end, End::InOrder);
    });
}

/// Messages of all sizes one behind the other, each made bytes by `encode`.
fn messages(seed: u64, sizes: &[usize], encode: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    sizes.iter().flat_map(|size| encode(&text(seed + *size as u64, *size))).collect()
}

fn line(text: &[u8]) -> Vec<u8> {
    [text, b"\n"].concat()
}

fn random_sizes(seed: u64, count: usize, below: usize) -> Vec<usize> {
    let mut random = Random(seed);
    (0..count).map(|_| 1 + random.below(below)).collect()
}

/// On both families: all sizes in one connection, then many connections of random sizes at once.
fn check(fixture: Fixture, servers: Vec<RunningServer>, encode: impl Fn(&[u8]) -> Vec<u8> + Sync) {
    for server in servers {
        let address = address_of(&server);
        give_and_take(address, &messages(1, &SIZES, &encode), 1);
        thread::scope(|scope| {
            for seed in 0..16 {
                let encode = &encode;
                scope.spawn(move || {
                    let sizes = random_sizes(seed, 100, 3_000);
                    give_and_take(address, &messages(seed, &sizes, encode), seed);
                });
            }
        });
        let report = server.stop(DRAIN);
        assert_eq!((report.connections, report.open, report.aborted), (17, 0, 0));
    }
    fixture.stop();
}

#[test]
fn raw_bytes_come_back() {
    let fixture = Fixture::new();
    let servers = [V4, V6].map(|address| fixture.serve_on(address, |_| codec(Raw).tail(Echo)).0);
    check(fixture, servers.into(), <[u8]>::to_vec);
}

#[test]
fn frames_come_back() {
    let fixture = Fixture::new();
    let servers = [V4, V6].map(|address| fixture.serve_on(address, echo).0);
    check(fixture, servers.into(), |text| frame(text));
}

#[test]
fn lines_come_back() {
    let fixture = Fixture::new();
    let pipeline = |_: &NewConnection<'_>| codec(Lines::lf(8 << 20)).service(async |line: String| Ok(line));
    let servers = [V4, V6].map(|address| fixture.serve_on(address, pipeline).0);
    check(fixture, servers.into(), line);
}

#[test]
fn every_worker_serves() {
    let fixture = Fixture::with(|config| config.runtime.workers = 0);
    let (server, address) = fixture.serve(echo);
    let clients: Vec<_> = (0..64).map(|_| connect(address)).collect();
    for (number, client) in clients.iter().enumerate() {
        ask(client, number.to_string());
    }
    drop(clients);
    let report = fixture.stop_all(server);
    assert_eq!((report.connections, report.messages), (64, 64));
}

/// Counts on what it shares with the other connections of its worker.
struct Tally(Rc<Cell<u32>>);

impl Tail for Tally {
    type In = Bytes;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, _message: Bytes) -> Result<()> {
        self.0.set(self.0.get() + 1);
        cx.write(Bytes::copy_from_slice(&self.0.get().to_be_bytes()))
    }
}

#[test]
fn connections_of_one_worker_share_what_is_made_once() {
    let fixture = Fixture::new();
    let shared = || {
        let count = Rc::new(Cell::new(0));
        move |_: &NewConnection<'_>| codec(frames()).tail(Tally(Rc::clone(&count)))
    };
    let server = Server::bind(V4).pipeline_per_core(shared).start(&fixture).unwrap();
    let address = address_of(&server);
    for count in 1..=10u32 {
        let client = connect(address);
        send(&client, "count");
        assert_eq!(receive(&client), count.to_be_bytes());
    }
    fixture.stop_all(server);
}

#[test]
fn hundreds_of_connections_pipeline_at_once() {
    let fixture = Fixture::new();
    let (server, address) = fixture.serve(echo);
    let clients: Vec<_> = (0..500).map(|_| connect(address)).collect();
    let burst =
        |number: usize| messages(number as u64, &random_sizes(number as u64, 20, 500), |text| frame(text));
    for (number, mut client) in clients.iter().enumerate() {
        client.write_all(&burst(number)).unwrap();
    }
    for (number, mut client) in clients.iter().enumerate() {
        let expected = burst(number);
        let mut back = vec![0; expected.len()];
        client.read_exact(&mut back).unwrap();
        assert!(back == expected, "connection {number}");
    }
    drop(clients);
    let report = fixture.stop_all(server);
    assert_eq!((report.connections, report.messages), (500, 10_000));
}

/// The kernel takes few submissions and leaves few completions at a time: queues overflow all the time.
#[test]
fn tiny_rings_lose_nothing() {
    let fixture = Fixture::with(|config| {
        (config.runtime.ring.submissions, config.runtime.ring.completions) = (8, 8);
        config.runtime.completions_per_turn = 3;
    });
    let (server, address) = fixture.serve(echo);
    let clients: Vec<_> = (0..300).map(|_| connect(address)).collect();
    for round in 0..5 {
        let message = |number: usize| format!("round {round} of connection {number}");
        clients.iter().enumerate().for_each(|(number, client)| send(client, message(number)));
        for (number, client) in clients.iter().enumerate() {
            assert_eq!(receive(client), message(number).as_bytes());
        }
    }
    drop(clients);
    assert_eq!(fixture.stop_all(server).messages, 1500);
}
