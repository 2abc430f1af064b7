//! All handlers on one another: bytes and order survive.

use std::cell::RefCell;
use std::io::{Cursor, Read};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use perihelion_pipeline::handlers::*;
use perihelion_pipeline::*;
use proptest::prelude::*;

use crate::common::{Host, cut, frames, length, unframe};

/// Answers with a source for each second message.
struct Answers(bool);

impl Tail for Answers {
    type In = Bytes;
    type Out = Chunked;
    fn read(&mut self, cx: &mut Context<'_, Chunked>, msg: Bytes) -> Result<()> {
        self.0 = !self.0;
        cx.write(if self.0 { Chunked::source(ReadSource::new(Cursor::new(msg), 100)) } else { msg.into() })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]

    #[test]
    fn bytes_and_order_survive(
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 0..20),
        sizes in prop::collection::vec(1..500usize, 1..5),
        gaps in prop::collection::vec(0..50u64, 1..5),
        window in prop_oneof![Just(usize::MAX), 10..1000usize],
        (rate, burst) in (2_000..1_000_000u64, 1..5000u64),
        high_water_bytes in 1..2000usize,
        ends_early in any::<bool>(),
    ) {
        let minute = Duration::from_secs(60);
        let cells = Rc::<CounterCells>::default();
        let capture = PcapFile::new(Vec::new(), 1 << 20, Instant::now(), SystemTime::now()).unwrap();
        let address = |port| ([127, 0, 0, 1], port).into();
        let bucket = TokenBucket::shared(rate, burst);
        let pipeline = transport()
            .then(Pcap::server(Rc::new(RefCell::new(capture)), address(80), address(4000)))
            .then(Shaping::both(bucket.clone(), bucket))
            .codec(Compression::gzip(6, ExpansionLimits::default()))
            .codec(ReadDeadline::from_first_byte(length(), minute))
            .then(Idle::after(minute).or_reads(minute * 2).or_writes(minute * 2))
            .then(WriteDeadline::new(minute))
            .then(RateLimit::new(TokenBucket::shared(100, 3)))
            .then(Counters::new(cells.clone()))
            .then(ChunkedWrites::new())
            .then(Pass::default())
            .tail(Answers(false));
        let limits = Limits { high_water_bytes, low_water_bytes: high_water_bytes / 2, ..Limits::default() };
        let mut host = Host::with_limits(pipeline, limits);
        host.keeps_back = true;
        host.window = window;
        let mut encoder = flate2::read::GzEncoder::new(Cursor::new(frames(&payloads)), flate2::Compression::fast());
        let mut stream = Vec::new();
        encoder.read_to_end(&mut stream).unwrap();
        for (piece, gap) in cut(&stream, &sizes).into_iter().zip(gaps.iter().cycle()) {
            host.feed(piece).advance(Duration::from_millis(*gap));
        }
        if ends_early { host.close() } else { host.feed_end(); }
        for _ in 0..1000 {
            host.advance(Duration::from_millis(50));
        }
        prop_assert_eq!(&host.closed, &Some(None));
        let mut echoed = Vec::new();
        if !host.sent.is_empty() {
            flate2::read::GzDecoder::new(&host.sent[..]).read_to_end(&mut echoed).unwrap();
        }
        prop_assert!(unframe(&echoed).concat() == payloads.concat() || ends_early);
        prop_assert!(payloads.concat().starts_with(&unframe(&echoed).concat()));
        prop_assert!(cells.messages_in() == payloads.len() as u64 || ends_early);
        prop_assert_eq!((cells.opened(), cells.closed()), (1, 1));
    }
}
