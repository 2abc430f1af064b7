//! What the channels of one server or client have in common on one worker.

use perihelion_pipeline as pipeline;
use perihelion_runtime::{ChannelConfig, Piece, TcpConfig};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use crate::counters::Counters;

/// What the channels of one server or client have in common on one worker.
pub(crate) struct Group {
    /// The state of the channel that is being run. Calls of the event loop don't nest, so it is free when one begins.
    pub(crate) channel: RefCell<pipeline::Channel>,
    pub(crate) config: ChannelConfig,
    /// Whether closing a descriptor waits for what is not sent.
    pub(crate) lingers: bool,
    pub(crate) counters: Arc<Counters>,
    /// Lists for sends of several pieces, to be used again.
    pub(crate) lists: RefCell<Vec<Vec<Piece>>>,
    /// Channels that are not closed.
    open: Cell<usize>,
    /// Whether a listener adds to them.
    listening: Cell<bool>,
    drained: RefCell<Option<Waker>>,
}

/// A listener of a group.
pub(crate) struct Listening(Rc<Group>);

/// A notice to all channels and listeners of a group.
pub(crate) struct Notice {
    pub(crate) group: Rc<Group>,
    pub(crate) order: Order,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Order {
    /// Reset what is still open.
    Abort,
    /// Accept no more, and close in order.
    Close,
}

impl Group {
    pub(crate) fn new(config: &ChannelConfig, tcp: &TcpConfig, counters: Arc<Counters>) -> Rc<Self> {
        let limits = pipeline::Limits {
            high_water_bytes: config.high_water_bytes,
            low_water_bytes: config.low_water_bytes,
            messages_per_turn: config.messages_per_turn,
            wait: config.wait(),
            auto_read: config.auto_read,
        };
        Rc::new(Group {
            channel: RefCell::new(pipeline::Channel::new(limits)),
            config: config.clone(),
            lingers: tcp.linger_s.is_some_and(|linger_s| linger_s > 0),
            counters,
            lists: RefCell::default(),
            open: Cell::new(0),
            listening: Cell::new(false),
            drained: RefCell::default(),
        })
    }

    pub(crate) fn channel_opened(&self) {
        self.open.set(self.open.get() + 1);
        self.counters.opened();
    }

    pub(crate) fn channel_closed(&self) {
        self.count_work(); // of a channel that ended before its turn did
        self.open.set(self.open.get() - 1);
        self.counters.closed();
        self.wake_if_drained();
    }

    /// A listener adds channels until what this gives is dropped.
    pub(crate) fn listen(self: &Rc<Self>) -> Listening {
        self.listening.set(true);
        Listening(Rc::clone(self))
    }

    /// Publishes what was done since the last time.
    #[inline]
    pub(crate) fn count_work(&self) {
        let channel = &mut *self.channel.borrow_mut();
        self.counters.add(channel.take_work());
        let untaken = channel.take_untaken_events();
        if untaken > 0 {
            tracing::debug!(untaken, "user events that no stage took");
        }
    }

    pub(crate) fn open(&self) -> usize {
        self.open.get()
    }

    /// Waits until no channel is open, and none can be added.
    pub(crate) async fn drained(&self) {
        poll_fn(|task| {
            if self.is_drained() {
                return Poll::Ready(());
            }
            self.drained.replace(Some(task.waker().clone()));
            Poll::Pending
        })
        .await
    }

    fn is_drained(&self) -> bool {
        self.open.get() == 0 && !self.listening.get()
    }

    fn wake_if_drained(&self) {
        if self.is_drained()
            && let Some(waiter) = self.drained.take()
        {
            waiter.wake();
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.listening.set(false);
        self.0.wake_if_drained();
    }
}
