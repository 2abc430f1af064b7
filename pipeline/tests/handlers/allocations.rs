use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use perihelion_pipeline::handlers::*;
use perihelion_pipeline::*;

use crate::common::{Echo, Host, frame, length};

/// How many allocations many turns make, those of the host among them.
fn allocations(pipeline: impl Pipeline<In = Bytes, Out = Bytes> + 'static) -> u64 {
    let mut host = Host::new(pipeline);
    let message = frame("hello");
    let mut turns = |count| {
        for _ in 0..count {
            host.feed(&message).run();
        }
        host.sent.clear();
    };
    turns(1000);
    allocation_counter::measure(|| turns(1000)).count_total
}

#[test]
fn a_message_that_only_passes_allocates_nothing() {
    let second = Duration::from_secs(1);
    let watched = transport()
        .then(Shaping::both(TokenBucket::shared(1 << 40, 1 << 40), TokenBucket::shared(1 << 40, 1 << 40)))
        .codec(ReadDeadline::from_last_message(length(), second))
        .then(Idle::after(second).or_reads(second).or_writes(second))
        .then(WriteDeadline::new(second))
        .then(RateLimit::new(TokenBucket::shared(1 << 40, 1 << 40)))
        .then(Counters::new(Rc::default()))
        .then(Logging::new("here", tracing::Level::TRACE).hex_dump())
        .tail(Echo);
    let bare = transport().then(Pass::default()).codec(length()).tail(Echo);
    assert_eq!(allocations(watched), allocations(bare));
}
