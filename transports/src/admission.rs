//! Who is let in: a filter and a limit, before a connection costs more than its descriptor.

use perihelion_runtime::{ServerConfig, WhenFull};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use crate::NewConnection;

/// Whether a connection is wanted.
pub(crate) type Filter = Arc<dyn Fn(&NewConnection<'_>) -> bool + Send + Sync>;

/// Shared by the listeners of one server.
pub(crate) struct Admission {
    filter: Option<Filter>,
    /// 0: no limit.
    places: usize,
    when_full: WhenFull,
    taken: AtomicUsize,
    refused: AtomicU64,
    /// Listeners with connections that wait for a place.
    waiting: Mutex<Vec<Waker>>,
    has_waiting: AtomicBool,
}

/// A connection's place, until it is dropped. `None` where places are not counted.
pub(crate) struct Place(Option<Arc<Admission>>);

/// What becomes of a connection.
pub(crate) enum Verdict {
    Admitted(OwnedFd, Place),
    Refused,
    /// Until there is a place.
    Waits(OwnedFd),
}

impl Admission {
    pub(crate) fn new(config: &ServerConfig, filter: Option<Filter>) -> Arc<Self> {
        Arc::new(Admission {
            filter,
            places: config.connections_max,
            when_full: config.when_full,
            taken: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            waiting: Mutex::default(),
            has_waiting: AtomicBool::new(false),
        })
    }

    /// A new connection.
    pub(crate) fn judge(self: &Arc<Self>, fd: OwnedFd) -> Verdict {
        if self.filter.as_ref().is_some_and(|filter| !filter(&NewConnection::accepted(fd.as_fd()))) {
            self.refused.fetch_add(1, Relaxed);
            return Verdict::Refused;
        }
        match (self.admit(fd), self.when_full) {
            (Verdict::Waits(_), WhenFull::Refuse) => {
                self.refused.fetch_add(1, Relaxed);
                Verdict::Refused
            }
            (verdict, _) => verdict,
        }
    }

    /// One that has passed the filter: it is admitted, or waits.
    pub(crate) fn admit(self: &Arc<Self>, fd: OwnedFd) -> Verdict {
        if self.places == 0 {
            return Verdict::Admitted(fd, Place(None));
        }
        let one_more = |taken| (taken < self.places).then_some(taken + 1);
        match self.taken.fetch_update(SeqCst, SeqCst, one_more) {
            Ok(_) => Verdict::Admitted(fd, Place(Some(Arc::clone(self)))),
            Err(_) => Verdict::Waits(fd),
        }
    }

    /// Wakes a listener when a place comes free. It looks once more itself, after this: one may have come free before.
    pub(crate) fn wake_when_free(&self, listener: Waker) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if !waiting.iter().any(|waker| waker.will_wake(&listener)) {
            waiting.push(listener);
        }
        self.has_waiting.store(true, SeqCst);
    }

    fn wake_waiting(&self) {
        let waiting = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            self.has_waiting.store(false, SeqCst);
            std::mem::take(&mut *waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }
}

impl Place {
    /// Of a connection that no server counts.
    pub(crate) fn uncounted() -> Self {
        Place(None)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(admission) = &self.0 {
            // In this order, and the listener's in the other: either it sees the place, or it is seen.
            admission.taken.fetch_sub(1, SeqCst);
            if admission.has_waiting.load(SeqCst) {
                admission.wake_waiting();
            }
        }
    }
}
