//! What the pipeline itself costs: a length-prefixed echo of 64-byte frames in memory, through a [`Runner`].
//!
//! Cases take turns, round by round, so that a change of the machine's speed meets all of them alike. Printed are
//! nanoseconds a message: the median over the rounds, the best, and the spread (the distance of the quartiles in
//! per cent of the median), then the allocations a message in the steady state, which must be none.
//!
//! `cargo bench -p perihelion-bench --bench pipeline [-- NAME..]` runs those cases whose name contains a NAME.

use std::hint::black_box;
use std::task::Waker;
use std::time::Instant;

use allocation_counter::measure;
use bytes::{BufMut, Bytes, BytesMut};
use perihelion_pipeline::{
    Channel, Context, Flow, Handler, LengthPrefixed, Limits, Pipeline, Result, Runner, SlotKey, SwitchKey,
    Tail, codec, transport,
};

const FRAME_BYTES: usize = 64;
/// Messages that a case handles in one round.
const MESSAGES: usize = 16_000;
const WARM_UP_ROUNDS: usize = 3;
const ROUNDS: usize = 101;

/// Counts, and passes everything on.
#[derive(Default)]
struct Count(u64);

impl Handler for Count {
    type In = Bytes;
    type Next = Bytes;
    type Write = Bytes;
    type Out = Bytes;

    #[inline]
    fn read(&mut self, _cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<Flow<Bytes>> {
        self.0 += msg.len() as u64;
        Ok(Flow::Next(msg))
    }

    #[inline]
    fn write(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        self.0 ^= 1;
        cx.write(msg)
    }
}

/// The same in calls that are not inlined, as those of a handler with more to do. Of many types, as the handlers of a
/// program are: the same code in eight places has the processor guess at one jump where it goes on.
#[derive(Default)]
struct Apart<const N: u64>(u64);

impl<const N: u64> Handler for Apart<N> {
    type In = Bytes;
    type Next = Bytes;
    type Write = Bytes;
    type Out = Bytes;

    #[inline(never)]
    fn read(&mut self, _cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<Flow<Bytes>> {
        self.0 += msg.len() as u64 + N;
        Ok(Flow::Next(msg))
    }

    #[inline(never)]
    fn write(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        self.0 ^= N;
        cx.write(msg)
    }
}

/// For eight of one type.
type Same = Apart<1>;

struct Echo;

impl Tail for Echo {
    type In = Bytes;
    type Out = Bytes;

    #[inline]
    fn read(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        cx.write(msg)
    }
}

/// One channel that echoes bursts of a fixed size.
struct Case {
    name: String,
    messages_per_burst: usize,
    runner: Runner,
    channel: Channel,
    burst: Bytes,
    nanoseconds: Vec<f64>,
    allocations: u64,
}

impl Case {
    fn new(
        name: &str,
        messages_per_burst: usize,
        pipeline: impl Pipeline<In = Bytes, Out = Bytes> + 'static,
    ) -> Self {
        let mut channel = Channel::new(Limits::default());
        let mut runner = Runner::new(pipeline, &channel);
        runner.open(&mut channel);
        Case {
            name: format!("{name}, bursts of {messages_per_burst}"),
            messages_per_burst,
            runner,
            channel,
            burst: burst(messages_per_burst),
            nanoseconds: Vec::with_capacity(ROUNDS),
            allocations: 0,
        }
    }

    fn round(&mut self) {
        let start = Instant::now();
        let allocated = measure(|| {
            for _ in 0..MESSAGES / self.messages_per_burst {
                let sent = turn(&mut self.runner, &mut self.channel, black_box(&self.burst), start);
                assert_eq!(sent, self.burst.len());
            }
        });
        self.nanoseconds.push(start.elapsed().as_nanos() as f64 / MESSAGES as f64);
        self.allocations += allocated.count_total;
    }

    fn forget(&mut self) {
        self.nanoseconds.clear();
        self.allocations = 0;
    }

    fn print(&mut self) {
        self.nanoseconds.sort_by(f64::total_cmp);
        let at = |part: f64| self.nanoseconds[((self.nanoseconds.len() - 1) as f64 * part) as usize];
        let median = at(0.5);
        println!(
            "{:<40} {median:7.2} {:7.2} {:6.1} % {:9.4}",
            self.name,
            at(0.0),
            (at(0.75) - at(0.25)) / median * 100.0,
            self.allocations as f64 / (ROUNDS * MESSAGES) as f64,
        );
    }
}

/// What an event loop does for a channel in one turn; gives how many bytes were sent.
#[inline(never)]
fn turn(runner: &mut Runner, channel: &mut Channel, received: &Bytes, now: Instant) -> usize {
    channel.prepare(now, Waker::noop().clone());
    runner.received(channel, received.clone());
    let again = runner.finish_turn(channel);
    assert!(!again);
    let mut sent = 0;
    while let Some(segment) = runner.output().pop() {
        sent += segment.len();
        segment.recycle();
    }
    runner.sent(channel, sent);
    sent
}

fn burst(messages: usize) -> Bytes {
    let mut bytes = BytesMut::new();
    for _ in 0..messages {
        bytes.put_u32(FRAME_BYTES as u32);
        bytes.put_bytes(7, FRAME_BYTES);
    }
    bytes.freeze()
}

/// Eight handlers on a builder.
macro_rules! eight {
    ($builder:expr, $handler:ident) => {
        $builder
            .then($handler::default())
            .then($handler::default())
            .then($handler::default())
            .then($handler::default())
            .then($handler::default())
            .then($handler::default())
            .then($handler::default())
            .then($handler::default())
    };
}

/// Eight handlers of different types on a builder.
macro_rules! eight_distinct {
    ($builder:expr) => {
        $builder
            .then(Apart::<1>::default())
            .then(Apart::<2>::default())
            .then(Apart::<3>::default())
            .then(Apart::<4>::default())
            .then(Apart::<5>::default())
            .then(Apart::<6>::default())
            .then(Apart::<7>::default())
            .then(Apart::<8>::default())
    };
}

/// Eight slots on a builder.
macro_rules! eight_slots {
    ($builder:expr) => {
        $builder
            .slot(&SlotKey::new(), Count::default())
            .slot(&SlotKey::new(), Count::default())
            .slot(&SlotKey::new(), Count::default())
            .slot(&SlotKey::new(), Count::default())
            .slot(&SlotKey::new(), Count::default())
            .slot(&SlotKey::new(), Count::default())
            .slot(&SlotKey::new(), Count::default())
            .slot(&SlotKey::new(), Count::default())
    };
}

fn cases(messages_per_burst: usize) -> [Case; 9] {
    let length = || codec(LengthPrefixed::u32_be(1 << 20));
    let n = messages_per_burst;
    [
        Case::new("no handler", n, length().tail(Echo)),
        Case::new("1 handler", n, length().then(Count::default()).tail(Echo)),
        Case::new("8 handlers", n, eight!(length(), Count).tail(Echo)),
        Case::new("8 handlers that don't inline", n, eight!(length(), Same).tail(Echo)),
        Case::new("8 distinct handlers that don't inline", n, eight_distinct!(length()).tail(Echo)),
        Case::new("1 slot", n, length().slot(&SlotKey::new(), Count::default()).tail(Echo)),
        Case::new("8 slots", n, eight_slots!(length()).tail(Echo)),
        Case::new(
            "no handler, above a switch",
            n,
            transport().switch(&SwitchKey::new(), length().tail(Echo)),
        ),
        Case::new("async service", n, length().service(async |frame: Bytes| Ok(frame))),
    ]
}

fn main() {
    let names: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let mut cases: Vec<Case> = [16, 1].into_iter().flat_map(cases).collect();
    cases.retain(|case| names.is_empty() || names.iter().any(|name| case.name.contains(name)));

    for round in 0..WARM_UP_ROUNDS + ROUNDS {
        for case in &mut cases {
            if round == WARM_UP_ROUNDS {
                case.forget();
            }
            case.round();
        }
    }
    println!("{:<40} {:>7} {:>7} {:>8} {:>9}", "ns a message", "median", "min", "spread", "allocs");
    cases.iter_mut().for_each(Case::print);
    assert!(cases.iter().all(|case| case.allocations == 0), "the steady state allocates");
}
