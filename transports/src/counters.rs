//! What one worker has done for one server, for other threads to read.

use perihelion_pipeline::Work;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Published by one worker, on a cache line of its own.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Counters {
    connections: AtomicU64,
    closed: AtomicU64,
    messages_in: AtomicU64,
    messages_out: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

/// For the worker.
impl Counters {
    pub(crate) fn opened(&self) {
        self.connections.add(1);
    }

    pub(crate) fn closed(&self) {
        self.closed.add(1);
    }

    #[inline]
    pub(crate) fn add(&self, work: Work) {
        if work != Work::default() {
            self.messages_in.add(work.messages_in);
            self.messages_out.add(work.messages_out);
            self.bytes_in.add(work.bytes_in);
            self.bytes_out.add(work.bytes_out);
        }
    }
}

/// For other threads. What they read together may be of different turns.
impl Counters {
    /// Connections that were opened, and of these, those that are open.
    pub(crate) fn connections(&self) -> (u64, u64) {
        let closed = self.closed.load(Relaxed);
        let opened = self.connections.load(Relaxed);
        (opened, opened.saturating_sub(closed))
    }

    pub(crate) fn work(&self) -> Work {
        Work {
            messages_in: self.messages_in.load(Relaxed),
            messages_out: self.messages_out.load(Relaxed),
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
        }
    }
}

trait Add {
    /// Without a locked instruction: the worker is the only one that writes.
    fn add(&self, n: u64);
}

impl Add for AtomicU64 {
    #[inline]
    fn add(&self, n: u64) {
        self.store(self.load(Relaxed) + n, Relaxed);
    }
}
