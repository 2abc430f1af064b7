//! User events: where they go, in what order, and what becomes of those that nobody takes.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::task::Waker;
use std::time::Instant;

use bytes::Bytes;
use perihelion_pipeline::*;

use crate::common::{Echo, Host, Log, frame, frames, length, spy};
use crate::xor::{Xor, record};

/// Raises an event where it is told to.
struct Raiser {
    at: &'static str,
}

impl Raiser {
    fn at(&self, place: &'static str, cx: &mut Context<'_, Bytes>) {
        if self.at == place {
            cx.raise(place);
        }
    }
}

impl Handler for Raiser {
    type In = Bytes;
    type Next = Bytes;
    type Write = Bytes;
    type Out = Bytes;
    fn open(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
        self.at("open", cx);
        Ok(())
    }
    fn read(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<Flow<Bytes>> {
        self.at("read", cx);
        if self.at == "flow" {
            return Ok(Flow::raise("flow", Flow::Next(msg)));
        }
        Ok(Flow::Next(msg))
    }
    fn write(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        self.at("write", cx);
        cx.write(msg)
    }
    fn half_closed(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
        self.at("half_closed", cx);
        Ok(())
    }
    fn read_complete(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
        self.at("read_complete", cx);
        Ok(())
    }
}

fn lines(at: &'static str) -> Vec<String> {
    let log = Log::default();
    let mut host = Host::new(
        codec(length()).then(spy("below", &log)).then(Raiser { at }).then(spy("above", &log)).tail(Echo),
    );
    host.feed(frames(&["1", "2"])).run();
    host.feed_end().run();
    let times = if matches!(at, "open" | "half_closed") { 1 } else { 2 };
    assert_eq!(host.channel.take_untaken_events(), times);
    log.take()
}

#[test]
fn events_go_to_the_stages_above_and_to_no_other() {
    for at in ["open", "read", "flow", "write", "read_complete", "half_closed"] {
        assert!(lines(at).iter().any(|line| *line == format!("above:event {at}")), "{at}");
        assert!(!lines(at).iter().any(|line| line.starts_with("below:event")), "{at}");
    }
}

#[test]
fn an_event_comes_before_a_message_or_between_two() {
    let order = |at| -> Vec<String> {
        let seen = lines(at).into_iter().filter(|line| line.contains("event") || line == "above:read");
        seen.map(|line| line.trim_start_matches("above:").to_string()).collect()
    };
    assert_eq!(order("flow"), ["event flow", "read", "event flow", "read"]);
    for at in ["read", "write"] {
        let event = format!("event {at}");
        assert_eq!(order(at), ["read", &event, "read", &event]);
    }
}

#[test]
fn codecs_on_each_other_each_pass_on_the_events_of_their_own_stages() {
    let log = Log::default();
    let raiser = || Raiser { at: "read" };
    let mut host = Host::new(
        codec(length()).then(raiser()).codec(length()).then(raiser()).then(spy("above", &log)).tail(Echo),
    );
    log.take();
    host.feed(frame(frame("1"))).run();
    let events = log.take().iter().filter(|line| *line == "above:event read").count();
    assert_eq!((events, host.channel.take_untaken_events()), (2, 2));
}

#[test]
fn what_is_raised_before_a_panic_reaches_no_other_channel() {
    struct Panics;
    impl Tail for Panics {
        type In = Bytes;
        type Out = Bytes;
        fn read(&mut self, cx: &mut Context<'_, Bytes>, _msg: Bytes) -> Result<()> {
            cx.raise("too late");
            panic!("on purpose")
        }
    }
    let log = Log::default();
    let mut channel = Channel::new(Limits::default());
    let mut panics = Runner::new(codec(length()).tail(Panics), &channel);
    let mut other = Runner::new(codec(length()).then(spy("other", &log)).tail(Echo), &channel);
    for runner in [&mut panics, &mut other] {
        channel.prepare(Instant::now(), Waker::noop().clone());
        runner.open(&mut channel);
    }
    let received = catch_unwind(AssertUnwindSafe(|| panics.received(&mut channel, frame("1").into())));
    assert!(received.is_err());
    channel.prepare(Instant::now(), Waker::noop().clone());
    other.received(&mut channel, frame("1").into());
    assert!(!other.finish_turn(&mut channel));
    assert!(!log.take().iter().any(|line| line.contains("event")));
    assert_eq!(channel.take_untaken_events(), 0);
}

/// Takes events of one type.
struct Taker;

impl Handler for Taker {
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
    fn event(&mut self, _cx: &mut Context<'_, Bytes>, event: &mut Event) -> Result<()> {
        event.take::<&'static str>();
        Ok(())
    }
    fn operate(&mut self, cx: &mut Context<'_, Bytes>, operation: Operation) -> Result<()> {
        match operation {
            Operation::Event(mut event) => match event.take::<u32>() {
                Some(number) => cx.write(format!("event {number}").into()),
                None => cx.operate(Operation::Event(event)),
            },
            other => cx.operate(other),
        }
    }
}

#[test]
fn a_stage_takes_an_event_and_the_others_never_see_it() {
    let log = Log::default();
    let mut host = Host::new(codec(length()).then(Taker).then(spy("above", &log)).tail(Echo));
    log.take();
    host.event("taken");
    assert_eq!((log.take(), host.channel.take_untaken_events()), (Vec::new(), 0));
    host.event(5u8);
    assert_eq!((log.take(), host.channel.take_untaken_events()), (vec!["above:event ?".to_string()], 1));
}

#[test]
fn an_outbound_event_stays_in_line_with_what_is_written() {
    struct Sender;
    impl Tail for Sender {
        type In = Bytes;
        type Out = Bytes;
        fn read(&mut self, cx: &mut Context<'_, Bytes>, _msg: Bytes) -> Result<()> {
            cx.write("before".into())?;
            cx.send_event(1u32)?;
            cx.send_event("nobody's")?;
            cx.write("behind".into())
        }
    }
    let mut host = Host::new(codec(length()).then(Taker).tail(Sender));
    host.feed(frame("")).run();
    assert_eq!(host.sent, frames(&["before", "event 1", "behind"]));
    assert_eq!(host.channel.take_untaken_events(), 1);
    let mut host = Host::new(codec(Xor::server(1)).codec(length()).then(Taker).tail(Sender));
    host.feed([b"HELO".to_vec(), record(&frame(""), 1)].concat()).run();
    assert_eq!(host.channel.take_untaken_events(), 1, "it travels through protocols");
}

/// Gives its sender away.
struct Asking {
    sender: Rc<RefCell<Option<EventSender>>>,
    answer: Option<Bytes>,
}

impl Handler for Asking {
    type In = Bytes;
    type Next = Bytes;
    type Write = Bytes;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, _msg: Bytes) -> Result<Flow<Bytes>> {
        *self.sender.borrow_mut() = Some(cx.events());
        Ok(Flow::Done)
    }
    fn write(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        cx.write(msg)
    }
    fn event(&mut self, cx: &mut Context<'_, Bytes>, event: &mut Event) -> Result<()> {
        if let Some(answer) = event.take::<Bytes>() {
            self.answer = Some(answer);
            cx.ask();
        }
        Ok(())
    }
    fn more(&mut self, _cx: &mut Context<'_, Bytes>) -> Result<Flow<Bytes>> {
        Ok(self.answer.take().map_or(Flow::Done, Flow::Next))
    }
}

#[test]
fn a_task_gives_its_result_to_the_stage_that_asked_for_it() {
    let (sender, log) = (Rc::new(RefCell::new(None)), Log::default());
    let asking = Asking { sender: Rc::clone(&sender), answer: None };
    let mut host = Host::new(codec(length()).then(spy("below", &log)).then(asking).tail(Echo));
    host.feed(frame("question")).run();
    log.take();
    sender.borrow().as_ref().unwrap().send(Bytes::from("answer")).unwrap();
    host.run();
    assert_eq!(host.sent, frame("answer"), "the stage passes it on as a message");
    assert!(!log.take().iter().any(|line| line.contains("event")));
    drop(host);
    let refused = sender.borrow().as_ref().unwrap().send(1);
    assert_eq!(refused, Err(EventRefused), "the channel is gone");
}

#[test]
fn events_that_tasks_give_are_bounded() {
    let sender = Rc::new(RefCell::new(None));
    let mut host =
        Host::new(codec(length()).then(Asking { sender: Rc::clone(&sender), answer: None }).tail(Echo));
    host.feed(frame("question")).run();
    let sender = sender.borrow().clone().unwrap();
    let given = (0..2000).take_while(|number| sender.send(*number).is_ok()).count();
    assert_eq!(given, 1024);
    host.run();
    assert_eq!(host.channel.take_untaken_events(), 1024);
    assert!(sender.send(0).is_ok());
}

/// Asks the event loop for things before its channel is open.
#[derive(Default)]
struct Early {
    sender: Rc<RefCell<Option<EventSender>>>,
    demand: Rc<RefCell<Option<DemandHandle>>>,
}

impl Handler for Early {
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
    fn operate(&mut self, cx: &mut Context<'_, Bytes>, operation: Operation) -> Result<()> {
        if let Operation::Connect(_) = operation {
            *self.sender.borrow_mut() = Some(cx.events());
            *self.demand.borrow_mut() = Some(cx.demand());
            cx.set_timer(7, std::time::Duration::from_secs(1));
            cx.pause();
        }
        cx.operate(operation)
    }
    fn event(&mut self, cx: &mut Context<'_, Bytes>, event: &mut Event) -> Result<()> {
        event.take::<u8>().map_or(Ok(()), |number| cx.write(format!("event {number}").into()))
    }
    fn timer(&mut self, cx: &mut Context<'_, Bytes>, key: u32) -> Result<()> {
        cx.write(format!("timer {key}").into())
    }
}

#[test]
fn what_a_stage_asks_for_while_its_channel_connects_reaches_it_when_it_is_open() {
    let (early, log) = (Early::default(), Log::default());
    let (sender, demand) = (Rc::clone(&early.sender), Rc::clone(&early.demand));
    let target = Target::Address("127.0.0.1:1".parse().unwrap());
    let pipeline = codec(length()).then(spy("below", &log)).then(early).tail(Echo);
    let mut host = Host::connecting(pipeline, target);
    assert_eq!(log.take(), ["below:connect Address(127.0.0.1:1)", "below:open"]);
    sender.borrow().as_ref().unwrap().send(3u8).unwrap();
    assert!(host.wakes() > 0, "the channel is woken, not what there was before it");
    host.run();
    assert_eq!(host.sent, frame("event 3"));
    host.advance(std::time::Duration::from_secs(1));
    assert_eq!(host.sent, frames(&["event 3", "timer 7"]));
    host.feed(frame("a")).run();
    assert_eq!(host.sent.len(), frames(&["event 3", "timer 7"]).len(), "it is paused");
    demand.borrow().as_ref().unwrap().resume();
    host.run();
    assert_eq!(host.sent, frames(&["event 3", "timer 7", "a"]));
    assert!(!log.take().iter().any(|line| line.contains("event") || line.contains("timer")));
}
