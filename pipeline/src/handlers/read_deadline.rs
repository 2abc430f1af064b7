//! The other side must finish what it begins.

use std::fmt;
use std::time::{Duration, Instant};

use crate::{Error, Event, Flow, Input, Operation, Protocol, Result, Wire};

/// The protocol inside may use all keys but this.
const TIMER: u32 = u32::MAX;

/// A codec or protocol whose messages must come within a time, or the channel closes with the error [`ReadTooSlow`]:
/// a peer that sends a request byte by byte can't keep its connection for ever.
///
/// The clock stands still while reading is stopped, by a pause or because the channel is unwritable, and while the
/// stages above are busy with the message before: the other side is not blamed for what is not its own doing. A stage
/// *below* that keeps back what comes ([`Shaping`](super::Shaping)) takes its time from it.
///
/// ```
/// # use std::time::Duration;
/// # use bytes::Bytes;
/// # use perihelion_pipeline::{codec, handlers::ReadDeadline, LengthPrefixed, Pipeline};
/// fn echo() -> impl Pipeline<In = Bytes, Out = Bytes> {
///     codec(ReadDeadline::from_first_byte(LengthPrefixed::u32_be(1 << 20), Duration::from_secs(10)))
///         .service(async |frame: Bytes| Ok(frame))
/// }
/// ```
///
/// It takes the timer key `u32::MAX` of the stage; the protocol inside must not use it.
pub struct ReadDeadline<P> {
    protocol: P,
    limit: Duration,
    from: From,
    /// When the clock of the present message began.
    begun: Option<Instant>,
    /// Since when it stands still.
    still: Option<Instant>,
    is_timer_set: bool,
}

/// A message has not come in time: the reason of a close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadTooSlow {
    /// The limit.
    pub limit: Duration,
}

#[derive(PartialEq)]
enum From {
    FirstByte,
    LastMessage,
}

impl<P> ReadDeadline<P> {
    /// A message must be whole within this time of its first byte. Between two messages nothing is limited. A message
    /// is begun while bytes of it lie undecoded: for a protocol that takes bytes as they come and puts messages
    /// together by itself there is [`from_last_message`](ReadDeadline::from_last_message).
    pub fn from_first_byte(protocol: P, limit: Duration) -> Self {
        Self::new(protocol, limit, From::FirstByte)
    }

    /// A message must be whole within this time of the one before, or of the opening of the channel.
    pub fn from_last_message(protocol: P, limit: Duration) -> Self {
        Self::new(protocol, limit, From::LastMessage)
    }

    fn new(protocol: P, limit: Duration, from: From) -> Self {
        ReadDeadline { protocol, limit, from, begun: None, still: None, is_timer_set: false }
    }

    /// The stages above can take a message, and this much of it is there.
    #[inline]
    fn begin(&mut self, wire: &mut Wire<'_>, bytes: usize) {
        if self.begun.is_none() && (bytes > 0 || self.from == From::LastMessage) {
            self.begun = Some(wire.now());
            self.set_timer(wire);
        }
    }

    /// Sets the timer unless it is set: a message does not move it, and when it comes too early it is set again.
    #[inline]
    fn set_timer(&mut self, wire: &mut Wire<'_>) {
        if !self.is_timer_set
            && self.still.is_none()
            && let Some(begun) = self.begun
        {
            self.is_timer_set = true;
            wire.set_timer(TIMER, (begun + self.limit).saturating_duration_since(wire.now()));
        }
    }

    /// Stops and starts the clock.
    fn look_at_stops(&mut self, wire: &mut Wire<'_>) {
        if wire.is_paused() || !wire.is_writable() {
            self.still.get_or_insert(wire.now());
        } else if let Some(stopped) = self.still.take() {
            if let Some(begun) = &mut self.begun {
                *begun += wire.now().saturating_duration_since(stopped.max(*begun));
            }
            self.set_timer(wire);
        }
    }
}

impl<P: Protocol> Protocol for ReadDeadline<P> {
    type Frame = P::Frame;
    type Item = P::Item;

    #[inline]
    fn read(&mut self, wire: &mut Wire<'_>, input: &mut Input) -> Result<Flow<P::Frame>> {
        self.begin(wire, input.len());
        let flow = self.protocol.read(wire, input);
        let is_unfinished =
            matches!(flow, Ok(Flow::Done)) && (!input.is_empty() || self.from == From::LastMessage);
        if !is_unfinished {
            // The next one begins when this is asked again: now, or when the stages above are done with this one.
            self.begun = None;
        }
        flow
    }

    #[inline]
    fn write(&mut self, wire: &mut Wire<'_>, item: P::Item) -> Result<()> {
        self.protocol.write(wire, item)
    }

    fn open(&mut self, wire: &mut Wire<'_>) -> Result<()> {
        self.begin(wire, 0);
        self.protocol.open(wire)
    }

    /// Called once a turn at least, and so the place to look at what has changed in it.
    #[inline]
    fn flush(&mut self, wire: &mut Wire<'_>) -> Result<()> {
        self.look_at_stops(wire);
        self.protocol.flush(wire)
    }

    fn operate(&mut self, wire: &mut Wire<'_>, operation: Operation) -> Result<Option<Operation>> {
        self.protocol.operate(wire, operation)
    }

    fn event(&mut self, wire: &mut Wire<'_>, event: &mut Event) -> Result<()> {
        self.protocol.event(wire, event)
    }

    fn timer(&mut self, wire: &mut Wire<'_>, key: u32) -> Result<()> {
        if key != TIMER {
            return self.protocol.timer(wire, key);
        }
        self.is_timer_set = false;
        let ended = self.still.is_none()
            && !wire.is_closing()
            && self.begun.is_some_and(|begun| begun + self.limit <= wire.now());
        if ended {
            self.begun = Some(wire.now()); // once more, where somebody handles the error
        }
        self.set_timer(wire);
        if ended { Err(ReadTooSlow { limit: self.limit }.into()) } else { Ok(()) }
    }

    fn error(&mut self, wire: &mut Wire<'_>, error: Error) -> Result<()> {
        self.protocol.error(wire, error)
    }

    fn closed(&mut self, why: Option<&Error>) {
        self.protocol.closed(why);
    }
}

impl fmt::Display for ReadTooSlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no whole message has come within {:?}", self.limit)
    }
}

impl std::error::Error for ReadTooSlow {}
