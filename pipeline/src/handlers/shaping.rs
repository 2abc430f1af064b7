//! No more bytes than a rate allows.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::SharedBucket;
use crate::{Context, Error, Flow, Handler, Hold, Operation, Result};

/// The most bytes that pass at once, so that channels that share a bucket take turns.
const PIECE_BYTES_MAX: u64 = 16 * 1024;

const INBOUND: u32 = 0;
const OUTBOUND: u32 = 1;

/// Passes no more bytes than [`TokenBucket`](super::TokenBucket)s allow, a token each, in one direction or both. A
/// stage of bytes, directly on [`transport()`](crate::transport).
///
/// What arrives too fast waits, and so nothing more is received. What is written too fast is kept back, in line with
/// promises and closes, and counts towards the channel's water marks.
///
/// Channels with a bucket in common share its rate, and take turns in pieces of at most a burst and 16 KiB; a limit for
/// each channel besides is another `Shaping`. Timers go by milliseconds: a burst should be what the rate gives in
/// several of them at least. A piece that has arrived may wait no longer than [`Limits::wait`](crate::Limits::wait).
///
/// ```
/// # use bytes::Bytes;
/// # use perihelion_pipeline::{transport, handlers::{Shaping, SharedBucket, TokenBucket}, LengthPrefixed, Pipeline};
/// fn echo(worker: &SharedBucket) -> impl Pipeline<In = Bytes, Out = Bytes> + use<> {
///     transport()
///         .then(Shaping::both(TokenBucket::shared(100_000, 20_000), worker.clone()))
///         .codec(LengthPrefixed::u32_be(1 << 20))
///         .service(async |frame: Bytes| Ok(frame))
/// }
/// ```
pub struct Shaping {
    inbound: Option<SharedBucket>,
    outbound: Option<SharedBucket>,
    /// What has arrived and waits.
    arrived: Bytes,
    /// When the next piece of it may pass.
    arrived_turn: Option<Instant>,
    held: Hold<Bytes>,
    /// When the next piece that is held may pass.
    held_turn: Option<Instant>,
}

impl Shaping {
    /// Limits what arrives.
    pub fn inbound(bucket: SharedBucket) -> Self {
        Self::new(Some(bucket), None)
    }

    /// Limits what is written.
    pub fn outbound(bucket: SharedBucket) -> Self {
        Self::new(None, Some(bucket))
    }

    /// Limits both: what arrives, and what is written.
    pub fn both(inbound: SharedBucket, outbound: SharedBucket) -> Self {
        Self::new(Some(inbound), Some(outbound))
    }

    fn new(inbound: Option<SharedBucket>, outbound: Option<SharedBucket>) -> Self {
        Shaping {
            inbound,
            outbound,
            arrived: Bytes::new(),
            arrived_turn: None,
            held: Hold::default(),
            held_turn: None,
        }
    }

    /// Passes on what may pass.
    fn release(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
        let Some(bucket) = &self.outbound else { return Ok(()) };
        while let Some(bytes) = self.held.next_bytes() {
            if !is_turn(&mut self.held_turn, bucket, bytes, cx, OUTBOUND) {
                break;
            }
            if let Err(error) = self.held.release_one(cx) {
                cx.set_timer(OUTBOUND, Duration::ZERO); // for the rest, where somebody handles the error
                return Err(error);
            }
        }
        Ok(())
    }
}

impl Handler for Shaping {
    type In = Bytes;
    type Next = Bytes;
    type Write = Bytes;
    type Out = Bytes;

    fn read(&mut self, cx: &mut Context<'_, Bytes>, chunk: Bytes) -> Result<Flow<Bytes>> {
        self.arrived = chunk;
        self.more(cx)
    }

    fn more(&mut self, cx: &mut Context<'_, Bytes>) -> Result<Flow<Bytes>> {
        let Some(bucket) = &self.inbound else { return Ok(Flow::Next(std::mem::take(&mut self.arrived))) };
        if self.arrived.is_empty() {
            return Ok(Flow::Done);
        }
        let bytes = piece_bytes(&self.arrived, bucket);
        if !is_turn(&mut self.arrived_turn, bucket, bytes, cx, INBOUND) {
            return Ok(Flow::Wait);
        }
        let piece = self.arrived.split_to(bytes);
        Ok(if self.arrived.is_empty() { Flow::Next(piece) } else { Flow::More(piece) })
    }

    fn write(&mut self, cx: &mut Context<'_, Bytes>, mut msg: Bytes) -> Result<()> {
        let Some(bucket) = &self.outbound else { return cx.write(msg) };
        let waits = !self.held.is_empty();
        if !waits && piece_bytes(&msg, bucket) == msg.len() {
            let passes = bucket.borrow_mut().take(cx.now(), msg.len() as u64);
            if passes {
                return cx.write(msg);
            }
        }
        while !msg.is_empty() {
            let bytes = piece_bytes(&msg, bucket);
            self.held.keep(cx, msg.split_to(bytes), bytes);
        }
        if waits { Ok(()) } else { self.release(cx) }
    }

    fn operate(&mut self, cx: &mut Context<'_, Bytes>, operation: Operation) -> Result<()> {
        self.held.operate(cx, operation)
    }

    fn timer(&mut self, cx: &mut Context<'_, Bytes>, key: u32) -> Result<()> {
        if key == OUTBOUND {
            return self.release(cx);
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    fn removed(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
        self.held.release_all(cx)
    }

    fn closed(&mut self, _why: Option<&Error>) {
        // Whoever shares the bucket need not wait for what is not sent any more.
        if let (Some(bucket), Some(_)) = (&self.inbound, self.arrived_turn) {
            let bytes = piece_bytes(&self.arrived, bucket);
            bucket.borrow_mut().give_back(bytes as u64);
        }
        if let (Some(bucket), Some(_), Some(bytes)) = (&self.outbound, self.held_turn, self.held.next_bytes())
        {
            bucket.borrow_mut().give_back(bytes as u64);
        }
    }
}

/// Whether so many bytes may pass now. Otherwise their turn is kept, and the timer set for it.
fn is_turn(
    turn: &mut Option<Instant>,
    bucket: &SharedBucket,
    bytes: usize,
    cx: &mut Context<'_, Bytes>,
    timer: u32,
) -> bool {
    let at = *turn.get_or_insert_with(|| bucket.borrow_mut().reserve(cx.now(), bytes as u64));
    let is_now = at <= cx.now();
    if is_now {
        *turn = None;
    } else {
        cx.set_timer(timer, at - cx.now());
    }
    is_now
}

/// How many bytes pass at once.
fn piece_bytes(bytes: &Bytes, bucket: &SharedBucket) -> usize {
    (bytes.len() as u64).min(bucket.borrow().burst()).min(PIECE_BYTES_MAX) as usize
}
