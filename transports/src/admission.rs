//! Who is let in: filters and limits, before a connection costs more than its descriptor.

use perihelion_runtime::{ServerConfig, WhenFull};
use socket2::SockRef;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use crate::Refusals;
use crate::filter::Filters;
use crate::per_address::{PerAddress, Share};

/// Shared by the listeners of one server.
pub(crate) struct Admission {
    config: ServerConfig,
    filters: Filters,
    taken: AtomicUsize,
    per_address: Option<Arc<PerAddress>>,
    refused: Mutex<Refusals>,
    /// Listeners with connections that wait for a place.
    waiting: Mutex<Vec<Waker>>,
    has_waiting: AtomicBool,
}

/// Why a connection is refused.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Refusal {
    Unwanted,
    Undecided,
    AddressFull,
    Full,
    Late,
}

/// A connection that has not been let in yet.
pub(crate) struct Candidate {
    /// `None` where those of an address are not counted. Dropped before the other side sees the end.
    pub(crate) share: Option<Share>,
    pub(crate) fd: OwnedFd,
}

/// What a connection takes of its server's limits, until it is dropped.
pub(crate) struct Place {
    /// `None` where places are not counted.
    admission: Option<Arc<Admission>>,
    _share: Option<Box<Share>>,
}

impl Admission {
    pub(crate) fn new(config: ServerConfig, filters: Filters) -> Arc<Self> {
        let most = config.connections_per_address_max;
        let per_address = (most > 0).then(|| PerAddress::new(most, config.ipv6_prefix_bits));
        Arc::new(Admission {
            config,
            filters,
            taken: AtomicUsize::new(0),
            per_address,
            refused: Mutex::default(),
            waiting: Mutex::default(),
            has_waiting: AtomicBool::new(false),
        })
    }

    pub(crate) fn config(&self) -> &ServerConfig {
        &self.config
    }

    pub(crate) fn filters(&self) -> &Filters {
        &self.filters
    }

    /// Looks at a new connection. Gives what it takes of its address's limit, if there is one.
    pub(crate) fn examine(&self, fd: &OwnedFd) -> Result<Option<Share>, Refusal> {
        if !self.filters.wants(fd) {
            return Err(Refusal::Unwanted);
        }
        let Some(per_address) = &self.per_address else { return Ok(None) };
        let address = SockRef::from(fd).peer_addr().map_err(|_| Refusal::AddressFull)?;
        // What is no internet address has no limit.
        let Some(address) = address.as_socket() else { return Ok(None) };
        per_address.take(address.ip()).map(Some).ok_or(Refusal::AddressFull)
    }

    /// Lets one in that has passed the filters; or gives it back when there is no place.
    pub(crate) fn admit(self: &Arc<Self>, candidate: Candidate) -> Result<(OwnedFd, Place), Candidate> {
        let places = self.config.connections_max;
        let one_more = |taken| (taken < places).then_some(taken + 1);
        if places > 0 && self.taken.fetch_update(SeqCst, SeqCst, one_more).is_err() {
            return Err(candidate);
        }
        let admission = (places > 0).then(|| Arc::clone(self));
        Ok((candidate.fd, Place { admission, _share: candidate.share.map(Box::new) }))
    }

    pub(crate) fn waits_when_full(&self) -> bool {
        self.config.when_full == WhenFull::Wait
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

    /// To be called before the connection is closed, so that whoever sees that finds it counted.
    pub(crate) fn refuse(&self, refusal: Refusal) {
        match refusal {
            Refusal::Undecided => tracing::warn!("a connection is refused: {refusal}"),
            _ => tracing::debug!("a connection is refused: {refusal}"),
        }
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        *match refusal {
            Refusal::Unwanted => &mut refused.unwanted,
            Refusal::Undecided => &mut refused.undecided,
            Refusal::AddressFull => &mut refused.address_full,
            Refusal::Full => &mut refused.full,
            Refusal::Late => &mut refused.late,
        } += 1;
    }

    pub(crate) fn refusals(&self) -> Refusals {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::Unwanted => "a filter does not want it",
            Refusal::Undecided => "the filter did not decide within server.filter_ms",
            Refusal::AddressFull => "its address has server.connections_per_address_max",
            Refusal::Full => "there are server.connections_max",
            Refusal::Late => "there was no place within server.wait_ms",
        })
    }
}

impl Place {
    /// Of a connection that no server counts.
    pub(crate) fn uncounted() -> Self {
        Place { admission: None, _share: None }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(admission) = &self.admission {
            // In this order, and the listener's in the other: either it sees the place, or it is seen.
            admission.taken.fetch_sub(1, SeqCst);
            if admission.has_waiting.load(SeqCst) {
                admission.wake_waiting();
            }
        }
    }
}
