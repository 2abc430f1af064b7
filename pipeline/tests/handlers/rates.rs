use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use perihelion_pipeline::handlers::{RateLimit, Shaping, SharedBucket, TokenBucket};
use perihelion_pipeline::*;
use proptest::prelude::*;

use crate::common::{Echo, Host, Log, cut, frames, length, texts};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// In no interval has more passed than a burst and what the rate gives in it, to the nanosecond: a turn is rounded up.
fn assert_bounded(passed: &[(Instant, u64)], rate_per_second: u64, burst: u64) {
    for (first, (from, _)) in passed.iter().enumerate() {
        let mut sum = 0;
        for (to, tokens) in &passed[first..] {
            sum += u128::from(*tokens);
            let gives = (to.duration_since(*from).as_nanos() + 1) * u128::from(rate_per_second);
            assert!(
                sum * 1_000_000_000 <= u128::from(burst) * 1_000_000_000 + gives,
                "{sum} in {:?}",
                *to - *from
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_more_passes_than_burst_and_rate(
        rate in prop_oneof![1..100u64, 1..20_000_000_000u64],
        burst in 1..1000u64,
        asks in prop::collection::vec((prop_oneof![0..10u64, 0..1_000_000_000u64], 0..1200u64, any::<bool>()), 1..60),
    ) {
        let mut bucket = TokenBucket::new(rate, burst);
        let mut now = Instant::now();
        let mut passed = Vec::new();
        for (gap, tokens, reserves) in asks {
            now += Duration::from_nanos(gap);
            let tokens = tokens.min(burst);
            if reserves {
                passed.push((bucket.reserve(now, tokens), tokens));
            } else if bucket.take(now, tokens) {
                passed.push((now, tokens));
            }
        }
        passed.sort();
        assert_bounded(&passed, rate, burst);
    }

    #[test]
    fn what_is_not_used_is_bounded_and_what_is_there_may_pass(
        rate in 1..1_000_000_000u64, burst in 1..1000u64, used in 0..1000u64, unused in 0..u64::MAX / 4,
    ) {
        let mut bucket = TokenBucket::new(rate, burst);
        let now = Instant::now();
        prop_assert!(bucket.take(now, used.min(burst)));
        let later = now + Duration::from_nanos(unused);
        let full = u128::from(unused) * u128::from(rate) >= u128::from(used.min(burst)) * 1_000_000_000;
        prop_assert!(!bucket.take(later, burst + 1));
        prop_assert_eq!(bucket.take(later, burst), full);
    }

    #[test]
    fn a_reservation_is_no_later_than_it_must_be(
        rate in 1..5_000_000_000u64, burst in 1..100u64, tokens in prop::collection::vec(1..100u64, 1..20),
    ) {
        let mut bucket = TokenBucket::new(rate, burst);
        let now = Instant::now();
        let mut sum = 0u128;
        for tokens in tokens {
            let at = bucket.reserve(now, tokens);
            sum += u128::from(tokens);
            let wanted = (sum.saturating_sub(burst.into()) * 1_000_000_000).div_ceil(rate.into());
            prop_assert_eq!(at.duration_since(now).as_nanos(), wanted);
        }
    }

    #[test]
    fn messages_over_the_limit_wait_in_order(
        gaps in prop::collection::vec(0..300u64, 1..40), rate in 1..50u64, burst in 1..5u64,
    ) {
        let passed = Rc::default();
        let limit = RateLimit::new(TokenBucket::shared(rate, burst));
        let mut host = Host::new(codec(length()).then(limit).tail(Times(Rc::clone(&passed))));
        let count = gaps.len();
        for (n, gap) in gaps.into_iter().enumerate() {
            host.advance(ms(gap)).feed(crate::common::frame(n.to_string())).run();
        }
        host.feed_end().advance(Duration::from_secs(100));
        let passed = passed.take();
        prop_assert_eq!(passed.len(), count);
        prop_assert!(passed.iter().enumerate().all(|(n, (_, msg))| msg == n.to_string().as_bytes()));
        let times: Vec<_> = passed.iter().map(|(at, _)| (*at, 1)).collect();
        assert_bounded(&times, rate, burst);
        prop_assert_eq!(host.closed, Some(None));
    }

    #[test]
    fn bytes_are_shaped_both_ways_and_none_is_lost(
        sizes in prop::collection::vec(1..3000usize, 1..10),
        gaps in prop::collection::vec(0..20u64, 1..10),
        (rate_in, burst_in) in (10_000..1_000_000u64, 1..5000u64),
        (rate_out, burst_out) in (10_000..1_000_000u64, 1..5000u64),
    ) {
        let payload: Vec<u8> = (0..20_000u32).map(|n| n as u8).collect();
        let (arrived, left) = (Passed::default(), Passed::default());
        let pipeline = transport()
            .then(Recorder { reads: Passed::default(), writes: left.clone() })
            .then(Shaping::both(TokenBucket::shared(rate_in, burst_in), TokenBucket::shared(rate_out, burst_out)))
            .then(Recorder { reads: arrived.clone(), writes: Passed::default() })
            .tail(Echo);
        let mut host = Host::keeping_back(pipeline);
        for (piece, gap) in cut(&payload, &sizes).into_iter().zip(gaps.iter().cycle()) {
            host.advance(ms(*gap)).feed(piece).run();
        }
        host.feed_end().advance(Duration::from_secs(100));
        prop_assert!(host.sent == payload);
        prop_assert_eq!(host.closed, Some(None));
        assert_bounded(&arrived.take(), rate_in, burst_in);
        assert_bounded(&left.take(), rate_out, burst_out);
    }
}

type Passed = Rc<RefCell<Vec<(Instant, u64)>>>;

/// Writes down when messages come.
struct Times(Rc<RefCell<Vec<(Instant, Bytes)>>>);

impl Tail for Times {
    type In = Bytes;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        self.0.borrow_mut().push((cx.now(), msg));
        Ok(())
    }
}

/// Writes down when how many bytes pass.
struct Recorder {
    reads: Passed,
    writes: Passed,
}

impl Handler for Recorder {
    type In = Bytes;
    type Next = Bytes;
    type Write = Bytes;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<Flow<Bytes>> {
        self.reads.borrow_mut().push((cx.now(), msg.len() as u64));
        Ok(Flow::Next(msg))
    }
    fn write(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        self.writes.borrow_mut().push((cx.now(), msg.len() as u64));
        cx.write(msg)
    }
}

#[test]
fn messages_over_the_limit_are_refused() {
    let log = Log::default();
    struct Lenient(Log);
    impl Tail for Lenient {
        type In = Bytes;
        type Out = Bytes;
        fn read(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
            cx.write(msg)
        }
        fn error(&mut self, _cx: &mut Context<'_, Bytes>, error: Error) -> Result<()> {
            self.0.add(error.to_string());
            Ok(())
        }
    }
    let limit = RateLimit::new(TokenBucket::shared(1, 2)).refuse();
    let mut host = Host::new(codec(length()).then(limit).tail(Lenient(log.clone())));
    host.feed(frames(&["a", "b", "c"])).run();
    assert_eq!(log.take(), ["messages come faster than allowed"]);
    host.advance(ms(1000)).feed(frames(&["d", "e"])).run();
    assert_eq!((texts(&host.sent), log.take().len()), (vec!["a".into(), "b".into(), "d".to_string()], 1));
}

#[test]
fn writes_pass_while_a_message_waits() {
    let writer = Writer::new(8);
    let limit = RateLimit::new(TokenBucket::shared(1, 1));
    let mut host = Host::new(codec(length()).then(limit).tail_with_writer(Echo, &writer));
    host.feed(frames(&["a", "b"])).run();
    writer.try_write("beside".into()).unwrap();
    host.run();
    assert_eq!(texts(&host.sent), ["a", "beside"]);
}

fn shaped_out(bucket: &SharedBucket, limits: Limits) -> Host {
    let mut host = Host::with_limits(transport().then(Shaping::outbound(bucket.clone())).tail(Echo), limits);
    host.keeps_back = true;
    host
}

#[test]
fn what_is_kept_back_makes_the_channel_unwritable() {
    let limits = Limits { high_water_bytes: 1000, low_water_bytes: 500, ..Limits::default() };
    let mut host = shaped_out(&TokenBucket::shared(1000, 100), limits);
    for _ in 0..10 {
        host.feed([0; 600]);
    }
    host.run();
    assert_eq!((host.sent.len(), host.runner.queued()), (100, 1100));
    host.advance(Duration::from_secs(100));
    assert_eq!(host.sent.len(), 6000);
}

#[test]
fn a_promise_and_a_close_wait_for_what_is_kept_back() {
    struct Promising(Rc<RefCell<Option<Written>>>);
    impl Tail for Promising {
        type In = Bytes;
        type Out = Bytes;
        fn read(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
            cx.write(msg)?;
            *self.0.borrow_mut() = Some(cx.written()?);
            cx.close()
        }
    }
    let written: Rc<RefCell<Option<Written>>> = Rc::default();
    let shaping = Shaping::outbound(TokenBucket::shared(1000, 100));
    let mut host = Host::keeping_back(transport().then(shaping).tail(Promising(Rc::clone(&written))));
    host.feed([7; 1100]).run();
    let is_written = || {
        let mut written = written.borrow_mut();
        let task = &mut std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::Pin::new(written.as_mut().unwrap()).poll(task).is_ready()
    };
    host.advance(ms(999));
    assert_eq!((is_written(), host.closed.is_some()), (false, false));
    host.advance(ms(1));
    assert_eq!((is_written(), host.sent.len(), host.closed), (true, 1100, Some(None)));
}

#[test]
fn channels_share_a_bucket_in_turns() {
    let bucket = TokenBucket::shared(100_000, 1000);
    let mut hosts: Vec<_> = (0..3).map(|_| shaped_out(&bucket, Limits::default())).collect();
    for host in &mut hosts {
        host.feed([0; 60_000]).run();
    }
    for _ in 0..1000 {
        hosts.iter_mut().for_each(|host| {
            host.advance(ms(1));
        });
    }
    let sent: Vec<_> = hosts.iter().map(|host| host.sent.len()).collect();
    assert!((99_000..=101_000).contains(&sent.iter().sum::<usize>()), "{sent:?}");
    assert!(sent.iter().all(|sent| (32_000..=35_000).contains(sent)), "{sent:?}");
}

#[test]
fn shaping_that_is_taken_away_hands_on_what_it_keeps() {
    let key = SlotKey::new();
    let shaping = Shaping::outbound(TokenBucket::shared(1000, 100));
    let mut host = Host::keeping_back(transport().slot(&key, shaping).tail(Echo));
    host.feed([0; 10_000]).run();
    assert_eq!(host.sent.len(), 100);
    key.remove().unwrap();
    host.feed([0; 50]).run();
    assert_eq!((host.sent.len(), host.runner.queued(), host.runner.next_timer()), (10_050, 0, None));
}

#[test]
fn a_channel_that_goes_leaves_its_turn_to_others() {
    let bucket = TokenBucket::shared(1000, 1000);
    let mut gone = shaped_out(&bucket, Limits::default());
    gone.feed([0; 2000]).run();
    gone.fail(Error::msg("a reset"));
    let mut host = shaped_out(&bucket, Limits::default());
    host.feed([0; 1000]).run();
    host.advance(ms(1001));
    assert_eq!(host.sent.len(), 1000);
}
