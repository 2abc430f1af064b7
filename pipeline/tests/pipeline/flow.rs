//! `Later`, `More` and `Wait` in the middle of a pipeline: order, pauses, and a bounded number of messages a turn.

use std::pin::Pin;

use bytes::Bytes;
use perihelion_pipeline::*;

use crate::common::{Echo, Gate, Host, Log, frame, frames, length, spy, texts};

/// A message that begins with a question mark is looked up; the answer comes when the test opens the gate.
pub(crate) struct LookUp {
    pub(crate) gate: Gate<&'static str>,
}

impl Handler for LookUp {
    type In = Bytes;
    type Next = Bytes;
    type Write = Bytes;
    type Out = Bytes;
    fn read(&mut self, _cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<Flow<Bytes>> {
        if !msg.starts_with(b"?") {
            return Ok(Flow::Next(msg));
        }
        let answer = self.gate.wait();
        Ok(Flow::later(
            async move { Ok(Flow::Next([&msg[1..], b"=", answer.await.as_bytes()].concat().into())) },
        ))
    }
    fn write(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        cx.write(msg)
    }
}

#[test]
fn later_keeps_the_order_of_what_comes_behind_it() {
    let (gate, log) = (Gate::new(), Log::default());
    let look_up = LookUp { gate: gate.clone() };
    let mut host =
        Host::new(codec(length()).then(spy("below", &log)).then(look_up).then(spy("above", &log)).tail(Echo));
    log.take();
    // In one chunk, so that the codec holds undecoded bytes while the look-up waits; and one more behind it.
    host.feed(frames(&["a", "?b", "c", "?d", "e"])).feed(frame("f")).run();
    assert_eq!(texts(&host.sent), ["a"]);
    assert_eq!(log.take(), ["below:read", "above:read", "above:write", "below:write", "below:read"]);
    gate.open("1");
    host.run();
    assert_eq!(texts(&host.sent), ["a", "b=1", "c"]);
    gate.open("2");
    host.run();
    assert_eq!(texts(&host.sent), ["a", "b=1", "c", "d=2", "e", "f"]);
    let seen = log.take();
    assert_eq!(seen.iter().filter(|line| line.ends_with("read_complete")).count(), 2, "once, at the end");
    assert!(seen.last().unwrap().ends_with("read_complete"));
}

#[test]
fn a_frame_may_come_drop_by_drop_while_a_stage_waits() {
    let gate = Gate::new();
    let mut host = Host::new(codec(length()).then(LookUp { gate: gate.clone() }).tail(Echo));
    for byte in frames(&["one", "?two", "three"]) {
        host.feed([byte]).run();
    }
    assert!(!host.has_received_all(), "a channel that waits does not receive without end");
    gate.open("2");
    host.run();
    assert_eq!(texts(&host.sent), ["one", "two=2", "three"]);
}

#[test]
fn chunks_that_come_unwanted_are_kept() {
    let gate = Gate::new();
    let mut host = Host::new(codec(length()).then(LookUp { gate: gate.clone() }).tail(Echo));
    for byte in frames(&["?one", "two", "three"]) {
        host.push([byte]);
    }
    assert!(!host.runner.wants_bytes(true));
    gate.open("1");
    host.run();
    assert_eq!(texts(&host.sent), ["one=1", "two", "three"]);
    assert!(host.runner.wants_bytes(true));
}

#[test]
fn the_end_waits_for_what_came_before_it() {
    let gate = Gate::new();
    let mut host = Host::new(codec(length()).then(LookUp { gate: gate.clone() }).tail(Echo));
    host.feed(frame("?x")).feed(frame("y")).feed_end().run();
    assert_eq!(host.closed, None);
    assert!(!host.runner.wants_bytes(true), "nothing comes after an end");
    gate.open("1");
    host.run();
    assert_eq!(texts(&host.sent), ["x=1", "y"]);
    assert_eq!(host.closed, Some(None));
}

#[test]
fn a_close_from_outside_waits_for_what_was_received() {
    let gate = Gate::new();
    let mut host = Host::new(codec(length()).then(LookUp { gate: gate.clone() }).tail(Echo));
    host.feed(frame("?x")).feed(frame("y")).run();
    host.close();
    host.run();
    assert_eq!(host.closed, None);
    host.push(frame("too late"));
    gate.open("1");
    host.run();
    assert_eq!(texts(&host.sent), ["x=1", "y"]);
    assert_eq!(host.closed, Some(None));
}

#[test]
fn a_broken_connection_drops_what_waits() {
    let gate = Gate::new();
    let mut host = Host::new(codec(length()).then(LookUp { gate: gate.clone() }).tail(Echo));
    host.feed(frame("?x")).feed(frame("y")).run();
    host.fail(Error::msg("reset"));
    gate.open("1");
    host.run();
    assert_eq!(host.sent, b"");
}

#[test]
fn a_close_from_outside_ends_a_pause() {
    struct Pauses;
    impl Tail for Pauses {
        type In = Bytes;
        type Out = Bytes;
        fn read(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
            cx.pause();
            cx.write(msg)
        }
    }
    let mut host = Host::new(codec(length()).tail(Pauses));
    host.feed(frame("a")).feed(frame("b")).run();
    host.close();
    host.run();
    assert_eq!(texts(&host.sent), ["a"]);
    assert_eq!(host.closed, Some(None));

    // And one that begins while what was received is being done.
    let gate = Gate::new();
    let mut host = Host::new(codec(length()).then(LookUp { gate: gate.clone() }).tail(Pauses));
    host.feed(frame("?a")).feed(frame("b")).run();
    host.close();
    gate.open("1");
    host.run();
    assert_eq!(texts(&host.sent), ["a=1"]);
    assert_eq!(host.closed, Some(None));
}

/// Splits a message into its bytes: many messages of one.
struct Split {
    rest: Bytes,
}

impl Split {
    fn new() -> Self {
        Split { rest: Bytes::new() }
    }

    fn next(&mut self) -> Flow<Bytes> {
        match self.rest.len() {
            0 => Flow::Done,
            1 => Flow::Next(self.rest.split_to(1)),
            _ => Flow::More(self.rest.split_to(1)),
        }
    }
}

impl Handler for Split {
    type In = Bytes;
    type Next = Bytes;
    type Write = Bytes;
    type Out = Bytes;
    fn read(&mut self, _cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<Flow<Bytes>> {
        self.rest = msg;
        Ok(self.next())
    }
    fn more(&mut self, _cx: &mut Context<'_, Bytes>) -> Result<Flow<Bytes>> {
        Ok(self.next())
    }
    fn write(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        cx.write(msg)
    }
}

/// Asks for the `x` among the messages.
struct AskForX;

impl Handler for AskForX {
    type In = Bytes;
    type Next = Bytes;
    type Write = Bytes;
    type Out = Bytes;
    fn read(&mut self, _cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<Flow<Bytes>> {
        Ok(Flow::Next(if msg == "x" { "?x".into() } else { msg }))
    }
    fn write(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        cx.write(msg)
    }
}

#[test]
fn more_below_later_below_more() {
    let gate = Gate::new();
    let mut host = Host::new(
        codec(length())
            .then(Split::new())
            .then(AskForX)
            .then(LookUp { gate: gate.clone() })
            .then(Split::new())
            .tail(Echo),
    );
    host.feed(frames(&["axb", "c"])).run();
    assert_eq!(texts(&host.sent), ["a"]);
    gate.open("12");
    host.run();
    assert_eq!(texts(&host.sent), ["a", "x", "=", "1", "2", "b", "c"]);
}

/// Asks a user's name with `Wait`: the handler keeps the future, and sees the answer with `&mut self`.
struct Login {
    gate: Gate<bool>,
    asking: Option<Pin<Box<dyn Future<Output = bool>>>>,
    user: Option<&'static str>,
}

impl Handler for Login {
    type In = Bytes;
    type Next = Bytes;
    type Write = Bytes;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<Flow<Bytes>> {
        if self.user.is_some() {
            return Ok(Flow::Next(msg));
        }
        self.asking = Some(Box::pin(self.gate.wait()));
        self.more(cx)
    }
    fn more(&mut self, cx: &mut Context<'_, Bytes>) -> Result<Flow<Bytes>> {
        let Some(asking) = &mut self.asking else { return Ok(Flow::Done) };
        match asking.as_mut().poll(&mut std::task::Context::from_waker(cx.waker())) {
            std::task::Poll::Pending => Ok(Flow::Wait),
            std::task::Poll::Ready(false) => Err(Error::msg("denied")),
            std::task::Poll::Ready(true) => {
                self.user = Some("me");
                self.asking = None;
                cx.write("welcome".into())?;
                Ok(Flow::Done)
            }
        }
    }
    fn write(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        cx.write(msg)
    }
}

#[test]
fn wait_gives_the_answer_to_the_handler() {
    for (answer, replies, reason) in
        [(true, vec!["welcome", "hi"], None), (false, vec![], Some(Some("denied".to_owned())))]
    {
        let gate = Gate::new();
        let login = Login { gate: gate.clone(), asking: None, user: None };
        let mut host = Host::new(codec(length()).then(login).tail(Echo));
        host.feed(frames(&["login", "hi"])).run();
        host.wake(); // for another reason: it is asked, and goes on waiting
        host.run();
        assert_eq!(host.sent, b"");
        gate.open(answer);
        host.run();
        assert_eq!(texts(&host.sent), replies);
        assert_eq!(host.closed, reason);
    }
}

/// Pauses at each message; a write of `resume` ends the pause.
struct Pauser {
    log: Log,
}

impl Handler for Pauser {
    type In = Bytes;
    type Next = Bytes;
    type Write = &'static str;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<Flow<Bytes>> {
        self.log.add(String::from_utf8_lossy(&msg));
        cx.pause();
        Ok(Flow::Next(msg))
    }
    fn write(&mut self, cx: &mut Context<'_, Bytes>, msg: &'static str) -> Result<()> {
        match msg {
            "resume" => cx.resume(),
            other => cx.write(other.into())?,
        }
        Ok(())
    }
}

struct Ignore;

impl Tail for Ignore {
    type In = Bytes;
    type Out = &'static str;
    fn read(&mut self, _cx: &mut Context<'_, &'static str>, _msg: Bytes) -> Result<()> {
        Ok(())
    }
}

#[test]
fn a_pause_acts_between_two_messages() {
    let (log, writer) = (Log::default(), Writer::new(4));
    let pauser = Pauser { log: log.clone() };
    let mut host =
        Host::new(codec(length()).then(Split::new()).then(pauser).tail_with_writer(Ignore, &writer));
    host.feed(frames(&["ab", "c"])).feed(frame("d")).feed_end().run();
    for expected in ["a", "b", "c", "d"] {
        assert_eq!(log.take(), [expected]);
        host.wake(); // a wake-up does not end a pause
        host.run();
        assert_eq!(log.take(), [""; 0]);
        assert_eq!(host.closed, None);
        writer.try_write("resume").unwrap();
        host.run();
    }
    assert_eq!(host.closed, Some(None), "an end that comes during a pause is not lost");
}

/// Pauses when the channel opens.
struct NotYet;

impl Handler for NotYet {
    type In = Bytes;
    type Next = Bytes;
    type Write = &'static str;
    type Out = Bytes;
    fn open(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
        cx.pause();
        Ok(())
    }
    fn read(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<Flow<Bytes>> {
        cx.write(msg)?;
        Ok(Flow::Done)
    }
    fn write(&mut self, cx: &mut Context<'_, Bytes>, _msg: &'static str) -> Result<()> {
        cx.resume();
        Ok(())
    }
}

#[test]
fn a_channel_that_opens_paused_keeps_what_comes() {
    let writer = Writer::new(1);
    let mut host = Host::new(codec(length()).then(NotYet).tail_with_writer(Ignore, &writer));
    host.push(&frame("a")[..3]);
    host.push(&frame("a")[3..]);
    host.feed(frame("b")).feed_end().run();
    assert_eq!(host.sent, b"");
    writer.try_write("go").unwrap();
    host.run();
    assert_eq!(texts(&host.sent), ["a", "b"]);
    assert_eq!(host.closed, Some(None));
}

fn at_most(messages_per_turn: u32) -> Limits {
    Limits { messages_per_turn, ..Limits::default() }
}

#[test]
fn a_turn_handles_a_bounded_number_of_messages() {
    let mut host = Host::with_limits(codec(length()).tail(Echo), at_most(8));
    host.feed(frames(&["x"; 100]));
    let mut turns = 0;
    while texts(&host.sent).len() < 100 {
        assert!(texts(&host.sent).len() <= 8 * turns);
        host.turn();
        turns += 1;
    }
    assert_eq!(turns, 14, "13 turns to read, and one more to send the rest");
}

#[test]
fn messages_that_are_made_of_one_are_bounded_too() {
    for limit in [1, 3] {
        let mut host = Host::with_limits(codec(length()).then(Split::new()).tail(Echo), at_most(limit));
        host.feed(frame("y".repeat(20))).feed(frame("zz"));
        let mut before = 0;
        while host.turn() {
            let now = texts(&host.sent).len();
            assert!(now - before <= limit as usize);
            before = now;
        }
        assert_eq!(before, 22);
    }
}

#[test]
fn a_limit_of_no_messages_is_one_message() {
    let mut channel = Channel::new(at_most(0));
    let mut runner = Runner::new(codec(length()).tail(Echo), &channel);
    runner.open(&mut channel);
    runner.received(&mut channel, frames(&["a", "b"]).into());
    assert!(runner.finish_turn(&mut channel));
    runner.resume(&mut channel);
    let _ = runner.finish_turn(&mut channel);
    assert_eq!(texts(runner.output().pop().unwrap().as_ref()), ["a", "b"]);
}
