//! How connections end: half-close, orderly close, and what happens to a peer that doesn't end.

mod common;

use common::*;
use perihelion::prelude::*;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;

/// Answers at the end: with everything that came.
#[derive(Default)]
struct Collect(Vec<u8>);

impl Tail for Collect {
    type In = Bytes;
    type Out = Bytes;
    fn read(&mut self, _cx: &mut Context<'_, Bytes>, message: Bytes) -> Result<()> {
        self.0.extend_from_slice(&message);
        Ok(())
    }
    fn half_closed(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
        cx.write(std::mem::take(&mut self.0).into())?;
        cx.close()
    }
}

/// Says something long when it is greeted, and closes.
struct Goodbye(Bytes);

impl Tail for Goodbye {
    type In = Bytes;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, _message: Bytes) -> Result<()> {
        cx.write(self.0.clone())?;
        cx.close()
    }
}

/// Says something when it is greeted and no more, but listens on.
struct LastWord(Journal);

impl Tail for LastWord {
    type In = String;
    type Out = String;
    fn read(&mut self, cx: &mut Context<'_, String>, line: String) -> Result<()> {
        self.0.note(&line);
        if line == "hello" {
            cx.write("goodbye".into())?;
            cx.close_output()?;
        }
        Ok(())
    }
}

/// Says something when it is greeted, and closes when the peer does.
struct Answer(Bytes);

impl Tail for Answer {
    type In = Bytes;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, _message: Bytes) -> Result<()> {
        cx.write(self.0.clone())
    }
}

#[test]
fn a_peer_that_has_ended_still_gets_the_answer() {
    for address in [V4, V6] {
        let fixture = Fixture::new();
        let journal = Journal::default();
        let notes = journal.clone();
        let (server, address) =
            fixture.serve_on(address, move |_| codec(Raw).then(notes.stage()).tail(Collect::default()));
        let question = text(1, 3_000_000);
        let client = connect(address);
        (&client).write_all(&question).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let (answer, end) = read_to_end(&client);
        assert!(answer == question);
        assert_eq!(end, End::InOrder);
        journal.wait_for("closed in order");
        assert_eq!(journal.entries(), ["open", "half-closed", "unwritable", "writable", "closed in order"]);
        fixture.stop_all(server);
    }
}

#[test]
fn a_peer_that_is_still_sending_gets_all_bytes_and_the_end() {
    for address in [V4, V6] {
        let fixture = Fixture::new();
        let goodbye = Bytes::from(text(2, 2_000_000));
        let (written, ended_at) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
        let said = goodbye.clone();
        let (server, address) = fixture.serve_on(address, move |_| codec(Raw).tail(Goodbye(said.clone())));
        let client = connect(address);
        thread::scope(|scope| {
            let writer = scope.spawn(|| {
                // Another megabyte behind the server's end. A reset would be an error of the write.
                while written.load(SeqCst) < ended_at.load(SeqCst).saturating_add(1 << 20) {
                    (&client).write_all(&[7; 10_000]).unwrap();
                    written.fetch_add(10_000, SeqCst);
                }
                client.shutdown(Shutdown::Write).unwrap();
            });
            let mut bytes = vec![0; goodbye.len()];
            (&client).read_exact(&mut bytes).unwrap();
            assert!(bytes == goodbye);
            assert_eq!((&client).read(&mut bytes).unwrap(), 0, "the end follows");
            ended_at.store(written.load(SeqCst), SeqCst);
            writer.join().unwrap();
        });
        fixture.stop_all(server);
    }
}

#[test]
fn a_server_that_has_ended_still_hears_its_peer() {
    let fixture = Fixture::new();
    let journal = Journal::default();
    let notes = journal.clone();
    let (server, address) =
        fixture.serve(move |_| codec(Lines::lf(100)).then(notes.stage()).tail(LastWord(notes.clone())));
    let client = connect(address);
    (&client).write_all(b"hello\n").unwrap();
    assert_eq!(read_to_end(&client), (b"goodbye\n".to_vec(), End::InOrder));
    for line in ["one\n", "two\n", "three\n"] {
        (&client).write_all(line.as_bytes()).unwrap();
        journal.wait_for(line.trim_end());
    }
    client.shutdown(Shutdown::Write).unwrap();
    journal.wait_for("closed");
    assert_eq!(journal.entries(), ["open", "hello", "one", "two", "three", "half-closed", "closed in order"]);
    fixture.stop_all(server);
}

/// Waits until the other side has reset the connection.
fn wait_for_reset(mut stream: &TcpStream) {
    eventually("a reset", || stream.write_all(b"x").is_err());
}

#[test]
fn a_peer_that_never_ends_is_reset_when_the_close_has_taken_too_long() {
    let fixture = Fixture::with(|config| config.channel.close_ms = 50);
    let journal = Journal::default();
    let notes = journal.clone();
    let (server, address) =
        fixture.serve(move |_| codec(Raw).then(notes.stage()).tail(Goodbye("goodbye".into())));
    let client = connect(address);
    (&client).write_all(b"hello").unwrap();
    let mut bytes = [0; 7];
    (&client).read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"goodbye");
    assert_eq!((&client).read(&mut bytes).unwrap(), 0);
    wait_for_reset(&client);
    journal.wait_for("closed in order"); // all was sent
    eventually("no channel is open", || server.report().open == 0);
    fixture.stop_all(server);
}

#[test]
fn a_peer_that_never_reads_is_reset_when_the_close_has_taken_too_long() {
    let fixture = Fixture::with(|config| config.channel.close_ms = 50);
    let journal = Journal::default();
    let (notes, goodbye) = (journal.clone(), Bytes::from(vec![0; 64 << 20]));
    let (server, address) =
        fixture.serve(move |_| codec(Raw).then(notes.stage()).tail(Goodbye(goodbye.clone())));
    let client = connect(address);
    (&client).write_all(b"hello").unwrap();
    journal.wait_for("closed: the close took longer than channel.close_ms");
    let (bytes, end) = read_to_end(&client);
    assert!(bytes.len() < 64 << 20);
    assert_eq!(end, End::Reset);
    fixture.stop_all(server);
}

/// A close that waits for unsent bytes must not keep the worker from its other connections.
#[test]
fn a_close_that_lingers_leaves_others_alone() {
    let fixture = Fixture::with(|config| config.tcp.linger_s = Some(600));
    let journal = Journal::default();
    let (notes, answer) = (journal.clone(), Bytes::from(vec![0; 64 << 10]));
    let (_server, address) =
        fixture.serve(move |_| codec(frames()).then(notes.stage()).tail(Answer(answer.clone())));
    let client = connect(address);
    // As much as the kernel takes without the client's reading.
    socket2::SockRef::from(&client).set_recv_buffer_size(4096).unwrap();
    (0..8).for_each(|_| send(&client, "hello"));
    client.shutdown(Shutdown::Write).unwrap();
    journal.wait_for("closed");
    let other = connect(address);
    send(&other, "hello");
    assert_eq!(receive(&other).len(), 64 << 10);
    reset(client);
    fixture.stop();
}
