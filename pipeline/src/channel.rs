//! What a pipeline sees of its channel: demand, water marks, and the way to ask for a pause or a close.

use std::task::Waker;
use std::time::Instant;

use crate::{Error, Output};

/// Limits of a channel. Bytes are those written and not yet taken by the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Above this many outbound bytes a channel is unwritable, and its reads pause.
    pub high_water_bytes: usize,
    /// With this many or fewer it is writable again. At most the high-water mark.
    pub low_water_bytes: usize,
    /// Messages a channel may handle in one turn of the event loop, at least one; the rest waits for the next.
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
    pub(crate) link: Box<Link>,
}

/// What a pipeline's channel keeps between two turns.
pub(crate) struct Link {
    pub(crate) output: Output,
    /// Bytes written and not yet taken by the kernel, on all levels.
    queued: usize,
    /// Messages that may still be handled in this turn.
    budget: u32,
    stops: Stops,
    /// Whether the other side is to be told that no more will be sent.
    pub(crate) output_closed: bool,
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
    }

    /// Ends a pause, and wakes the channel so that it goes on.
    pub fn resume(&mut self) {
        self.link.stops.clear(Stops::PAUSED);
        self.waker.wake_by_ref();
    }

    /// Whether fewer bytes than the high-water mark wait to be sent.
    pub fn is_writable(&self) -> bool {
        self.link.is_writable()
    }

    /// Whether a stage, an error or the event loop has asked for the close.
    pub fn is_closing(&self) -> bool {
        self.link.is_closing()
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
        self.link.may_go_on()
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
            self.link.stops.set(Stops::UNWRITABLE);
        }
    }

    /// Everything written before it is sent first.
    pub(crate) fn begin_close(&mut self) {
        self.link.close();
    }

    /// An error that no stage handled.
    pub(crate) fn fail(&mut self, error: Error) {
        self.link.fail(error);
    }
}

/// For the event loop.
impl Channel {
    /// One for all channels that have these limits.
    pub fn new(mut limits: Limits) -> Self {
        limits.messages_per_turn = limits.messages_per_turn.max(1); // with none, no channel would ever go on
        limits.low_water_bytes = limits.low_water_bytes.min(limits.high_water_bytes);
        let waker = Waker::noop().clone();
        Channel { limits, now: Instant::now(), waker, messages: 0, link: Box::new(Link::new(&limits)) }
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

    /// How many messages were made since [`take_messages`](Channel::take_messages).
    #[inline]
    pub(crate) fn messages(&self) -> u64 {
        self.messages
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
            output_closed: false,
            failure: None,
        }
    }

    /// A new turn.
    #[inline]
    pub(crate) fn refill(&mut self, limits: &Limits) {
        self.budget = limits.messages_per_turn;
    }

    /// The kernel took `n` bytes. True when the channel became writable again by it.
    #[inline]
    pub(crate) fn sent(&mut self, n: usize, limits: &Limits) -> bool {
        debug_assert!(n <= self.queued, "more was sent than was written");
        self.queued -= n;
        let back = !self.is_writable() && self.queued <= limits.low_water_bytes;
        if back {
            self.stops.clear(Stops::UNWRITABLE);
        }
        back
    }

    /// Whether another message may be made in this turn.
    #[inline]
    pub(crate) fn may_go_on(&self) -> bool {
        self.budget != 0 && self.stops.is_empty()
    }

    /// Whether another message may be made, in this turn or the next.
    #[inline]
    pub(crate) fn may_read(&self) -> bool {
        self.stops.is_empty()
    }

    /// Whether the messages of this turn are used up.
    #[inline]
    pub(crate) fn is_spent(&self) -> bool {
        self.budget == 0
    }

    #[inline]
    pub(crate) fn is_closing(&self) -> bool {
        self.stops.has(Stops::CLOSING)
    }

    #[inline]
    pub(crate) fn is_writable(&self) -> bool {
        !self.stops.has(Stops::UNWRITABLE)
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.stops.has(Stops::PAUSED)
    }

    pub(crate) fn queued(&self) -> usize {
        self.queued
    }

    pub(crate) fn close(&mut self) {
        self.stops.set(Stops::CLOSING);
    }

    /// The first error becomes the reason of the close.
    #[cold]
    pub(crate) fn fail(&mut self, error: Error) {
        self.failure.get_or_insert(error);
        self.close();
    }

    pub(crate) fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
    }
}
