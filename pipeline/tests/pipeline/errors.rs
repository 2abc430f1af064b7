//! Errors: whose hook sees them, who may handle them, and how they become the reason of a close.

use std::time::Duration;

use bytes::Bytes;
use perihelion_pipeline::*;

use crate::common::{Echo, Host, Log, frame, frames, length, spy, texts};
use crate::xor::{Xor, record};

/// Fails in one hook, and handles its errors or not.
struct Fails {
    hook: &'static str,
    handles: bool,
}

impl Fails {
    fn in_hook(&self, hook: &str) -> Result<()> {
        if self.hook == hook { Err(Error::msg(format!("in {hook}"))) } else { Ok(()) }
    }
}

impl Handler for Fails {
    type In = Bytes;
    type Next = Bytes;
    type Write = Bytes;
    type Out = Bytes;
    fn read(&mut self, _cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<Flow<Bytes>> {
        self.in_hook("read")?;
        Ok(match self.hook {
            "later" => Flow::later(async { Err(Error::msg("in later")) }),
            "more" => Flow::More(msg),
            _ => Flow::Next(msg),
        })
    }
    fn more(&mut self, _cx: &mut Context<'_, Bytes>) -> Result<Flow<Bytes>> {
        self.in_hook("more")?;
        Ok(Flow::Done)
    }
    fn write(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        self.in_hook("write")?;
        cx.write(msg)
    }
    fn open(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
        cx.set_timer(0, Duration::from_secs(1));
        self.in_hook("open")
    }
    fn event(&mut self, _cx: &mut Context<'_, Bytes>, event: &mut Event) -> Result<()> {
        event.take::<u8>();
        self.in_hook("event")
    }
    fn timer(&mut self, _cx: &mut Context<'_, Bytes>, _key: u32) -> Result<()> {
        self.in_hook("timer")
    }
    fn removed(&mut self, _cx: &mut Context<'_, Bytes>) -> Result<()> {
        self.in_hook("removed")
    }
    fn read_complete(&mut self, _cx: &mut Context<'_, Bytes>) -> Result<()> {
        self.in_hook("read_complete")
    }
    fn writable(&mut self, _cx: &mut Context<'_, Bytes>, _writable: bool) -> Result<()> {
        self.in_hook("writable")
    }
    fn half_closed(&mut self, _cx: &mut Context<'_, Bytes>) -> Result<()> {
        self.in_hook("half_closed")
    }
    fn flush(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
        self.in_hook("flush")?;
        cx.flush()
    }
    fn operate(&mut self, cx: &mut Context<'_, Bytes>, operation: Operation) -> Result<()> {
        match &operation {
            Operation::Close => self.in_hook("close")?,
            Operation::CloseOutput => self.in_hook("close_output")?,
            Operation::Promise(_) => self.in_hook("promise")?,
            Operation::Event(_) => self.in_hook("outbound_event")?,
            Operation::Bind(_) | Operation::Connect(_) => {}
        }
        cx.operate(operation)
    }
    fn error(&mut self, _cx: &mut Context<'_, Bytes>, error: Error) -> Result<()> {
        if self.handles { Ok(()) } else { Err(error) }
    }
}

/// Handles errors or not.
struct Handles {
    handles: bool,
    log: Log,
}

impl Handles {
    fn error(&self, error: Error) -> Result<()> {
        self.log.add(format!("tail:error {error}"));
        if self.handles { Ok(()) } else { Err(error) }
    }
}

impl Tail for Handles {
    type In = Bytes;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        cx.write(msg)?;
        drop(cx.written()?);
        cx.send_event("event")
    }
    fn half_closed(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
        cx.close_output()?;
        cx.close()
    }
    fn error(&mut self, _cx: &mut Context<'_, Bytes>, error: Error) -> Result<()> {
        Handles::error(self, error)
    }
    fn closed(&mut self, why: Option<&Error>) {
        self.log.add(format!("tail:closed {}", why.map_or("in order".into(), ToString::to_string)));
    }
}

const HOOKS: [&str; 17] = [
    "read",
    "later",
    "more",
    "write",
    "open",
    "read_complete",
    "writable",
    "half_closed",
    "flush",
    "close",
    "close_output",
    "promise",
    "outbound_event",
    "event",
    "timer",
    "removed",
    "nowhere",
];

/// Lives through everything that may fail, and gives what the stages saw of it.
fn live(hook: &'static str, own: bool, tail: bool) -> (Host, Vec<String>) {
    let log = Log::default();
    let limits = Limits { high_water_bytes: 0, low_water_bytes: 0, ..Limits::default() };
    let key = SlotKey::new();
    let pipeline = codec(length())
        .then(spy("below", &log))
        .slot(&key, Fails { hook, handles: own })
        .then(spy("above", &log))
        .tail(Handles { handles: tail, log: log.clone() });
    let mut host = Host::with_limits(pipeline, limits);
    host.feed(frame("a")).run();
    if host.closed.is_none() {
        host.event(1u8);
        host.advance(Duration::from_secs(2));
    }
    if hook == "removed" {
        key.remove().unwrap();
        host.run();
    }
    host.feed_end().run();
    host.close();
    host.run();
    let mut seen = log.take();
    seen.retain(|line| line.contains("error") || line.contains("closed "));
    let mut once = std::collections::HashSet::new();
    seen.retain(|line| once.insert(line.clone())); // a hook that fails may be called more than once
    (host, seen)
}

#[test]
fn an_error_in_any_hook_that_nobody_handles_is_the_reason_that_every_stage_is_told() {
    for hook in HOOKS {
        let (host, seen) = live(hook, false, false);
        let (reason, met) = if hook == "nowhere" {
            ("in order".to_owned(), 0)
        } else {
            (format!("in {hook}"), 2) // the stages towards the tail, each once
        };
        let error = [format!("above:error {reason}"), format!("tail:error {reason}")];
        let closed = ["below", "above", "tail"].map(|name| format!("{name}:closed {reason}"));
        assert_eq!(seen, [&error[..met], &closed].concat(), "{hook}");
        assert_eq!(host.closed, Some((met > 0).then_some(reason)), "{hook}");
    }
}

#[test]
fn an_error_in_any_hook_that_its_own_stage_handles_meets_no_other() {
    for hook in HOOKS {
        let (host, seen) = live(hook, true, false);
        assert_eq!(seen, ["below", "above", "tail"].map(|name| format!("{name}:closed in order")), "{hook}");
        assert_eq!(host.closed, Some(None), "{hook}: it closes all the same");
        let replies = if ["read", "later", "write"].contains(&hook) { vec![] } else { vec!["a"] };
        assert_eq!(texts(&host.sent), replies, "{hook}: nothing that was written is lost");
    }
}

#[test]
fn an_error_in_any_hook_that_the_tail_handles_closes_for_no_reason() {
    for hook in HOOKS {
        let (host, seen) = live(hook, false, true);
        let errors = seen.iter().filter(|line| line.starts_with("tail:error")).count();
        assert_eq!(errors, usize::from(hook != "nowhere"), "{hook}");
        assert_eq!(host.closed, Some(None), "{hook}");
    }
}

/// Numbers; a line that is none is an error, which its stage may answer.
struct Numbers {
    answers: bool,
}

impl Handler for Numbers {
    type In = String;
    type Next = u64;
    type Write = u64;
    type Out = String;
    fn read(&mut self, _cx: &mut Context<'_, String>, line: String) -> Result<Flow<u64>> {
        Ok(Flow::Next(line.parse()?))
    }
    fn write(&mut self, cx: &mut Context<'_, String>, number: u64) -> Result<()> {
        if number == 13 {
            return Err(Error::msg("unlucky"));
        }
        cx.write(number.to_string())
    }
    fn error(&mut self, cx: &mut Context<'_, String>, error: Error) -> Result<()> {
        if self.answers { cx.write(format!("no: {error}")) } else { Err(error) }
    }
}

/// Adds one.
struct Next {
    answers: bool,
}

impl Tail for Next {
    type In = u64;
    type Out = u64;
    fn read(&mut self, cx: &mut Context<'_, u64>, number: u64) -> Result<()> {
        cx.write(number + 1)
    }
    fn error(&mut self, cx: &mut Context<'_, u64>, error: Error) -> Result<()> {
        if self.answers { cx.write(0) } else { Err(error) }
    }
}

#[test]
fn whoever_handles_an_error_lets_the_channel_live() {
    let lines = b"1\r\nx\r\n12\r\n\xff\r\nlone\n2\r\n";
    let mut host =
        Host::new(codec(Lines::crlf(99)).then(Numbers { answers: true }).tail(Next { answers: false }));
    host.feed(lines).run();
    assert_eq!(
        host.text(),
        "2\r\nno: invalid digit found in string\r\nno: unlucky\r\n\
         no: invalid utf-8 sequence of 1 bytes from index 0\r\nno: a line feed without a carriage return\r\n3\r\n"
    );
    assert_eq!(host.closed, None);

    let mut host =
        Host::new(codec(Lines::crlf(99)).then(Numbers { answers: false }).tail(Next { answers: true }));
    host.feed(lines).run();
    assert_eq!(host.text(), "2\r\n0\r\n0\r\n0\r\n0\r\n3\r\n");

    let mut host =
        Host::new(codec(Lines::crlf(99)).then(Numbers { answers: false }).tail(Next { answers: false }));
    host.feed(lines).run();
    assert_eq!(host.text(), "2\r\n");
    assert_eq!(host.closed, Some(Some("invalid digit found in string".into())));
}

/// Handles every error.
struct Forgives(Log);

impl Tail for Forgives {
    type In = Bytes;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        cx.write(msg)
    }
    fn error(&mut self, _cx: &mut Context<'_, Bytes>, error: Error) -> Result<()> {
        self.0.add(error.to_string());
        Ok(())
    }
}

#[test]
fn an_error_that_is_handled_twice_at_the_same_place_closes() {
    let log = Log::default();
    let mut host = Host::new(codec(LengthPrefixed::u32_be(9)).tail(Forgives(log.clone())));
    host.feed([frame("good"), frame("far too long")].concat()).run();
    assert_eq!(texts(&host.sent), ["good"]);
    assert_eq!(log.take(), ["a frame of 12 bytes: at most 9 are allowed"]);
    assert_eq!(host.closed, Some(Some("a frame of 12 bytes: at most 9 are allowed".into())));

    let mut host = Host::new(codec(length()).tail(Forgives(log.clone())));
    host.feed([frame("whole"), vec![0, 0]].concat()).feed_end().run();
    assert_eq!(texts(&host.sent), ["whole"]);
    assert_eq!(host.closed, Some(Some("the stream ended inside a frame, after 2 bytes of it".into())));
}

/// Fails in a future that uses nothing up, now or at its second poll.
struct FailsLater {
    pending: bool,
}

impl Protocol for FailsLater {
    type Frame = Bytes;
    type Item = Bytes;
    fn read(&mut self, _wire: &mut Wire<'_>, input: &mut Input) -> Result<Flow<Bytes>> {
        if input.is_empty() {
            return Ok(Flow::Done);
        }
        if std::mem::take(&mut self.pending) {
            let mut polls = 0;
            return Ok(Flow::later(std::future::poll_fn(move |task| {
                polls += 1;
                task.waker().wake_by_ref();
                if polls < 3 {
                    std::task::Poll::Pending
                } else {
                    std::task::Poll::Ready(Err(Error::msg("late")))
                }
            })));
        }
        Ok(Flow::later(async { Err(Error::msg("at once")) }))
    }
    fn write(&mut self, _wire: &mut Wire<'_>, _item: Bytes) -> Result<()> {
        Ok(())
    }
}

#[test]
fn a_protocol_whose_futures_fail_does_not_spin() {
    for pending in [false, true] {
        let log = Log::default();
        let mut host = Host::new(codec(FailsLater { pending }).tail(Forgives(log.clone())));
        host.feed("x").run();
        let expected = if pending { vec!["late", "at once"] } else { vec!["at once"] };
        assert_eq!(log.take(), expected);
        assert_eq!(host.closed, Some(Some("at once".into())));
    }
}

#[test]
fn an_error_below_travels_through_a_nested_codec() {
    let log = Log::default();
    let pipeline = codec(Xor::server(1)).then(spy("1", &log)).codec(length()).then(spy("2", &log)).tail(Echo);
    let mut host = Host::new(pipeline);
    log.take();
    host.feed([b"HELO".to_vec(), record(&frames(&["a"]), 1), b"?\0\0\0\0".to_vec()].concat()).run();
    assert_eq!(host.closed, Some(Some("an unknown record".into())));
    let mut seen = log.take();
    seen.retain(|line| line.contains("error"));
    assert_eq!(seen, ["1:error an unknown record", "2:error an unknown record"]);
}
