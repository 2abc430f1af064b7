//! Peers that reset their connections. One test: it counts the descriptors of the process.

mod common;

use common::*;
use perihelion::prelude::*;
use std::io::Write;

const ROUNDS: usize = 50;

#[test]
fn a_reset_in_the_middle_of_a_message_ends_that_channel_alone() {
    for address in [V4, V6] {
        let fixture = Fixture::new();
        let journal = Journal::default();
        let notes = journal.clone();
        let (server, address) =
            fixture.serve_on(address, move |_| codec(frames()).then(notes.stage()).tail(Echo));
        let witness = connect(address);
        ask(&witness, "before");
        let before = descriptors();
        for round in 0..ROUNDS {
            let client = connect(address);
            ask(&client, "hello");
            match round % 3 {
                // Half a frame; nothing; and more replies on their way than the client has room for.
                0 => (&client).write_all(&frame([1; 1000])[..500]).unwrap(),
                1 => {}
                _ => (0..5).for_each(|_| send(&client, text(0, 100_000))),
            }
            reset(client);
            ask(&witness, "still here");
        }
        journal.wait_for_some(ROUNDS, "closed");
        assert_eq!(
            journal.count("closed: Connection reset by peer") + journal.count("closed: Broken pipe"),
            ROUNDS
        );
        eventually("as many descriptors as before", || descriptors() == before);
        drop(witness);
        let report = fixture.stop_all(server);
        assert_eq!(report.connections, ROUNDS as u64 + 1);
    }
}
