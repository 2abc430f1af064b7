//! Who is let in: a filter and a limit, before a connection costs more than its descriptor.

use perihelion_runtime::{ServerConfig, WhenFull};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::Connection;

/// Whether a connection is wanted.
pub(crate) type Filter = Arc<dyn Fn(&Connection<'_>) -> bool + Send + Sync>;

/// Shared by the listeners of one server.
pub(crate) struct Admission {
    filter: Option<Filter>,
    /// 0: no limit.
    places: usize,
    when_full: WhenFull,
    taken: AtomicUsize,
    refused: AtomicU64,
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
        })
    }

    /// A new connection.
    pub(crate) fn judge(self: &Arc<Self>, fd: OwnedFd) -> Verdict {
        if self.filter.as_ref().is_some_and(|filter| !filter(&Connection::new(fd.as_fd()))) {
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
        match self.taken.fetch_update(Relaxed, Relaxed, one_more) {
            Ok(_) => Verdict::Admitted(fd, Place(Some(Arc::clone(self)))),
            Err(_) => Verdict::Waits(fd),
        }
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
            admission.taken.fetch_sub(1, Relaxed);
        }
    }
}
