//! What the threads of the load generator share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};

/// Where the run is.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    WarmUp,
    Measure,
    /// No new request is sent.
    Stop,
}

/// The phase, set by the main thread, and the progress, set by each worker.
pub(crate) struct Shared {
    phase: AtomicU8,
    replies: Vec<Padded>,
    interrupted: Interrupted,
}

/// Set by a signal.
#[derive(Clone, Default)]
pub(crate) struct Interrupted(Arc<AtomicBool>);

#[derive(Default)]
#[repr(align(128))]
struct Padded(AtomicU64);

impl Shared {
    pub(crate) fn new(workers: usize) -> Self {
        Shared {
            phase: AtomicU8::new(Phase::WarmUp as u8),
            replies: (0..workers).map(|_| Padded::default()).collect(),
            interrupted: Interrupted::default(),
        }
    }

    pub(crate) fn set(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
    }

    #[inline]
    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            0 => Phase::WarmUp,
            1 => Phase::Measure,
            _ => Phase::Stop,
        }
    }

    pub(crate) fn publish(&self, worker: usize, replies: u64) {
        self.replies[worker].0.store(replies, Relaxed);
    }

    /// Of all workers, since the beginning.
    pub(crate) fn replies(&self) -> u64 {
        self.replies.iter().map(|replies| replies.0.load(Relaxed)).sum()
    }

    pub(crate) fn interrupted(&self) -> Interrupted {
        self.interrupted.clone()
    }
}

impl Interrupted {
    pub(crate) fn set(&self) {
        self.0.store(true, Relaxed);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Relaxed)
    }
}
