//! Whatever stages do, in whatever order, and however the bytes come: nothing is lost, doubled or mixed up.

use bytes::Bytes;
use perihelion_pipeline::{Context, Error, Event, Operation, Raw, Result, Tail, Written, codec};
use perihelion_tls::UpdateKeys;
use perihelion_tls::rustls::ServerConnection;
use proptest::prelude::*;
use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::common::Host;
use crate::keys::{Keys, TLS12, TLS13};
use crate::oracle::Oracle;

#[derive(Clone, Copy, Debug)]
enum Act {
    Write(usize),
    Promise,
    Flush,
    UpdateKeys,
    CloseOutput,
    Close,
    CloseFromOutside,
    PeerWrites(usize),
    PeerEnds,
    /// So many bytes of what the peer has sent arrive.
    Arrive(usize),
    /// The peer reads, and answers.
    PeerReads,
    /// How many bytes the kernel takes in a turn.
    Window(usize),
}

fn act() -> impl Strategy<Value = Act> {
    let size = || prop_oneof![0..100usize, 16_000..17_000usize, 30_000..90_000usize];
    prop_oneof![
        4 => size().prop_map(Act::Write),
        2 => Just(Act::Promise),
        1 => Just(Act::Flush),
        1 => Just(Act::UpdateKeys),
        1 => Just(Act::CloseOutput),
        1 => Just(Act::Close),
        1 => Just(Act::CloseFromOutside),
        3 => size().prop_map(Act::PeerWrites),
        1 => Just(Act::PeerEnds),
        6 => prop_oneof![1..50usize, 100..3000usize, Just(usize::MAX)].prop_map(Act::Arrive),
        4 => Just(Act::PeerReads),
        1 => prop_oneof![1..5000usize, Just(usize::MAX)].prop_map(Act::Window),
    ]
}

/// What has become of the channel, as its tail knows.
#[derive(Default)]
struct Seen {
    read: RefCell<Vec<u8>>,
    /// What was taken from it.
    written: RefCell<Vec<u8>>,
    /// With how many bytes had been written before.
    promises: RefCell<Vec<(usize, Written)>>,
    closes: Cell<bool>,
}

struct Obeys {
    first: Vec<Act>,
    seen: Rc<Seen>,
}

impl Obeys {
    fn obey(&self, cx: &mut Context<'_, Bytes>, act: Act) {
        let Seen { written, promises, closes, .. } = &*self.seen;
        match act {
            Act::Write(len) if !closes.get() => {
                let start = written.borrow().len();
                let bytes: Vec<u8> = (start..start + len).map(|at| (at % 251) as u8).collect();
                if cx.write(bytes.clone().into()).is_ok() {
                    written.borrow_mut().extend(bytes);
                }
            }
            Act::Promise => {
                if let Ok(promise) = cx.written() {
                    promises.borrow_mut().push((written.borrow().len(), promise));
                }
            }
            Act::Flush => drop(cx.flush()),
            Act::UpdateKeys => drop(cx.send_event(UpdateKeys)), // an error with TLS 1.2
            Act::CloseOutput => {
                closes.set(true);
                drop(cx.close_output());
            }
            Act::Close => {
                closes.set(true);
                drop(cx.operate(Operation::Close));
            }
            _ => {}
        }
    }
}

impl Tail for Obeys {
    type In = Bytes;
    type Out = Bytes;
    fn open(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
        std::mem::take(&mut self.first).into_iter().for_each(|act| self.obey(cx, act));
        Ok(())
    }
    fn read(&mut self, _cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        self.seen.read.borrow_mut().extend_from_slice(&msg);
        Ok(())
    }
    fn event(&mut self, cx: &mut Context<'_, Bytes>, event: &mut Event) -> Result<()> {
        if let Some(act) = event.take::<Act>() {
            self.obey(cx, act);
        }
        Ok(())
    }
    fn half_closed(&mut self, _cx: &mut Context<'_, Bytes>) -> Result<()> {
        Ok(())
    }
    fn error(&mut self, _cx: &mut Context<'_, Bytes>, error: Error) -> Result<()> {
        Err(error)
    }
}

/// A channel and its peer, with what is on its way to the channel.
struct Pair {
    host: Host,
    peer: Oracle,
    on_the_way: Vec<u8>,
    peer_wrote: Vec<u8>,
    peer_ended: bool,
}

impl Pair {
    fn act(&mut self, act: Act) {
        match act {
            Act::PeerWrites(len) if !self.peer_ended => {
                let start = self.peer_wrote.len();
                let bytes: Vec<u8> = (start..start + len).map(|at| (at % 241) as u8).collect();
                self.peer.write(&bytes);
                self.peer_wrote.extend(bytes);
            }
            Act::PeerEnds if !self.peer_ended && !self.peer.connection.is_handshaking() => {
                self.peer_ended = true;
                self.peer.connection.send_close_notify();
            }
            Act::PeerWrites(_) | Act::PeerEnds => {}
            Act::Arrive(len) => {
                self.on_the_way.extend(self.peer.outgoing());
                let len = len.min(self.on_the_way.len());
                let arrived: Vec<u8> = self.on_the_way.drain(..len).collect();
                if len > 0 {
                    self.host.feed(arrived);
                }
                self.host.turn();
            }
            Act::PeerReads => {
                self.host.turn();
                self.peer.take_from(&self.host).unwrap();
            }
            Act::Window(bytes) => self.host.window = bytes,
            Act::CloseFromOutside => self.host.close(),
            act => self.host.event(act),
        }
    }

    /// Until nothing moves any more.
    fn settle(&mut self) {
        self.host.window = usize::MAX;
        loop {
            let before = (self.host.sent.len(), self.on_the_way.len());
            self.act(Act::Arrive(usize::MAX));
            self.host.run();
            self.peer.take_from(&self.host).unwrap();
            self.on_the_way.extend(self.peer.outgoing());
            if (self.host.sent.len(), self.on_the_way.len()) == before && before.1 == 0 {
                return;
            }
        }
    }
}

fn pair(keys: &Keys, is_server: bool, tls13: bool, tail: Obeys) -> Pair {
    let versions = if tls13 { TLS13 } else { TLS12 };
    let (stage, mut peer) = if is_server {
        (keys.server(versions).accept(), Oracle::client_with(keys.client_config(versions)))
    } else {
        let server = ServerConnection::new(Arc::new(keys.server_config(versions))).unwrap();
        (keys.client(versions).connect("localhost").unwrap(), Oracle::new(server.into()))
    };
    peer.connection.set_buffer_limit(None);
    let host = Host::keeping_back(codec(stage).codec(Raw).tail(tail));
    Pair { host, peer, on_the_way: Vec::new(), peer_wrote: Vec::new(), peer_ended: false }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_or_mixed_up_and_every_promise_is_kept(
        first in prop::collection::vec(act(), 0..4),
        acts in prop::collection::vec(act(), 0..40),
        is_server in any::<bool>(),
        tls13 in any::<bool>(),
    ) {
        let keys = Keys::new();
        let seen = Rc::new(Seen::default());
        let mut pair = pair(&keys, is_server, tls13, Obeys { first, seen: Rc::clone(&seen) });
        let mut closes = false;
        for act in acts {
            if let Act::CloseFromOutside = act {
                closes = true;
                seen.closes.set(true);
            }
            pair.act(act);
        }
        pair.settle();
        pair.host.advance(Duration::from_secs(30));
        pair.settle();
        if let Some(reason) = &pair.host.closed {
            prop_assert!(reason.is_none(), "{:?}", reason);
        }
        prop_assert!(pair.peer.read == *seen.written.borrow());
        let read = seen.read.borrow();
        prop_assert!(pair.peer_wrote.starts_with(&read));
        if pair.host.closed.is_none() {
            prop_assert!(pair.peer_wrote == *read);
            prop_assert_eq!(pair.host.runner.queued(), 0);
        }
        if closes {
            prop_assert!(pair.host.closed.is_some());
        }
        if closes || seen.closes.get() {
            prop_assert!(pair.peer.has_ended || seen.written.borrow().is_empty(), "a close_notify");
        }
        for (position, promise) in seen.promises.borrow_mut().iter_mut() {
            let mut task = std::task::Context::from_waker(Waker::noop());
            match Pin::new(promise).poll(&mut task) {
                Poll::Ready(Ok(())) => prop_assert!(*position <= pair.peer.read.len()),
                Poll::Ready(Err(_)) => prop_assert!(closes || seen.closes.get()),
                Poll::Pending => prop_assert!(false, "a promise that nobody keeps"),
            }
        }
    }

    #[test]
    fn a_handshake_that_was_tampered_with_ends_in_an_error_or_not_at_all(
        is_server in any::<bool>(),
        tls13 in any::<bool>(),
        changes in prop::collection::vec((0..6000usize, any::<u8>()), 1..4),
        cut in prop_oneof![1..8usize, 100..2000usize, Just(usize::MAX)],
    ) {
        let keys = Keys::new();
        let seen = Rc::new(Seen::default());
        let first = vec![Act::Write(10), Act::Promise];
        let mut pair = pair(&keys, is_server, tls13, Obeys { first, seen: Rc::clone(&seen) });
        pair.peer.write(b"hello");
        let mut at = 0;
        for _ in 0..10 {
            let mut bytes = pair.peer.outgoing();
            for (position, byte) in &changes {
                if let Some(place) = position.checked_sub(at).and_then(|here| bytes.get_mut(here)) {
                    *place ^= byte;
                }
            }
            at += bytes.len();
            for piece in bytes.chunks(cut) {
                pair.host.feed(piece).run();
            }
            pair.host.run();
            if pair.peer.take_from(&pair.host).is_err() {
                break;
            }
        }
        pair.host.feed(pair.peer.outgoing()).feed_end().run();
        pair.host.advance(Duration::from_secs(30));
        let read = seen.read.borrow();
        prop_assert!(read.is_empty() || *read == b"hello");
        if let Some(closed) = &pair.host.closed {
            prop_assert!(closed.is_some(), "in order");
        }
    }
}
