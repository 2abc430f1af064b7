//! How much a channel has received and sent, for whoever watches it from beside its pipeline.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

/// How much a channel has received and sent. Clones show the same channel; it stays readable when that is closed.
/// Made by [`Runner::traffic`](crate::Runner::traffic), from when on it counts.
#[derive(Clone)]
pub struct Traffic(pub(crate) Rc<TrafficCells>);

pub(crate) struct TrafficCells {
    received: Cell<u64>,
    sent: Cell<u64>,
    last: Cell<Instant>,
    /// `None` while this side has stopped reading, and has nothing to send.
    runs_since: Cell<Option<Instant>>,
}

impl Traffic {
    /// Bytes that the transport has delivered.
    pub fn received(&self) -> u64 {
        self.0.received.get()
    }

    /// Bytes that the kernel has taken.
    pub fn sent(&self) -> u64 {
        self.0.sent.get()
    }

    /// When bytes moved last, or when counting began.
    pub fn last_activity(&self) -> Instant {
        self.0.last.get()
    }

    /// Since when nothing has moved, though it could have. `None` while this side has nothing to send and has stopped
    /// reading, by a pause or since a stage waits or works on a message: a peer that is not listened to isn't idle.
    pub fn idle_since(&self) -> Option<Instant> {
        self.0.runs_since.get().map(|since| since.max(self.0.last.get()))
    }
}

impl TrafficCells {
    pub(crate) fn new(sent: u64, now: Instant) -> Rc<Self> {
        Rc::new(TrafficCells {
            received: Cell::new(0),
            sent: Cell::new(sent),
            last: Cell::new(now),
            runs_since: Cell::new(Some(now)),
        })
    }

    /// Whether this side has stopped, at the end of a turn.
    pub(crate) fn set_stopped(&self, stopped: bool, now: Instant) {
        let since = self.runs_since.get().unwrap_or(now);
        self.runs_since.set((!stopped).then_some(since));
    }

    pub(crate) fn add_received(&self, bytes: usize, now: Instant) {
        self.received.set(self.received.get() + bytes as u64);
        self.last.set(now);
    }

    pub(crate) fn add_sent(&self, bytes: usize, now: Instant) {
        self.sent.set(self.sent.get() + bytes as u64);
        self.last.set(now);
    }
}
