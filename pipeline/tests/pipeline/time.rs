//! Timers, limits of waits, and demand.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use perihelion_pipeline::*;

use crate::common::{Echo, Gate, Host, Log, frame, frames, length, spy, texts};

const SECOND: Duration = Duration::from_secs(1);

/// Sets the timers that it is told.
struct Timers(Vec<(u32, u64)>);

impl Handler for Timers {
    type In = Bytes;
    type Next = Bytes;
    type Write = Bytes;
    type Out = Bytes;
    fn open(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
        for (key, seconds) in &self.0 {
            cx.set_timer(*key, SECOND * *seconds as u32);
        }
        Ok(())
    }
    fn read(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<Flow<Bytes>> {
        cx.cancel_timer(u32::from(msg[0] - b'0'));
        Ok(Flow::Next(msg))
    }
    fn write(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        cx.write(msg)
    }
    fn timer(&mut self, cx: &mut Context<'_, Bytes>, key: u32) -> Result<()> {
        cx.write(format!("{key}").into())
    }
}

#[test]
fn timers_come_in_order_to_the_stage_that_has_set_them() {
    let log = Log::default();
    let timers = Timers(vec![(1, 3), (2, 1), (3, 2), (1, 5)]);
    let mut host = Host::new(
        codec(length()).then(timers).then(spy("above", &log)).then(Timers(vec![(9, 4)])).tail(Echo),
    );
    host.feed(frame("3")).run();
    host.sent.clear();
    log.take();
    host.advance(SECOND * 10);
    assert_eq!(texts(&host.sent), ["2", "9", "1"], "the third is cancelled, and the first was put off");
    assert!(!log.take().iter().any(|line| line.contains("timer")), "nobody else is told");
}

#[test]
fn the_event_loop_is_asked_once_to_look_at_a_timer() {
    let mut host = Host::new(codec(length()).then(Timers(vec![(1, 1), (2, 3)])).tail(Echo));
    let first = host.runner.timer_to_arm().unwrap();
    assert_eq!(host.runner.timer_to_arm(), None, "it was asked");
    host.feed(frame("9")).run();
    assert_eq!(host.runner.timer_to_arm(), None, "nothing has changed");
    host.advance(SECOND * 2);
    assert_eq!(host.runner.timer_to_arm(), Some(first + SECOND * 2), "the first has come");
    assert_eq!(host.runner.timer_to_arm(), None);
}

#[test]
fn a_slot_that_changes_takes_its_timers_with_it() {
    let key = SlotKey::new();
    let mut host = Host::new(codec(length()).slot(&key, Timers(vec![(1, 1)])).tail(Echo));
    key.remove().unwrap();
    host.run();
    assert_eq!(host.runner.next_timer(), None);
    host.advance(SECOND * 10);
    assert_eq!(host.text(), "");
}

#[test]
#[should_panic(expected = "at most 1024 timers")]
fn timers_are_bounded() {
    let timers = (0..1025).map(|key| (key, 1)).collect();
    Host::new(codec(length()).then(Timers(timers)).tail(Echo));
}

/// Waits and never says another word.
struct Forever;

impl Handler for Forever {
    type In = Bytes;
    type Next = Bytes;
    type Write = Bytes;
    type Out = Bytes;
    fn read(&mut self, _cx: &mut Context<'_, Bytes>, _msg: Bytes) -> Result<Flow<Bytes>> {
        Ok(Flow::Wait)
    }
    fn write(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        cx.write(msg)
    }
    fn more(&mut self, _cx: &mut Context<'_, Bytes>) -> Result<Flow<Bytes>> {
        Ok(Flow::Wait)
    }
}

struct Never;

impl Handler for Never {
    type In = Bytes;
    type Next = Bytes;
    type Write = Bytes;
    type Out = Bytes;
    fn read(&mut self, _cx: &mut Context<'_, Bytes>, _msg: Bytes) -> Result<Flow<Bytes>> {
        Ok(Flow::later(std::future::pending()))
    }
    fn write(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        cx.write(msg)
    }
}

#[test]
fn every_wait_has_a_limit() {
    let limits = Limits::default();
    let limit = limits.wait.unwrap();
    let hosts = [
        Host::new(codec(length()).then(Forever).tail(Echo)),
        Host::new(codec(length()).then(Never).tail(Echo)),
        Host::new(codec(length()).service(async |_: Bytes| std::future::pending::<Result<Bytes>>().await)),
    ];
    for mut host in hosts {
        host.feed(frame("a")).run();
        host.advance(limit - SECOND);
        host.wake(); // which is no progress
        host.run();
        assert_eq!(host.closed, None);
        host.advance(SECOND);
        let reason = host.closed.clone().flatten().expect("the wait has ended");
        assert!(reason.contains("waited for longer than 30s"), "{reason}");
    }
}

#[test]
fn a_wait_that_goes_on_has_the_limit_for_each_message() {
    let gate = Gate::new();
    let wait = gate.clone();
    let mut host = Host::new(codec(length()).service(async move |msg: Bytes| {
        wait.wait().await;
        Ok(msg)
    }));
    host.feed(frames(&["a", "b", "c"])).run();
    for _ in 0..3 {
        host.advance(SECOND * 29);
        gate.open(());
        host.run();
    }
    assert_eq!(texts(&host.sent), ["a", "b", "c"]);
    host.advance(SECOND * 100);
    assert_eq!(host.closed, None, "an idle channel waits for nobody");
}

#[test]
fn a_peer_that_does_not_read_and_a_pause_are_no_waits() {
    let limits = Limits { high_water_bytes: 1, low_water_bytes: 0, ..Limits::default() };
    let mut host = Host::with_limits(codec(length()).tail(Echo), limits);
    host.window = 0;
    host.feed(frames(&["a", "b"])).run();
    host.advance(SECOND * 100);
    assert!(!host.runner.is_closing());
}

/// Gives its handle on the channel's demand away.
struct Demanding(Rc<RefCell<Option<DemandHandle>>>);

impl Tail for Demanding {
    type In = Bytes;
    type Out = Bytes;
    fn open(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
        *self.0.borrow_mut() = Some(cx.demand());
        Ok(())
    }
    fn read(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        match &msg[..] {
            b"pause" => cx.pause(),
            b"one" => cx.read_one(),
            _ => {}
        }
        cx.write(msg)
    }
}

#[test]
fn a_channel_without_auto_read_reads_what_is_asked_for() {
    let demand = Rc::default();
    let limits = Limits { auto_read: false, messages_per_turn: 2, ..Limits::default() };
    let mut host = Host::with_limits(codec(length()).tail(Demanding(Rc::clone(&demand))), limits);
    let demand = demand.take().unwrap();
    host.feed(frames(&["a", "b", "c", "d", "e", "one", "g", "h"])).run();
    assert_eq!(host.text(), "");
    demand.read_one();
    host.run();
    assert_eq!(texts(&host.sent), ["a"]);
    (0..4).for_each(|_| demand.read_one());
    host.run();
    assert_eq!(texts(&host.sent), ["a", "b", "c", "d", "e"], "more than a turn may have");
    demand.read_one();
    host.run();
    assert_eq!(texts(&host.sent)[5..], ["one", "g"], "a stage asks too");
    demand.resume();
    host.feed_end().run();
    assert_eq!(texts(&host.sent).len(), 8);
    assert_eq!(host.closed, Some(None));
}

#[test]
fn stages_and_tasks_pause_and_resume() {
    let demand = Rc::default();
    let mut host = Host::new(codec(length()).tail(Demanding(Rc::clone(&demand))));
    let demand = demand.take().unwrap();
    host.feed(frames(&["a", "pause", "b", "c", "d"])).run();
    assert_eq!(texts(&host.sent), ["a", "pause"]);
    demand.read_one();
    host.run();
    assert_eq!(texts(&host.sent)[2..], ["b"]);
    demand.resume();
    demand.pause();
    host.run();
    assert_eq!(texts(&host.sent).len(), 3, "the last wish counts");
    demand.resume();
    host.run();
    assert_eq!(texts(&host.sent)[3..], ["c", "d"]);
}
