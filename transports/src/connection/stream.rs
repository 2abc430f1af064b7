//! The bytes of a connection, between its pipeline and the task that reads and writes them.

use bytes::{Bytes, BytesMut};
use perihelion_pipeline::{ChannelClosed, Context, DemandHandle, Event, Result, Tail, Writer};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use super::Limits;
use crate::ChannelHandle;
use crate::function::Receiver;

/// The bytes of a connection. Clones are the same stream.
#[derive(Clone)]
pub(crate) struct Stream {
    inbound: Rc<RefCell<Inbound>>,
    writer: Writer<Bytes>,
    channel: ChannelHandle,
    limits: Limits,
}

/// What has been received and not read.
struct Inbound {
    channel: ChannelHandle,
    chunks: VecDeque<Bytes>,
    bytes: usize,
    state: State,
    /// Pauses the channel while much is unread.
    demand: Option<DemandHandle>,
    paused: bool,
    reader: Option<Receiver>,
    /// Whether a task is in [`Stream::read`].
    reading: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// The stages below are not ready: a handshake is under way.
    Preparing,
    Open,
    /// The other side sends no more.
    Ended,
    Closed,
}

/// Why there is nothing to read.
pub(crate) enum Unreadable {
    Closed,
    /// Another task waits already.
    Taken,
}

/// The end of the pipeline that feeds the stream.
pub(crate) struct StreamTail {
    inbound: Rc<RefCell<Inbound>>,
    unread_max: usize,
}

impl Stream {
    pub(crate) fn new(channel: &ChannelHandle, limits: Limits) -> Self {
        let inbound = Rc::new(RefCell::new(Inbound::new(channel.clone())));
        Stream { inbound, writer: Writer::new(limits.unsent_frames), channel: channel.clone(), limits }
    }

    pub(crate) fn tail(&self) -> StreamTail {
        StreamTail { inbound: Rc::clone(&self.inbound), unread_max: self.limits.unread_bytes }
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    pub(crate) fn writer(&self) -> &Writer<Bytes> {
        &self.writer
    }

    /// Whether bytes may come, and none has been left.
    pub(crate) fn is_fresh(&self) -> bool {
        let inbound = self.inbound.borrow();
        matches!(inbound.state, State::Preparing | State::Open) && inbound.bytes == 0
    }

    /// Ready when bytes can be written.
    pub(crate) fn poll_ready(&self, task: &mut std::task::Context<'_>) -> Poll<Result<(), ChannelClosed>> {
        self.writer.poll_ready(task)
    }

    /// Writes bytes, if there is room for them in the queue. False: there is none.
    pub(crate) fn try_write(&self, bytes: Bytes) -> bool {
        let written = self.writer.try_queue(bytes).is_ok();
        self.flush();
        written
    }

    /// Like [`try_write`](Stream::try_write), for what belongs together: all or nothing of it is written.
    pub(crate) fn try_write_all(&self, pieces: Vec<Bytes>) -> bool {
        let written = self.writer.try_queue_all(pieces).is_ok();
        self.flush();
        written
    }

    fn flush(&self) {
        if self.channel.0.turn().is_running() {
            self.writer.flush_in_turn();
        } else {
            self.writer.flush_queued();
        }
    }

    /// Somebody else is going to read: however much is unread here must not keep the channel from it.
    pub(crate) fn leave(&self) {
        self.inbound.borrow().demand.iter().for_each(DemandHandle::resume);
    }

    /// Waits until the stages below are ready.
    pub(crate) async fn ready(&self) -> Result<(), Unreadable> {
        poll_fn(|task| {
            let mut inbound = self.inbound.borrow_mut();
            match inbound.state {
                State::Preparing => inbound.wait(task),
                State::Open | State::Ended => Poll::Ready(Ok(())),
                State::Closed => Poll::Ready(Err(Unreadable::Closed)),
            }
        })
        .await
    }

    /// Up to `limit` bytes, as soon as there are some. `None`: there will be none.
    pub(crate) fn poll_read(
        &self,
        task: &mut std::task::Context<'_>,
        limit: usize,
    ) -> Poll<Result<Option<Bytes>, Unreadable>> {
        let mut inbound = self.inbound.borrow_mut();
        if let Some(bytes) = inbound.take(limit) {
            if inbound.paused && inbound.bytes <= self.limits.unread_bytes / 2 {
                inbound.paused = false;
                inbound.demand.iter().for_each(DemandHandle::resume);
            }
            return Poll::Ready(Ok(Some(bytes)));
        }
        match inbound.state {
            State::Preparing | State::Open => inbound.wait(task),
            State::Ended => Poll::Ready(Ok(None)),
            State::Closed => Poll::Ready(Err(Unreadable::Closed)),
        }
    }

    /// As [`poll_read`](Stream::poll_read), for one task at a time.
    pub(crate) async fn read(&self) -> Result<Option<Bytes>, Unreadable> {
        if std::mem::replace(&mut self.inbound.borrow_mut().reading, true) {
            return Err(Unreadable::Taken);
        }
        let _reading = Reading(self);
        poll_fn(|task| self.poll_read(task, usize::MAX)).await
    }

    /// What was read is to be read again, before all else.
    pub(crate) fn give_back(&self, bytes: Bytes) {
        let mut inbound = self.inbound.borrow_mut();
        inbound.bytes += bytes.len();
        inbound.chunks.push_front(bytes);
        if inbound.reader.is_some() {
            inbound.wake();
            self.writer.flush_queued(); // wakes the channel, for it may be its function that waits
        }
    }
}

/// A task in [`Stream::read`].
struct Reading<'a>(&'a Stream);

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.inbound.borrow_mut().reading = false;
    }
}

impl Inbound {
    fn new(channel: ChannelHandle) -> Self {
        let (chunks, bytes, state, demand) = (VecDeque::new(), 0, State::Preparing, None);
        Inbound { channel, chunks, bytes, state, demand, paused: false, reader: None, reading: false }
    }

    fn take(&mut self, limit: usize) -> Option<Bytes> {
        let first = self.chunks.front_mut()?;
        let bytes = if first.len() <= limit { self.chunks.pop_front()? } else { first.split_to(limit) };
        self.bytes -= bytes.len();
        Some(bytes)
    }

    fn wait<T>(&mut self, task: &mut std::task::Context<'_>) -> Poll<Result<T, Unreadable>> {
        self.reader = Some(Receiver::of(task, self.channel.0.turn()));
        Poll::Pending
    }

    fn set(&mut self, state: State) {
        if self.state != State::Ended {
            self.state = state;
        }
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake(self.channel.0.turn());
        }
    }
}

impl StreamTail {
    /// The stages below are ready when they need no input any more, or pass some on.
    fn look(&self, ready: bool) {
        let mut inbound = self.inbound.borrow_mut();
        if ready && inbound.state == State::Preparing {
            inbound.set(State::Open);
        }
    }
}

impl Tail for StreamTail {
    type In = Bytes;
    type Out = Bytes;

    fn open(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
        self.inbound.borrow_mut().demand = Some(cx.demand());
        cx.resume(); // whatever stood here before
        self.look(!cx.needs_input());
        Ok(())
    }

    fn event(&mut self, cx: &mut Context<'_, Bytes>, _event: &mut Event) -> Result<()> {
        self.look(!cx.needs_input());
        Ok(())
    }

    fn read_complete(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
        self.look(!cx.needs_input());
        Ok(())
    }

    fn read(&mut self, cx: &mut Context<'_, Bytes>, bytes: Bytes) -> Result<()> {
        self.look(true);
        if bytes.is_empty() {
            return Ok(()); // whoever reads would take it for the end
        }
        let mut inbound = self.inbound.borrow_mut();
        inbound.bytes += bytes.len();
        inbound.chunks.push_back(bytes);
        if inbound.bytes >= self.unread_max {
            inbound.paused = true;
            cx.pause();
        }
        inbound.wake();
        Ok(())
    }

    /// The task that reads decides what follows.
    fn half_closed(&mut self, _cx: &mut Context<'_, Bytes>) -> Result<()> {
        self.inbound.borrow_mut().set(State::Ended);
        Ok(())
    }

    fn take_unused(&mut self) -> Option<Bytes> {
        let mut inbound = self.inbound.borrow_mut();
        inbound.bytes = 0;
        if inbound.chunks.len() <= 1 {
            return inbound.chunks.pop_front();
        }
        let mut joined = BytesMut::with_capacity(inbound.chunks.iter().map(Bytes::len).sum());
        inbound.chunks.drain(..).for_each(|chunk| joined.extend_from_slice(&chunk));
        Some(joined.freeze())
    }
}

/// Also where it has never come into its channel, or a panic has ended that.
impl Drop for StreamTail {
    fn drop(&mut self) {
        self.inbound.borrow_mut().set(State::Closed);
    }
}
