//! Waiting for frames.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::Peer;
use crate::ConnectionError;

/// Waits for the next frame. Made by [`Peer::recv`].
#[must_use = "futures do nothing unless they are awaited"]
pub struct Receiving<'a, In: 'static, Out: 'static> {
    peer: &'a Peer<In, Out>,
    /// No other task may wait.
    begun: bool,
}

impl<'a, In, Out> Receiving<'a, In, Out> {
    pub(super) fn new(peer: &'a Peer<In, Out>) -> Self {
        Receiving { peer, begun: false }
    }
}

impl<In, Out> Future for Receiving<'_, In, Out> {
    type Output = Result<Option<In>, ConnectionError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        let Receiving { peer, begun } = &mut *self;
        if !*begun {
            peer.check_attached()?;
            if !peer.0.inbox.begin_receiving() {
                return Poll::Ready(Err(ConnectionError::ReceivePending));
            }
            *begun = true;
        }
        let received = ready!(peer.poll_recv(task));
        peer.0.inbox.end_receiving();
        *begun = false;
        Poll::Ready(received)
    }
}

impl<In, Out> Drop for Receiving<'_, In, Out> {
    fn drop(&mut self) {
        if self.begun {
            self.peer.0.inbox.end_receiving();
        }
    }
}

/// What [`Peer::recv`] gives. The stream ends with the frames. For one task: of two that wait by it, the last is woken.
impl<In, Out> futures_core::Stream for Peer<In, Out> {
    type Item = Result<In, ConnectionError>;

    fn poll_next(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.check_attached()?;
        if self.0.inbox.is_receiving() {
            return Poll::Ready(Some(Err(ConnectionError::ReceivePending)));
        }
        self.poll_recv(task).map(Result::transpose)
    }
}
