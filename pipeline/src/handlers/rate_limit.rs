//! No more messages than a rate allows.

use std::fmt;
use std::marker::PhantomData;
use std::time::Instant;

use super::SharedBucket;
use crate::{Context, Error, Flow, Handler, Result};

const TIMER: u32 = 0;

/// Passes no more messages towards the tail than a [`TokenBucket`](super::TokenBucket) allows, a token each. Those
/// over the limit wait, and so nothing more is received; or they are [refused](RateLimit::refuse). Stands between any
/// two stages.
///
/// A message may wait no longer than [`Limits::wait`](crate::Limits::wait).
///
/// ```
/// # use bytes::Bytes;
/// # use perihelion_pipeline::{codec, handlers::{RateLimit, TokenBucket}, LengthPrefixed, Pipeline};
/// fn echo() -> impl Pipeline<In = Bytes, Out = Bytes> {
///     codec(LengthPrefixed::u32_be(1 << 20))
///         .then(RateLimit::new(TokenBucket::shared(1000, 100)))
///         .service(async |frame: Bytes| Ok(frame))
/// }
/// ```
pub struct RateLimit<M, W> {
    bucket: SharedBucket,
    refuses: bool,
    /// A message over the limit, and when it may pass.
    waiting: Option<(M, Instant)>,
    writes: PhantomData<fn(W)>,
}

/// A message came faster than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateExceeded;

impl<M, W> RateLimit<M, W> {
    /// Messages over the limit wait.
    pub fn new(bucket: SharedBucket) -> Self {
        RateLimit { bucket, refuses: false, waiting: None, writes: PhantomData }
    }

    /// A message over the limit is dropped, with the error [`RateExceeded`], which closes the channel unless a stage
    /// above handles it.
    pub fn refuse(self) -> Self {
        RateLimit { refuses: true, ..self }
    }

    #[cold]
    fn exceeded(&mut self, cx: &mut Context<'_, W>, msg: M) -> Result<Flow<M>> {
        if self.refuses {
            return Err(RateExceeded.into());
        }
        let turn = self.bucket.borrow_mut().reserve(cx.now(), 1);
        cx.set_timer(TIMER, turn.saturating_duration_since(cx.now()));
        self.waiting = Some((msg, turn));
        Ok(Flow::Wait)
    }
}

impl<M, W> Handler for RateLimit<M, W> {
    type In = M;
    type Next = M;
    type Write = W;
    type Out = W;

    #[inline]
    fn read(&mut self, cx: &mut Context<'_, W>, msg: M) -> Result<Flow<M>> {
        if self.bucket.borrow_mut().take(cx.now(), 1) {
            return Ok(Flow::Next(msg));
        }
        self.exceeded(cx, msg)
    }

    #[inline]
    fn write(&mut self, cx: &mut Context<'_, W>, msg: W) -> Result<()> {
        cx.write(msg)
    }

    fn more(&mut self, cx: &mut Context<'_, W>) -> Result<Flow<M>> {
        match self.waiting.take_if(|(_, turn)| *turn <= cx.now()) {
            Some((msg, _)) => Ok(Flow::Next(msg)),
            None => Ok(Flow::Wait),
        }
    }

    fn timer(&mut self, cx: &mut Context<'_, W>, _key: u32) -> Result<()> {
        cx.waker().wake_by_ref();
        Ok(())
    }

    fn closed(&mut self, _why: Option<&Error>) {
        if self.waiting.take().is_some() {
            self.bucket.borrow_mut().give_back(1);
        }
    }
}

impl fmt::Display for RateExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("messages come faster than allowed")
    }
}

impl std::error::Error for RateExceeded {}
