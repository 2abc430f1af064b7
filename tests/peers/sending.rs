//! What is sent, queued and flushed: in order, when it is to be, and gone when it is gone.

use futures_sink::Sink;
use perihelion::prelude::*;
use perihelion::runtime::simulation::Simulation;
use perihelion::testing::{Ending, Faults, TestChannel, each_seed};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context as Task, Poll, Waker};

use crate::common::Journal;
use crate::world::*;

#[test]
fn everything_goes_out_in_order_and_nothing_before_it_is_to() {
    each_seed(0..200, |seed| {
        let (mut channel, peer) = open_with(seed, Faults::survivable(), "unsent_frames_max = 8");
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut accepted, mut flushed, mut received) = (String::new(), 0, String::new());
        let mut acked = Vec::new();
        for number in 0..100 {
            let line = format!("line {number} {}", "x".repeat(random.usize(0..60)));
            match random.u8(0..5) {
                0 | 1 => {
                    let queued = match random.bool() {
                        true => peer.queue(line.clone()),
                        false => peer.queue_acked(line.clone()).map(|ack| acked.push(ack)),
                    };
                    match queued {
                        Ok(()) => accepted += &(line + "\n"),
                        Err(ConnectionError::QueueFull) => assert_eq!(peer.queued(), 8),
                        Err(error) => panic!("{error}"),
                    }
                }
                2 => {
                    let (sender, sent) = (peer.sender(), line.clone());
                    run(&mut channel, async move { sender.send(sent).await }).unwrap();
                    accepted += &(line + "\n");
                    flushed = accepted.len();
                }
                3 => {
                    let sender = peer.sender();
                    run(&mut channel, async move { sender.flush().await }).unwrap();
                    flushed = accepted.len();
                    assert_eq!(
                        statistics(&mut channel, &peer).bytes_out,
                        flushed as u64,
                        "the kernel has it"
                    );
                }
                _ => channel.advance(MILLISECOND * random.u32(0..30)),
            }
            received += &String::from_utf8(channel.received()).unwrap();
            assert_eq!(received, accepted[..flushed]);
        }
        drop(peer);
        received += &String::from_utf8(channel.received()).unwrap();
        assert_eq!(received, accepted, "what was queued goes out before the close");
        assert_eq!(channel.peer_sees(), Ending::Ended);
        for ack in acked {
            assert!(run(&mut channel, ack).is_ok());
        }
    });
}

#[test]
fn whoever_sends_into_a_queue_that_nobody_flushes_goes_on() {
    let (mut channel, peer) = open_with(1, Faults::none(), "unsent_frames_max = 3");
    for number in 0..3 {
        peer.queue(format!("queued {number}")).unwrap();
    }
    let full = peer.queue("too much".into());
    assert!(matches!(full, Err(ConnectionError::QueueFull)), "{full:?}");
    assert!(matches!(peer.queue_acked("too much".into()), Err(ConnectionError::QueueFull)));
    run(&mut channel, async move { peer.send("sent".into()).await }).unwrap();
    assert_eq!(channel.received(), b"queued 0\nqueued 1\nqueued 2\nsent\n");
}

#[test]
fn senders_that_wait_for_room_and_give_up_leave_it_to_the_others() {
    each_seed(0..100, |seed| {
        let (mut channel, peer) = open_with(
            seed,
            Faults::survivable(),
            "unsent_frames_max = 2\nhigh_water_bytes = 10\nlow_water_bytes = 5",
        );
        let mut random = fastrand::Rng::with_seed(seed);
        channel.set_window(Some(0));
        let mut senders = Vec::new();
        for number in 0..30 {
            let sender = peer.sender();
            let patience = MILLISECOND * random.u32(1..100);
            let (line, gives_up) = (format!("line {number}"), random.bool());
            senders.push((
                line.clone(),
                start(&mut channel, async move {
                    let sending = sender.send(line);
                    if gives_up { timeout(patience, sending).await.ok() } else { Some(sending.await) }
                }),
            ));
        }
        channel.advance(MILLISECOND * 50);
        channel.set_window(None);
        channel.advance(SECOND);
        let mut expected: Vec<String> = Vec::new();
        for (line, outcome) in senders {
            if let Some(sent) = outcome.take().expect("it is done") {
                sent.unwrap();
                expected.push(line);
            }
        }
        let received = String::from_utf8(channel.received()).unwrap();
        let mut received: Vec<&str> = received.lines().collect();
        received.sort_unstable();
        expected.sort_unstable();
        assert_eq!(received, expected, "sent once, or given up");
    });
}

/// Counts how many of it there are.
struct Held(Vec<u8>, Arc<AtomicUsize>);

impl Held {
    fn bytes(len: usize, alive: &Arc<AtomicUsize>) -> Bytes {
        alive.fetch_add(1, SeqCst);
        Bytes::from_owner(Held(vec![b'x'; len], Arc::clone(alive)))
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.1.fetch_sub(1, SeqCst);
    }
}

#[test]
fn what_frames_hold_is_let_go_when_they_are_sent_or_never_will_be() {
    #[derive(Clone, Copy, Debug)]
    enum End {
        Flush,
        Close,
        Abort,
        Reset,
        Panic,
    }
    for end in [End::Flush, End::Close, End::Abort, End::Reset, End::Panic] {
        each_seed(0..20, |seed| {
            let alive = Arc::new(AtomicUsize::new(0));
            let stages = codec(LengthPrefixed::u32_be(1 << 20));
            let simulation = Simulation::new(seed, Faults::survivable());
            let (mut channel, peer) = TestChannel::peer(simulation, &Config::default(), stages);
            // Small frames are copied, large ones sent from where they lie; most of it waits.
            channel.set_window(Some(100_000));
            for number in 0..200 {
                peer.queue(Held::bytes(if number % 2 == 0 { 10 } else { 50_000 }, &alive)).unwrap();
            }
            let sender = peer.sender();
            let flush = start(&mut channel, async move { sender.flush().await });
            assert!(!flush.is_there());
            peer.queue(Held::bytes(10, &alive)).unwrap();
            match end {
                End::Flush => {
                    channel.set_window(None);
                    channel.simulation().run();
                    assert!(flush.take().unwrap().is_ok());
                    assert_eq!(alive.load(SeqCst), 1, "{end:?}: the one that is still queued");
                }
                End::Close => {
                    drop(peer.close());
                    channel.advance(SECOND * 60);
                }
                End::Abort => drop(peer.abort()),
                End::Reset => channel.reset(),
                End::Panic => {
                    peer.set_mode(Mode::Active);
                    peer.on_received(|_| panic!("on purpose"));
                    channel.set_window(None);
                    channel.send([0, 0, 0, 0]);
                }
            }
            channel.advance(SECOND);
            if !matches!(end, End::Flush) {
                assert!(channel.closed().is_some());
                assert_eq!(alive.load(SeqCst), 0, "{end:?}: though the peer is held");
            }
            drop(peer);
        });
    }
}

#[test]
fn what_was_acknowledged_stays_so_and_what_was_not_fails_when_the_channel_closes() {
    each_seed(0..100, |seed| {
        let (mut channel, peer) = open(seed, Faults::all());
        let mut random = fastrand::Rng::with_seed(seed);
        let mut acked = Vec::new();
        channel.set_window(Some(random.usize(0..500)));
        for number in 0..100 {
            match peer.queue_acked(format!("{number}")) {
                Ok(ack) => acked.push(start(&mut channel, ack)),
                Err(_) => break, // the connection has broken
            }
        }
        let sender = peer.sender();
        drop(start(&mut channel, async move { sender.flush().await }));
        match random.u8(0..4) {
            0 => channel.reset(),
            1 => drop(peer.close()),
            2 => drop(peer.abort()),
            _ => drop(peer),
        }
        channel.advance(SECOND * 60);
        assert!(channel.closed().is_some());
        let taken = String::from_utf8(channel.received()).unwrap();
        let mut failed = false;
        for (number, ack) in acked.iter().enumerate() {
            match ack.take().expect("it has resolved") {
                Ok(()) => {
                    assert!(!failed, "in order");
                    assert!(taken.contains(&format!("{number}\n")), "{number} in {taken:?}");
                }
                Err(_) => failed = true,
            }
        }
    });
}

#[test]
fn what_waits_to_be_acknowledged_fails_when_an_event_panics_and_others_have_the_channels_state() {
    let mut simulation = Simulation::new(1, Faults::none());
    let journal = Journal::default();
    let noted = journal.clone();
    let server = Server::bind("127.0.0.1:0").peer(
        |_| codec(lines()),
        async move |peer: Lined| {
            peer.on_received(|line| panic!("{line} on purpose"));
            let acked = peer.queue_acked("never taken".into())?;
            peer.send("nor this".into()).await?;
            let noted = noted.clone();
            drop(spawn_local(async move {
                let lost = acked.await.is_err();
                noted.note(if lost { "lost" } else { "taken" });
            }));
            peer.ended().await;
            Ok(())
        },
    );
    drop(server.start(simulation.handle()).unwrap());
    simulation.run();
    let (first, other) = (simulation.knock(), simulation.knock());
    first.set_window(Some(0));
    other.set_window(Some(0));
    simulation.run();
    first.send("bang\n");
    simulation.run();
    assert_eq!(first.sees(), Ending::Reset);
    assert_eq!(journal.entries(), ["lost"]);
    other.set_window(None);
    simulation.run();
    assert_eq!(journal.entries(), ["lost", "taken"]);
    assert_eq!(other.received(), b"never taken\nnor this\n");
}

fn poll<T>(call: impl FnOnce(&mut Task<'_>) -> Poll<T>) -> Poll<T> {
    call(&mut Task::from_waker(Waker::noop()))
}

#[test]
fn a_sender_is_a_sink() {
    each_seed(0..50, |seed| {
        let (mut channel, peer) = open_with(seed, Faults::survivable(), "unsent_frames_max = 4");
        let mut sink = peer.sender();
        // Fed without a flush, it makes room by itself.
        run(&mut channel, async move {
            for number in 0..50 {
                poll_fn(|task| Pin::new(&mut sink).poll_ready(task)).await.unwrap();
                Pin::new(&mut sink).start_send(format!("{number}")).unwrap();
            }
        });
        let mut sink = peer.sender();
        let before = channel.received().len();
        assert!(before < 140, "the last are not flushed");
        assert!(matches!(poll(|task| Pin::new(&mut sink).poll_flush(task)), Poll::Ready(Ok(()))));
        let all: String = (0..50).map(|number| format!("{number}\n")).collect();
        assert_eq!(channel.received(), all.as_bytes()[before..]);
        assert!(matches!(poll(|task| Pin::new(&mut sink).poll_close(task)), Poll::Ready(Ok(()))));
        channel.simulation().run();
        assert_eq!(channel.peer_sees(), Ending::Ended);
        let late = poll(|task| Pin::new(&mut sink).poll_ready(task));
        assert!(matches!(late, Poll::Ready(Err(ConnectionError::Closed { .. }))));
        channel.send("still read\n");
        assert_eq!(peer.try_recv().as_deref(), Some("still read"));
    });
}
