//! Whoever gives up leaves nothing behind, and whoever waits gets a turn.

use perihelion::prelude::*;
use perihelion::runtime::simulation::Simulation;
use perihelion::testing::{Faults, TestChannel, each_seed};
use std::cell::Cell;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as Task, Wake, Waker};

use crate::requests::{Message, messages};
use crate::world::*;

struct Nobody;

impl Wake for Nobody {
    fn wake(self: Arc<Self>) {}
}

/// Polls a future once, gives it up, and gives how many wakers of its task are kept.
fn kept_of(future: impl Future) -> usize {
    let nobody = Arc::new(Nobody);
    {
        let waker = Waker::from(Arc::clone(&nobody));
        let future = pin!(future);
        assert!(future.poll(&mut Task::from_waker(&waker)).is_pending());
    }
    Arc::strong_count(&nobody) - 1
}

#[test]
fn whoever_gives_up_is_forgotten() {
    let config = configured("unsent_frames_max = 1\nrequests_max = 1");
    let simulation = Simulation::new(1, Faults::none());
    let (mut channel, peer) = TestChannel::peer(simulation, &config, codec(messages()));
    let kept = start(&mut channel, async move {
        let mut kept = vec![
            ("recv", kept_of(peer.recv())),
            ("ended", kept_of(peer.ended())),
            ("closed", kept_of(peer.closed())),
            ("a request", kept_of(peer.request(Message::new(1, "asked")))),
        ];
        sleep(MILLISECOND).await;
        // This one waits for its reply, so that others wait to be sent; and the queue is full.
        let asking = peer.clone();
        drop(spawn_local(async move { asking.request(Message::new(2, "asked")).await }));
        sleep(MILLISECOND).await;
        kept.push(("a request that waits to be sent", kept_of(peer.request(Message::new(3, "asked")))));
        peer.queue(Message::new(4, "queued")).unwrap();
        kept.push(("send", kept_of(peer.send(Message::new(5, "sent")))));
        kept.push(("flush", kept_of(peer.flush())));
        kept
    });
    channel.advance(SECOND);
    for (what, kept) in kept.take().expect("it is done") {
        assert_eq!(kept, 0, "{what}");
    }
}

#[test]
fn a_sender_that_has_much_to_say_leaves_room_for_one_that_has_little() {
    each_seed(0..50, |seed| {
        let (mut channel, peer) = open_with(seed, Faults::survivable(), "unsent_frames_max = 3");
        let said = Rc::new(Cell::new(0));
        let (first, second) = (Rc::clone(&said), Rc::clone(&said));
        let (greedy, modest) = (peer.sender(), peer.sender());
        let saying = channel.simulation().spawn(async move {
            while first.get() < 1000 {
                first.set(first.get() + 1);
                greedy.send("much".into()).await.unwrap();
            }
        });
        let little = channel.simulation().spawn(async move {
            for _ in 0..10 {
                modest.send("little".into()).await.unwrap();
            }
            second.get()
        });
        let much = channel.simulation().finish(little).expect("it is done");
        assert!(much < 300, "after {much} others");
        channel.simulation().finish(saying).expect("it is done");
    });
}

#[test]
fn futures_of_senders_may_move() {
    let (mut channel, peer) = open_with(1, Faults::none(), "unsent_frames_max = 1");
    peer.queue("full".into()).unwrap();
    let sending = peer.sender();
    let mut boxed: Pin<Box<dyn Future<Output = _>>> =
        Box::pin(async move { sending.send("sent".into()).await });
    // First polled by one task, then by another.
    assert!(boxed.as_mut().poll(&mut Task::from_waker(Waker::noop())).is_pending());
    run(&mut channel, boxed).unwrap();
    assert_eq!(channel.received(), b"full\nsent\n");
}
