//! Connections that come and go by the thousand, many of them torn down while sends and receives are in flight:
//! descriptors and slots are used again, and no byte ever reaches the wrong connection.

mod common;

use common::*;
use perihelion::prelude::*;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::thread;

const THREADS: usize = 4;
const PER_THREAD: usize = 750;
/// More than the small socket buffers take, so that a send of it waits.
const LONG: usize = 300_000;

/// Echoes; but `long` is answered at length, and `die` with a panic, which resets the connection.
struct Moody;

impl Tail for Moody {
    type In = Bytes;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, message: Bytes) -> Result<()> {
        match &message[..4] {
            b"long" => cx.write(long(&message)),
            b"die " => std::panic::resume_unwind(Box::new("on purpose")),
            _ => cx.write(message),
        }
    }
}

fn long(message: &[u8]) -> Bytes {
    message.repeat(LONG / message.len()).into()
}

/// What a client does. In all that it gets back its number stands.
fn live(address: SocketAddr, number: usize, mood: usize) {
    let client = connect(address);
    for round in 0..mood % 3 {
        ask(&client, format!("hello {number} {round}"));
    }
    let request = format!("long {number} ");
    let expected = frame(long(request.as_bytes()));
    match mood {
        // An orderly life.
        0..4 => {}
        // One that has asked for much, and leaves.
        4..6 => {
            send(&client, &request);
            reset(client);
        }
        // One that the server throws out in the middle of the answer.
        6..8 => {
            send(&client, &request);
            let mut first = [0; 100];
            (&client).read_exact(&mut first).unwrap();
            assert!(expected.starts_with(&first), "connection {number}");
            send(&client, "die ");
            let (rest, _) = read_to_end(&client);
            assert!(expected[first.len()..].starts_with(&rest), "connection {number}");
        }
        // One that is thrown out while it sends.
        _ => {
            send(&client, "die ");
            while (&client).write_all(&frame([0; 1000])).is_ok() {}
            assert_eq!(read_to_end(&client).0, b"", "connection {number}");
        }
    }
}

#[test]
fn nothing_crosses_over_from_one_connection_to_another() {
    let fixture = Fixture::with(|config| {
        (config.tcp.send_buffer_bytes, config.tcp.receive_buffer_bytes) = (16 << 10, 16 << 10);
    });
    let (server, address) = fixture.serve(|_| codec(frames()).tail(Moody));
    let steady = connect(address);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                let mut random = Random(thread as u64);
                for number in 0..PER_THREAD {
                    live(address, thread * PER_THREAD + number, random.below(10));
                }
            });
        }
        (0..500).for_each(|round| ask(&steady, format!("steady {round}")));
    });
    ask(&steady, "still here");
    drop(steady);
    eventually("no channel is open", || server.report().open == 0);
    let report = fixture.stop_all(server);
    assert_eq!(report.connections, (THREADS * PER_THREAD) as u64 + 1);
}
