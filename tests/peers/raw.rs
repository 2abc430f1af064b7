//! Bytes past the frames: a peer that is detached and attached again, and connections as streams of bytes.

use futures_io::{AsyncRead, AsyncWrite};
use perihelion::prelude::*;
use perihelion::runtime::simulation::Simulation;
use perihelion::testing::{Ending, Faults, TestChannel, each_seed};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context as Task, Poll, Waker};

use crate::world::*;

fn connect(seed: u64, faults: Faults, keys: &str) -> (TestChannel, Connection) {
    TestChannel::connection(Simulation::new(seed, faults), &configured(keys))
}

/// Lines, and between them bytes of a length that a line has told.
struct Script {
    bytes: Vec<u8>,
    lines: Vec<String>,
}

impl Script {
    fn new(random: &mut fastrand::Rng) -> Self {
        let mut script = Script { bytes: Vec::new(), lines: Vec::new() };
        for number in 0..random.usize(1..30) {
            let line = if random.bool() {
                format!("line {number}")
            } else {
                let most = random.choice([3, 300, 20_000]).unwrap();
                format!("raw {}", random.usize(0..most))
            };
            script.bytes.extend(format!("{line}\n").into_bytes());
            if let Some(len) = line.strip_prefix("raw ").map(|len| len.parse().unwrap()) {
                // Not to be taken for lines, or with as many ends as can be.
                let newlines = random.bool();
                script.bytes.extend((0..len).map(|_| if newlines { b'\n' } else { random.u8(..) }));
            }
            script.lines.push(line);
        }
        script
    }
}

/// Echoes lines as lines and bytes as bytes.
async fn echo_both(peer: Lined, mut random: fastrand::Rng) -> Result<Vec<String>> {
    let mut lines_seen = Vec::new();
    while let Some(line) = peer.recv().await? {
        let len = line.strip_prefix("raw ").map(|len| len.parse::<usize>().unwrap());
        lines_seen.push(line.clone());
        match len {
            None => peer.send(line).await?,
            Some(mut left) => {
                peer.send(line).await?;
                let mut connection = peer.detach()?;
                assert!(matches!(peer.recv().await, Err(ConnectionError::Detached)));
                if random.u8(0..4) == 0 {
                    // What happens to the peer meanwhile does nothing to the bytes.
                    peer.set_mode(Mode::Active);
                    yield_now().await;
                    peer.set_mode(Mode::Passive);
                }
                while left > 0 {
                    let limit = left.min(random.usize(1..5000));
                    let bytes = read_up_to(&mut connection, limit).await?.expect("there is more");
                    left -= bytes.len();
                    connection.write(bytes.into()).await?;
                }
                peer.attach(connection, codec(lines()))?;
            }
        }
    }
    Ok(lines_seen)
}

async fn yield_now() {
    let mut yielded = false;
    poll_fn(|task| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        task.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[test]
fn lines_and_bytes_take_turns_and_none_is_lost_or_doubled() {
    each_seed(0..300, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let script = Script::new(&mut random);
        let (mut channel, peer) =
            open_with(seed, Faults::survivable(), "unread_bytes_max = 500\nunsent_frames_max = 3");
        peer.set_mode(Mode::Passive);
        let (echoing, own) = (peer.clone(), random.fork());
        let echoed = start(&mut channel, echo_both(echoing, own));
        let (mut rest, mut received) = (&script.bytes[..], Vec::new());
        while !rest.is_empty() {
            let (now, later) = rest.split_at(random.usize(1..=rest.len()));
            channel.set_window(random.bool().then(|| random.usize(0..1000)));
            channel.send(now);
            channel.set_window(None);
            received.extend(channel.received());
            rest = later;
        }
        channel.end();
        received.extend(channel.received());
        assert!(received == script.bytes, "{} of {} bytes", received.len(), script.bytes.len());
        assert_eq!(echoed.take().expect("it is done").unwrap(), script.lines);
        let statistics = statistics(&mut channel, &peer);
        assert_eq!(statistics.bytes_in, script.bytes.len() as u64, "raw bytes count");
        assert_eq!(statistics.bytes_out, script.bytes.len() as u64);
        assert_eq!(statistics.frames_in, script.lines.len() as u64);
        assert_eq!(statistics.frames_out, script.lines.len() as u64);
        drop(peer);
        channel.simulation().run();
        assert_eq!(channel.closed(), Some(None));
    });
}

#[test]
fn a_connections_own_function_takes_lines_and_bytes_in_turns() {
    each_seed(0..100, |seed| {
        let script = Script::new(&mut fastrand::Rng::with_seed(seed));
        let echo = async move |peer: Lined| {
            peer.set_mode(Mode::Passive);
            echo_both(peer, fastrand::Rng::with_seed(seed)).await.map(drop)
        };
        let server = Server::bind("127.0.0.1:0").peer(|_| codec(lines()), echo);
        let mut simulation = Simulation::new(seed, Faults::survivable());
        drop(server.start(simulation.handle()).unwrap());
        simulation.run();
        let far = simulation.knock();
        far.send(&script.bytes);
        far.end();
        simulation.advance(SECOND); // after a failed accept a listener rests
        let received = far.received();
        assert!(received == script.bytes, "{} of {} bytes", received.len(), script.bytes.len());
        assert_eq!(far.sees(), Ending::Closed);
    });
}

#[test]
fn a_peer_is_detached_as_often_as_it_takes() {
    const TIMES: usize = 23_000; // with three stages each time
    let (mut channel, peer) = open(1, Faults::none());
    peer.set_mode(Mode::Passive);
    let task = start(&mut channel, async move {
        for _ in 0..TIMES {
            let connection = peer.detach().unwrap();
            yield_now().await;
            peer.attach(connection, codec(lines())).unwrap();
            yield_now().await;
        }
        peer.recv().await
    });
    channel.send("still there\n");
    assert_eq!(task.take().expect("it is done").unwrap().as_deref(), Some("still there"));
}

#[test]
fn what_waits_at_a_peer_that_is_detached_goes_on_when_it_is_attached() {
    each_seed(0..100, |seed| {
        let (mut channel, peer) = open(seed, Faults::survivable());
        channel.send("one\n");
        peer.set_mode(Mode::Passive);
        peer.queue("sent before".into()).unwrap();
        let sending = peer.sender();
        run(&mut channel, async move { sending.flush().await }).unwrap();
        let (first, second) = (peer.clone(), peer.clone());
        assert_eq!(run(&mut channel, async move { first.recv().await }).unwrap().as_deref(), Some("one"));
        let receiving = start(&mut channel, async move { second.recv().await });
        let connection = peer.detach().unwrap();
        channel.simulation().run();
        peer.queue("queued meanwhile".into()).unwrap();
        let sending = peer.sender();
        let sent = start(&mut channel, async move { sending.flush().await });
        channel.send("raw");
        assert!(!sent.is_there() && !receiving.is_there());
        let raw = run(&mut channel, async move {
            let mut connection = connection;
            let mut raw = Vec::new();
            while raw.len() < 3 {
                raw.extend(read_up_to(&mut connection, 3 - raw.len()).await.unwrap().unwrap());
            }
            connection.write("raw ".into()).await.unwrap();
            (raw, connection)
        });
        assert_eq!(raw.0, b"raw");
        peer.attach(raw.1, codec(lines())).unwrap();
        channel.send("two\n");
        assert_eq!(receiving.take().expect("it is done").unwrap().as_deref(), Some("two"));
        sent.take().expect("it is done").unwrap();
        assert_eq!(channel.received(), b"sent before\nraw queued meanwhile\n");
    });
}

#[test]
fn a_peer_whose_bytes_are_dropped_or_put_to_other_use_is_closed() {
    let (mut channel, peer) = open(1, Faults::none());
    peer.set_mode(Mode::Passive);
    let ended = peer.clone();
    let ended = start(&mut channel, async move { ended.ended().await });
    let connection = peer.detach().unwrap();
    channel.simulation().run();
    peer.queue("never sent".into()).unwrap();
    drop(connection);
    channel.end();
    assert!(ended.is_there());
    assert_eq!(channel.closed(), Some(None));
    assert_eq!(channel.received(), b"");
    let late = run(&mut channel, async move { peer.recv().await });
    assert!(matches!(late, Err(ConnectionError::Closed { reason: None })), "{late:?}");

    let (mut channel, peer) = open(1, Faults::none());
    peer.set_mode(Mode::Passive);
    let other = peer.detach().unwrap().peer(codec(lines()));
    channel.send("for the other\n");
    assert_eq!(other.try_recv().as_deref(), Some("for the other"));
    let late = run(&mut channel, async move { peer.recv().await });
    assert!(matches!(late, Err(ConnectionError::Closed { .. })), "{late:?}");
    assert_eq!(channel.closed(), None, "though the first peer is gone");
    drop(other);
    channel.end();
    assert_eq!(channel.closed(), Some(None));
}

#[test]
fn a_channel_that_dies_while_its_peer_is_detached_is_told_to_whoever_asks() {
    each_seed(0..50, |seed| {
        let (mut channel, peer) = open(seed, Faults::survivable());
        peer.set_mode(Mode::Passive);
        let connection = peer.detach().unwrap();
        let read = start(&mut channel, async move {
            let failed = connection.read().await.unwrap_err();
            (
                failed,
                connection.write("x".into()).await.unwrap_err(),
                connection.flush().await.unwrap_err(),
                connection,
            )
        });
        channel.reset();
        let (read, written, flushed, connection) = read.take().expect("it is over");
        for error in [read, written, flushed] {
            assert!(error.to_string().contains("reset"), "{error}");
        }
        let attached = peer.attach(connection, codec(lines())).unwrap_err().to_string();
        assert!(attached.contains("reset"), "{attached}");
        let ended = peer.clone();
        assert!(start(&mut channel, async move { ended.ended().await }).is_there());
        let late = run(&mut channel, async move { peer.recv().await }).unwrap_err().to_string();
        assert!(late.contains("reset"), "{late}");
    });
}

#[test]
fn a_peer_takes_no_other_connection_and_none_while_it_is_active() {
    let (mut channel, peer) = open(1, Faults::none());
    let refused = peer.detach().err().unwrap();
    assert!(matches!(refused, ConnectionError::WrongMode { needs: Mode::Passive, .. }), "{refused}");
    peer.set_mode(Mode::Passive);
    let _detached = peer.detach().unwrap();
    assert!(matches!(peer.detach().err(), Some(ConnectionError::Detached)));
    let (mut other, connection) = connect(2, Faults::none(), "");
    let attaching = std::panic::AssertUnwindSafe(|| peer.attach(connection, codec(lines())));
    assert!(std::panic::catch_unwind(attaching).is_err());
    other.simulation().run();
    channel.simulation().run();
}

async fn read(connection: &mut Connection, to: &mut [u8]) -> io::Result<usize> {
    poll_fn(|task| Pin::new(&mut *connection).poll_read(task, to)).await
}

async fn write(connection: &mut Connection, from: &[u8]) -> io::Result<usize> {
    poll_fn(|task| Pin::new(&mut *connection).poll_write(task, from)).await
}

#[test]
fn a_connection_is_read_and_written_in_parts_of_any_size() {
    each_seed(0..100, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let sent: Vec<u8> = (0..random.usize(0..200_000)).map(|_| random.u8(..)).collect();
        let (mut channel, connection) = connect(
            seed,
            Faults::survivable(),
            "unread_bytes_max = 3000\nunsent_frames_max = 3\nhigh_water_bytes = 5000\nlow_water_bytes = 2000",
        );
        let mut own = random.fork();
        let echoed = start(&mut channel, async move {
            let mut connection = connection;
            let (mut total, mut buffer) = (0, vec![0; 70_000]);
            loop {
                let most = own.choice([0, 1, 10, 1000, 70_000]).unwrap();
                let read = read(&mut connection, &mut buffer[..most]).await?;
                if read == 0 && most > 0 {
                    break;
                }
                let mut rest = &buffer[..read];
                while !rest.is_empty() {
                    let part = own.usize(0..=rest.len());
                    let written = write(&mut connection, &rest[..part]).await?;
                    assert!(written <= part && (written > 0 || part == 0));
                    rest = &rest[written..];
                }
                total += read;
                if own.u8(0..10) == 0 {
                    poll_fn(|task| Pin::new(&mut connection).poll_flush(task)).await?;
                }
            }
            poll_fn(|task| Pin::new(&mut connection).poll_close(task)).await?;
            let late = write(&mut connection, b"late").await;
            assert_eq!(late.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
            Ok::<_, io::Error>(total)
        });
        let (mut rest, mut received) = (&sent[..], Vec::new());
        while !rest.is_empty() {
            let (now, later) = rest.split_at(random.usize(1..=rest.len()));
            channel.set_window(random.bool().then(|| random.usize(0..1000)));
            channel.send(now);
            channel.advance(MILLISECOND);
            channel.set_window(None);
            received.extend(channel.received());
            rest = later;
        }
        channel.end();
        received.extend(channel.received());
        assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
        assert_eq!(echoed.take().expect("it is done").unwrap(), sent.len());
        assert_eq!(channel.closed(), Some(None));
    });
}

#[test]
fn what_nobody_reads_stays_with_the_other_side() {
    each_seed(0..20, |seed| {
        let (mut channel, connection) = connect(seed, Faults::survivable(), "unread_bytes_max = 1000");
        let (sent, handle) = (vec![b'x'; 1_000_000], connection.handle());
        channel.send(&sent);
        let received = handle.traffic().received();
        // A few chunks beyond it are on their way when reading stops.
        assert!((1000..400_000).contains(&received), "{received}");
        channel.advance(SECOND * 60);
        assert_eq!(handle.traffic().received(), received, "a pause is no wait");
        assert_eq!(channel.closed(), None);
        let reading = start(&mut channel, async move {
            let mut count = 0;
            while let Some(bytes) = connection.read().await.unwrap() {
                count += bytes.len();
            }
            count
        });
        channel.end();
        assert_eq!(reading.take(), Some(sent.len()));
    });
}

#[test]
fn whoever_writes_to_a_side_that_does_not_read_waits() {
    each_seed(0..50, |seed| {
        let (mut channel, connection) = connect(
            seed,
            Faults::survivable(),
            "unsent_frames_max = 4\nhigh_water_bytes = 10000\nlow_water_bytes = 5000",
        );
        channel.set_window(Some(0));
        let handle = connection.handle();
        let writing = start(&mut channel, async move {
            let mut connection = connection;
            for _ in 0..100 {
                connection.write(vec![b'x'; 3000].into()).await.unwrap();
            }
            let mut left = 300_000;
            while left > 0 {
                left -= write(&mut connection, &vec![b'y'; left.min(3000)]).await.unwrap();
            }
            connection.flush().await.unwrap();
        });
        channel.advance(SECOND * 60);
        assert!(!writing.is_there());
        assert_eq!(handle.traffic().sent(), 0);
        let mut received = Vec::new();
        while !writing.is_there() {
            channel.set_window(Some(20_000));
            channel.advance(MILLISECOND * 100);
            received.extend(channel.received());
        }
        assert_eq!(received.len(), 600_000);
        assert!(received[..300_000].iter().all(|byte| *byte == b'x'));
        assert_eq!(handle.traffic().sent(), 600_000);
    });
}

#[test]
fn reading_is_for_one_at_a_time_and_may_be_given_up() {
    each_seed(0..100, |seed| {
        let (mut channel, connection) = connect(seed, Faults::survivable(), "");
        let mut random = fastrand::Rng::with_seed(seed);
        let mut own = random.fork();
        let reading = start(&mut channel, async move {
            let mut read = Vec::new();
            loop {
                let patience = MILLISECOND * own.u32(0..5);
                match timeout(patience, connection.read()).await {
                    Ok(Ok(Some(bytes))) => read.extend(bytes),
                    Ok(end) => return (end, read),
                    Err(_given_up) => {}
                }
            }
        });
        let mut sent = Vec::new();
        for _ in 0..50 {
            let bytes: Vec<u8> = (0..random.usize(0..100)).map(|_| random.u8(..)).collect();
            channel.send(&bytes);
            sent.extend(bytes);
            channel.advance(MILLISECOND * 3);
        }
        channel.end();
        channel.advance(SECOND);
        let (end, read) = reading.take().expect("it is done");
        assert!(matches!(end, Ok(None)));
        assert_eq!(read, sent);
    });
    let (mut channel, connection) = connect(1, Faults::none(), "");
    let (first, second) = run(&mut channel, async move {
        let connection = std::rc::Rc::new(connection);
        let reading = std::rc::Rc::clone(&connection);
        let first = spawn_local(async move { reading.read().await });
        yield_now().await;
        (first, connection.read().await)
    });
    assert!(matches!(second, Err(ConnectionError::ReceivePending)));
    channel.send("x");
    assert!(matches!(channel.simulation().finish(first), Some(Ok(Some(bytes))) if bytes == "x"));
}

/// Passes on bytes and, now and then, none of them.
struct Hollow;

impl Protocol for Hollow {
    type Frame = Bytes;
    type Item = Bytes;
    fn read(&mut self, _wire: &mut Wire<'_>, input: &mut Input) -> Result<Flow<Bytes>> {
        if input.is_empty() {
            return Ok(Flow::Done);
        }
        let hollow = input.as_slice()[0] == b'0';
        let byte = input.take(1);
        Ok(Flow::Next(if hollow { Bytes::new() } else { byte }))
    }
    fn write(&mut self, wire: &mut Wire<'_>, bytes: Bytes) -> Result<()> {
        wire.output().put_bytes(bytes);
        Ok(())
    }
}

#[test]
fn nothing_at_all_is_not_taken_for_the_end() {
    let (mut channel, connection) = connect(1, Faults::none(), "");
    let reading = start(&mut channel, async move {
        let mut connection = connection.upgrade(codec(Hollow)).await.unwrap();
        let mut read = Vec::new();
        while let Some(bytes) = read_up_to(&mut connection, 10).await.unwrap() {
            read.extend(bytes);
        }
        read
    });
    channel.send("0");
    channel.send("1002");
    channel.send("03");
    channel.end();
    assert_eq!(reading.take().expect("it is done"), b"123");
}

#[test]
fn however_much_is_unread_the_next_stages_read_it_all() {
    each_seed(0..20, |seed| {
        for by_peer in [false, true] {
            let (mut channel, connection) = connect(seed, Faults::survivable(), "unread_bytes_max = 2000");
            let sent: String = (0..20_000).map(|number| format!("{number}\n")).collect();
            channel.send(&sent);
            let mut random = fastrand::Rng::with_seed(seed);
            let echoing = start(&mut channel, async move {
                if random.bool() {
                    sleep(MILLISECOND * 10).await; // while reading is paused
                }
                if by_peer {
                    let peer = connection.peer(codec(lines()));
                    while let Some(line) = peer.recv().await? {
                        peer.send(line).await?;
                    }
                    Ok(())
                } else {
                    let echo = codec(lines()).service(async |line: String| Ok(line));
                    connection.pipeline_until_closed(echo).await
                }
            });
            channel.end();
            channel.advance(SECOND);
            assert!(channel.received() == sent.as_bytes());
            echoing.take().expect("it is done").unwrap();
        }
    });
}

#[test]
fn a_connection_that_is_dropped_closes_in_order_and_one_that_is_broken_says_so() {
    let (mut channel, connection) = connect(1, Faults::none(), "");
    run(&mut channel, async move { connection.write("last words".into()).await }).unwrap();
    assert_eq!(channel.received(), b"last words");
    assert_eq!(channel.peer_sees(), Ending::Ended);
    channel.end();
    assert_eq!(channel.closed(), Some(None));

    let (mut channel, mut connection) = connect(1, Faults::none(), "");
    channel.send("x");
    channel.reset();
    let mut byte = [0];
    let mut poll = |connection: &mut Connection| {
        Pin::new(connection).poll_read(&mut Task::from_waker(Waker::noop()), &mut byte)
    };
    assert!(matches!(poll(&mut connection), Poll::Ready(Ok(1))), "what came before");
    let Poll::Ready(Err(error)) = poll(&mut connection) else { panic!("it is no orderly end") };
    assert!(error.to_string().contains("reset"), "{error}");
}
