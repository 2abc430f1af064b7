//! A receive pool that is far too small for the crowd: everyone waits a little, nobody for ever.

mod common;

use common::*;
use perihelion::prelude::*;
use std::collections::VecDeque;
use std::net::TcpStream;

const CROWD: usize = 1_000;
const ROUNDS: usize = 4;

/// Echoes, and keeps the last frames.
struct Keeper(VecDeque<Bytes>);

impl Tail for Keeper {
    type In = Bytes;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, message: Bytes) -> Result<()> {
        self.0.push_back(message.clone());
        if self.0.len() > 2 {
            self.0.pop_front();
        }
        cx.write(message)
    }
}

/// Four buffers a worker.
fn few_buffers(config: &mut Config) {
    let receive = &mut config.runtime.receive;
    (receive.buffers, receive.buffers_max, receive.buffers_kept_max) = (4, 4, 2);
}

/// All send while the worker is held up, so that it finds everything at once.
fn rounds(fixture: &Fixture, clients: &[TcpStream]) {
    for round in 0..ROUNDS {
        let message = |number: usize| text((round * CROWD + number) as u64, 1 + number % 2_000);
        let gate = fixture.hold();
        clients.iter().enumerate().for_each(|(number, client)| send(client, message(number)));
        drop(gate);
        for (number, client) in clients.iter().enumerate() {
            assert!(receive(client) == message(number), "connection {number} in round {round}");
        }
    }
}

fn crowd(address: std::net::SocketAddr) -> Vec<TcpStream> {
    (0..CROWD).map(|_| connect(address)).collect()
}

#[test]
fn four_buffers_serve_a_thousand_connections() {
    let fixture = Fixture::with(few_buffers);
    let (server, address) = fixture.serve(echo);
    let clients = crowd(address);
    rounds(&fixture, &clients);
    assert!(fixture.stats()[0].starved > 0, "some had to wait for a buffer");
    drop(clients);
    let report = fixture.stop_all(server);
    assert_eq!((report.connections, report.messages), (CROWD as u64, (ROUNDS * CROWD) as u64));
}

#[test]
fn a_handler_that_keeps_frames_starves_nobody() {
    let fixture = Fixture::with(few_buffers);
    let (server, address) = fixture.serve(|_| codec(frames()).tail(Keeper(VecDeque::new())));
    let clients = crowd(address);
    rounds(&fixture, &clients);
    drop(clients);
    fixture.stop_all(server);
}

#[test]
fn a_long_message_needs_no_more_buffers_than_there_are() {
    let fixture = Fixture::with(few_buffers);
    let (server, address) = fixture.serve(echo);
    let (one, other) = (connect(address), connect(address));
    std::thread::scope(|scope| {
        for client in [&one, &other] {
            scope.spawn(|| (0..5u64).for_each(|seed| ask(client, text(seed, 2 << 20))));
        }
    });
    drop((one, other));
    fixture.stop_all(server);
}

#[test]
fn those_that_were_closed_while_they_waited_hold_nobody_up() {
    let fixture = Fixture::with(few_buffers);
    let (server, address) = fixture.serve(echo);
    for _ in 0..5 {
        let gate = fixture.hold();
        let mut clients = crowd(address);
        clients.iter().for_each(|client| send(client, text(0, 1_000)));
        let leaving = clients.split_off(50);
        leaving.into_iter().for_each(reset);
        drop(gate);
        for client in &clients {
            assert!(receive(client) == text(0, 1_000));
        }
        drop(clients);
        eventually("every channel has seen the end of its peer", || server.report().open == 0);
    }
    fixture.stop_all(server);
}
