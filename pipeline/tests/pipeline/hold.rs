//! A stage that keeps back what is written keeps promises and closes in line, and the water marks see it.

use bytes::Bytes;
use perihelion_pipeline::*;

use crate::common::{Echo, Host, Log, frame, frames, length, texts};

/// Lets one message out for each timer.
#[derive(Default)]
struct Slowly(Hold<Bytes>);

const EVERY: std::time::Duration = std::time::Duration::from_secs(1);

impl Handler for Slowly {
    type In = Bytes;
    type Next = Bytes;
    type Write = Bytes;
    type Out = Bytes;
    fn read(&mut self, _cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<Flow<Bytes>> {
        Ok(Flow::Next(msg))
    }
    fn write(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        let bytes = msg.len();
        self.0.keep(cx, msg, bytes);
        cx.set_timer(0, EVERY);
        Ok(())
    }
    fn operate(&mut self, cx: &mut Context<'_, Bytes>, operation: Operation) -> Result<()> {
        self.0.operate(cx, operation)
    }
    fn timer(&mut self, cx: &mut Context<'_, Bytes>, _key: u32) -> Result<()> {
        self.0.release_one(cx)?;
        if !self.0.is_empty() {
            cx.set_timer(0, EVERY);
        }
        Ok(())
    }
}

/// Writes down when promises come true.
struct Promising(Log);

impl Tail for Promising {
    type In = Bytes;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        cx.write(msg)?;
        let mut written = cx.written()?;
        let polled = std::pin::Pin::new(&mut written).poll(&mut std::task::Context::from_waker(cx.waker()));
        self.0.add(format!("{}", polled.is_ready()));
        Ok(())
    }
}

#[test]
fn nothing_overtakes_what_is_held() {
    let log = Log::default();
    let mut host = Host::keeping_back(codec(length()).then(Slowly::default()).tail(Promising(log.clone())));
    host.feed(frames(&["a", "b"])).feed_end().run();
    assert_eq!(log.take(), ["false", "false"]);
    assert_eq!((host.sent.len(), &host.closed), (0, &None), "the close waits behind the messages");
    host.advance(EVERY);
    assert_eq!((texts(&host.sent), &host.closed), (vec!["a".to_string()], &None));
    host.advance(EVERY);
    assert_eq!((texts(&host.sent), &host.closed), (vec!["a".to_string(), "b".to_string()], &Some(None)));
}

#[test]
fn what_is_held_counts_towards_the_water_marks() {
    let limits = Limits { high_water_bytes: 100, low_water_bytes: 50, ..Limits::default() };
    let mut host = Host::with_limits(codec(length()).then(Slowly::default()).tail(Echo), limits);
    host.keeps_back = true;
    host.feed(frames(&[[0; 60]; 9])).run();
    assert_eq!(host.runner.queued(), 120, "after two messages no more are read");
    host.advance(EVERY);
    host.advance(EVERY);
    assert_eq!(texts(&host.sent).len(), 2);
    assert_eq!(host.runner.queued(), 120, "and then two more");
}

#[test]
fn what_is_held_is_lost_with_the_channel_and_not_before() {
    let mut host = Host::keeping_back(codec(length()).then(Slowly::default()).tail(Echo));
    host.feed(frame("a")).run();
    host.fail(Error::msg("a reset"));
    assert_eq!(host.closed, Some(Some("a reset".into())));
}
