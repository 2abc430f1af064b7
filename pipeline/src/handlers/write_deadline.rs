//! The other side must take what it is sent.

use std::fmt;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use crate::{Context, Flow, Handler, Result};

const TIMER: u32 = 0;

/// Closes a channel whose queue makes no progress within a time, with the error [`WriteTooSlow`]. Stands between any
/// two stages.
///
/// There is one clock for the connection and not one for each write: it begins when bytes are queued, and anew
/// whenever some of them are taken. What stages keep back themselves counts as queued, so give
/// [`Shaping`](super::Shaping) time enough for its smallest rate.
///
/// ```
/// # use std::time::Duration;
/// # use bytes::Bytes;
/// # use perihelion_pipeline::{codec, handlers::WriteDeadline, LengthPrefixed, Pipeline};
/// fn echo() -> impl Pipeline<In = Bytes, Out = Bytes> {
///     codec(LengthPrefixed::u32_be(1 << 20))
///         .then(WriteDeadline::new(Duration::from_secs(30)))
///         .service(async |frame: Bytes| Ok(frame))
/// }
/// ```
pub struct WriteDeadline<M, W> {
    limit: Duration,
    /// Bytes that had been taken when it was looked last.
    taken: u64,
    /// Since when the queue makes no progress. `None`: it is empty.
    stuck: Option<Instant>,
    is_timer_set: bool,
    passes: PhantomData<fn(M) -> W>,
}

/// Nothing of what is queued has been taken for too long: the reason of a close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteTooSlow {
    /// The limit.
    pub limit: Duration,
    /// How many bytes are queued.
    pub queued: usize,
}

impl<M, W> WriteDeadline<M, W> {
    /// Some of what is queued must be taken within this time, again and again.
    pub fn new(limit: Duration) -> Self {
        WriteDeadline { limit, taken: 0, stuck: None, is_timer_set: false, passes: PhantomData }
    }

    #[inline]
    fn look(&mut self, cx: &Context<'_, W>) {
        if std::mem::replace(&mut self.taken, cx.taken()) < cx.taken() {
            self.stuck = None;
        }
    }

    /// Sets the timer unless it is set: progress does not move it, and when it comes too early it is set again.
    fn set_timer(&mut self, cx: &mut Context<'_, W>) {
        if !self.is_timer_set
            && let Some(stuck) = self.stuck
        {
            self.is_timer_set = true;
            cx.set_timer(TIMER, (stuck + self.limit).saturating_duration_since(cx.now()));
        }
    }
}

impl<M, W> Handler for WriteDeadline<M, W> {
    type In = M;
    type Next = M;
    type Write = W;
    type Out = W;

    #[inline]
    fn read(&mut self, _cx: &mut Context<'_, W>, msg: M) -> Result<Flow<M>> {
        Ok(Flow::Next(msg))
    }

    #[inline]
    fn write(&mut self, cx: &mut Context<'_, W>, msg: W) -> Result<()> {
        cx.write(msg)
    }

    /// Called once a turn at least, and so the place to look at what has changed in it.
    #[inline]
    fn flush(&mut self, cx: &mut Context<'_, W>) -> Result<()> {
        self.look(cx);
        let flushed = cx.flush();
        if cx.queued() == 0 {
            self.stuck = None;
        } else if self.stuck.is_none() {
            self.stuck = Some(cx.now());
            self.set_timer(cx);
        }
        flushed
    }

    fn timer(&mut self, cx: &mut Context<'_, W>, _key: u32) -> Result<()> {
        self.is_timer_set = false;
        if cx.is_closing() {
            return Ok(()); // which has a limit of its own
        }
        let ended = self.stuck.is_some_and(|stuck| stuck + self.limit <= cx.now());
        if ended {
            self.stuck = Some(cx.now()); // once more, where somebody handles the error
        }
        self.set_timer(cx);
        if ended { Err(WriteTooSlow { limit: self.limit, queued: cx.queued() }.into()) } else { Ok(()) }
    }
}

impl fmt::Display for WriteTooSlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "none of {} queued bytes has been taken within {:?}", self.queued, self.limit)
    }
}

impl std::error::Error for WriteTooSlow {}
