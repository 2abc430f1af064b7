//! Frames one by one: through stages that wait, swallow, split and join, and to whoever waits in whatever way.

use futures_core::Stream;
use perihelion::prelude::*;
use perihelion::runtime::simulation::Simulation;
use perihelion::testing::{Faults, TestChannel, each_seed};
use perihelion::transports::Handling;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Wake, Waker};

use crate::world::*;

/// What a stage makes of lines.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    PassesOn,
    /// Takes its time.
    Waits,
    /// Keeps every line with an `x` in it.
    Swallows,
    /// Makes a line of each word.
    Splits,
    /// Makes one line of two.
    Joins,
}

struct Stage(Kind, VecDeque<String>);

impl Stage {
    fn next(&mut self) -> Flow<String> {
        match self.1.pop_front() {
            None => Flow::Done,
            Some(word) if self.1.is_empty() => Flow::Next(word),
            Some(word) => Flow::More(word),
        }
    }
}

impl Handler for Stage {
    type In = String;
    type Next = String;
    type Write = String;
    type Out = String;
    fn read(&mut self, _cx: &mut Context<'_, String>, line: String) -> Result<Flow<String>> {
        Ok(match self.0 {
            Kind::PassesOn => Flow::Next(line),
            Kind::Waits => Flow::later(async move {
                sleep(MILLISECOND * 3).await;
                Ok(Flow::Next(line))
            }),
            Kind::Swallows if line.contains('x') => Flow::Done,
            Kind::Swallows => Flow::Next(line),
            Kind::Splits => {
                self.1.extend(line.split(' ').map(Into::into));
                self.next()
            }
            Kind::Joins => match self.1.pop_front() {
                Some(first) => Flow::Next(first + "+" + &line),
                None => {
                    self.1.push_back(line);
                    Flow::Done
                }
            },
        })
    }
    fn more(&mut self, _cx: &mut Context<'_, String>) -> Result<Flow<String>> {
        Ok(self.next())
    }
    fn write(&mut self, cx: &mut Context<'_, String>, line: String) -> Result<()> {
        cx.write(line)
    }
}

impl Kind {
    fn makes_of(self, lines: &[String]) -> Vec<String> {
        match self {
            Kind::PassesOn | Kind::Waits => lines.to_vec(),
            Kind::Swallows => lines.iter().filter(|line| !line.contains('x')).cloned().collect(),
            Kind::Splits => lines.iter().flat_map(|line| line.split(' ')).map(Into::into).collect(),
            Kind::Joins => lines.chunks_exact(2).map(|two| two.join("+")).collect(),
        }
    }
}

#[test]
fn in_passive_mode_each_frame_comes_when_it_is_asked_for_whatever_stages_make_of_it() {
    for kind in [Kind::PassesOn, Kind::Waits, Kind::Swallows, Kind::Splits, Kind::Joins] {
        each_seed(0..60, |seed| {
            let stages = codec(lines()).then(Stage(kind, VecDeque::new()));
            let simulation = Simulation::new(seed, Faults::survivable());
            let (mut channel, peer) = TestChannel::peer(simulation, &Config::default(), stages);
            peer.set_mode(Mode::Passive);
            peer.on_received(|_| panic!("there are no events in this mode"));
            let mut random = fastrand::Rng::with_seed(seed);
            let words = ["a", "x", "b c", "x y z", "d"];
            let sent: Vec<String> = (0..40).map(|_| random.choice(words).unwrap().to_string()).collect();
            let expected = kind.makes_of(&sent);
            let (mut unsent, mut received, mut on_its_way) = (sent.iter(), Vec::new(), 0);
            while received.len() < expected.len() {
                let some = unsent.by_ref().take(random.usize(0..10));
                channel.send(some.map(|line| line.clone() + "\n").collect::<String>());
                let before = statistics(&mut channel, &peer);
                channel.advance(MILLISECOND * 50);
                let after = statistics(&mut channel, &peer).frames_in;
                assert!(after <= before.frames_in + on_its_way, "nobody has asked");
                let receiving = peer.clone();
                let patience = MILLISECOND * random.u32(0..60);
                let got = start(&mut channel, async move { timeout(patience, receiving.recv()).await });
                channel.advance(MILLISECOND * 200);
                match got.take().expect("it is done") {
                    Ok(line) => {
                        received.push(line.unwrap().expect("there is one"));
                        on_its_way = 0;
                    }
                    Err(_given_up) => {
                        let after = statistics(&mut channel, &peer).frames_in;
                        assert!(after <= before.frames_in + 1, "one at most was on its way");
                        on_its_way = 1; // what was asked for comes nevertheless
                    }
                }
            }
            assert_eq!(received, expected, "{kind:?}");
        });
    }
}

#[test]
fn a_peer_is_a_stream_for_whom_the_frames_are_before_events() {
    let (mut channel, peer) = open(1, Faults::none());
    peer.on_received(|_| Handling::Handled);
    let mut stream = peer.clone();
    let streaming = start(&mut channel, async move {
        let mut lines = Vec::new();
        while let Some(line) = poll_fn(|task| Pin::new(&mut stream).poll_next(task)).await {
            lines.push(line.unwrap());
            sleep(SECOND).await; // what comes now is the event's
        }
        lines
    });
    channel.send("a\n");
    channel.send("b\n");
    channel.advance(SECOND);
    channel.send("c\n");
    channel.advance(SECOND);
    let receiving = peer.clone();
    let second = start(&mut channel, async move { receiving.recv().await });
    let mut stream = peer.clone();
    let third = run(&mut channel, async move { poll_fn(|task| Pin::new(&mut stream).poll_next(task)).await });
    assert!(matches!(third, Some(Err(ConnectionError::ReceivePending))));
    channel.end();
    assert_eq!(second.take().unwrap().unwrap(), None);
    drop(peer);
    assert_eq!(channel.closed(), None, "the stream is the peer");
    drop(streaming);
}

/// Polls a future only when its own waker says so, as collections of futures do.
async fn apart<T>(future: impl Future<Output = T>) -> T {
    struct Own {
        is_due: AtomicBool,
        whole: Mutex<Option<Waker>>,
    }
    impl Wake for Own {
        fn wake(self: Arc<Self>) {
            self.is_due.store(true, SeqCst);
            self.whole.lock().unwrap().take().into_iter().for_each(Waker::wake);
        }
    }
    let mut future = pin!(future);
    let own = Arc::new(Own { is_due: AtomicBool::new(true), whole: Mutex::default() });
    poll_fn(|task| {
        own.whole.lock().unwrap().replace(task.waker().clone());
        if !own.is_due.swap(false, SeqCst) {
            return Poll::Pending;
        }
        future.as_mut().poll(&mut std::task::Context::from_waker(&Waker::from(Arc::clone(&own))))
    })
    .await
}

#[test]
fn parts_of_a_connections_function_may_have_wakers_of_their_own() {
    each_seed(0..50, |seed| {
        let peers = Server::bind("127.0.0.1:0").peer(
            |_| codec(lines()),
            async |peer: Lined| {
                while let Some(line) = apart(apart(peer.recv())).await? {
                    apart(peer.send(line)).await?;
                }
                Ok(())
            },
        );
        let connections = Server::bind("127.0.0.1:0").connections(async |connection: Connection| {
            while let Some(bytes) = apart(apart(connection.read())).await? {
                apart(connection.write(bytes)).await?;
            }
            Ok(())
        });
        for server in [peers, connections] {
            let mut simulation = Simulation::new(seed, Faults::survivable());
            drop(server.start(simulation.handle()).unwrap());
            simulation.run();
            let far = simulation.knock();
            simulation.advance(SECOND);
            let mut sent = String::new();
            for number in 0..20 {
                sent += &format!("{number}\n");
                far.send(format!("{number}\n"));
                simulation.advance(MILLISECOND * 30);
            }
            far.end();
            simulation.run();
            assert_eq!(far.received(), sent.as_bytes());
        }
    });
}
