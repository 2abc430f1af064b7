//! The events of a channel's life, and their order.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use perihelion_pipeline::*;

use crate::common::{Echo, Gate, Host, Log, frame, frames, length, spy};
use crate::flow::LookUp;

fn spied(log: &Log) -> impl Pipeline<In = Bytes, Out = Bytes> + use<> {
    codec(length()).then(spy("1", log)).then(spy("2", log)).tail(Echo)
}

#[test]
fn a_life() {
    let log = Log::default();
    let mut host = Host::new(spied(&log));
    assert_eq!(log.take(), ["1:open", "2:open"]);
    host.feed(frames(&["a", "b"])).run();
    let echo = ["1:read", "2:read", "2:write", "1:write"];
    assert_eq!(log.take(), [&echo[..], &echo, &["1:read_complete", "2:read_complete"]].concat());
    host.feed(frame("c")).feed_end().run();
    // The end comes in the same turn here, so one read-complete closes both.
    let end = ["1:half_closed", "2:half_closed", "2:close", "1:close", "1:read_complete", "2:read_complete"];
    let closed = ["1:closed in order", "2:closed in order"];
    assert_eq!(log.take(), [&echo[..], &end, &closed].concat());
}

#[test]
fn read_complete_comes_once_for_each_turn_that_read() {
    let log = Log::default();
    let mut host = Host::new(spied(&log));
    log.take();
    let completes = |log: &Log| log.take().iter().filter(|line| *line == "2:read_complete").count();
    host.feed(frame("a")).feed(frame("b"));
    host.turn();
    assert_eq!(completes(&log), 1);
    host.turn();
    host.wake();
    host.turn();
    assert_eq!(completes(&log), 0, "nothing was read");
    // Half a frame is a read too: whoever counts bytes wants to know.
    host.feed([0]);
    host.turn();
    assert_eq!(completes(&log), 1);
}

#[test]
fn read_complete_waits_for_what_is_held() {
    let (gate, log) = (Gate::new(), Log::default());
    let limits = Limits { messages_per_turn: 1, ..Limits::default() };
    let look_up = LookUp { gate: gate.clone() };
    let mut host = Host::with_limits(codec(length()).then(look_up).then(spy("s", &log)).tail(Echo), limits);
    log.take();
    host.feed(frames(&["a", "?b", "c"])).run();
    assert_eq!(log.take(), ["s:read", "s:write"]);
    gate.open("1");
    host.run();
    assert_eq!(log.take(), ["s:read", "s:write", "s:read", "s:write", "s:read_complete"]);
}

#[test]
fn an_error_of_the_transport_travels_from_there_to_the_tail() {
    let log = Log::default();
    let mut host = Host::new(spied(&log));
    log.take();
    host.fail(Error::msg("reset"));
    assert_eq!(log.take(), ["1:error reset", "2:error reset", "1:closed reset", "2:closed reset"]);
    assert_eq!(host.closed, Some(Some("reset".into())));
}

#[test]
fn after_a_close_nothing_is_read() {
    let log = Log::default();
    let mut host = Host::new(spied(&log));
    log.take();
    host.window = 0;
    host.feed(frame("a"));
    host.turn();
    host.close();
    log.take();
    host.push(frame("b"));
    host.wake();
    host.turn();
    assert!(!host.runner.wants_bytes(true));
    assert_eq!(log.take(), [""; 0]);
    host.window = usize::MAX;
    host.run();
    assert_eq!(log.take(), ["1:closed in order", "2:closed in order"]);
    assert_eq!(host.sent, frame("a"));
}

/// Memory of a receive pool that is in use.
struct Received {
    bytes: Vec<u8>,
    in_use: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Received {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        self.in_use.fetch_sub(1, Ordering::Relaxed);
    }
}

#[test]
fn received_memory_is_given_back() {
    let in_use = Arc::new(AtomicUsize::new(0));
    let mut host = Host::new(codec(length()).then(LookUp { gate: Gate::new() }).tail(Echo));
    let mut receive = |bytes: &[u8]| {
        in_use.fetch_add(1, Ordering::Relaxed);
        let received = Received { bytes: bytes.into(), in_use: in_use.clone() };
        host.runner.received(&mut host.channel, Bytes::from_owner(received));
    };
    receive(&frame("whole"));
    assert_eq!(in_use.load(Ordering::Relaxed), 0);
    receive(&frame("in two")[..7]);
    assert_eq!(in_use.load(Ordering::Relaxed), 0, "a rest is copied");
    receive(&frame("in two")[7..]);
    assert_eq!(in_use.load(Ordering::Relaxed), 0);
    receive(&frame("?waits"));
    receive(&frame("behind it"));
    assert_eq!(in_use.load(Ordering::Relaxed), 2);
    host.fail(Error::msg("reset"));
    assert_eq!(in_use.load(Ordering::Relaxed), 0, "what waits is dropped at the close");
}

/// Gives what is put into its box, when it is asked and without a byte received.
struct Boxed(Rc<Cell<Option<Bytes>>>);

impl Protocol for Boxed {
    type Frame = Bytes;
    type Item = Bytes;
    fn read(&mut self, _wire: &mut Wire<'_>, _input: &mut Input) -> Result<Flow<Bytes>> {
        Ok(self.0.take().map_or(Flow::Done, Flow::Next))
    }
    fn write(&mut self, wire: &mut Wire<'_>, item: Bytes) -> Result<()> {
        wire.output().put_bytes(item);
        Ok(())
    }
}

#[test]
fn read_complete_comes_for_what_a_wake_up_brought() {
    let (log, put) = (Log::default(), Rc::new(Cell::new(None)));
    let mut host = Host::new(codec(Boxed(put.clone())).then(spy("s", &log)).tail(Echo));
    host.run();
    log.take();
    put.set(Some("x".into()));
    host.wake();
    host.run();
    assert_eq!(log.take(), ["s:read", "s:write", "s:read_complete"]);
}

/// Is paused from the start, until it is flushed for the third time.
struct Late {
    flushes: u32,
}

impl Handler for Late {
    type In = Bytes;
    type Next = Bytes;
    type Write = Bytes;
    type Out = Bytes;
    fn read(&mut self, _cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<Flow<Bytes>> {
        Ok(Flow::Next(msg))
    }
    fn write(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        cx.write(msg)
    }
    fn open(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
        cx.pause();
        Ok(())
    }
    fn flush(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
        self.flushes += 1;
        if self.flushes == 3 {
            cx.resume();
        }
        cx.flush()
    }
}

#[test]
fn what_comes_before_a_wake_up_is_heard_does_not_overtake_what_waits() {
    let mut host = Host::new(transport().then(Late { flushes: 0 }).tail(Echo));
    for chunk in ["a", "b", "c", "d"] {
        host.push(chunk);
    }
    host.run();
    assert_eq!(host.text(), "abcd");
}

/// Keeps the channel open when the other side sends no more, and says good-bye by itself.
struct Stays;

impl Tail for Stays {
    type In = Bytes;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        cx.write(msg)
    }
    fn half_closed(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
        cx.write("bye".into())
    }
}

#[test]
fn a_half_closed_channel_may_stay_open() {
    let log = Log::default();
    let mut host = Host::new(codec(length()).then(spy("s", &log)).tail(Stays));
    host.feed(frame("a")).feed_end().run();
    host.wake();
    host.run();
    assert_eq!(host.sent, frames(&["a", "bye"]));
    assert_eq!(log.take().iter().filter(|line| line.ends_with("half_closed")).count(), 1);
    assert_eq!(host.closed, None);
    host.close();
    assert_eq!(host.closed, Some(None));
}
