//! What is kept beside a channel, for whoever watches it from outside its pipeline.

use std::cell::Cell;
use std::time::Instant;

use crate::Features;

/// What is kept beside a channel, for whoever watches it from outside its pipeline and when it is closed. Given to a
/// channel by [`Runner::keep`](crate::Runner::keep).
pub trait Record {
    /// What is known about the connection.
    fn features(&self) -> &Features;

    /// How much moves on it.
    fn traffic(&self) -> &Traffic;
}

/// How much a channel has received and sent.
pub struct Traffic {
    received: Cell<u64>,
    sent: Cell<u64>,
    last: Cell<Instant>,
    /// `None` while this side has stopped reading, and has nothing to send.
    runs_since: Cell<Option<Instant>>,
}

impl Traffic {
    /// None yet.
    pub fn new(now: Instant) -> Self {
        Traffic {
            received: Cell::new(0),
            sent: Cell::new(0),
            last: Cell::new(now),
            runs_since: Cell::new(Some(now)),
        }
    }

    /// Bytes that the transport has delivered.
    pub fn received(&self) -> u64 {
        self.received.get()
    }

    /// Bytes that the kernel has taken.
    pub fn sent(&self) -> u64 {
        self.sent.get()
    }

    /// When bytes moved last, or when counting began.
    pub fn last_activity(&self) -> Instant {
        self.last.get()
    }

    /// Since when nothing has moved, though it could have. `None` while this side has nothing to send and has stopped
    /// reading, by a pause or since a stage waits or works on a message: a peer that is not listened to isn't idle.
    pub fn idle_since(&self) -> Option<Instant> {
        self.runs_since.get().map(|since| since.max(self.last.get()))
    }

    /// Whether this side has stopped, at the end of a turn.
    pub(crate) fn set_stopped(&self, stopped: bool, now: Instant) {
        if stopped == self.runs_since.get().is_some() {
            self.runs_since.set((!stopped).then_some(now));
        }
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
