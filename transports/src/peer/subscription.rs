//! A stream of those of a peer's frames that somebody wants.

use futures_core::Stream;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::inbox::Inbox;

/// Copies of those of a peer's frames that are wanted: a [`Stream`], made by [`Peer::subscribe`](super::Peer::subscribe).
/// It ends when the other side sends no more or the connection is closed. While it is full (`channel.unread_frames_max`)
/// the connection reads nothing: a subscription that is not read any more is to be dropped.
pub struct Subscription<In: 'static> {
    inbox: Rc<Inbox<In>>,
    key: usize,
}

impl<In: Clone> Subscription<In> {
    pub(super) fn new(
        inbox: &Rc<Inbox<In>>,
        wants: impl FnMut(&In) -> bool + 'static,
        with_queued: bool,
    ) -> Self {
        Subscription { inbox: Rc::clone(inbox), key: inbox.subscribe(wants, with_queued) }
    }
}

impl<In> Subscription<In> {
    /// The next frame; `None`: no more follow.
    pub async fn next(&mut self) -> Option<In> {
        std::future::poll_fn(|task| self.inbox.poll_subscription(self.key, task)).await
    }
}

impl<In> Stream for Subscription<In> {
    type Item = In;

    fn poll_next(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<In>> {
        self.inbox.poll_subscription(self.key, task)
    }
}

impl<In: 'static> Drop for Subscription<In> {
    fn drop(&mut self) {
        self.inbox.unsubscribe(self.key);
    }
}
