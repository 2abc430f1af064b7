//! The sending half of a peer.

use futures_sink::Sink;
use perihelion_pipeline::{Room, Writer, Written};
use std::cell::Cell;
use std::ops::Deref;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use crate::{ChannelHandle, ConnectionError};

/// Sends frames to the other side, from any task on the peer's worker. Clones feed the same queue, in order; they don't
/// keep the connection open. It is a [`Sink`], and dereferences to the [handle](ChannelHandle) of the connection.
pub struct PeerSender<Out> {
    writer: Writer<Out>,
    channel: ChannelHandle,
    /// Frames that it was too slow for.
    skipped: Rc<Cell<u64>>,
}

impl<Out> PeerSender<Out> {
    pub(super) fn new(writer: Writer<Out>, channel: ChannelHandle) -> Self {
        PeerSender { writer, channel, skipped: Rc::default() }
    }

    /// Sends a frame, and everything queued before it, when there is room in the queue. It goes out at the end of this
    /// turn of the event loop; [`flush`](PeerSender::flush) waits until the kernel has taken it.
    ///
    /// # Errors
    /// [`ConnectionError::Closed`]: the frame will not be sent.
    pub fn send(&self, frame: Out) -> Sending<'_, Out> {
        Sending { sender: self, room: self.writer.room(), frame: Some(frame) }
    }

    /// Queues a frame. It is sent with the next that is [sent](PeerSender::send), by the next flush, or before the
    /// connection is closed in order.
    ///
    /// # Errors
    /// [`ConnectionError::QueueFull`], or [`ConnectionError::Closed`]. The frame is dropped.
    pub fn queue(&self, frame: Out) -> Result<(), ConnectionError> {
        self.writer.try_queue(frame).map_err(|_| self.refused())
    }

    /// Like [`queue`](PeerSender::queue), with a future that resolves when the kernel has taken the frame, and fails when
    /// the connection is closed before. Dropped, the future leaves the frame alone.
    ///
    /// # Errors
    /// [`ConnectionError::QueueFull`], or [`ConnectionError::Closed`]. The frame is dropped.
    pub fn queue_acked(&self, frame: Out) -> Result<Written, ConnectionError> {
        self.writer.try_queue_acked(frame).map_err(|_| self.refused())
    }

    /// Sends everything queued, without waiting for it.
    pub fn send_queued(&self) {
        self.writer.flush_queued();
    }

    /// Sends everything queued, and waits until the kernel has taken it.
    ///
    /// # Errors
    /// [`ConnectionError::Closed`].
    pub async fn flush(&self) -> Result<(), ConnectionError> {
        self.writer.flush().await.map_err(|_| self.closed_error())
    }

    /// Tells the other side, behind what was queued, that no more will be sent. What it sends is received on.
    pub fn close_output(&self) {
        self.writer.close_output();
    }

    /// Frames that wait to be sent.
    pub fn queued(&self) -> usize {
        self.writer.queued()
    }

    /// Sends a frame if there is room for it in the queue.
    pub(super) fn try_send(&self, frame: Out) -> bool {
        if self.channel.0.turn().is_running() {
            let queued = self.writer.try_queue(frame).is_ok();
            self.writer.flush_in_turn();
            queued
        } else {
            self.writer.try_write(frame).is_ok()
        }
    }

    pub(super) fn count_skipped(&self) {
        self.skipped.set(self.skipped.get() + 1);
    }

    pub(super) fn skipped(&self) -> u64 {
        self.skipped.get()
    }

    pub(super) fn writer(&self) -> &Writer<Out> {
        &self.writer
    }

    pub(super) fn closed_error(&self) -> ConnectionError {
        ConnectionError::closed(&self.channel)
    }

    fn refused(&self) -> ConnectionError {
        if self.writer.is_open() { ConnectionError::QueueFull } else { self.closed_error() }
    }
}

/// Sends a frame. Made by [`PeerSender::send`]. (An `async fn` would hold the frame twice.)
#[must_use = "futures do nothing unless they are awaited"]
pub struct Sending<'a, Out> {
    sender: &'a PeerSender<Out>,
    room: Room<'a, Out>,
    frame: Option<Out>,
}

impl<Out> Unpin for Sending<'_, Out> {}

impl<Out> Future for Sending<'_, Out> {
    type Output = Result<(), ConnectionError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        let Sending { sender, room, frame } = &mut *self;
        let open = ready!(Pin::new(room).poll(task)).is_ok();
        let frame = frame.take().expect("a future that is done is not polled");
        Poll::Ready(if open && sender.try_send(frame) { Ok(()) } else { Err(sender.closed_error()) })
    }
}

impl<Out> Clone for PeerSender<Out> {
    fn clone(&self) -> Self {
        let PeerSender { writer, channel, skipped } = self;
        PeerSender { writer: writer.clone(), channel: channel.clone(), skipped: Rc::clone(skipped) }
    }
}

impl<Out> Deref for PeerSender<Out> {
    type Target = ChannelHandle;
    fn deref(&self) -> &ChannelHandle {
        &self.channel
    }
}

impl<Out> Sink<Out> for PeerSender<Out> {
    type Error = ConnectionError;

    fn poll_ready(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        self.writer.poll_ready(task).map_err(|_| self.closed_error())
    }

    fn start_send(self: Pin<&mut Self>, frame: Out) -> Result<(), ConnectionError> {
        self.queue(frame)
    }

    /// Everything is on its way, if not yet in the kernel's hands.
    fn poll_flush(self: Pin<&mut Self>, _task: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        self.writer.flush_queued();
        Poll::Ready(if self.writer.is_open() { Ok(()) } else { Err(self.closed_error()) })
    }

    fn poll_close(self: Pin<&mut Self>, _task: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        self.close_output();
        Poll::Ready(Ok(()))
    }
}
