//! Ends, or tells of, channels on which nothing moves.

use std::fmt;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use crate::{Context, Flow, Handler, Result};

const TIMER: u32 = 0;

/// Closes a channel that is idle for too long, with the error [`IdleTooLong`]; or [raises](Idle::raise) an
/// [`IdleEvent`] instead, for a stage above to send a ping, say. Stands between any two stages.
///
/// What counts is what moves. A read is a message that comes to this stage; a write is bytes that the other side has
/// taken, however few, so that a slow peer is not idle, and one that takes nothing is.
///
/// The clock of reads stands still while reading is stopped: by a pause, by a stage that waits or works on a message, or
/// because the channel is unwritable. The clock of both directions stands still in a pause or a wait.
///
/// ```
/// # use std::time::Duration;
/// # use bytes::Bytes;
/// # use perihelion_pipeline::{codec, handlers::Idle, LengthPrefixed, Pipeline};
/// fn echo() -> impl Pipeline<In = Bytes, Out = Bytes> {
///     codec(LengthPrefixed::u32_be(1 << 20))
///         .then(Idle::after(Duration::from_secs(60)))
///         .service(async |frame: Bytes| Ok(frame))
/// }
/// ```
pub struct Idle<M, W> {
    reads: Option<Watch>,
    writes: Option<Watch>,
    both: Option<Watch>,
    last_read: Option<Instant>,
    last_write: Option<Instant>,
    /// Bytes that had been taken when it was looked last.
    taken: u64,
    raises: bool,
    passes: PhantomData<fn(M) -> W>,
}

/// In which direction nothing moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdleKind {
    /// No message has come.
    Read,
    /// The other side has taken no byte.
    Write,
    /// Neither.
    Both,
}

/// A channel is idle. Raised by [`Idle::raise`], again after each such time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdleEvent {
    /// In which direction.
    pub kind: IdleKind,
    /// Whether something has moved in that direction since the last such event.
    pub first: bool,
}

/// Nothing has moved for too long: the reason of a close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdleTooLong {
    /// In which direction.
    pub kind: IdleKind,
    /// The limit.
    pub limit: Duration,
}

/// One of the times.
struct Watch {
    limit: Duration,
    /// It has not been idle before, whatever has moved since.
    since: Option<Instant>,
    /// Since when its clock stands still.
    still: Option<Instant>,
    raised: Option<Instant>,
}

impl<M, W> Idle<M, W> {
    /// Idle when nothing moves in either direction for this time.
    ///
    /// # Panics
    /// If the time is zero.
    pub fn after(limit: Duration) -> Self {
        Idle { both: Watch::new(limit), ..Self::never() }
    }

    /// Idle when no message comes for this time.
    ///
    /// # Panics
    /// If the time is zero.
    pub fn after_reads(limit: Duration) -> Self {
        Idle { reads: Watch::new(limit), ..Self::never() }
    }

    /// Idle when the other side takes no byte for this time: because it does not, or because nothing is written.
    ///
    /// # Panics
    /// If the time is zero.
    pub fn after_writes(limit: Duration) -> Self {
        Idle { writes: Watch::new(limit), ..Self::never() }
    }

    /// Idle, too, when no message comes for this time.
    ///
    /// # Panics
    /// If the time is zero.
    pub fn or_reads(self, limit: Duration) -> Self {
        Idle { reads: Watch::new(limit), ..self }
    }

    /// Idle, too, when the other side takes no byte for this time.
    ///
    /// # Panics
    /// If the time is zero.
    pub fn or_writes(self, limit: Duration) -> Self {
        Idle { writes: Watch::new(limit), ..self }
    }

    /// Raises an [`IdleEvent`] for the stages above and leaves the channel open.
    pub fn raise(self) -> Self {
        Idle { raises: true, ..self }
    }

    fn never() -> Self {
        Idle {
            reads: None,
            writes: None,
            both: None,
            last_read: None,
            last_write: None,
            taken: 0,
            raises: false,
            passes: PhantomData,
        }
    }

    /// The watches, with what they watch.
    fn watches(&mut self) -> impl Iterator<Item = (IdleKind, &mut Watch, Option<Instant>)> {
        let both = self.last_read.max(self.last_write);
        let reads = self.reads.as_mut().map(|watch| (IdleKind::Read, watch, self.last_read));
        let writes = self.writes.as_mut().map(|watch| (IdleKind::Write, watch, self.last_write));
        let both = self.both.as_mut().map(|watch| (IdleKind::Both, watch, both));
        reads.into_iter().chain(writes).chain(both)
    }

    /// Sets the one timer for the watch that ends first. Messages don't move it: when it comes too early it is set
    /// again. No timer while all clocks stand still.
    fn set_timer(&mut self, cx: &mut Context<'_, W>) {
        let ends = self.watches().filter_map(|(_, watch, moved)| watch.ends(moved)).min();
        if let Some(ends) = ends {
            cx.set_timer(TIMER, ends.saturating_duration_since(cx.now()));
        }
    }

    #[inline]
    fn look_at_writes(&mut self, cx: &Context<'_, W>) {
        if std::mem::replace(&mut self.taken, cx.taken()) < cx.taken() {
            self.last_write = Some(cx.now());
        }
    }

    /// Stops and starts the clocks.
    fn look_at_stops(&mut self, cx: &mut Context<'_, W>) {
        let (now, writable) = (cx.now(), cx.is_writable());
        let stopped = cx.is_paused() || cx.is_waiting();
        let mut restarted = false;
        for (kind, watch, moved) in self.watches() {
            let still = match kind {
                IdleKind::Read => stopped || !writable,
                IdleKind::Write => false,
                IdleKind::Both => stopped,
            };
            restarted |= watch.stand_still(still, moved, now);
        }
        if restarted {
            self.set_timer(cx);
        }
    }
}

impl Watch {
    fn new(limit: Duration) -> Option<Self> {
        assert!(!limit.is_zero(), "a channel is idle after some time, not at once");
        Some(Watch { limit, since: None, still: None, raised: None })
    }

    /// When it has been idle for too long, unless something moves.
    fn ends(&self, moved: Option<Instant>) -> Option<Instant> {
        if self.still.is_some() {
            return None;
        }
        self.since.max(moved).map(|since| since + self.limit)
    }

    /// True when its clock runs again.
    fn stand_still(&mut self, still: bool, moved: Option<Instant>, now: Instant) -> bool {
        if still {
            self.still.get_or_insert(now);
            return false;
        }
        let Some(stopped) = self.still.take() else { return false };
        let since = self.since.max(moved).unwrap_or(now);
        self.since = Some(since + now.saturating_duration_since(stopped.max(since)));
        true
    }
}

impl<M, W> Handler for Idle<M, W> {
    type In = M;
    type Next = M;
    type Write = W;
    type Out = W;

    #[inline]
    fn read(&mut self, cx: &mut Context<'_, W>, msg: M) -> Result<Flow<M>> {
        self.last_read = Some(cx.now());
        Ok(Flow::Next(msg))
    }

    #[inline]
    fn write(&mut self, cx: &mut Context<'_, W>, msg: W) -> Result<()> {
        cx.write(msg)
    }

    fn open(&mut self, cx: &mut Context<'_, W>) -> Result<()> {
        let now = cx.now();
        self.watches().for_each(|(_, watch, _)| watch.since = Some(now));
        self.set_timer(cx);
        Ok(())
    }

    /// Called once a turn at least, and so the place to look at what has changed in it.
    fn flush(&mut self, cx: &mut Context<'_, W>) -> Result<()> {
        self.look_at_writes(cx);
        let flushed = cx.flush();
        self.look_at_stops(cx);
        flushed
    }

    fn timer(&mut self, cx: &mut Context<'_, W>, _key: u32) -> Result<()> {
        if cx.is_closing() {
            return Ok(()); // which has a limit of its own
        }
        self.look_at_writes(cx);
        let (now, raises) = (cx.now(), self.raises);
        let mut events = Vec::new();
        let mut too_long = Ok(());
        for (kind, watch, moved) in self.watches() {
            if watch.ends(moved).is_none_or(|ends| ends > now) {
                continue;
            }
            watch.since = Some(now);
            if raises {
                let first = watch.raised.is_none_or(|raised| moved >= Some(raised));
                watch.raised = Some(now);
                events.push(IdleEvent { kind, first });
            } else {
                too_long = Err(IdleTooLong { kind, limit: watch.limit }.into());
            }
        }
        events.into_iter().for_each(|event| cx.raise(event));
        self.set_timer(cx);
        too_long
    }
}

impl fmt::Display for IdleTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            IdleKind::Read => "no message has come",
            IdleKind::Write => "no byte has been taken",
            IdleKind::Both => "nothing has moved",
        };
        write!(f, "the channel is idle: {what} for {:?}", self.limit)
    }
}

impl std::error::Error for IdleTooLong {}
