use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use perihelion_pipeline::handlers::{ReadDeadline, WriteDeadline};
use perihelion_pipeline::*;
use proptest::prelude::*;

use crate::common::{Echo, Gate, Host, cut, frame, frames, length, texts};

const LIMIT: Duration = Duration::from_millis(1000);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Why it closes, now that the other side takes what is left.
fn reason(host: &mut Host) -> String {
    host.window = usize::MAX;
    host.run();
    host.closed.clone().expect("it is closed").unwrap_or_default()
}

fn from_first_byte() -> ReadDeadline<LengthPrefixed> {
    ReadDeadline::from_first_byte(length(), LIMIT)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_message_has_its_time_from_its_first_byte(
        lengths in prop::collection::vec(0..6usize, 1..6),
        pieces in prop::collection::vec((0..600u64, 1..9usize), 1..20),
        from_last in any::<bool>(),
    ) {
        let payloads: Vec<_> = lengths.iter().map(|length| vec![0; *length]).collect();
        let stream = frames(&payloads);
        let ends: Vec<usize> = payloads.iter().scan(0, |end, payload| {
            *end += 4 + payload.len();
            Some(*end)
        }).collect();
        let protocol = if from_last { ReadDeadline::from_last_message(length(), LIMIT) } else { from_first_byte() };
        let mut host = Host::new(codec(protocol).tail(Echo));
        let sizes: Vec<usize> = pieces.iter().map(|(_, size)| *size).collect();
        let (mut now, mut position) = (0, 0);
        let mut begun = from_last.then_some(0);
        for ((gap, _), piece) in pieces.iter().zip(cut(&stream, &sizes)) {
            host.advance(ms(*gap));
            now += gap;
            let late = begun.is_some_and(|begun| now - begun >= 1000);
            prop_assert_eq!(host.runner.is_closing(), late);
            if late { break }
            host.feed(piece).run();
            let before = position;
            position += piece.len();
            let whole = ends.iter().any(|end| (before + 1..=position).contains(end));
            let rest = position > 0 && !ends.contains(&position);
            if whole || begun.is_none() {
                begun = (rest || from_last).then_some(now);
            }
        }
    }

    #[test]
    fn a_queue_must_move(steps in prop::collection::vec((0..700u64, any::<bool>(), 0..3usize), 1..30)) {
        let mut host = Host::new(codec(length()).then(WriteDeadline::new(LIMIT)).tail(Echo));
        host.window = 0;
        let (mut stuck, mut owed) = (None::<u64>, 0usize);
        let mut now = 0;
        for (gap, takes, writes) in steps {
            host.advance(ms(gap));
            now += gap;
            let late = stuck.is_some_and(|stuck| now - stuck >= 1000);
            prop_assert_eq!(host.runner.is_closing(), late);
            if late { break }
            let taken = if takes { owed.min(7) } else { 0 };
            host.window = taken;
            for _ in 0..writes { host.feed(frame("0123")); }
            host.turn();
            host.window = 0;
            host.run();
            owed = owed + 8 * writes - taken;
            if owed == 0 { stuck = None } else if taken > 0 || stuck.is_none() { stuck = Some(now) }
        }
    }
}

#[test]
fn drop_by_drop_is_too_slow_and_messages_that_come_whole_are_not() {
    let mut host = Host::new(codec(from_first_byte()).tail(Echo));
    for _ in 0..3 {
        host.advance(LIMIT * 10).feed(frame("a")).run();
    }
    assert_eq!((texts(&host.sent).len(), &host.closed), (3, &None), "between two messages there is no limit");
    for byte in &frame("0123456789")[..10] {
        host.feed([*byte]).run();
        host.advance(ms(150));
    }
    assert!(reason(&mut host).contains("no whole message has come within 1s"));
}

#[test]
fn the_rest_behind_a_message_is_a_beginning() {
    let mut host = Host::new(codec(from_first_byte()).tail(Echo));
    host.feed([frame("a"), b"\0".to_vec()].concat()).run();
    host.advance(LIMIT);
    assert!(host.runner.is_closing());
}

#[test]
fn a_peer_is_not_blamed_for_a_slow_service() {
    let gate = Gate::new();
    let wait = gate.clone();
    let mut host = Host::new(codec(from_first_byte()).service(async move |msg: Bytes| {
        wait.wait().await;
        Ok(msg)
    }));
    host.feed([frame("a"), b"\0\0\0".to_vec()].concat()).run();
    host.advance(LIMIT * 10);
    assert_eq!(host.closed, None);
    gate.open(());
    host.advance(LIMIT / 2);
    assert_eq!((texts(&host.sent), &host.closed), (vec!["a".to_string()], &None));
    host.advance(LIMIT / 2);
    assert!(host.runner.is_closing(), "but for what it does after that");
}

#[test]
fn a_peer_is_not_blamed_for_a_pause() {
    struct Demanding(Rc<RefCell<Option<DemandHandle>>>);
    impl Tail for Demanding {
        type In = Bytes;
        type Out = Bytes;
        fn open(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
            *self.0.borrow_mut() = Some(cx.demand());
            Ok(())
        }
        fn read(&mut self, _cx: &mut Context<'_, Bytes>, _msg: Bytes) -> Result<()> {
            Ok(())
        }
    }
    let demand = Rc::default();
    let mut host = Host::new(codec(from_first_byte()).tail(Demanding(Rc::clone(&demand))));
    let demand = demand.take().unwrap();
    host.feed(b"\0\0").run();
    host.advance(ms(900));
    demand.pause();
    host.advance(LIMIT * 10);
    demand.resume();
    host.advance(ms(99));
    assert_eq!(host.closed, None);
    host.advance(ms(1));
    assert!(host.runner.is_closing(), "what went before the pause counts");
}

#[test]
fn an_idle_channel_has_no_deadline_for_its_writes() {
    let mut host = Host::new(codec(length()).then(WriteDeadline::new(LIMIT)).tail(Echo));
    host.feed(frame("a")).run();
    host.advance(LIMIT * 10);
    assert_eq!((host.closed.clone(), host.runner.next_timer()), (None, None));
    host.window = 0;
    host.feed(frame("bcd")).run();
    host.advance(LIMIT);
    assert!(reason(&mut host).contains("none of 7 queued bytes has been taken within 1s"));
}
