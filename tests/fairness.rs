//! A connection that floods its worker does not starve the others.

mod common;

use common::*;
use perihelion::prelude::*;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

const PER_TURN: usize = 16;
const FLOOD: usize = 100_000;

/// Which connections had a message handled, and in which turn, in order.
type Handled = Arc<Mutex<Vec<(u8, Instant)>>>;

/// Echoes, and notes the first byte of each message with the turn's time, which no other turn has.
struct Noted(Handled);

impl Tail for Noted {
    type In = Bytes;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, message: Bytes) -> Result<()> {
        self.0.lock().unwrap().push((message[0], cx.now()));
        cx.write(message)
    }
}

fn noting(fixture: &Fixture) -> (RunningServer, std::net::SocketAddr, Handled) {
    let handled = Handled::default();
    let noted = Handled::clone(&handled);
    let (server, address) = fixture.serve(move |_| codec(frames()).tail(Noted(Handled::clone(&noted))));
    (server, address, handled)
}

fn few_per_turn() -> Fixture {
    Fixture::with(|config| config.channel.messages_per_turn = PER_TURN as u32)
}

#[test]
fn no_connection_gets_more_than_its_messages_in_a_turn() {
    let fixture = few_per_turn();
    let (server, address, handled) = noting(&fixture);
    let (flooder, others) = (connect(address), [1u8, 2, 3].map(|name| (name, connect(address))));
    thread::scope(|scope| {
        scope.spawn(|| (&flooder).write_all(&frame([0]).repeat(FLOOD)).unwrap());
        let reader = scope.spawn(|| (0..FLOOD).for_each(|_| assert_eq!(receive(&flooder), [0])));
        while !reader.is_finished() {
            others.iter().for_each(|(name, client)| ask(client, [*name]));
        }
    });
    drop((flooder, others));
    fixture.stop_all(server);
    let handled = handled.lock().unwrap();
    assert_eq!(handled.iter().filter(|(name, _)| *name == 0).count(), FLOOD);
    for turn in handled.chunk_by(|(_, before), (_, after)| before == after) {
        for name in 0..4 {
            let count = turn.iter().filter(|(who, _)| *who == name).count();
            assert!(count <= PER_TURN, "connection {name} had {count} messages handled in one turn");
        }
    }
}

#[test]
fn nobody_waits_for_the_end_of_a_flood() {
    let fixture = few_per_turn();
    let (server, address, handled) = noting(&fixture);
    let (flooder, other) = (connect(address), connect(address));
    ask(&flooder, [0]);
    ask(&other, [1]);
    handled.lock().unwrap().clear();
    let gate = fixture.hold();
    (&flooder).write_all(&frame([0]).repeat(3000)).unwrap();
    send(&other, [1]);
    drop(gate);
    assert_eq!(receive(&other), [1]);
    (0..3000).for_each(|_| assert_eq!(receive(&flooder), [0]));
    let before = handled.lock().unwrap().iter().position(|(name, _)| *name == 1).unwrap();
    assert!(before <= 2 * PER_TURN, "{before} messages of the flood were handled before");
    drop((flooder, other));
    fixture.stop_all(server);
}
