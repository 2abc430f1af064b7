//! What a pipeline sees of its channel: demand, water marks, and the way to ask for a pause or a close.

use std::task::Waker;
use std::time::Instant;

use crate::{Error, Output};

/// Limits of a channel. Bytes are those written and not yet taken by the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Above this many outbound bytes a channel is unwritable, and its reads pause.
    pub high_water_bytes: usize,
    /// Below this many it is writable again.
    pub low_water_bytes: usize,
    /// Messages a channel may handle in one turn of the event loop; the rest waits for the next.
    pub messages_per_turn: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { high_water_bytes: 64 * 1024, low_water_bytes: 32 * 1024, messages_per_turn: 256 }
    }
}

/// The channel as its stages see it during a call: through [`Context`](crate::Context) and [`Wire`](crate::Wire).
///
/// An event loop keeps one for all its channels of a kind. It holds what belongs to the turn, and by exchange what
/// belongs to the channel that is being run: so the state of an idle channel stays small.
pub struct Channel {
    limits: Limits,
    now: Instant,
    waker: Waker,
    /// Messages made since the last [`take_messages`](Channel::take_messages).
    messages: u64,
    pub(crate) link: Link,
}

/// What a pipeline's channel keeps between two turns.
pub(crate) struct Link {
    pub(crate) output: Output,
    /// Bytes written and not yet taken by the kernel, on all levels.
    queued: usize,
    /// Messages that may still be handled in this turn. Zero stops every source of messages.
    budget: u32,
    stops: Stops,
    failure: Option<Error>,
}

/// Why a channel reads nothing; it reads when there is no reason.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Stops(u8);

impl Stops {
    const PAUSED: u8 = 1;
    const UNWRITABLE: u8 = 2;
    const CLOSING: u8 = 4;

    fn set(&mut self, reason: u8) {
        self.0 |= reason;
    }
    fn clear(&mut self, reason: u8) {
        self.0 &= !reason;
    }
    fn has(self, reason: u8) -> bool {
        self.0 & reason != 0
    }
    fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// For stages.
impl Channel {
    /// No message is handled after the present one until [`resume`](Channel::resume).
    pub fn pause(&mut self) {
        self.link.stops.set(Stops::PAUSED);
        self.link.budget = 0;
    }

    /// Ends a pause. The channel goes on in the next turn.
    pub fn resume(&mut self) {
        self.link.stops.clear(Stops::PAUSED);
        self.waker.wake_by_ref();
    }

    /// Whether fewer bytes than the high-water mark wait to be sent.
    pub fn is_writable(&self) -> bool {
        !self.link.stops.has(Stops::UNWRITABLE)
    }

    /// Whether a stage, an error or the other side has asked for the close.
    pub fn is_closing(&self) -> bool {
        self.link.stops.has(Stops::CLOSING)
    }

    /// Bytes written and not yet taken by the kernel.
    pub fn queued(&self) -> usize {
        self.link.queued
    }

    /// The time at which this turn of the event loop began.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Wakes this channel: a stage that waits is then asked for `more`.
    pub fn waker(&self) -> &Waker {
        &self.waker
    }
}

/// For the pipeline.
impl Channel {
    /// Asked before each message is made.
    #[inline]
    pub(crate) fn may_go_on(&self) -> bool {
        self.link.budget != 0
    }

    /// A message has been made. Attempts that make none are free, or nested codecs would starve each other.
    #[inline]
    pub(crate) fn spend(&mut self) {
        self.link.budget = self.link.budget.saturating_sub(1);
        self.messages += 1;
    }

    /// An output that held `before` bytes now holds `after`.
    #[inline]
    pub(crate) fn count(&mut self, before: usize, after: usize) {
        self.link.queued = self.link.queued + after - before;
        if self.link.queued > self.limits.high_water_bytes {
            self.above_high_water();
        }
    }

    #[cold]
    fn above_high_water(&mut self) {
        self.link.stops.set(Stops::UNWRITABLE);
        self.link.budget = 0;
    }

    /// Everything written before it is sent first.
    pub(crate) fn begin_close(&mut self) {
        self.link.stops.set(Stops::CLOSING);
        self.link.budget = 0;
    }

    /// An error that no stage handled: the first becomes the reason of the close.
    #[cold]
    pub(crate) fn fail(&mut self, error: Error) {
        self.link.failure.get_or_insert(error);
        self.begin_close();
    }
}

/// For the event loop.
impl Channel {
    /// One for all channels that have these limits.
    pub fn new(limits: Limits) -> Self {
        let waker = Waker::noop().clone();
        Channel { limits, now: Instant::now(), waker, messages: 0, link: Link::new(&limits) }
    }

    /// The time and the waker of the channel that is run next.
    #[inline]
    pub fn prepare(&mut self, now: Instant, waker: Waker) {
        self.now = now;
        self.waker = waker;
    }

    /// How many messages were made since the last call.
    pub fn take_messages(&mut self) -> u64 {
        std::mem::take(&mut self.messages)
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }
}

impl Link {
    pub(crate) fn new(limits: &Limits) -> Self {
        Link {
            output: Output::default(),
            queued: 0,
            budget: limits.messages_per_turn,
            stops: Stops::default(),
            failure: None,
        }
    }

    /// A new turn.
    pub(crate) fn refill(&mut self, limits: &Limits) {
        self.budget = if self.stops.is_empty() { limits.messages_per_turn } else { 0 };
    }

    /// The kernel took `n` bytes. True when the channel became writable again by it.
    pub(crate) fn sent(&mut self, n: usize, limits: &Limits) -> bool {
        self.queued -= n;
        let back = self.stops.has(Stops::UNWRITABLE) && self.queued < limits.low_water_bytes;
        if back {
            self.stops.clear(Stops::UNWRITABLE);
        }
        back
    }

    pub(crate) fn may_read(&self) -> bool {
        self.stops.is_empty()
    }

    pub(crate) fn is_spent(&self) -> bool {
        self.budget == 0
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.stops.has(Stops::CLOSING)
    }

    pub(crate) fn is_writable(&self) -> bool {
        !self.stops.has(Stops::UNWRITABLE)
    }

    pub(crate) fn close(&mut self) {
        self.stops.set(Stops::CLOSING);
        self.budget = 0;
    }

    pub(crate) fn queued(&self) -> usize {
        self.queued
    }

    pub(crate) fn fail(&mut self, error: Error) {
        self.failure.get_or_insert(error);
        self.close();
    }

    pub(crate) fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
    }
}
