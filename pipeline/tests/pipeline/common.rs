//! One channel on a scripted event loop, and what many tests need.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, Wake, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use perihelion_pipeline::*;

/// Runs a [`Runner`] as an event loop does, in turns. What a test may choose: how the bytes come, how many of them
/// the kernel takes in a turn, and what tasks do meanwhile.
pub(crate) struct Host {
    pub(crate) runner: Runner,
    pub(crate) channel: Channel,
    limits: Limits,
    wakes: Arc<Wakes>,
    /// Stands still unless it is advanced.
    now: Instant,
    inbox: VecDeque<Bytes>,
    ends: bool,
    in_flight: VecDeque<Segment>,
    /// How many bytes of the first segment in flight have been taken.
    taken: usize,
    /// What the other side has received.
    pub(crate) sent: Vec<u8>,
    /// How many bytes the kernel takes in a turn.
    pub(crate) window: usize,
    /// Whether a stage keeps back what is written.
    pub(crate) keeps_back: bool,
    /// Runs in each turn, as tasks do; true when it did something.
    pub(crate) task: Box<dyn FnMut() -> bool>,
    again: bool,
    /// How many messages were made.
    pub(crate) messages: u64,
    /// The reason of the close, once the channel is closed.
    pub(crate) closed: Option<Option<String>>,
}

/// Counts the wake-ups of a channel.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Host {
    pub(crate) fn new(pipeline: impl Pipeline<In = Bytes, Out = Bytes> + 'static) -> Self {
        Self::with_limits(pipeline, Limits::default())
    }

    pub(crate) fn with_limits(
        pipeline: impl Pipeline<In = Bytes, Out = Bytes> + 'static,
        limits: Limits,
    ) -> Self {
        let mut host = Self::unopened(pipeline, limits);
        host.open();
        host
    }

    /// A channel with a stage that keeps back what is written.
    pub(crate) fn keeping_back(pipeline: impl Pipeline<In = Bytes, Out = Bytes> + 'static) -> Self {
        let mut host = Self::unopened(pipeline, Limits::default());
        host.keeps_back = true;
        host.open();
        host
    }

    /// A client's channel: its stages see that it connects, before it has a waker, and then it is opened.
    pub(crate) fn connecting(
        pipeline: impl Pipeline<In = Bytes, Out = Bytes> + 'static,
        target: Target,
    ) -> Self {
        let mut host = Self::unopened(pipeline, Limits::default());
        host.channel.prepare(host.now, Waker::noop().clone());
        assert!(host.runner.connect(&mut host.channel, None, target).unwrap().is_some());
        host.open();
        host
    }

    fn open(&mut self) {
        self.prepare();
        self.runner.open(&mut self.channel);
        self.finish_turn();
    }

    fn unopened(pipeline: impl Pipeline<In = Bytes, Out = Bytes> + 'static, limits: Limits) -> Self {
        let channel = Channel::new(limits);
        Host {
            runner: Runner::new(pipeline, &channel),
            channel,
            limits,
            wakes: Arc::default(),
            now: Instant::now(),
            inbox: VecDeque::new(),
            ends: false,
            in_flight: VecDeque::new(),
            taken: 0,
            sent: Vec::new(),
            window: usize::MAX,
            keeps_back: false,
            task: Box::new(|| false),
            again: false,
            messages: 0,
            closed: None,
        }
    }

    /// Bytes that will arrive.
    pub(crate) fn feed(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.inbox.push_back(Bytes::copy_from_slice(bytes.as_ref()));
        self
    }

    /// The other side will send no more.
    pub(crate) fn feed_end(&mut self) -> &mut Self {
        self.ends = true;
        self
    }

    /// Whether everything fed has been received.
    pub(crate) fn has_received_all(&self) -> bool {
        self.inbox.is_empty() && !self.ends
    }

    /// Turns until nothing happens any more.
    pub(crate) fn run(&mut self) -> &mut Self {
        for _ in 0..100_000 {
            if !self.turn() {
                return self;
            }
        }
        panic!("the channel does not come to rest");
    }

    /// One turn of the event loop; false when nothing happened in it.
    pub(crate) fn turn(&mut self) -> bool {
        let mut worked = (self.task)();
        if self.closed.is_some() {
            return worked;
        }
        self.prepare();
        worked |= self.take_sent();
        let woken = self.wakes.0.swap(0, Ordering::Relaxed) > 0;
        if woken || self.again {
            self.runner.resume(&mut self.channel);
            worked = true;
        }
        while self.runner.wants_bytes(true) {
            if let Some(chunk) = self.inbox.pop_front() {
                self.runner.received(&mut self.channel, chunk);
            } else if std::mem::take(&mut self.ends) {
                self.runner.ended(&mut self.channel);
            } else {
                break;
            }
            worked = true;
        }
        worked | self.finish_turn()
    }

    /// Bytes that arrive whether they are wanted or not: the kernel had them already.
    pub(crate) fn push(&mut self, bytes: impl AsRef<[u8]>) {
        self.prepare();
        self.runner.received(&mut self.channel, Bytes::copy_from_slice(bytes.as_ref()));
        self.finish_turn();
    }

    /// An orderly close from outside.
    pub(crate) fn close(&mut self) {
        self.prepare();
        self.runner.close(&mut self.channel);
        self.finish_turn();
    }

    /// Lets time pass, with a turn for each timer that comes.
    pub(crate) fn advance(&mut self, by: Duration) -> &mut Self {
        let end = self.now + by;
        self.run();
        while self.closed.is_none()
            && let Some(at) = self.runner.next_timer()
            && at <= end
        {
            self.now = self.now.max(at);
            self.prepare();
            self.runner.expire(&mut self.channel);
            self.finish_turn();
            self.run();
        }
        self.now = end;
        self
    }

    /// A user event from outside.
    pub(crate) fn event<E: 'static>(&mut self, event: E) {
        self.prepare();
        self.runner.event(&mut self.channel, Event::new(event));
        self.finish_turn();
    }

    /// An error of the transport: nothing more is sent.
    pub(crate) fn fail(&mut self, error: Error) {
        self.prepare();
        self.runner.fail(&mut self.channel, error);
        self.window = usize::MAX;
        self.finish_turn();
        self.run();
    }

    /// Wakes the channel, as a future does.
    pub(crate) fn wake(&self) {
        self.wakes.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How often the channel was woken since the last turn.
    pub(crate) fn wakes(&self) -> usize {
        self.wakes.0.load(Ordering::Relaxed)
    }

    /// What the other side has received, as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.sent).into_owned()
    }

    fn prepare(&mut self) {
        self.channel.prepare(self.now, Waker::from(self.wakes.clone()));
    }

    fn finish_turn(&mut self) -> bool {
        self.again = self.runner.finish_turn(&mut self.channel);
        let mut worked = self.again;
        while let Some(segment) = self.runner.output().pop() {
            assert!(!segment.is_empty());
            self.in_flight.push_back(segment);
            worked = true;
        }
        let in_flight: usize = self.in_flight.iter().map(Segment::len).sum();
        if !self.keeps_back {
            let unsent = in_flight - self.taken;
            assert_eq!(self.runner.queued(), unsent, "every byte counts once, on all levels");
        }
        let messages = self.channel.take_work().messages_in;
        self.messages += messages;
        assert!(messages <= self.limits.messages_per_turn.into(), "{messages} messages in one turn");
        if self.runner.is_closing() && self.in_flight.is_empty() && self.closed.is_none() {
            let why = self.runner.closed(&mut self.channel);
            self.closed = Some(why.map(ToString::to_string));
            worked = true;
        }
        worked
    }

    fn take_sent(&mut self) -> bool {
        let mut left = self.window;
        let before = self.sent.len();
        while left > 0
            && let Some(segment) = self.in_flight.front()
        {
            let rest = &segment.as_ref()[self.taken..];
            let n = rest.len().min(left);
            self.sent.extend_from_slice(&rest[..n]);
            left -= n;
            self.taken += n;
            if self.taken == segment.len() {
                self.taken = 0;
                self.in_flight.pop_front().into_iter().for_each(Segment::recycle);
            }
        }
        let sent = self.sent.len() - before;
        if sent > 0 {
            self.runner.sent(&mut self.channel, sent);
        }
        sent > 0
    }
}

/// What a test opens by hand, and a future waits for: a database, say.
pub(crate) struct Gate<T>(Rc<Opening<T>>);

struct Opening<T> {
    value: Cell<Option<T>>,
    waiting: Cell<Option<Waker>>,
}

impl<T: 'static> Gate<T> {
    pub(crate) fn new() -> Self {
        Gate(Rc::new(Opening { value: Cell::new(None), waiting: Cell::new(None) }))
    }

    pub(crate) fn open(&self, value: T) {
        self.0.value.set(Some(value));
        if let Some(waker) = self.0.waiting.take() {
            waker.wake();
        }
    }

    pub(crate) fn wait(&self) -> impl Future<Output = T> + 'static {
        let opening = self.0.clone();
        poll_fn(move |task| match opening.value.take() {
            Some(value) => Poll::Ready(value),
            None => {
                opening.waiting.set(Some(task.waker().clone()));
                Poll::Pending
            }
        })
    }
}

impl<T> Clone for Gate<T> {
    fn clone(&self) -> Self {
        Gate(self.0.clone())
    }
}

/// A test's note book.
#[derive(Clone, Default)]
pub(crate) struct Log(Rc<RefCell<Vec<String>>>);

impl Log {
    pub(crate) fn add(&self, line: impl Into<String>) {
        self.0.borrow_mut().push(line.into());
    }

    pub(crate) fn take(&self) -> Vec<String> {
        self.0.take()
    }
}

/// A length-prefixed frame.
pub(crate) fn frame(payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    [&(payload.len() as u32).to_be_bytes(), payload].concat()
}

/// Length-prefixed frames, one after the other.
pub(crate) fn frames<S: AsRef<[u8]>>(payloads: &[S]) -> Vec<u8> {
    payloads.iter().flat_map(frame).collect()
}

/// Pieces of these sizes, round and round.
pub(crate) fn cut<'a>(mut bytes: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for size in sizes.iter().cycle() {
        if bytes.is_empty() {
            break;
        }
        let (piece, rest) = bytes.split_at((*size).min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

/// The payloads of length-prefixed frames.
pub(crate) fn unframe(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut payloads = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let (payload, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        payloads.push(payload.to_vec());
        bytes = rest;
    }
    assert_eq!(bytes, b"", "an unfinished frame");
    payloads
}

/// The same as text.
pub(crate) fn texts(bytes: &[u8]) -> Vec<String> {
    unframe(bytes).iter().map(|payload| String::from_utf8_lossy(payload).into_owned()).collect()
}

pub(crate) fn length() -> LengthPrefixed {
    LengthPrefixed::u32_be(1 << 20)
}

/// Writes back what it reads.
pub(crate) struct Echo;

impl Tail for Echo {
    type In = Bytes;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        cx.write(msg)
    }
}

/// Logs every call under its name, and passes everything on.
pub(crate) struct Spy {
    name: &'static str,
    log: Log,
}

pub(crate) fn spy(name: &'static str, log: &Log) -> Spy {
    Spy { name, log: log.clone() }
}

impl Spy {
    fn note(&self, what: impl std::fmt::Display) {
        self.log.add(format!("{}:{what}", self.name));
    }
}

impl Handler for Spy {
    type In = Bytes;
    type Next = Bytes;
    type Write = Bytes;
    type Out = Bytes;

    fn read(&mut self, _cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<Flow<Bytes>> {
        self.note("read");
        Ok(Flow::Next(msg))
    }
    fn write(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        self.note("write");
        cx.write(msg)
    }
    fn open(&mut self, _cx: &mut Context<'_, Bytes>) -> Result<()> {
        self.note("open");
        Ok(())
    }
    fn read_complete(&mut self, _cx: &mut Context<'_, Bytes>) -> Result<()> {
        self.note("read_complete");
        Ok(())
    }
    fn writable(&mut self, _cx: &mut Context<'_, Bytes>, writable: bool) -> Result<()> {
        self.note(format!("writable={writable}"));
        Ok(())
    }
    fn half_closed(&mut self, _cx: &mut Context<'_, Bytes>) -> Result<()> {
        self.note("half_closed");
        Ok(())
    }
    fn operate(&mut self, cx: &mut Context<'_, Bytes>, operation: Operation) -> Result<()> {
        self.note(match &operation {
            Operation::Bind(local) => format!("bind {local}"),
            Operation::Connect(target) => format!("connect {target:?}"),
            Operation::Close => "close".into(),
            Operation::CloseOutput => "close_output".into(),
            Operation::Promise(_) => "promise".into(),
            Operation::Event(_) => "outbound event".into(),
        });
        cx.operate(operation)
    }
    fn event(&mut self, _cx: &mut Context<'_, Bytes>, event: &mut Event) -> Result<()> {
        self.note(format!("event {}", event.get::<&str>().unwrap_or(&"?")));
        Ok(())
    }
    fn timer(&mut self, _cx: &mut Context<'_, Bytes>, key: u32) -> Result<()> {
        self.note(format!("timer {key}"));
        Ok(())
    }
    fn removed(&mut self, _cx: &mut Context<'_, Bytes>) -> Result<()> {
        self.note("removed");
        Ok(())
    }
    fn error(&mut self, _cx: &mut Context<'_, Bytes>, error: Error) -> Result<()> {
        self.note(format!("error {error}"));
        Err(error)
    }
    fn closed(&mut self, why: Option<&Error>) {
        self.note(format!("closed {}", why.map_or("in order".into(), ToString::to_string)));
    }
}
