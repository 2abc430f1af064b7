//! A codec on a protocol, and what travels down: flush and close.

use bytes::Bytes;
use perihelion_pipeline::*;

use crate::common::{Echo, Gate, Host, Log, frame, frames, length, texts};
use crate::xor::{Opened, Xor, open_records, record};

/// Greets before the handshake is done, then echoes.
struct Greet;

impl Tail for Greet {
    type In = Bytes;
    type Out = Bytes;
    fn open(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
        cx.write("greeting".into())
    }
    fn read(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        cx.write(msg)
    }
}

/// A hello, one record with two and a half frames, a ping, and the rest.
fn conversation() -> Vec<u8> {
    let plain = frames(&["one", "two", "three"]);
    let (a, b) = plain.split_at(17);
    [b"HELO".to_vec(), record(a, 7), b"P\0\0\0\0".to_vec(), record(b, 7)].concat()
}

#[test]
fn frames_in_records() {
    let mut host = Host::new(codec(Xor::server(7)).codec(length()).tail(Greet));
    host.run();
    assert_eq!(host.sent, b"", "the protocol keeps it until the handshake is done");
    host.feed(conversation()).run();
    assert_eq!(&host.sent[..4], b"OLEH");
    let opened = open_records(&host.sent[4..], 7);
    assert_eq!(texts(&opened.plain), ["greeting", "one", "two", "three"]);
    assert_eq!(opened.records, [12, 23], "what one turn writes is one record");
    assert_eq!(opened.pongs, 1);
}

#[test]
fn frames_in_records_drop_by_drop_with_one_message_a_turn() {
    let limits = Limits { messages_per_turn: 1, ..Limits::default() };
    let mut host = Host::with_limits(codec(Xor::server(7)).codec(length()).tail(Greet), limits);
    for byte in conversation() {
        host.feed([byte]);
    }
    host.run();
    let opened = open_records(&host.sent[4..], 7);
    assert_eq!(texts(&opened.plain), ["greeting", "one", "two", "three"]);
    assert_eq!(opened.pongs, 1);
}

/// Says hello, and closes with the first answer.
struct Ask(Log);

impl Tail for Ask {
    type In = String;
    type Out = String;
    fn open(&mut self, cx: &mut Context<'_, String>) -> Result<()> {
        cx.write("hello".into())
    }
    fn read(&mut self, cx: &mut Context<'_, String>, line: String) -> Result<()> {
        self.0.add(line);
        cx.close()
    }
}

#[test]
fn both_sides_and_their_last_words() {
    let log = Log::default();
    let mut server =
        Host::new(codec(Xor::server(9)).codec(Lines::crlf(99)).service(async |line: String| Ok(line + "!")));
    let mut client = Host::new(codec(Xor::client(9)).codec(Lines::crlf(99)).tail(Ask(log.clone())));
    client.run();
    for _ in 0..3 {
        server.feed(std::mem::take(&mut client.sent)).run();
        client.feed(std::mem::take(&mut server.sent)).run();
    }
    assert_eq!(log.take(), ["hello!"]);
    assert_eq!(client.closed, Some(None));
    assert_eq!(server.closed, Some(None), "the last word of the other side closes");
}

#[test]
fn a_stage_that_waits_stops_the_protocol_below_it() {
    let gate: Gate<()> = Gate::new();
    let wait = gate.clone();
    let pipeline = codec(Xor::server(1)).codec(Lines::crlf(99)).service(async move |line: String| {
        wait.wait().await;
        Ok(line)
    });
    let mut host = Host::new(pipeline);
    host.feed([b"HELO".to_vec(), record(b"a\r\n", 1), b"P\0\0\0\0".to_vec()].concat()).run();
    assert_eq!(open_records(&host.sent[4..], 1).pongs, 0);
    gate.open(());
    host.run();
    assert_eq!(open_records(&host.sent[4..], 1).pongs, 1);
}

#[test]
fn an_end_inside_a_frame_is_an_error_at_every_level() {
    let plain = frames(&["one", "two"]);
    let whole = [b"HELO".to_vec(), record(&plain[..9], 1), record(&plain[9..], 1)].concat();
    for cut in 4..whole.len() {
        let mut host = Host::new(codec(Xor::server(1)).codec(length()).tail(Echo));
        host.feed(&whole[..cut]).feed_end().run();
        let why = host.closed.flatten();
        // The first seven bytes of a record are a whole frame of three; all of it is a frame and a half.
        match cut {
            4 => assert_eq!(why, None),
            _ => assert!(why.unwrap().contains("inside a frame"), "cut at {cut}"),
        }
    }
}

/// A frame `bye` is answered with `BYE`, and closes the connection.
struct Polite;

impl Protocol for Polite {
    type Frame = Bytes;
    type Item = Bytes;
    fn read(&mut self, wire: &mut Wire<'_>, input: &mut Input) -> Result<Flow<Bytes>> {
        let Some(line) = Lines::lf(99).decode(input)? else { return Ok(Flow::Done) };
        if line == "bye" {
            wire.output().put_slice(b"BYE\n");
            wire.close();
            return Ok(Flow::Done);
        }
        Ok(Flow::Next(line.into()))
    }
    fn write(&mut self, wire: &mut Wire<'_>, item: Bytes) -> Result<()> {
        wire.output().put_bytes(item);
        wire.output().put_slice(b"\n");
        Ok(())
    }
}

#[test]
fn a_close_of_an_inner_protocol_passes_the_outer_one() {
    let mut host = Host::new(codec(Polite).tail(Echo));
    host.feed("one\nbye\ntwo\n").run();
    assert_eq!(host.text(), "one\nBYE\n");
    assert_eq!(host.closed, Some(None));

    let mut host = Host::new(codec(Xor::server(1)).codec(Polite).tail(Echo));
    host.feed([b"HELO".to_vec(), record(b"one\nbye\ntwo\n", 1)].concat()).run();
    assert_eq!(
        open_records(&host.sent[4..], 1),
        Opened { plain: b"one\nBYE\n".into(), records: vec![8], pongs: 0, byes: 1 },
    );
    assert_eq!(host.closed, Some(None));
}

/// Keeps every write until it is flushed.
#[derive(Default)]
struct Gather {
    held: Vec<u8>,
}

impl Handler for Gather {
    type In = Bytes;
    type Next = Bytes;
    type Write = Bytes;
    type Out = Bytes;
    fn read(&mut self, _cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<Flow<Bytes>> {
        Ok(Flow::Next(msg))
    }
    fn write(&mut self, _cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        self.held.extend_from_slice(&msg);
        Ok(())
    }
    fn flush(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
        if !self.held.is_empty() {
            cx.write(std::mem::take(&mut self.held).into())?;
        }
        cx.flush()
    }
}

#[test]
fn a_close_does_not_overtake_what_stages_hold() {
    // A handler that holds, between two codecs and above them, and a protocol that seals at flush.
    let inner = codec(length()).then(Gather::default()).tail(Echo);
    let mut host = Host::new(codec(Xor::server(1)).then(Gather::default()).pipeline(inner));
    host.feed(b"HELO").run();
    host.feed(record(&frames(&["a", "b"]), 1)).feed_end().run();
    let opened = open_records(&host.sent[4..], 1);
    assert_eq!(texts(&opened.plain), ["ab"]);
    assert_eq!((opened.records.len(), opened.byes), (1, 1), "{opened:?}");
    assert_eq!(host.closed, Some(None));
}

/// Keeps a close back until it has sent what it holds, one message a turn.
#[derive(Default)]
struct Slow {
    held: Vec<Bytes>,
    closes: bool,
}

impl Handler for Slow {
    type In = Bytes;
    type Next = Bytes;
    type Write = Bytes;
    type Out = Bytes;
    fn read(&mut self, _cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<Flow<Bytes>> {
        Ok(Flow::Next(msg))
    }
    fn write(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        self.held.push(msg);
        cx.waker().wake_by_ref();
        Ok(())
    }
    fn flush(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
        if !self.held.is_empty() {
            cx.write(self.held.remove(0))?;
            cx.waker().wake_by_ref();
        } else if self.closes {
            cx.close()?;
        }
        cx.flush()
    }
    fn operate(&mut self, cx: &mut Context<'_, Bytes>, operation: Operation) -> Result<()> {
        match operation {
            Operation::Close => {
                self.closes = true;
                Ok(())
            }
            other => cx.operate(other),
        }
    }
}

#[test]
fn a_stage_may_keep_a_close_back() {
    let mut host = Host::new(codec(length()).then(Slow::default()).tail(Echo));
    host.feed(frames(&["a", "b", "c"]));
    host.turn();
    host.close();
    assert!(!host.runner.is_closing());
    host.run();
    assert_eq!(texts(&host.sent), ["a", "b", "c"]);
    assert_eq!(host.closed, Some(None));
}

#[test]
fn a_last_word_is_said_once() {
    let mut host = Host::new(codec(Xor::server(1)).codec(length()).tail(Echo));
    host.feed([b"HELO".to_vec(), record(&frame("x"), 1)].concat()).run();
    host.window = 0;
    host.close();
    host.close();
    host.feed_end();
    host.window = usize::MAX;
    host.run();
    assert_eq!(open_records(&host.sent[4..], 1).byes, 1);
}

#[test]
fn large_frames_pass_every_level_whole() {
    let large = |n: usize| (0..n).map(|i| (i % 251) as u8).collect::<Vec<_>>();
    let plain = frames(&[large(10), large(BY_REFERENCE_BYTES), large(3), large(100_000), large(5)]);
    let mut host = Host::new(codec(Xor::server(1)).codec(length()).tail(Echo));
    host.feed(b"HELO");
    for part in plain.chunks(30_000) {
        host.feed(record(part, 1));
    }
    host.run();
    assert_eq!(open_records(&host.sent[4..], 1).plain, plain);
    let mut host = Host::new(codec(length()).tail(Echo));
    host.feed(&plain).run();
    assert_eq!(host.sent, plain);
}

/// Asks for a message when it is told to, and notes what it reads.
struct OneByOne(Log);

struct Another;

impl Tail for OneByOne {
    type In = String;
    type Out = String;
    fn event(&mut self, cx: &mut Context<'_, String>, event: &mut Event) -> Result<()> {
        if event.take::<Another>().is_some() {
            cx.read_one();
        }
        Ok(())
    }
    fn read(&mut self, _cx: &mut Context<'_, String>, line: String) -> Result<()> {
        self.0.add(line);
        Ok(())
    }
}

#[test]
fn demand_and_counters_are_of_messages_not_of_what_they_are_made_of() {
    let log = Log::default();
    let limits = Limits { auto_read: false, ..Limits::default() };
    let pipeline = codec(Raw).then(Pass::default()).codec(Lines::lf(100)).tail(OneByOne(log.clone()));
    let mut host = Host::with_limits(pipeline, limits);
    host.feed("one\ntwo\nthr").feed("ee\nfour\n").run();
    assert!(log.take().is_empty());
    for line in ["one", "two", "three", "four"] {
        host.event(Another);
        host.run();
        assert_eq!(log.take(), [line]);
    }
    assert_eq!(host.messages, 4);
}
