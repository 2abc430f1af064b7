//! Writing from beside the pipeline.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context as TaskContext, Poll, Wake, Waker};

use bytes::Bytes;
use perihelion_pipeline::*;

use crate::common::{Echo, Host, Log, frame, length, spy, texts};

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    std::pin::Pin::new(future).poll(&mut TaskContext::from_waker(Waker::noop()))
}

/// Counts the wake-ups of a task.
#[derive(Default)]
struct Task(AtomicUsize);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_write_is_sent_when_nothing_else_happens() {
    let writer = Writer::new(2);
    let mut host = Host::new(codec(length()).tail_with_writer(Echo, &writer));
    host.run();
    writer.try_write("x".into()).unwrap();
    assert_eq!(host.wakes(), 1);
    host.run();
    assert_eq!(texts(&host.sent), ["x"]);
    assert_eq!(host.wakes(), 0);
}

#[test]
fn what_is_written_before_the_channel_opens_is_sent() {
    let writer = Writer::new(2);
    writer.try_write("early".into()).unwrap();
    let mut host = Host::new(codec(length()).tail_with_writer(Echo, &writer));
    host.run();
    assert_eq!(texts(&host.sent), ["early"]);
}

#[test]
fn writes_and_a_close_pass_every_stage_in_order() {
    let (log, writer) = (Log::default(), Writer::new(2));
    let mut host =
        Host::new(codec(length()).then(spy("1", &log)).then(spy("2", &log)).tail_with_writer(Echo, &writer));
    log.take();
    writer.try_write("x".into()).unwrap();
    writer.try_write("y".into()).unwrap();
    assert_eq!(writer.try_write("z".into()), Err("z".into()), "it is full");
    writer.close();
    writer.close();
    host.run();
    assert_eq!(
        log.take(),
        [
            "2:write",
            "1:write",
            "2:write",
            "1:write",
            "2:close",
            "1:close",
            "1:closed in order",
            "2:closed in order"
        ]
    );
    assert_eq!(texts(&host.sent), ["x", "y"]);
    assert!(writer.is_closed());
    assert_eq!(writer.try_write("late".into()), Err("late".into()));
}

#[test]
fn nothing_follows_a_close() {
    let writer = Writer::new(4);
    let mut host = Host::new(codec(length()).tail_with_writer(Echo, &writer));
    writer.try_write("x".into()).unwrap();
    writer.close();
    assert_eq!(writer.try_write("y".into()), Err("y".into()));
    assert!(matches!(poll(&mut pin!(writer.write("z".into()))), Poll::Ready(Err(ChannelClosed))));
    host.run();
    assert_eq!(texts(&host.sent), ["x"]);
    assert_eq!(host.closed, Some(None));
}

#[test]
fn those_who_wait_for_room_go_on_in_turn() {
    let writer = Writer::new(1);
    let mut host = Host::new(codec(length()).tail_with_writer(Echo, &writer));
    let mut writes: Vec<_> = (0..5).map(|n| Box::pin(writer.write(n.to_string().into()))).collect();
    let task = Arc::new(Task::default());
    let waker = Waker::from(task.clone());
    while !writes.is_empty() {
        if let Poll::Ready(result) = writes[0].as_mut().poll(&mut TaskContext::from_waker(&waker)) {
            result.unwrap();
            drop(writes.remove(0));
        } else {
            task.0.store(0, Ordering::Relaxed);
            host.run();
            assert_eq!(task.0.load(Ordering::Relaxed), 1, "there is room again");
        }
    }
    host.run();
    assert_eq!(texts(&host.sent), ["0", "1", "2", "3", "4"]);
}

/// A task that writes as fast as it may.
fn eager(writer: Writer<Bytes>, messages: usize) -> Box<dyn FnMut() -> bool> {
    let mut written = 0;
    Box::new(move || {
        let before = written;
        while written < messages && writer.try_write(Bytes::from_static(b"123456")).is_ok() {
            written += 1;
        }
        written > before
    })
}

#[test]
fn the_queue_drains_only_while_the_channel_is_writable() {
    let writer = Writer::new(2);
    let limits = Limits { high_water_bytes: 30, low_water_bytes: 20, ..Limits::default() };
    let mut host = Host::with_limits(codec(length()).tail_with_writer(Echo, &writer), limits);
    host.window = 0;
    host.task = eager(writer.clone(), 100);
    host.run();
    assert_eq!(host.runner.queued(), 40);
    host.feed(frame("echo")).run();
    assert!(host.sent.is_empty());
    host.window = 7;
    host.run();
    assert_eq!(texts(&host.sent).len(), 101, "and it goes on by itself");
}

/// Refuses to encode some frames.
struct Picky;

impl Codec for Picky {
    type Frame = Bytes;
    type Item = Bytes;
    fn decode(&mut self, input: &mut Input) -> Result<Option<Bytes>> {
        length().decode(input)
    }
    fn encode(&mut self, item: Bytes, output: &mut Output) -> Result<()> {
        if item == "bad" { Err(Error::msg("a bad frame")) } else { length().encode(item, output) }
    }
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
fn a_message_that_fails_does_not_stop_those_behind_it() {
    let (writer, log) = (Writer::new(3), Log::default());
    let mut host = Host::new(codec(Picky).tail_with_writer(Forgives(log.clone()), &writer));
    for msg in ["a", "bad", "b"] {
        writer.try_write(msg.into()).unwrap();
    }
    let mut write = Box::pin(writer.write("c".into()));
    assert!(poll(&mut write).is_pending());
    host.run();
    assert_eq!(texts(&host.sent), ["a", "b"]);
    assert!(matches!(poll(&mut write), Poll::Ready(Ok(()))));
    assert_eq!(log.take(), ["a bad frame"]);

    let writer = Writer::new(3);
    let mut host = Host::new(codec(Picky).tail_with_writer(Echo, &writer));
    writer.try_write("bad".into()).unwrap();
    host.run();
    assert_eq!(host.closed, Some(Some("a bad frame".into())));
}

#[test]
fn what_is_queued_is_sent_before_a_close_and_before_the_answer_to_an_end() {
    let limits = Limits { high_water_bytes: 5, low_water_bytes: 5, ..Limits::default() };
    for end in [false, true] {
        let writer = Writer::new(3);
        let mut host = Host::with_limits(codec(length()).tail_with_writer(Echo, &writer), limits);
        host.run();
        for msg in ["abc", "def", "ghi"] {
            writer.try_write(msg.into()).unwrap();
        }
        if end {
            host.runner.ended(&mut host.channel);
        } else {
            host.close();
        }
        host.run();
        assert_eq!(texts(&host.sent), ["abc", "def", "ghi"]);
        assert_eq!(host.closed, Some(None));
    }
}

#[test]
fn a_write_that_waits_fails_when_the_channel_closes() {
    for drops in [false, true] {
        let writer = Writer::new(1);
        let limits = Limits { high_water_bytes: 0, low_water_bytes: 0, ..Limits::default() };
        let mut host = Host::with_limits(codec(length()).tail_with_writer(Echo, &writer), limits);
        host.window = 0;
        host.feed(frame("echo")).run(); // unwritable
        writer.try_write("queued".into()).unwrap();
        let mut write = Box::pin(writer.write("waits".into()));
        assert!(poll(&mut write).is_pending());
        if drops {
            drop(host);
        } else {
            host.fail(Error::msg("reset"));
        }
        assert!(matches!(poll(&mut write), Poll::Ready(Err(ChannelClosed))));
        assert!(writer.is_closed());
    }
}

#[test]
fn a_queue_has_room_for_one_at_least() {
    let writer = Writer::new(0);
    let mut host = Host::new(codec(length()).tail_with_writer(Echo, &writer));
    writer.try_write("x".into()).unwrap();
    host.run();
    assert_eq!(texts(&host.sent), ["x"]);
}
