//! Water marks: when a channel is unwritable, what stops then, and how it goes on.

use bytes::Bytes;
use perihelion_pipeline::*;

use crate::common::{Echo, Host, Log, frame, frames, length, spy, texts};
use crate::flow::LookUp;

fn marks(high_water_bytes: usize, low_water_bytes: usize) -> Limits {
    Limits { high_water_bytes, low_water_bytes, ..Limits::default() }
}

/// Echoes, and notes what it is told.
struct Count(Log);

impl Tail for Count {
    type In = Bytes;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        cx.write(msg)?;
        self.0.add(format!("{} {}", cx.queued(), cx.is_writable()));
        Ok(())
    }
    fn writable(&mut self, _cx: &mut Context<'_, Bytes>, writable: bool) -> Result<()> {
        self.0.add(format!("writable {writable}"));
        Ok(())
    }
}

#[test]
fn above_the_high_mark_reading_stops_and_below_the_low_mark_it_goes_on() {
    let log = Log::default();
    let mut host = Host::with_limits(codec(length()).tail(Count(log.clone())), marks(30, 15));
    host.window = 0;
    host.feed(frames(&["123456"; 6])).feed(frame("7")).feed_end().run();
    assert_eq!(log.take(), ["10 true", "20 true", "30 true", "40 false", "writable false"]);
    assert!(!host.runner.wants_bytes(true));
    host.window = 24;
    host.turn();
    assert_eq!(log.take(), [""; 0], "16 bytes are left");
    host.window = 1;
    host.turn();
    assert_eq!(log.take(), ["writable true", "25 true", "35 false", "writable false"]);
    host.window = usize::MAX;
    host.run();
    assert_eq!(texts(&host.sent).len(), 7);
    assert_eq!(host.closed, Some(None));
}

#[test]
fn marks_of_nothing_let_one_message_through_at_a_time() {
    let log = Log::default();
    let mut host = Host::with_limits(codec(length()).tail(Count(log.clone())), marks(0, 0));
    host.feed(frames(&["a", "b"])).run();
    let each = ["5 false", "writable false", "writable true"];
    assert_eq!(log.take(), [each, each].concat());
    assert_eq!(texts(&host.sent), ["a", "b"]);
}

#[test]
fn a_low_mark_above_the_high_one_does_no_harm() {
    let mut host = Host::with_limits(codec(length()).tail(Echo), marks(10, 1000));
    host.window = 3;
    host.feed(frames(&["abcdef"; 50])).feed_end().run();
    assert_eq!(texts(&host.sent).len(), 50);
    assert_eq!(host.closed, Some(None));
}

#[test]
fn becoming_writable_within_a_turn_gives_no_further_messages() {
    // The kernel takes everything at once, and the turn's budget is used up all the same: see `Host::finish_turn`.
    let limits = Limits { messages_per_turn: 3, ..marks(5, 5) };
    let mut channel = Channel::new(limits);
    let mut runner = Runner::new(codec(length()).tail(Echo), &channel);
    runner.open(&mut channel);
    runner.received(&mut channel, frames(&["12"; 9]).into());
    for _ in 0..9 {
        let mut sent = 0;
        while let Some(segment) = runner.output().pop() {
            sent += segment.len();
            segment.recycle();
        }
        runner.sent(&mut channel, sent);
    }
    assert_eq!(channel.take_work().messages_in, 3);
    assert!(runner.finish_turn(&mut channel));
}

#[test]
fn a_future_that_is_done_while_the_channel_is_unwritable_is_not_forgotten() {
    let (gate, log) = (crate::common::Gate::new(), Log::default());
    let pipeline =
        codec(length()).then(LookUp { gate: gate.clone() }).then(spy("s", &log)).tail_with_writer(Echo, &{
            let writer = Writer::new(1);
            writer.try_write("from a task".into()).unwrap();
            writer
        });
    let mut host = Host::with_limits(pipeline, marks(4, 4));
    host.window = 0;
    host.feed(frame("?a")).run();
    gate.open("1");
    host.run();
    log.take();
    host.window = usize::MAX;
    host.run();
    assert_eq!(texts(&host.sent), ["from a task", "a=1"]);
}

#[test]
fn the_stages_are_told_from_the_transport_to_the_tail() {
    let log = Log::default();
    let mut host = Host::with_limits(
        codec(length()).then(spy("1", &log)).then(spy("2", &log)).tail(Count(log.clone())),
        marks(4, 4),
    );
    host.window = 0;
    host.feed(frame("a")).run();
    host.window = usize::MAX;
    log.take();
    host.run();
    let told = ["1:writable=true", "2:writable=true", "writable true", "1:read_complete", "2:read_complete"];
    assert_eq!(log.take(), told);
}
