//! Write promises: they resolve when the kernel has the bytes, fail when the channel closes, and never hang.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as Task, Poll, Waker};

use bytes::Bytes;
use perihelion_pipeline::*;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::common::{Echo, Host, cut, frame, frames, length};
use crate::xor::{Xor, record};

type Promises = Rc<RefCell<Vec<Written>>>;

/// Echoes, and keeps a promise for each message.
#[derive(Default)]
struct Promised(Promises);

impl Tail for Promised {
    type In = Bytes;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        cx.write(msg)?;
        self.0.borrow_mut().push(cx.written()?);
        Ok(())
    }
}

fn poll(written: &mut Written) -> Poll<Result<(), ChannelClosed>> {
    Pin::new(written).poll(&mut Task::from_waker(Waker::noop()))
}

fn is_taken(written: &mut Written) -> bool {
    matches!(poll(written), Poll::Ready(Ok(())))
}

fn is_lost(written: &mut Written) -> bool {
    matches!(poll(written), Poll::Ready(Err(ChannelClosed)))
}

proptest! {
    #[test]
    fn a_promise_resolves_with_the_last_byte_before_it(
        payloads in vec(vec(any::<u8>(), 0..6000), 1..20),
        sizes in vec(1..9000usize, 1..5),
        window in 1..5000usize,
    ) {
        let promises = Promises::default();
        let mut host = Host::new(codec(length()).tail(Promised(promises.clone())));
        for piece in cut(&frames(&payloads), &sizes) {
            host.feed(piece);
        }
        host.window = window;
        loop {
            let worked = host.turn();
            let mut end = 0;
            for (written, payload) in promises.borrow_mut().iter_mut().zip(&payloads) {
                end += frame(payload).len();
                // What the kernel has taken is reported in the next turn.
                prop_assert!(host.sent.len() >= end || !is_taken(written), "a promise that is not true");
            }
            if !worked {
                break;
            }
        }
        prop_assert_eq!(promises.borrow().len(), payloads.len());
        prop_assert!(promises.borrow_mut().iter_mut().all(is_taken));
    }
}

#[test]
fn a_promise_travels_through_protocols_that_hold_what_is_written() {
    let promises = Promises::default();
    let mut host = Host::new(codec(Xor::server(1)).codec(length()).tail(Promised(promises.clone())));
    host.feed([b"HELO".to_vec(), record(&frame(""), 1)].concat()).run();
    promises.borrow_mut().clear();
    let before = host.sent.len();
    host.window = 0;
    host.feed(record(&frames(&["a", "b"]), 1)).run();
    assert_eq!(promises.borrow().len(), 2);
    // The last byte is missing.
    host.window = record(&frames(&["a", "b"]), 1).len() - 1;
    host.turn();
    host.window = 0;
    host.run();
    assert!(host.sent.len() > before);
    assert!(!promises.borrow_mut().iter_mut().any(is_taken), "they stand behind one record");
    host.window = usize::MAX;
    host.run();
    assert!(promises.borrow_mut().iter_mut().all(is_taken));
}

#[test]
fn a_promise_of_nothing_is_kept_at_once() {
    struct Nothing(Promises);
    impl Tail for Nothing {
        type In = Bytes;
        type Out = Bytes;
        fn open(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
            self.0.borrow_mut().push(cx.written()?);
            Ok(())
        }
        fn read(&mut self, _cx: &mut Context<'_, Bytes>, _msg: Bytes) -> Result<()> {
            Ok(())
        }
    }
    let promises = Promises::default();
    let _host = Host::new(codec(length()).tail(Nothing(promises.clone())));
    assert!(is_taken(&mut promises.borrow_mut()[0]));
}

#[test]
fn promises_fail_when_the_channel_breaks_or_is_dropped() {
    for breaks in [true, false] {
        let promises = Promises::default();
        let mut host = Host::new(codec(length()).tail(Promised(promises.clone())));
        host.window = 0;
        host.feed(frame("a")).run();
        if breaks {
            host.runner.fail(&mut host.channel, Error::msg("a reset"));
            host.runner.closed(&mut host.channel);
        } else {
            drop(host);
        }
        assert!(is_lost(&mut promises.borrow_mut()[0]));
    }
}

#[test]
fn what_is_written_after_a_close_fails_at_once() {
    struct Late(Promises, Rc<RefCell<Option<Error>>>);
    impl Tail for Late {
        type In = Bytes;
        type Out = Bytes;
        fn read(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
            cx.close()?;
            *self.1.borrow_mut() = cx.write(msg).err();
            self.0.borrow_mut().push(cx.written()?);
            Ok(())
        }
    }
    let (promises, error) = (Promises::default(), Rc::default());
    let mut host = Host::new(codec(length()).tail(Late(promises.clone(), Rc::clone(&error))));
    host.feed(frame("a"));
    host.turn();
    assert!(error.borrow().as_ref().unwrap().downcast_ref::<ChannelClosed>().is_some());
    assert!(is_lost(&mut promises.borrow_mut()[0]));
    host.run();
    assert_eq!(host.text(), "");
    assert_eq!(host.closed, Some(None), "it is no reason for the close");
}

#[test]
fn a_task_waits_for_what_it_has_written() {
    let writer = Writer::new(4);
    let mut host = Host::new(codec(length()).tail_with_writer(Echo, &writer));
    host.window = 0;
    let mut first = writer.try_send("a".into()).unwrap();
    let mut dropped = writer.try_send("b".into()).unwrap();
    assert!(matches!(poll(&mut dropped), Poll::Pending));
    drop(dropped);
    host.run();
    assert!(matches!(poll(&mut first), Poll::Pending));
    host.window = usize::MAX;
    host.run();
    assert!(is_taken(&mut first));
    assert_eq!(host.sent, frames(&["a", "b"]));
    writer.close();
    assert!(writer.try_send("c".into()).is_err(), "behind a close nothing is taken");
}

#[test]
fn what_a_task_has_queued_fails_when_the_channel_closes_before_it_is_written() {
    let writer = Writer::new(4);
    let mut host = Host::with_limits(
        codec(length()).tail_with_writer(Echo, &writer),
        Limits { high_water_bytes: 1, low_water_bytes: 0, ..Limits::default() },
    );
    host.window = 0;
    let mut promises: Vec<_> = ["a", "b"].map(|msg| writer.try_send(msg.into()).unwrap()).into();
    host.run();
    host.runner.fail(&mut host.channel, Error::msg("a reset"));
    host.runner.closed(&mut host.channel);
    assert!(promises.iter_mut().all(is_lost));
}
