//! What tasks and wakers reach of the worker whose thread they run on.

use async_task::Runnable;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::blocking::BlockingPool;
use crate::mailbox::Mailbox;
use crate::task::Tasks;
use crate::timer::Timers;
use crate::{EndpointId, Io};

/// The part of a worker that is shared by what runs on its thread. No borrow lasts across a call of user code.
pub(crate) struct Local {
    pub(crate) worker: u16,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) blocking: Arc<BlockingPool>,
    /// The time at which the present turn began.
    pub(crate) now: Cell<Instant>,
    /// Whether time stands still within a turn, since it is made up.
    simulated: bool,
    pub(crate) timers: RefCell<Timers>,
    pub(crate) tasks: Tasks,
    /// Tasks that can be polled.
    pub(crate) ready: RefCell<VecDeque<Runnable>>,
    /// Endpoints that are to be called in the next turn.
    woken: RefCell<VecDeque<EndpointId>>,
    /// What tasks want to do with the event loop, done when they have all run.
    pub(crate) deferred: RefCell<VecDeque<Deferred>>,
}

pub(crate) type Deferred = Box<dyn FnOnce(&mut Io)>;

thread_local! {
    static LOCAL: RefCell<Option<Rc<Local>>> = const { RefCell::new(None) };
}

impl Local {
    pub(crate) fn new(worker: u16, mailbox: Arc<Mailbox>, blocking: Arc<BlockingPool>) -> Self {
        Self::at(worker, mailbox, blocking, Instant::now(), false)
    }

    /// For a simulation, which begins at this time.
    pub(crate) fn simulated(
        worker: u16,
        mailbox: Arc<Mailbox>,
        blocking: Arc<BlockingPool>,
        now: Instant,
    ) -> Self {
        Self::at(worker, mailbox, blocking, now, true)
    }

    fn at(
        worker: u16,
        mailbox: Arc<Mailbox>,
        blocking: Arc<BlockingPool>,
        now: Instant,
        simulated: bool,
    ) -> Self {
        Local {
            worker,
            mailbox,
            blocking,
            now: Cell::new(now),
            simulated,
            timers: RefCell::new(Timers::new(now)),
            tasks: Tasks::default(),
            ready: RefCell::default(),
            woken: RefCell::default(),
            deferred: RefCell::default(),
        }
    }

    /// Makes this thread the worker's, or nobody's. Gives whose it was.
    pub(crate) fn enter(local: Option<Rc<Local>>) -> Option<Rc<Local>> {
        LOCAL.with(|place| place.replace(local))
    }

    /// `None` outside a worker.
    pub(crate) fn try_with<R>(call: impl FnOnce(&Local) -> R) -> Option<R> {
        let local = LOCAL.try_with(|place| place.borrow().clone()).ok().flatten()?;
        Some(call(&local))
    }

    /// # Panics
    /// Outside a worker.
    pub(crate) fn with<R>(call: impl FnOnce(&Local) -> R) -> R {
        Self::try_with(call).expect("this works only on a worker of a Perihelion runtime")
    }

    /// The time, outside a worker too.
    pub(crate) fn clock() -> Instant {
        let simulated = |local: &Local| local.simulated.then(|| local.now.get());
        Self::try_with(simulated).flatten().unwrap_or_else(Instant::now)
    }

    pub(crate) fn wake_endpoint(&self, id: EndpointId) {
        let mut woken = self.woken.borrow_mut();
        // A writer wakes its channel for every message: most repetitions are next to each other.
        if woken.back() != Some(&id) {
            woken.push_back(id);
        }
    }

    pub(crate) fn take_woken(&self) -> VecDeque<EndpointId> {
        self.woken.take()
    }

    pub(crate) fn has_work(&self) -> bool {
        !self.ready.borrow().is_empty()
            || !self.woken.borrow().is_empty()
            || !self.deferred.borrow().is_empty()
    }
}

/// Does something with this worker's event loop, soon: when the running task or handler has returned.
///
/// # Panics
/// Outside a worker.
pub fn defer(call: impl FnOnce(&mut Io) + 'static) {
    Local::with(|local| local.deferred.borrow_mut().push_back(Box::new(call)));
}

/// The time at which the present turn of the event loop began.
///
/// # Panics
/// Outside a worker.
pub fn now() -> Instant {
    Local::with(|local| local.now.get())
}
