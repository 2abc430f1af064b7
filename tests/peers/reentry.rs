//! What a program is called for may use the peer that calls: events, predicates, and what frames themselves do.

use perihelion::prelude::*;
use perihelion::runtime::simulation::Simulation;
use perihelion::testing::{Faults, TestChannel, each_seed};
use perihelion::transports::{Handling, Reply, Request, Subscription, Unclaimed};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::world::*;

thread_local! {
    /// What a frame uses when it is called.
    static USED: RefCell<Option<(Peer<Nosy, Nosy>, fastrand::Rng)>> = const { RefCell::new(None) };
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

/// A frame that uses its peer whenever it is cloned, asked or dropped.
struct Nosy(String);

impl Nosy {
    /// Does something with the peer, at random.
    fn use_peer() {
        // Not while it is used: what is dropped then has nobody to use.
        let Some((peer, mut random)) = USED.with_borrow_mut(Option::take) else { return };
        CALLS.set(CALLS.get() + 1);
        match random.u8(0..10) {
            0 => peer.set_mode(Mode::Active),
            1 => drop(peer.try_recv()),
            2 => drop(peer.queue(Nosy("queued".into()))),
            3 => peer.on_received(|_| Handling::PassOn),
            4 => drop(peer.subscribe(|_| true)),
            5 => drop(peer.subscribe_with_queued(|frame| frame.0.len() > 5)),
            6 => assert!(peer.queued() <= 256),
            7 => drop(peer.clone()),
            _ => assert!(peer.statistics().requests < 100),
        }
        USED.set(Some((peer, random)));
    }
}

impl Drop for Nosy {
    fn drop(&mut self) {
        Nosy::use_peer();
    }
}

impl Clone for Nosy {
    fn clone(&self) -> Self {
        Nosy::use_peer();
        Nosy(self.0.clone())
    }
}

impl Request for Nosy {
    type Id = u64;
    fn request_id(&self) -> u64 {
        Nosy::use_peer();
        self.0.len() as u64
    }
}

impl Reply for Nosy {
    type Id = u64;
    fn reply_to(&self) -> Option<u64> {
        Nosy::use_peer();
        (self.0.len() > 3).then_some(self.0.len() as u64)
    }
    fn unclaimed(&self) -> Unclaimed {
        Nosy::use_peer();
        if self.0.len().is_multiple_of(2) { Unclaimed::Drop } else { Unclaimed::PassOn }
    }
}

struct NosyLines(Lines);

impl Codec for NosyLines {
    type Frame = Nosy;
    type Item = Nosy;
    fn decode(&mut self, input: &mut Input) -> Result<Option<Nosy>> {
        Ok(Codec::decode(&mut self.0, input)?.map(Nosy))
    }
    fn encode(&mut self, frame: Nosy, output: &mut Output) -> Result<()> {
        Codec::encode(&mut self.0, frame.0.clone(), output)
    }
}

#[test]
fn frames_use_their_peer_whenever_they_are_called() {
    each_seed(0..300, |seed| {
        let keys = "unread_frames_max = 5\nunsent_frames_max = 5\nrequests_max = 3";
        let simulation = Simulation::new(seed, Faults::survivable());
        let (mut channel, peer) = TestChannel::peer(simulation, &configured(keys), codec(NosyLines(lines())));
        let mut random = fastrand::Rng::with_seed(seed);
        USED.set(Some((peer.clone(), random.fork())));
        let mut subscriptions = Vec::new();
        for _ in 0..60 {
            let length = random.usize(1..9);
            let asking = peer.clone();
            match random.u8(0..8) {
                0 | 1 => channel.send("x".repeat(length) + "\n"),
                2 => subscriptions.push(run(&mut channel, async move {
                    asking.subscribe(move |frame| {
                        Nosy::use_peer();
                        frame.0.len() > length
                    })
                })),
                3 => {
                    let unwanted = subscriptions.split_off(subscriptions.len().min(1));
                    run(&mut channel, async move { drop(unwanted) });
                }
                4 => run(&mut channel, async move {
                    asking.on_received(|_| {
                        Nosy::use_peer();
                        Handling::PassOn
                    });
                }),
                5 => drop(start(&mut channel, async move {
                    let patience = MILLISECOND * length as u32;
                    drop(timeout(patience, asking.request(Nosy("x".repeat(length)))).await);
                })),
                6 => channel.advance(MILLISECOND * 10),
                _ => drop(start(&mut channel, async move { drop(timeout(SECOND, asking.recv()).await) })),
            }
            assert_eq!(channel.closed(), None);
        }
        match random.u8(0..3) {
            0 => channel.reset(),
            1 => drop(peer.close()),
            _ => channel.end(),
        }
        channel.advance(SECOND * 10);
        run(&mut channel, async move { drop(subscriptions) });
        // Without these it would be held by the frames that it holds.
        let (last, _) = USED.take().unwrap();
        run(&mut channel, async move { drop((peer, last)) });
        channel.advance(SECOND * 10);
        if channel.closed().is_none() {
            channel.end();
        }
        let reason = channel.closed().expect("it is closed");
        assert!(!reason.as_ref().is_some_and(|reason| reason.contains("panicked")), "{reason:?}");
    });
    assert!(CALLS.get() > 1000, "{} calls", CALLS.get());
}

#[test]
fn an_event_may_take_another_ones_place_from_inside_and_what_it_held_goes() {
    let (mut channel, peer) = open(1, Faults::none());
    let held = Rc::new(());
    let log = Rc::new(RefCell::new(Vec::new()));
    let (within, witness, noted) = (peer.clone(), Rc::clone(&held), Rc::clone(&log));
    let mut subscription = Some(peer.subscribe(|_| true));
    peer.on_received(move |line| {
        let _held = (&witness, &mut subscription);
        noted.borrow_mut().push(format!("first {line}"));
        let noted = Rc::clone(&noted);
        within.on_received(move |line| {
            noted.borrow_mut().push(format!("second {line}"));
            Handling::Handled
        });
        Handling::Handled
    });
    channel.send("a\nb\n");
    assert_eq!(log.take(), ["first a", "second b"]);
    assert_eq!(channel.closed(), None);
    assert_eq!(Rc::strong_count(&held), 1, "with the subscription that it held");
}

#[test]
fn a_predicate_may_end_its_own_subscription_and_begin_another() {
    let (mut channel, peer) = open(1, Faults::none());
    let place: Rc<RefCell<Option<Subscription<String>>>> = Rc::default();
    let (within, own) = (peer.clone(), Rc::clone(&place));
    *place.borrow_mut() = Some(peer.subscribe(move |_| {
        drop(own.take());
        *own.borrow_mut() = Some(within.subscribe(|line| line.starts_with('b')));
        true
    }));
    channel.send("a\nb1\nc\nb2\n");
    assert_eq!(channel.closed(), None);
    let mut second = place.take().unwrap();
    let got = run(&mut channel, async move { (second.next().await, second.next().await) });
    assert_eq!(got, (Some("b1".into()), Some("b2".into())), "what the second wants, and no other's");
    assert_eq!(statistics(&mut channel, &peer).dropped, 2, "a and c");
}

#[test]
fn an_event_may_drop_or_close_the_peer_or_change_its_mode() {
    type Act = fn(Lined);
    let acts: [Act; 5] = [
        drop,
        |peer| drop(peer.close()),
        |peer| drop(peer.abort()),
        |peer| peer.set_mode(Mode::Passive),
        |peer| {
            peer.set_mode(Mode::Passive);
            drop(peer.detach().unwrap());
        },
    ];
    for (number, act) in acts.into_iter().enumerate() {
        each_seed(0..20, |seed| {
            let (mut channel, peer) = open(seed, Faults::survivable());
            let (count, held) = (Rc::new(Cell::new(0)), RefCell::new(Some(peer.clone())));
            let counted = Rc::clone(&count);
            peer.on_received(move |_| {
                counted.set(counted.get() + 1);
                act(held.take().expect("it is called once"));
                Handling::Handled
            });
            let kept = (number == 3).then(|| peer.clone());
            drop(peer);
            channel.send("a\n");
            channel.advance(SECOND);
            channel.end();
            channel.advance(SECOND);
            assert_eq!(count.get(), 1);
            match kept {
                None => assert_eq!(channel.closed(), Some(None), "{number}"),
                Some(peer) => {
                    assert_eq!(channel.closed(), None);
                    assert_eq!(run(&mut channel, async move { peer.recv().await }).unwrap(), None);
                }
            }
        });
    }
}

#[test]
fn what_is_called_for_frames_is_let_go_when_the_channel_is_closed_however_that_is() {
    for end in 0..5 {
        each_seed(0..10, |seed| {
            let (mut channel, peer) = open(seed, Faults::survivable());
            let alive = Rc::new(());
            let (witness, held) = (Rc::clone(&alive), peer.clone());
            peer.on_received(move |line| {
                assert_ne!(line, "bang", "on purpose");
                let _held = (&witness, &held);
                Handling::Handled
            });
            // A subscription that is held by its own predicate.
            let (witness, held) = (Rc::clone(&alive), Rc::new(RefCell::new(None)));
            let own = Rc::clone(&held);
            *own.borrow_mut() = Some(peer.subscribe(move |_| {
                let _held = (&witness, &held);
                false
            }));
            drop(own);
            assert_eq!(Rc::strong_count(&alive), 3);
            match end {
                0 => channel.end(),
                1 => channel.reset(),
                2 => drop(peer.abort()),
                3 => channel.send("bang\n"),
                _ => {}
            }
            channel.close();
            channel.end();
            channel.advance(SECOND);
            assert!(channel.closed().is_some());
            assert_eq!(Rc::strong_count(&alive), 1, "{end}");
            // Nor is what comes later kept.
            let (witness, held) = (Rc::clone(&alive), peer.clone());
            peer.on_received(move |_| {
                let _held = (&witness, &held);
                Handling::Handled
            });
            assert_eq!(Rc::strong_count(&alive), 1);
        });
    }
}

#[test]
fn nothing_is_left_of_a_connection_whatever_was_done_with_it() {
    each_seed(0..100, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut channel, peer) = open_with(seed, Faults::all(), "unsent_frames_max = 5");
        let alive = Rc::new(());
        peer.features().insert(Rc::clone(&alive));
        let mut connection = None;
        for _ in 0..random.usize(0..10) {
            match random.u8(0..7) {
                0 => peer.set_mode(if random.bool() { Mode::Active } else { Mode::Passive }),
                1 => {
                    let asking = peer.clone();
                    drop(start(&mut channel, async move { asking.request_in_order("ask".into()).await }));
                }
                2 => connection = peer.detach().ok().or(connection),
                3 => drop(connection.take().map(|connection| peer.attach(connection, codec(lines())))),
                4 => {
                    let (upgrading, witness) = (peer.clone(), Rc::clone(&alive));
                    drop(start(&mut channel, async move {
                        let _witness = witness;
                        upgrading.upgrade(codec(lines())).await
                    }));
                }
                5 => channel.advance(MILLISECOND * 10),
                _ => channel.send("line\n"),
            }
        }
        drop((peer, connection));
        channel.advance(SECOND * 31);
        channel.end();
        channel.advance(SECOND * 60);
        assert!(channel.closed().is_some());
        drop(channel);
        assert_eq!(Rc::strong_count(&alive), 1);
    });
}
