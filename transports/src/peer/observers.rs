//! Who sees a peer's frames beside the task that receives: the event, and the subscribers.

use slab::Slab;
use std::collections::VecDeque;
use std::task::Waker;

use super::Handling;

/// Who sees frames beside the task that receives. What is called, or dropped, is user code, which may come back to the
/// peer: it is taken out before.
pub(super) struct Observers<In> {
    pub(super) on_received: Option<OnReceived<In>>,
    pub(super) subscribers: Slab<Subscriber<In>>,
}

pub(super) type OnReceived<In> = Box<dyn FnMut(&In) -> Handling>;

pub(super) struct Subscriber<In> {
    /// `None` while it is called, and when the peer is closed, and shows no more.
    pub(super) offer: Option<Offer<In>>,
    pub(super) queue: VecDeque<In>,
    pub(super) waker: Option<Waker>,
}

/// Tells a subscriber's wishes, and copies what it wants.
pub(super) type Offer<In> = Box<dyn FnMut(&In) -> Option<In>>;

impl<In> Observers<In> {
    pub(super) fn is_empty(&self) -> bool {
        self.on_received.is_none() && self.subscribers.is_empty()
    }

    pub(super) fn keys(&self) -> Vec<usize> {
        self.subscribers.iter().map(|(key, _)| key).collect()
    }

    pub(super) fn take_offer(&mut self, key: usize) -> Option<Offer<In>> {
        self.subscribers.get_mut(key)?.offer.take()
    }

    /// All that would be called for another frame, of which there will be none.
    pub(super) fn take_calls(&mut self) -> (Option<OnReceived<In>>, Vec<Option<Offer<In>>>) {
        let offers = self.subscribers.iter_mut().map(|(_, subscriber)| subscriber.offer.take());
        (self.on_received.take(), offers.collect())
    }

    /// Whether a subscriber's queue is full.
    pub(super) fn is_full(&self, limit: usize) -> bool {
        self.subscribers.iter().any(|(_, subscriber)| subscriber.queue.len() >= limit)
    }

    pub(super) fn wake(&mut self) {
        for (_, subscriber) in &mut self.subscribers {
            subscriber.waker.take().into_iter().for_each(Waker::wake);
        }
    }
}

impl<In> Default for Observers<In> {
    fn default() -> Self {
        Observers { on_received: None, subscribers: Slab::new() }
    }
}
