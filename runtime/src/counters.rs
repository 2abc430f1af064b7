//! What a worker has done, published for other threads to read.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::driver::DriverCounts;

/// Written by the worker alone, once a turn; on a cache line of its own.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Counters {
    turns: AtomicU64,
    enters: AtomicU64,
    completions: AtomicU64,
    stale: AtomicU64,
    starved: AtomicU64,
}

/// What a worker has done since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerStats {
    /// Turns of its event loop.
    pub turns: u64,
    /// Calls into the kernel to submit operations or wait for them.
    pub enters: u64,
    /// Completions taken.
    pub completions: u64,
    /// Completions that came after their endpoint was gone.
    pub stale: u64,
    /// How often a channel had to wait for a receive buffer.
    pub starved: u64,
}

impl Counters {
    pub(crate) fn publish(&self, counts: &DriverCounts) {
        self.turns.store(self.turns.load(Relaxed) + 1, Relaxed);
        self.enters.store(counts.enters, Relaxed);
        self.completions.store(counts.completions, Relaxed);
        self.stale.store(counts.stale, Relaxed);
        self.starved.store(counts.starved, Relaxed);
    }

    pub(crate) fn read(&self) -> WorkerStats {
        WorkerStats {
            turns: self.turns.load(Relaxed),
            enters: self.enters.load(Relaxed),
            completions: self.completions.load(Relaxed),
            stale: self.stale.load(Relaxed),
            starved: self.starved.load(Relaxed),
        }
    }
}
