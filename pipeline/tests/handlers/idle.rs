use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use perihelion_pipeline::handlers::{Idle, IdleEvent, IdleKind};
use perihelion_pipeline::*;
use proptest::prelude::*;

use crate::common::{Echo, Gate, Host, Log, frame, frames, length};

const LIMIT: Duration = Duration::from_millis(1000);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Takes what comes, gives its demand away, and writes events down. An event of a kind is answered with a ping.
struct Sink {
    demand: Rc<RefCell<Option<DemandHandle>>>,
    log: Log,
    pings: bool,
}

impl Tail for Sink {
    type In = Bytes;
    type Out = Bytes;
    fn open(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
        *self.demand.borrow_mut() = Some(cx.demand());
        Ok(())
    }
    fn read(&mut self, _cx: &mut Context<'_, Bytes>, _msg: Bytes) -> Result<()> {
        Ok(())
    }
    fn event(&mut self, cx: &mut Context<'_, Bytes>, event: &mut Event) -> Result<()> {
        let IdleEvent { kind, first } = event.take().expect("only idle events");
        self.log.add(format!("{kind:?} {first}"));
        if self.pings { cx.write("ping".into()) } else { Ok(()) }
    }
}

fn sink(idle: Idle<Bytes, Bytes>, pings: bool) -> (Host, DemandHandle, Log) {
    let (demand, log) = (Rc::default(), Log::default());
    let tail = Sink { demand: Rc::clone(&demand), log: log.clone(), pings };
    let host = Host::new(codec(length()).then(idle).tail(tail));
    (host, demand.take().unwrap(), log)
}

/// Why it closes, now that the other side takes what is left.
fn reason(host: &mut Host) -> String {
    host.window = usize::MAX;
    host.run();
    host.closed.clone().expect("it is closed").unwrap_or_default()
}

#[derive(Clone, Debug)]
enum Act {
    Read,
    Pause,
    Resume,
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_channel_that_reads_nothing_is_idle_and_a_pause_does_not_count(
        acts in prop::collection::vec((0..1500u64, prop_oneof![
            4 => Just(Act::Read), 1 => Just(Act::Pause), 1 => Just(Act::Resume)
        ]), 1..30),
    ) {
        let (mut host, demand, _) = sink(Idle::after_reads(LIMIT), false);
        let (mut idle, mut paused) = (0, false);
        for (gap, act) in acts {
            host.advance(ms(gap));
            idle += if paused { 0 } else { gap };
            prop_assert_eq!(host.runner.is_closing(), idle >= 1000, "idle for {}", idle);
            if host.runner.is_closing() {
                prop_assert!(reason(&mut host).contains("no message has come for 1s"));
                break;
            }
            match act {
                Act::Read if !paused => { host.feed(frame("a")); idle = 0 }
                Act::Read => {}
                Act::Pause => { demand.pause(); paused = true }
                Act::Resume => { demand.resume(); paused = false }
            }
            host.run();
        }
    }

    #[test]
    fn a_peer_is_idle_when_it_takes_nothing_however_much_is_written(
        steps in prop::collection::vec((0..700u64, prop::bool::weighted(0.6), 1..100usize), 1..30),
    ) {
        let mut host = Host::new(codec(length()).then(Idle::after_writes(LIMIT)).tail(Echo));
        host.window = 0;
        let (mut idle, mut owed) = (0, 0);
        for (gap, takes, size) in steps {
            host.advance(ms(gap));
            idle += gap;
            prop_assert_eq!(host.runner.is_closing(), idle >= 1000, "idle for {}", idle);
            if host.runner.is_closing() {
                break;
            }
            // Of what was written before this turn, some is taken; and more is written than that.
            let taken = if takes { size.min(owed) } else { 0 };
            host.window = taken;
            host.feed(frame([0; 120]));
            host.turn();
            host.window = 0;
            host.run();
            owed += 124 - taken;
            if taken > 0 { idle = 0 }
        }
    }
}

#[test]
fn either_direction_keeps_a_channel_alive() {
    let (mut host, _, _) = sink(Idle::after(LIMIT), false);
    for _ in 0..5 {
        host.advance(ms(999)).feed(frame("a")).run();
    }
    host.advance(ms(999));
    assert_eq!(host.closed, None);
    host.advance(ms(1));
    assert!(reason(&mut host).contains("nothing has moved"));
}

#[test]
fn a_slow_download_is_not_idle() {
    let mut host = Host::new(codec(length()).then(Idle::after(LIMIT)).tail(Echo));
    host.window = 0;
    host.feed(frame(vec![0; 100_000])).run();
    for _ in 0..20 {
        host.advance(ms(999));
        host.window = 1;
        host.turn();
        host.window = 0;
    }
    assert_eq!(host.closed, None);
    host.advance(LIMIT);
    assert!(reason(&mut host).contains("nothing has moved"), "and the peer takes nothing any more");
}

#[test]
fn what_is_not_read_because_the_peer_takes_nothing_is_the_write_clock_s_matter() {
    let limits = Limits { high_water_bytes: 100, low_water_bytes: 50, ..Limits::default() };
    let idle = Idle::after_reads(LIMIT).or_writes(LIMIT * 3);
    let mut host = Host::with_limits(codec(length()).then(idle).tail(Echo), limits);
    host.window = 0;
    host.feed(frames(&[[0; 120]; 3])).run();
    host.advance(LIMIT * 2);
    assert_eq!(host.closed, None);
    host.advance(LIMIT);
    assert!(reason(&mut host).contains("no byte has been taken for 3s"));
}

#[test]
fn events_come_again_and_the_first_of_a_run_is_marked() {
    let (mut host, _, log) = sink(Idle::after_reads(LIMIT).or_writes(LIMIT * 2).raise(), false);
    host.advance(ms(4500));
    let read = |first| format!("Read {first}");
    assert_eq!(
        log.take(),
        [read(true), read(false), "Write true".into(), read(false), read(false), "Write false".into()]
    );
    host.feed(frame("a")).run();
    host.advance(ms(1499));
    assert_eq!(log.take(), [read(true)]);
    assert_eq!(host.closed, None);
}

#[test]
fn pings_are_writes() {
    let (mut host, _, log) = sink(Idle::after_writes(LIMIT).raise(), true);
    host.advance(ms(5500));
    assert_eq!(log.take(), ["Write true"; 5]);
}

#[test]
fn the_kinds_are_told_apart() {
    let (mut host, _, log) = sink(Idle::after(LIMIT).or_reads(LIMIT * 2).raise(), false);
    host.advance(ms(2000));
    assert_eq!(log.take(), ["Both true", "Read true", "Both false"]);
    assert_eq!(IdleEvent { kind: IdleKind::Read, first: true }.kind, IdleKind::Read);
}

#[test]
fn a_message_sets_no_timer() {
    let (mut host, _, _) = sink(Idle::after(LIMIT), false);
    let timer = host.runner.next_timer();
    assert!(timer.is_some());
    host.advance(ms(500)).feed(frame("a")).run();
    assert_eq!(host.runner.next_timer(), timer);
}

#[test]
fn no_timer_runs_in_a_pause() {
    let (mut host, demand, _) = sink(Idle::after(LIMIT), false);
    demand.pause();
    host.advance(LIMIT * 100);
    assert_eq!((host.closed.clone(), host.runner.next_timer()), (None, None));
    demand.resume();
    host.run();
    host.advance(LIMIT);
    assert!(host.runner.is_closing());
}

#[test]
fn an_error_that_is_handled_comes_again() {
    struct Lenient(Log);
    impl Tail for Lenient {
        type In = Bytes;
        type Out = Bytes;
        fn read(&mut self, _cx: &mut Context<'_, Bytes>, _msg: Bytes) -> Result<()> {
            Ok(())
        }
        fn error(&mut self, _cx: &mut Context<'_, Bytes>, error: Error) -> Result<()> {
            self.0.add(error.to_string());
            Ok(())
        }
    }
    let log = Log::default();
    let mut host = Host::new(codec(length()).then(Idle::after(LIMIT)).tail(Lenient(log.clone())));
    host.advance(ms(3500));
    assert_eq!((log.take().len(), host.closed), (3, None));
}

#[test]
fn a_reply_that_is_worked_on_is_a_write_when_it_comes() {
    let gate = Gate::new();
    let wait = gate.clone();
    let idle = Idle::after(LIMIT);
    let mut host = Host::new(codec(length()).then(idle).service(async move |_: Bytes| {
        wait.wait().await;
        Ok(Bytes::from("done"))
    }));
    host.feed(frame("a")).run();
    host.advance(ms(900));
    gate.open(());
    host.run();
    host.advance(ms(900));
    assert_eq!(host.closed, None);
}
