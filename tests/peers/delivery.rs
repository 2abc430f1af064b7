//! Who gets a frame, and that none is lost.

use perihelion::prelude::*;
use perihelion::testing::{Faults, each_seed};
use perihelion::transports::Handling;
use std::cell::RefCell;
use std::rc::Rc;

use crate::world::*;

type Log = Rc<RefCell<Vec<String>>>;

#[test]
fn an_echo_loses_nothing_whatever_happens_on_the_way() {
    each_seed(0..200, |seed| {
        let (mut channel, peer) = open(seed, Faults::survivable());
        channel.simulation().spawn(async move {
            while let Some(line) = peer.recv().await.unwrap() {
                peer.send(line).await.unwrap();
            }
        });
        let sent: String = (0..300).map(|number| format!("line {number}\n")).collect();
        channel.send(&sent);
        channel.end();
        assert_eq!(channel.received(), sent.as_bytes());
        assert_eq!(channel.closed(), Some(None), "when the last peer is dropped");
    });
}

#[test]
fn a_frame_goes_to_the_first_that_wants_it() {
    let (mut channel, peer) = open(1, Faults::none());
    let log = Log::default();
    channel.send("queued\n");

    let noted = Rc::clone(&log);
    peer.on_received(move |line| {
        noted.borrow_mut().push(format!("event {line}"));
        if line.starts_with("handled") { Handling::Handled } else { Handling::PassOn }
    });
    let mut short = peer.subscribe(|line| line.len() < 10);
    let mut all = peer.subscribe(|_| true);
    channel.send("handled\nshort\nmuch too long\n");
    assert_eq!(log.take(), ["event handled", "event short", "event much too long"]);
    assert_eq!(peer.try_recv().as_deref(), Some("queued"), "before there was anybody");
    assert_eq!(peer.try_recv(), None, "what is observed isn't queued");

    let receiving = peer.clone();
    let waiting = channel.simulation().spawn(async move { receiving.recv().await });
    channel.simulation().run();
    channel.send("handled, if it came so far\nnext\n");
    let received = channel.simulation().finish(waiting).unwrap().unwrap();
    assert_eq!(received.as_deref(), Some("handled, if it came so far"), "the task comes before the event");
    assert_eq!(log.take(), ["event next"]);

    channel.end();
    let seen = run(&mut channel, async move {
        let (mut in_short, mut in_all) = (Vec::new(), Vec::new());
        while let Some(line) = short.next().await {
            in_short.push(line);
        }
        while let Some(line) = all.next().await {
            in_all.push(line);
        }
        (in_short, in_all)
    });
    assert_eq!(
        seen,
        (vec!["short".into(), "next".into()], vec!["short".into(), "much too long".into(), "next".into()])
    );
    assert_eq!(statistics(&mut channel, &peer).frames_in, 6);
}

#[test]
fn a_subscription_takes_of_the_queue_what_it_wants() {
    let (mut channel, peer) = open(1, Faults::none());
    channel.send("a1\nb1\na2\n");
    let mut those_with_a = peer.subscribe_with_queued(|line| line.starts_with('a'));
    assert_eq!(peer.try_recv().as_deref(), Some("b1"), "the others stay");
    let got = run(&mut channel, async move { (those_with_a.next().await, those_with_a.next().await) });
    assert_eq!(got, (Some("a1".into()), Some("a2".into())));
    channel.send("a3\n");
    assert_eq!(peer.try_recv().as_deref(), Some("a3"), "the subscription is gone");
}

#[test]
fn two_receives_at_once_are_an_error_and_lose_nothing() {
    let (mut channel, peer) = open(1, Faults::none());
    let receiving = peer.clone();
    let first = channel.simulation().spawn(async move { receiving.recv().await });
    channel.simulation().run();
    let receiving = peer.clone();
    let second = run(&mut channel, async move { receiving.recv().await });
    assert!(matches!(second, Err(ConnectionError::ReceivePending)), "{second:?}");
    channel.send("one\ntwo\n");
    assert_eq!(channel.simulation().finish(first).unwrap().unwrap().as_deref(), Some("one"));
    assert_eq!(peer.try_recv().as_deref(), Some("two"));
}

#[test]
fn a_receive_that_is_given_up_loses_nothing() {
    each_seed(0..100, |seed| {
        let (mut channel, peer) = open(seed, Faults::survivable());
        let task = channel.simulation().spawn(async move {
            let mut received = Vec::new();
            let mut given_up = 0;
            loop {
                let pause = fastrand::Rng::with_seed(seed + given_up).u64(0..5);
                match timeout(std::time::Duration::from_millis(pause), peer.recv()).await {
                    Ok(Ok(Some(line))) => received.push(line),
                    Ok(_) => return received,
                    Err(_) => given_up += 1,
                }
            }
        });
        let sent: Vec<String> = (0..50).map(|number| number.to_string()).collect();
        for line in &sent {
            channel.send(format!("{line}\n"));
            channel.advance(std::time::Duration::from_millis(3));
        }
        channel.end();
        channel.advance(std::time::Duration::from_secs(1));
        assert_eq!(channel.simulation().finish(task).unwrap(), sent);
    });
}

#[test]
fn a_full_queue_stops_reading_until_it_is_half_empty() {
    let (mut channel, peer) = open_with(1, Faults::none(), "unread_frames_max = 10");
    let sent: Vec<String> = (0..100).map(|number| format!("{number}")).collect();
    channel.send(sent.join("\n") + "\n");
    assert_eq!(statistics(&mut channel, &peer).unread_frames, 10);
    let mut received = Vec::new();
    while let Some(line) = peer.try_recv() {
        received.push(line);
        channel.simulation().run();
        assert!(statistics(&mut channel, &peer).unread_frames <= 10);
    }
    assert_eq!(received, sent);
}

#[test]
fn a_subscription_that_is_not_read_stops_reading_until_it_is_dropped() {
    let (mut channel, peer) = open_with(1, Faults::none(), "unread_frames_max = 10");
    let unread = peer.subscribe(|_| true);
    let mut read = peer.subscribe(|_| true);
    channel.send("x\n".repeat(100));
    assert_eq!(statistics(&mut channel, &peer).frames_in, 10);
    drop(unread);
    let count = channel.simulation().spawn(async move {
        let mut count = 0;
        while read.next().await.is_some() {
            count += 1;
        }
        count
    });
    channel.end();
    assert_eq!(channel.simulation().finish(count), Some(100));
}

#[test]
fn a_subscription_is_not_held_up_by_frames_in_the_queue_that_nobody_takes() {
    each_seed(0..50, |seed| {
        let (mut channel, peer) = open_with(seed, Faults::survivable(), "unread_frames_max = 10");
        channel.send("before\n".repeat(8));
        let mut subscription = peer.subscribe(|_| true);
        channel.send("after\n".repeat(50));
        let received = start(&mut channel, async move {
            for _ in 0..50 {
                assert_eq!(subscription.next().await.as_deref(), Some("after"));
            }
        });
        assert!(received.is_there());
        // A subscription that takes what fills the queue makes room.
        channel.send("more\n".repeat(100));
        assert_eq!(statistics(&mut channel, &peer).unread_frames, 10);
        drop(peer.subscribe_with_queued(|line| line == "before"));
        channel.simulation().run();
        assert_eq!(statistics(&mut channel, &peer).frames_in, 8 + 50 + 2 + 8);
    });
}

#[test]
fn what_is_shown_and_wanted_by_nobody_is_counted_as_dropped() {
    let (mut channel, peer) = open(1, Faults::none());
    peer.on_received(|line| if line == "mine" { Handling::Handled } else { Handling::PassOn });
    channel.send("mine\nnobody's\n");
    let _short = peer.subscribe(|line| line.len() < 3);
    channel.send("mine\nab\nnobody's\n");
    let statistics = statistics(&mut channel, &peer);
    assert_eq!((statistics.frames_in, statistics.dropped, statistics.unread_frames), (5, 2, 0));
}

#[test]
fn an_event_that_panics_costs_its_connection_and_no_other() {
    let (mut channel, peer) = open(1, Faults::none());
    let subscribed = peer.subscribe(|line| {
        assert_ne!(line, "bang", "on purpose");
        true
    });
    channel.send("fine\nbang\n");
    let reason = channel.closed().expect("it is closed").expect("for a reason");
    assert!(reason.contains("panicked"), "{reason}");
    drop(subscribed);
    let error = run(&mut channel, async move { peer.recv().await });
    assert!(error.unwrap_err().to_string().contains("panicked"));
}

#[test]
fn modes_change_at_any_time_and_lose_nothing() {
    each_seed(0..200, |seed| {
        let (mut channel, peer) = open(seed, Faults::survivable());
        let mut random = fastrand::Rng::with_seed(seed);
        let sent: Vec<String> = (0..200).map(|number| number.to_string()).collect();
        let mut unsent = sent.iter();
        let mut received = Vec::new();
        let mut last_read = 0;
        while received.len() < sent.len() {
            match random.u8(0..4) {
                0 => peer.set_mode(Mode::Passive),
                1 => peer.set_mode(Mode::Active),
                2 => channel.send(
                    unsent
                        .by_ref()
                        .take(random.usize(0..20))
                        .fold(String::new(), |all, line| all + line + "\n"),
                ),
                _ => {
                    let receiving = peer.clone();
                    let task = channel.simulation().spawn(async move {
                        timeout(std::time::Duration::from_millis(50), receiving.recv()).await
                    });
                    channel.advance(std::time::Duration::from_millis(100));
                    match channel.simulation().finish(task).unwrap() {
                        Ok(line) => received.push(line.unwrap().unwrap()),
                        Err(_late) => {}
                    }
                }
            }
            channel.simulation().run();
            let statistics = statistics(&mut channel, &peer);
            let read = statistics.frames_in;
            if peer.mode() == Mode::Passive && last_read > 0 {
                assert!(read <= last_read + 1, "it reads no more than is asked for");
            }
            last_read = if peer.mode() == Mode::Passive { read } else { 0 };
        }
        assert_eq!(received, sent);
    });
}
