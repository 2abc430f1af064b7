//! A peer from other cores and from threads that are no workers.

use perihelion::prelude::*;
use perihelion::testing::{Faults, each_seed};
use perihelion::transports::RemotePeer;
use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context as Task, Poll, Wake, Waker};
use std::thread::{self, Thread};

use crate::common::{Fixture, address_of, connect, read_to_end};
use crate::world::*;

/// Waits for a future on a thread that is no worker.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unparks(Thread);
    impl Wake for Unparks {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unparks(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Task::from_waker(&waker)) {
            Poll::Ready(done) => return done,
            Poll::Pending => thread::park(),
        }
    }
}

type Remote = RemotePeer<String, String>;

/// A server that gives away a handle of each of its peers, and keeps the peer until the other side ends.
fn serve(fixture: &Fixture) -> (RunningServer, mpsc::Receiver<Remote>) {
    let (give, given) = mpsc::channel();
    let give = Mutex::new(give);
    let server = Server::bind("127.0.0.1:0").peer(
        |_| codec(lines()),
        async move |peer: Lined| {
            give.lock().unwrap().send(peer.remote()).unwrap();
            peer.ended().await;
            Ok(())
        },
    );
    (server.start(fixture).unwrap(), given)
}

#[test]
fn threads_and_other_cores_send_in_order_and_call_functions() {
    const LINES: usize = 500;
    const THREADS: usize = 3;
    let fixture = Fixture::with(|config| config.runtime.workers = 2);
    let (server, given) = serve(&fixture);
    let client = connect(address_of(&server));
    let remote = given.recv().unwrap();
    let threads: Vec<_> = (0..THREADS)
        .map(|name| {
            let remote = remote.clone();
            thread::spawn(move || {
                for number in 0..LINES {
                    block_on(remote.send(format!("{name} {number}"))).unwrap();
                }
            })
        })
        .collect();
    let cores: Vec<_> = (0..2)
        .map(|core| {
            let remote = remote.clone();
            let send = move || async move {
                for number in 0..LINES {
                    remote.send(format!("{} {number}", THREADS + core)).await.unwrap();
                }
            };
            fixture.spawn_on(core, send).unwrap()
        })
        .collect();
    let reading = thread::spawn(move || {
        let mut line = String::new();
        let mut lines = std::io::BufReader::new(&client);
        let mut next = [0; THREADS + 2];
        for _ in 0..LINES * (THREADS + 2) {
            line.clear();
            std::io::BufRead::read_line(&mut lines, &mut line).unwrap();
            let (name, number) = line.trim().split_once(' ').unwrap();
            let name: usize = name.parse().unwrap();
            assert_eq!(number.parse(), Ok(next[name]), "in order");
            next[name] += 1;
        }
        client
    });
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    cores.into_iter().for_each(|core| core.recv().unwrap());
    let client = reading.join().unwrap();
    let sent = block_on(remote.run(async |peer: Lined| peer.statistics().frames_out)).unwrap();
    assert_eq!(sent, (LINES * (THREADS + 2)) as u64);
    // A function that takes long holds up no other.
    let slow = remote.clone();
    let slow = thread::spawn(move || block_on(slow.run(async |peer: Lined| peer.recv().await)));
    assert_eq!(block_on(remote.run(async |_| 7)).unwrap(), 7);
    std::io::Write::write_all(&mut &client, b"at last\n").unwrap();
    assert_eq!(slow.join().unwrap().unwrap().unwrap().as_deref(), Some("at last"));
    drop(client);
    fixture.stop_all(server);
    let late = block_on(remote.send("late".into()));
    assert!(matches!(late, Err(ConnectionError::Closed { .. })), "{late:?}");
}

#[test]
fn a_handle_keeps_nothing_open_and_knows_when_its_peer_is_gone() {
    let fixture = Fixture::with(|config| config.runtime.workers = 2);
    let (server, given) = serve(&fixture);
    let client = connect(address_of(&server));
    let remote = given.recv().unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(read_to_end(&client).0.is_empty(), "it is closed though there is a handle");
    let panicked = block_on(remote.run(async |_: Lined| panic!("on purpose")));
    assert!(panicked.is_err());
    let gone = block_on(remote.send("late".into())).unwrap_err();
    assert!(matches!(gone, ConnectionError::Closed { reason: None }), "{gone}");
    fixture.stop_all(server);
}

#[test]
fn the_reason_of_a_close_reaches_other_threads() {
    let fixture = Fixture::new();
    let (server, given) = serve(&fixture);
    let client = connect(address_of(&server));
    let remote = given.recv().unwrap();
    std::io::Write::write_all(&mut &client, "x".repeat(101).as_bytes()).unwrap();
    let reason = loop {
        match block_on(remote.send("are you there?".into())) {
            Ok(()) => thread::yield_now(),
            Err(ConnectionError::Closed { reason }) => break reason.expect("it was no orderly close"),
            Err(error) => panic!("{error}"),
        }
    };
    assert!(reason.contains("100"), "{reason}");
    drop(client);
    fixture.stop_all(server);
}

#[test]
fn orders_are_done_one_by_one_and_those_that_wait_are_few() {
    each_seed(0..30, |seed| {
        let (mut channel, peer) = open_with(
            seed,
            Faults::none(),
            "unsent_frames_max = 1\nhigh_water_bytes = 10\nlow_water_bytes = 5",
        );
        channel.set_window(Some(0));
        let remote = run(&mut channel, async move { (peer.remote(), peer) });
        let (remote, peer) = remote;
        // Many give up after they have asked; what they asked for is done in its turn, as far as it waits already.
        let polled = Rc::new(Cell::new(0));
        for number in 0..1000 {
            let sending = remote.clone();
            let counted = Rc::clone(&polled);
            drop(start(&mut channel, async move {
                counted.set(counted.get() + 1);
                let sending = sending.send(format!("{number}"));
                drop(timeout(MILLISECOND, sending).await);
            }));
        }
        let last = remote.clone();
        let last = start(&mut channel, async move { last.send("last".into()).await });
        channel.advance(SECOND);
        assert_eq!(polled.get(), 1000);
        assert!(!last.is_there());
        channel.set_window(None);
        channel.advance(SECOND);
        last.take().expect("it is done").unwrap();
        let received = String::from_utf8(channel.received()).unwrap();
        let lines: Vec<&str> = received.lines().collect();
        assert!(lines.len() < 100, "{} were done", lines.len());
        assert_eq!(lines.last(), Some(&"last"));
        let numbers: Vec<usize> = lines[..lines.len() - 1].iter().map(|line| line.parse().unwrap()).collect();
        assert!(numbers.is_sorted());
        drop((remote, peer));
    });
}

#[test]
fn an_order_that_waits_for_room_does_not_keep_the_peer() {
    let (mut channel, peer) =
        open_with(1, Faults::none(), "unsent_frames_max = 1\nhigh_water_bytes = 10\nlow_water_bytes = 5");
    channel.set_window(Some(0));
    let (remote, peer) = run(&mut channel, async move { (peer.remote(), peer) });
    let sending = remote.clone();
    let sent = start(&mut channel, async move {
        let mut sent = 0;
        while sending.send("a line of some length".into()).await.is_ok() {
            sent += 1;
        }
        sent
    });
    assert!(!sent.is_there());
    drop(peer);
    channel.advance(SECOND * 20);
    assert!(channel.closed().is_some(), "it was not read, and is reset after a while");
    assert!(sent.take().expect("it is told") < 10);
    let late = run(&mut channel, async move { remote.run(async |_: Lined| ()).await });
    assert!(matches!(late, Err(ConnectionError::Closed { reason: Some(_) })), "{late:?}");
}
