//! A worker's event loop.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::counters::Counters;
use crate::driver::{Driver, Wait};
use crate::endpoint::Endpoint;
use crate::local::Local;
use crate::mailbox::{Inbox, Mailbox, Woken};
use crate::timer::Target;
use crate::{EndpointId, Error, Io, prefetch};

/// An event loop with everything that stands on it. Made and run on the worker's own thread.
///
/// One turn: the mailbox; timers; tasks, a bounded number; endpoints that were woken; what tasks deferred; the end of
/// the turn for those endpoints that asked for it; then one call into the kernel, which submits everything and waits
/// if nothing else is to be done; then a bounded number of completions.
pub(crate) struct Worker {
    io: Io,
    /// By slot. `None` while the endpoint is being called, and when there is none.
    endpoints: Vec<Option<Box<dyn Endpoint>>>,
    local: Rc<Local>,
    mailbox: Arc<Mailbox>,
    inbox: Inbox,
    config: Rc<Config>,
    counters: Arc<Counters>,
}

/// Timers that are handled before other work gets its turn.
const TIMERS_PER_TURN: usize = 1024;

impl Worker {
    pub(crate) fn new(
        config: Config,
        local: Rc<Local>,
        inbox: Inbox,
        counters: Arc<Counters>,
    ) -> Result<Self, Error> {
        let mailbox = Arc::clone(&local.mailbox);
        let driver = Driver::new(&config.runtime, mailbox.event()?)?;
        Ok(Self::with_driver(driver, config, local, inbox, counters))
    }

    pub(crate) fn with_driver(
        driver: Driver,
        config: Config,
        local: Rc<Local>,
        inbox: Inbox,
        counters: Arc<Counters>,
    ) -> Self {
        let mailbox = Arc::clone(&local.mailbox);
        let config = Rc::new(config);
        let io = Io::new(driver, Rc::clone(&local), Rc::clone(&config));
        Worker { io, endpoints: Vec::new(), local, mailbox, inbox, config, counters }
    }

    pub(crate) fn io(&self) -> &Io {
        &self.io
    }

    pub(crate) fn io_mut(&mut self) -> &mut Io {
        &mut self.io
    }

    /// Runs until a message says stop. False when the kernel kept something.
    pub(crate) fn run(mut self) -> bool {
        // A panic here is a defect, but also then the kernel must give back what it holds.
        self.guard("a worker's event loop", Self::turns);
        self.stop()
    }

    fn turns(&mut self) {
        while !self.io.stopping {
            if let Err(error) = self.turn() {
                tracing::error!(%error, "a worker can't enter its ring and stops");
                break;
            }
        }
    }

    pub(crate) fn turn(&mut self) -> std::io::Result<()> {
        self.before_kernel();
        let wait = self.wait();
        let turn = self.io.driver.turn(wait, self.config.runtime.completions_per_turn);
        self.mailbox.awake.wake_up();
        turn?;
        self.local.now.set(self.io.driver.now());
        self.complete();
        self.counters.publish(&self.io.driver.counts());
        Ok(())
    }

    fn before_kernel(&mut self) {
        self.drain_mailbox();
        self.expire_timers();
        self.run_tasks();
        for id in self.local.take_woken() {
            self.call(id, |endpoint, io| endpoint.wake(io));
        }
        for deferred in self.local.deferred.take() {
            self.guard("a deferred call", |worker| deferred(&mut worker.io));
        }
        self.install();
        self.deliver_notices();
        self.finish_turns();
    }

    fn drain_mailbox(&mut self) {
        if self.inbox.is_empty() {
            return;
        }
        // What comes in meanwhile waits for the next turn.
        for _ in 0..self.inbox.woken.len() {
            let Ok(woken) = self.inbox.woken.try_recv() else { break };
            match woken {
                Woken::Endpoint(id) => self.local.wake_endpoint(id),
                Woken::Task(runnable) => self.local.ready.borrow_mut().push_back(runnable),
            }
        }
        for _ in 0..self.inbox.messages() {
            let Some(message) = self.inbox.message() else { break };
            self.guard("a message", |worker| message(&mut worker.io));
        }
        // So that what they opened can be called in this turn.
        self.install();
    }

    fn expire_timers(&mut self) {
        let now = self.local.now.get();
        for _ in 0..TIMERS_PER_TURN {
            let target = self.local.timers.borrow_mut().pop(now);
            match target {
                Some(Target::Task(waker)) => self.guard("a waker", |_| waker.wake()),
                Some(Target::Endpoint { id, key }) => self.call(id, |endpoint, io| endpoint.timer(io, key)),
                None => break,
            }
        }
    }

    fn run_tasks(&mut self) {
        for _ in 0..self.config.runtime.tasks_per_turn {
            let runnable = self.local.ready.borrow_mut().pop_front();
            let Some(runnable) = runnable else { break };
            // A panic of the task is kept for whoever awaits it.
            runnable.run();
        }
    }

    fn deliver_notices(&mut self) {
        while let Some(notice) = self.io.notices.pop_front() {
            self.notify_all(&*notice);
            self.guard("the end of a notice", |_| drop(notice));
        }
    }

    fn notify_all(&mut self, notice: &dyn Any) {
        for id in self.io.driver.ids() {
            self.call(id, |endpoint, io| endpoint.notify(io, notice));
        }
    }

    fn finish_turns(&mut self) {
        // An endpoint may ask again while it is called: then it gets another call, at the end.
        let mut at = 0;
        while at < self.io.finishing.len() {
            let id = self.io.finishing[at];
            if let Some(next) = self.io.finishing.get(at + 1) {
                self.endpoints.get(next.slot()).into_iter().flatten().for_each(|next| prefetch(&**next));
            }
            self.call(id, |endpoint, io| endpoint.finish_turn(io));
            at += 1;
        }
        self.io.finishing.clear();
    }

    fn complete(&mut self) {
        self.io.unpacked = 0;
        // What comes of unpacked bytes is sent before there are more: what is larger than the processor's cache goes
        // through memory, there and back.
        while self.io.unpacked < self.config.runtime.unpacked_bytes_per_turn
            && let Some((id, completion)) = self.io.driver.next()
        {
            self.call(id, |endpoint, io| endpoint.complete(io, completion));
        }
    }

    /// Whether to wait in the kernel, and how long. Spins before it says so, if it is told to.
    fn wait(&mut self) -> Wait {
        if self.has_work() {
            return Wait::No;
        }
        let spin = self.config.runtime.spin();
        if !spin.is_zero() && !self.spin(spin) {
            return Wait::No;
        }
        self.mailbox.awake.fall_asleep();
        if !self.inbox.is_empty() {
            self.mailbox.awake.wake_up();
            return Wait::No;
        }
        Wait::Until(self.local.timers.borrow().next())
    }

    pub(crate) fn has_work(&self) -> bool {
        self.io.stopping || self.local.has_work() || !self.io.notices.is_empty() || !self.inbox.is_empty()
    }

    /// Polls shared memory for a while. True when nothing came, and it is time to sleep.
    fn spin(&mut self, limit: Duration) -> bool {
        // What is queued goes out first; what that completes at once ends the spinning before it begins.
        if let Err(error) = self.io.driver.turn(Wait::No, self.config.runtime.completions_per_turn) {
            tracing::error!(%error, "a worker can't enter its ring");
            return true;
        }
        let start = Instant::now();
        let timer = self.local.timers.borrow().next();
        loop {
            if self.io.driver.is_ready() || !self.inbox.is_empty() {
                return false;
            }
            let now = Instant::now();
            if timer.is_some_and(|timer| timer <= now) {
                return false;
            }
            if now - start >= limit {
                return true;
            }
            std::hint::spin_loop();
        }
    }

    /// Calls an endpoint, if there is one by this name. A panic ends it.
    #[inline]
    fn call(&mut self, id: EndpointId, call: impl FnOnce(&mut dyn Endpoint, &mut Io)) {
        if !self.io.driver.is_open(id) {
            return;
        }
        let Some(mut endpoint) = self.endpoints.get_mut(id.slot()).and_then(Option::take) else { return };
        prefetch(&*endpoint);
        let io = &mut self.io;
        let panicked = catch_unwind(AssertUnwindSafe(|| call(&mut *endpoint, io))).is_err();
        if panicked {
            tracing::error!("a handler panicked: its connection is reset");
            self.io.abort(id);
        }
        if self.io.driver.is_open(id) {
            self.endpoints[id.slot()] = Some(endpoint);
        } else {
            self.guard("the end of an endpoint", |_| drop(endpoint));
        }
        if !self.io.opened.is_empty() {
            self.install();
        }
    }

    /// Runs what isn't an endpoint's. A panic ends it alone.
    fn guard(&mut self, what: &'static str, call: impl FnOnce(&mut Self)) {
        if catch_unwind(AssertUnwindSafe(|| call(self))).is_err() {
            tracing::error!("{what} panicked");
        }
    }

    /// Puts new endpoints into the table.
    fn install(&mut self) {
        while let Some((id, endpoint)) = self.io.opened.pop() {
            let mut unwanted = Some(endpoint);
            if self.io.driver.is_open(id) {
                if self.endpoints.len() <= id.slot() {
                    self.endpoints.resize_with(id.slot() + 1, || None);
                }
                // The slot may still have one that another endpoint has closed.
                std::mem::swap(&mut self.endpoints[id.slot()], &mut unwanted);
            }
            if unwanted.is_some() {
                self.guard("the end of an endpoint", |_| drop(unwanted));
            }
        }
    }

    /// Drops endpoints and tasks, then waits until the kernel has given everything back.
    pub(crate) fn stop(mut self) -> bool {
        for id in self.io.driver.ids() {
            self.io.abort(id);
        }
        for endpoint in std::mem::take(&mut self.endpoints) {
            self.guard("the end of an endpoint", |_| drop(endpoint));
        }
        let limit = Duration::from_millis(self.config.runtime.teardown_ms);
        self.guard("what was left to do", |worker| worker.io.opened.clear());
        self.drop_tasks(limit);
        let Worker { io, local, inbox, .. } = self;
        // Senders see that nobody listens any more; what waited is dropped.
        let left = AssertUnwindSafe(|| (drop(inbox), drop(local.deferred.take())));
        if catch_unwind(left).is_err() {
            tracing::error!("what was left to do panicked");
        }
        io.driver.shut_down(limit)
    }

    /// Drops every task's future, here on its own thread. One that another thread is waking at this moment is on its
    /// way to the mailbox, and waited for.
    fn drop_tasks(&mut self, limit: Duration) {
        let timers = self.local.timers.borrow_mut().drain();
        self.guard("a waker", |_| drop(timers));
        let deadline = Instant::now() + limit;
        while !self.local.tasks.is_empty() {
            self.local.tasks.wake_all();
            let ready = self.local.ready.borrow_mut().pop_front();
            let runnable = match ready.map(Woken::Task) {
                Some(woken) => Ok(woken),
                None => self.inbox.woken.recv_deadline(deadline),
            };
            match runnable {
                Ok(Woken::Task(runnable)) => self.guard("the end of a task", |_| drop(runnable)),
                Ok(Woken::Endpoint(_)) => {}
                Err(_) => {
                    tracing::error!("tasks are leaked that another thread is still waking");
                    break;
                }
            }
        }
    }
}
