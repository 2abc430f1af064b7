//! Peers that don't read: what a channel holds for them is bounded, and others don't notice.

mod common;

use common::*;
use perihelion::prelude::*;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;

const MESSAGE: usize = 10_000;
const MESSAGES: usize = 1_500;

/// What the channel under test has held at most.
type Most = Arc<AtomicUsize>;

/// Writes numbered messages as long as the channel is writable, from the first word of the peer on.
struct Producer {
    written: usize,
    most: Most,
}

impl Producer {
    fn go_on(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
        while cx.is_writable() && self.written < MESSAGES {
            cx.write(numbered(self.written))?;
            self.written += 1;
            self.most.fetch_max(cx.queued(), SeqCst);
        }
        if self.written == MESSAGES { cx.close() } else { Ok(()) }
    }
}

impl Tail for Producer {
    type In = Bytes;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, _message: Bytes) -> Result<()> {
        self.go_on(cx)
    }
    fn writable(&mut self, cx: &mut Context<'_, Bytes>, writable: bool) -> Result<()> {
        if writable { self.go_on(cx) } else { Ok(()) }
    }
}

/// An echo that notes how much its channel holds.
struct Measured(Most);

impl Tail for Measured {
    type In = Bytes;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, message: Bytes) -> Result<()> {
        cx.write(message)?;
        self.0.fetch_max(cx.queued(), SeqCst);
        Ok(())
    }
}

fn numbered(number: usize) -> Bytes {
    text(number as u64, MESSAGE).into()
}

/// The kernel's own buffers are small here: they fill soon.
const SOCKET_BUFFER: usize = 256 << 10;

fn small_buffers(config: &mut Config) {
    (config.tcp.send_buffer_bytes, config.tcp.receive_buffer_bytes) = (SOCKET_BUFFER, SOCKET_BUFFER);
}

fn connect_with_small_buffers(address: std::net::SocketAddr) -> TcpStream {
    let stream = connect(address);
    socket2::SockRef::from(&stream).set_recv_buffer_size(SOCKET_BUFFER).unwrap();
    stream
}

#[test]
fn a_server_that_writes_much_waits_for_a_peer_that_does_not_read() {
    let fixture = Fixture::with(small_buffers);
    let (journal, most) = (Journal::default(), Most::default());
    let (notes, peak) = (journal.clone(), Most::clone(&most));
    let (server, address) = fixture.serve(move |_| {
        codec(frames()).then(notes.stage()).tail(Producer { written: 0, most: Most::clone(&peak) })
    });
    let (other_server, other_address) = fixture.serve(echo);
    let (client, other) = (connect_with_small_buffers(address), connect(other_address));
    send(&client, "go");
    journal.wait_for("unwritable");
    (0..1000).for_each(|number: usize| ask(&other, number.to_string()));
    assert!(receive(&client) == numbered(0));
    for number in 1..MESSAGES {
        assert!(receive(&client) == numbered(number), "message {number}");
    }
    assert_eq!(read_to_end(&client), (vec![], End::InOrder));
    drop((client, other));
    journal.wait_for("closed in order");
    assert!(journal.count("unwritable") > 10, "it waited again and again");
    let events = journal.entries();
    let marks: Vec<_> = events.iter().filter(|entry| entry.ends_with("writable")).collect();
    assert!(
        marks
            .chunks(2)
            .all(|pair| pair[0] == "unwritable" && pair.get(1).is_none_or(|next| *next == "writable"))
    );
    let bound = fixture.config().channel.high_water_bytes + MESSAGE + 4;
    let most = most.load(SeqCst);
    assert!(most <= bound, "{most} bytes were held; at most {bound} may be");
    other_server.stop(DRAIN);
    fixture.stop_all(server);
}

#[test]
fn an_echo_takes_no_more_than_its_client_reads() {
    const TOTAL: usize = 2_000;
    let fixture = Fixture::with(small_buffers);
    let most = Most::default();
    let peak = Most::clone(&most);
    let (server, address) = fixture.serve(move |_| codec(frames()).tail(Measured(Most::clone(&peak))));
    let (client, other) = (connect_with_small_buffers(address), connect(address));
    let sent = AtomicUsize::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..TOTAL {
                send(&client, numbered(number));
                sent.fetch_add(1, SeqCst);
            }
        });
        // The client is stuck when it makes no step while the server does many.
        let mut before = 0;
        eventually("the client can send no more", || {
            (0..200).for_each(|_| ask(&other, "still here?"));
            let now = sent.load(SeqCst);
            std::mem::replace(&mut before, now) == now && now > 0
        });
        assert!(before < TOTAL, "the server has taken it all");
        for number in 0..TOTAL {
            assert!(receive(&client) == numbered(number), "message {number}");
        }
    });
    let bound = fixture.config().channel.high_water_bytes + MESSAGE + 4;
    let most = most.load(SeqCst);
    assert!(most <= bound, "{most} bytes were held; at most {bound} may be");
    drop((client, other));
    fixture.stop_all(server);
}

/// Several of them at once, and the kernel's buffers at their usual size.
#[test]
fn a_crowd_that_reads_late_gets_everything() {
    const BYTES: usize = 4 << 20;
    let fixture = Fixture::new();
    let (server, address) = fixture.serve(|_| codec(Raw).tail(Echo));
    thread::scope(|scope| {
        for number in 0..8 {
            scope.spawn(move || {
                let (client, sent) = (connect(address), text(number, BYTES));
                thread::scope(|scope| {
                    let (client, sent) = (&client, &sent);
                    let mut writer = client;
                    scope.spawn(move || writer.write_all(sent).unwrap());
                    let (mut reader, mut back) = (client, vec![0; BYTES]);
                    for part in back.chunks_mut(50_000) {
                        reader.read_exact(part).unwrap();
                        thread::yield_now();
                    }
                    assert!(back == *sent);
                });
            });
        }
    });
    fixture.stop_all(server);
}
