//! Filters: functions of the user's that say whether a connection is wanted.

use perihelion_runtime::{JoinHandle, TimedOut, spawn_local, timeout};
use slab::Slab;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::thread;

use crate::NewConnection;
use crate::admission::{Admission, Candidate, Refusal};

type Filter = Arc<dyn Fn(&NewConnection<'_>) -> bool + Send + Sync>;
type AsyncFilter = Arc<dyn Fn(&OwnedFd) -> Pin<Box<dyn Future<Output = bool> + '_>> + Send + Sync>;

/// The filters of a server. A connection must be wanted by both.
#[derive(Clone, Default)]
pub(crate) struct Filters {
    now: Option<Filter>,
    later: Option<AsyncFilter>,
}

impl Filters {
    pub(crate) fn set(&mut self, wanted: impl Fn(&NewConnection<'_>) -> bool + Send + Sync + 'static) {
        self.now = Some(Arc::new(wanted));
    }

    pub(crate) fn set_async(
        &mut self,
        wanted: impl AsyncFn(&NewConnection<'_>) -> bool + Send + Sync + 'static,
    ) {
        let wanted = Arc::new(wanted);
        self.later = Some(Arc::new(move |fd| {
            let wanted = Arc::clone(&wanted);
            Box::pin(async move { wanted(&NewConnection::accepted(fd.as_fd())).await })
        }));
    }

    /// What the filter says that needs no waiting.
    pub(crate) fn wants(&self, fd: &OwnedFd) -> bool {
        let Some(wanted) = &self.now else { return true };
        // A panic in it is the user's, and must not end the listener.
        catch_unwind(AssertUnwindSafe(|| wanted(&NewConnection::accepted(fd.as_fd())))).unwrap_or_else(|_| {
            tracing::error!("the filter of connections panicked");
            false
        })
    }

    pub(crate) fn is_async(&self) -> bool {
        self.later.is_some()
    }
}

/// The connections of one listener on which the asynchronous filter is deciding, and those on which it has decided.
#[derive(Default)]
pub(crate) struct Decisions {
    tasks: RefCell<Slab<JoinHandle<()>>>,
    passed: RefCell<VecDeque<Candidate>>,
}

impl Decisions {
    /// How many are under decision.
    pub(crate) fn len(&self) -> usize {
        self.tasks.borrow().len()
    }

    pub(crate) fn take_passed(&self) -> Option<Candidate> {
        self.passed.borrow_mut().pop_front()
    }

    /// Asks the filter, which is called on this worker. The listener is woken when there is a decision.
    pub(crate) fn begin(self: &Rc<Self>, admission: &Arc<Admission>, candidate: Candidate, listener: Waker) {
        let mut tasks = self.tasks.borrow_mut();
        let entry = tasks.vacant_entry();
        let decision = Decision { of: Rc::clone(self), key: entry.key(), listener };
        let admission = Arc::clone(admission);
        entry.insert(spawn_local(async move {
            match decide(&admission, &candidate.fd).await {
                Ok(()) => decision.of.passed.borrow_mut().push_back(candidate),
                Err(refusal) => admission.refuse(refusal),
            }
        }));
    }

    /// Closes all the connections.
    pub(crate) fn abort(&self) {
        self.tasks.take().into_iter().for_each(|(_, task)| task.abort());
        self.passed.take();
    }
}

/// Ends with its task.
struct Decision {
    of: Rc<Decisions>,
    key: usize,
    listener: Waker,
}

impl Drop for Decision {
    fn drop(&mut self) {
        self.of.tasks.borrow_mut().try_remove(self.key);
        self.listener.wake_by_ref();
    }
}

async fn decide(admission: &Admission, fd: &OwnedFd) -> Result<(), Refusal> {
    let Some(filter) = &admission.filters().later else { return Ok(()) };
    match caught(timeout(admission.config().filter(), filter(fd))).await {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => Err(Refusal::Unwanted),
        Ok(Err(TimedOut)) => Err(Refusal::Undecided),
        Err(_) => {
            tracing::error!("the filter of connections panicked");
            Err(Refusal::Unwanted)
        }
    }
}

/// What a future gives, or how it panicked.
async fn caught<T>(future: impl Future<Output = T>) -> thread::Result<T> {
    let mut future = pin!(future);
    poll_fn(|task| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(task))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}
