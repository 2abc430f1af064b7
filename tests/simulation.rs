//! The real server, client and channel in a made-up world: whatever comes late, in parts or in another order.

use perihelion::handlers::{Idle, WriteDeadline};
use perihelion::pipeline::Target;
use perihelion::prelude::*;
use perihelion::runtime::simulation::Simulation;
use perihelion::testing::{Ending, Faults, TestChannel, each_seed};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

struct Echo;

impl Tail for Echo {
    type In = Bytes;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        cx.write(msg)
    }
}

fn length() -> LengthPrefixed {
    LengthPrefixed::u32_be(1 << 20)
}

/// Frames of many sizes, from none to several receive buffers.
fn frames(seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = Vec::new();
    for _ in 0..random.usize(1..40) {
        let size = if random.u8(0..10) == 0 { random.usize(0..100_000) } else { random.usize(0..200) };
        bytes.extend((size as u32).to_be_bytes());
        bytes.extend(std::iter::repeat_with(|| random.u8(..)).take(size));
    }
    bytes
}

#[test]
fn an_echo_loses_nothing_whatever_happens_on_the_way() {
    each_seed(0..300, |seed| {
        let sent = frames(seed);
        let mut channel = TestChannel::with_faults(seed, Faults::survivable(), codec(length()).tail(Echo));
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut rest, mut received) = (&sent[..], Vec::new());
        while !rest.is_empty() {
            let (now, later) = rest.split_at(random.usize(1..=rest.len()));
            // A peer that reads little stops the channel; what it does not take is not lost.
            channel.set_window(random.bool().then(|| random.usize(0..1000)));
            channel.send(now);
            channel.set_window(None);
            received.extend(channel.received());
            rest = later;
        }
        channel.end();
        received.extend(channel.received());
        assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
        assert_eq!(channel.closed(), Some(None));
        assert_eq!(channel.peer_sees(), Ending::Closed);
    });
}

#[test]
fn equal_seeds_give_equal_runs() {
    let run = |seed| {
        let mut channel = TestChannel::with_faults(seed, Faults::all(), codec(length()).tail(Echo));
        channel.send(frames(1));
        let start = channel.simulation().now();
        channel.end();
        let stats = channel.simulation().stats();
        (channel.received(), channel.closed(), stats, channel.simulation().now() - start)
    };
    let runs: Vec<_> = (0..20).map(run).collect();
    assert_eq!(runs, (0..20).map(run).collect::<Vec<_>>());
    assert!(runs.iter().any(|other| *other != runs[0]), "and others give others");
}

#[test]
fn a_connection_that_breaks_ends_its_channel_and_leaks_nothing() {
    each_seed(0..300, |seed| {
        let alive = Rc::new(());
        let witness = Rc::clone(&alive);
        let service = async move |msg: Bytes| {
            let _witness = &witness;
            sleep(Duration::from_millis(3)).await;
            Ok(msg)
        };
        let mut channel = TestChannel::with_faults(seed, Faults::all(), codec(length()).service(service));
        channel.send(frames(seed));
        channel.advance(SECOND);
        channel.reset();
        channel.advance(SECOND * 60);
        let reason = channel.closed().expect("it is closed");
        assert!(reason.is_some(), "for a reason");
        assert_eq!(Rc::strong_count(&alive), 1, "its stages are gone, and what they waited for");
    });
}

#[test]
fn a_server_accepts_under_faults_and_each_connection_keeps_its_bytes() {
    each_seed(0..30, |seed| {
        let mut simulation = Simulation::new(seed, Faults::survivable());
        let server = Server::bind("127.0.0.1:0")
            .pipeline(|_conn| codec(length()).tail(Echo))
            .start(simulation.handle())
            .unwrap();
        simulation.run();
        let peers: Vec<_> = (0..20).map(|number| (simulation.knock(), frames(seed + number))).collect();
        for (peer, bytes) in &peers {
            peer.send(bytes);
            peer.end();
        }
        simulation.advance(SECOND * 10); // after a failed accept a listener rests
        for (peer, bytes) in &peers {
            assert!(peer.received() == *bytes);
            assert_eq!(peer.sees(), Ending::Closed);
        }
        let report = server.report();
        assert_eq!((report.connections, report.open), (20, 0));
    });
}

#[test]
fn a_late_completion_does_not_reach_the_next_owner_of_a_slot() {
    each_seed(0..100, |seed| {
        let mut simulation = Simulation::new(seed, Faults::survivable());
        let server = Server::bind("127.0.0.1:0")
            .pipeline(|_conn| codec(length()).tail(Echo))
            .start(simulation.handle())
            .unwrap();
        simulation.run();
        for number in 0..30u8 {
            let peer = simulation.knock();
            peer.send([0, 0, 0, 1, number]);
            simulation.advance(Duration::from_millis(u64::from(number) * 7 % 40));
            peer.reset(); // with sends and receives on their way
        }
        let last = simulation.knock();
        last.send([0, 0, 0, 2, 7, 7]);
        simulation.advance(SECOND * 5);
        assert_eq!(last.received(), [0, 0, 0, 2, 7, 7]);
        assert_eq!(server.report().open, 1);
    });
}

#[test]
fn what_a_peer_does_not_read_is_closed_by_force_when_the_time_is_up() {
    let mut channel = TestChannel::open(codec(length()).tail(Echo));
    channel.set_window(Some(0));
    channel.send(frames(1));
    channel.close();
    channel.advance(SECOND * 4);
    assert_eq!(channel.closed(), None, "it is given time");
    channel.advance(SECOND * 2);
    let reason = channel.closed().flatten().expect("it is closed for a reason");
    assert!(reason.contains("channel.close_ms"), "{reason}");
    assert_eq!(channel.peer_sees(), Ending::Reset);
}

#[test]
fn a_future_that_never_resolves_ends_with_its_channel_or_its_deadline() {
    let never = || codec(length()).service(async |_: Bytes| std::future::pending::<Result<Bytes>>().await);
    let mut channel = TestChannel::open(never());
    channel.send(b"\0\0\0\x01x");
    channel.advance(SECOND * 29);
    assert_eq!(channel.peer_sees(), Ending::Open);
    channel.advance(SECOND);
    assert_eq!(channel.peer_sees(), Ending::Ended, "it closes in order");
    channel.end();
    let reason = channel.closed().flatten().expect("it is closed for a reason");
    assert!(reason.contains("waited for longer than 30s"), "{reason}");

    let mut channel = TestChannel::open(never());
    channel.send(b"\0\0\0\x01x");
    channel.reset();
    assert!(channel.closed().is_some());
}

/// Leads connects elsewhere, or refuses them.
struct Proxy {
    to: Option<Target>,
    log: Rc<RefCell<Vec<String>>>,
}

impl Handler for Proxy {
    type In = Bytes;
    type Next = Bytes;
    type Write = Bytes;
    type Out = Bytes;
    fn read(&mut self, _cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<Flow<Bytes>> {
        Ok(Flow::Next(msg))
    }
    fn write(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        cx.write(msg)
    }
    fn operate(&mut self, cx: &mut Context<'_, Bytes>, operation: Operation) -> Result<()> {
        match operation {
            Operation::Connect(target) => {
                self.log.borrow_mut().push(format!("{target:?}"));
                match self.to.take() {
                    Some(to) => cx.operate(Operation::Connect(to)),
                    None => Err(Error::msg("not there")),
                }
            }
            other => cx.operate(other),
        }
    }
}

#[test]
fn a_stage_leads_a_connect_elsewhere_or_refuses_it() {
    let (wanted, proxy) = ("192.0.2.1:1".parse().unwrap(), "192.0.2.2:2".parse().unwrap());
    let mut simulation = Simulation::new(1, Faults::survivable());
    simulation.answer_at(proxy);
    let connect = |simulation: &mut Simulation, to: Option<Target>| {
        let log = Rc::new(RefCell::new(Vec::new()));
        let stage = Proxy { to, log: Rc::clone(&log) };
        let client = Client::new(&Config::default());
        let task = simulation.spawn(async move {
            let pipeline = codec(length()).then(stage).tail(Echo);
            client.connect_to(wanted, pipeline).await.map_err(|error| error.to_string())
        });
        let result = simulation.finish(task).expect("the connect has ended");
        assert_eq!(log.borrow().len(), 1);
        result
    };
    let handle = connect(&mut simulation, Some(Target::Address(proxy))).unwrap();
    let peer = simulation.answered().expect("it came to the proxy");
    peer.send(b"\0\0\0\x01x");
    simulation.run();
    assert_eq!(peer.received(), b"\0\0\0\x01x");
    let closing = simulation.spawn(async move { handle.close().await });
    peer.end();
    assert_eq!(simulation.finish(closing), Some(None), "a close is a future");

    let refused = connect(&mut simulation, None).err().unwrap();
    assert_eq!(refused, "a stage refused to connect to tcp://192.0.2.1:1: not there");
    let unanswered = connect(&mut simulation, Some(Target::Address(wanted))).err().unwrap();
    assert!(unanswered.contains("Connection refused"), "{unanswered}");
}

/// Asks something that takes a while, on a thread for blocking calls, and goes on when the answer comes as an event.
#[derive(Default)]
struct LookUp {
    answer: Option<Bytes>,
}

impl Handler for LookUp {
    type In = Bytes;
    type Next = Bytes;
    type Write = Bytes;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<Flow<Bytes>> {
        let events = cx.events();
        spawn_local(async move {
            sleep(Duration::from_millis(5)).await;
            let answer = run_blocking(move || [&msg[..], b"!"].concat()).await.expect("there is a thread");
            let _ = events.send(Bytes::from(answer)); // a channel that is closed needs none
        });
        Ok(Flow::Wait)
    }
    fn write(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        cx.write(msg)
    }
    fn event(&mut self, cx: &mut Context<'_, Bytes>, event: &mut Event) -> Result<()> {
        self.answer = event.take();
        cx.ask();
        Ok(())
    }
    fn more(&mut self, _cx: &mut Context<'_, Bytes>) -> Result<Flow<Bytes>> {
        Ok(self.answer.take().map_or(Flow::Wait, Flow::Next))
    }
}

#[test]
fn what_tasks_and_threads_find_out_comes_back_to_the_stage_in_order() {
    each_seed(0..100, |seed| {
        let pipeline = codec(Lines::lf(99)).then(Text).then(LookUp::default()).tail(Echo);
        let mut channel = TestChannel::with_faults(seed, Faults::survivable(), pipeline);
        channel.send("a\nb\nc\n");
        channel.advance(SECOND);
        assert_eq!(channel.received(), b"a!\nb!\nc!\n");
    });
}

/// Text as bytes.
struct Text;

impl Handler for Text {
    type In = String;
    type Next = Bytes;
    type Write = Bytes;
    type Out = String;
    fn read(&mut self, _cx: &mut Context<'_, String>, msg: String) -> Result<Flow<Bytes>> {
        Ok(Flow::Next(msg.into()))
    }
    fn write(&mut self, cx: &mut Context<'_, String>, msg: Bytes) -> Result<()> {
        cx.write(String::from_utf8(msg.into())?)
    }
}

#[test]
fn a_slot_is_changed_by_a_task_and_from_another_thread() {
    let key = SlotKey::new();
    let mut channel = TestChannel::open(codec(length()).slot(&key, LookUp::default()).tail(Echo));
    let remote = key.remote();
    channel.simulation().spawn(async move { key.remove() });
    channel.send(b"\0\0\0\x01x");
    assert_eq!(channel.received(), b"\0\0\0\x01x");
    std::thread::spawn(move || remote.replace(LookUp::default)).join().unwrap().unwrap();
    channel.send(b"\0\0\0\x01x");
    channel.advance(SECOND);
    assert_eq!(channel.received(), b"\0\0\0\x02x!");
}

#[test]
fn a_channel_that_does_not_read_by_itself_reads_what_is_asked_for() {
    let mut config = Config::default();
    config.channel.auto_read = false;
    let simulation = Simulation::with_config(3, Faults::survivable(), config.clone());
    let mut channel = TestChannel::on(simulation, &config, codec(length()).tail(Echo));
    channel.send(b"\0\0\0\x01x");
    channel.advance(SECOND);
    assert_eq!(channel.received(), b"");
}

/// Resets the connection at the word `abort`.
struct Aborts;

impl Tail for Aborts {
    type In = String;
    type Out = String;
    fn read(&mut self, cx: &mut Context<'_, String>, line: String) -> Result<()> {
        cx.write(line.clone())?;
        if line == "abort" {
            cx.abort();
        }
        Ok(())
    }
}

#[test]
fn a_stage_resets_the_connection() {
    let mut channel = TestChannel::open(codec(Lines::lf(99)).tail(Aborts));
    channel.send("hello\n");
    channel.send("abort\nnever\n");
    assert_eq!(channel.peer_sees(), Ending::Reset);
    assert_eq!(channel.received(), b"hello\n", "what was written with it is lost");
    assert_eq!(channel.closed(), Some(None));
}

#[test]
fn an_idle_channel_is_closed_and_one_that_works_or_moves_is_not() {
    let idle = || Idle::after(SECOND * 10);
    let mut channel = TestChannel::open(codec(length()).then(idle()).tail(Echo));
    channel.advance(SECOND * 9);
    channel.send(b"\0\0\0\x01x");
    channel.advance(SECOND * 9);
    assert_eq!(channel.peer_sees(), Ending::Open);
    channel.advance(SECOND * 2);
    assert_eq!(channel.peer_sees(), Ending::Ended);

    let slow = codec(length()).then(idle()).service(async |msg: Bytes| {
        sleep(SECOND * 25).await;
        Ok(msg)
    });
    let mut channel = TestChannel::open(slow);
    channel.send(b"\0\0\0\x01x");
    channel.advance(SECOND * 26);
    assert_eq!(channel.received(), b"\0\0\0\x01x", "work is not idleness");
}

#[test]
fn a_large_write_makes_progress_as_the_peer_takes_it() {
    let deadline = WriteDeadline::new(SECOND * 10);
    let mut channel = TestChannel::open(codec(LengthPrefixed::u32_be(1 << 26)).then(deadline).tail(Echo));
    channel.set_window(Some(0));
    let large = vec![7; 4 << 20];
    channel.send([&(4u32 << 20).to_be_bytes()[..], &large].concat());
    let mut received = Vec::new();
    for _ in 0..16 {
        channel.advance(SECOND * 9);
        channel.set_window(Some(300_000));
        received.extend(channel.received());
    }
    assert_eq!(channel.peer_sees(), Ending::Open);
    assert!(received.len() >= 4 << 20, "{} bytes", received.len());

    let deadline = WriteDeadline::new(SECOND * 10);
    let mut stuck = TestChannel::open(codec(length()).then(deadline).tail(Echo));
    stuck.set_window(Some(0));
    stuck.send(b"\0\0\0\x01x");
    stuck.advance(SECOND * 20);
    let reason = stuck.closed().flatten().expect("it is closed for a reason");
    assert!(reason.contains("none of 5 queued bytes has been taken within 10s"), "{reason}");
}
