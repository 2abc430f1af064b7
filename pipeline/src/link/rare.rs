//! What few channels need, behind one pointer of the channel's state: timers, promises, what tasks and stages give.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Waker;
use std::time::Instant;

use super::Link;
use crate::channel::StageId;
use crate::event::EventInbox;
use crate::{Error, Features, Promise, Target};

/// How many timers the stages of a channel may have at once.
const TIMERS_MAX: usize = 1024;

/// What few channels need.
#[derive(Default)]
pub(super) struct Rare {
    /// Why the channel closes, unless in order.
    pub(super) failure: OnceCell<Error>,
    /// When a stage has made the channel wait for too long.
    wait_ends: Cell<Option<Instant>>,
    timers: RefCell<Vec<(StageId, u32, Instant)>>,
    /// When the event loop is going to look at timers.
    armed: Cell<Option<Instant>>,
    /// Stages that want to be asked for more.
    asking: RefCell<Vec<StageId>>,
    /// Promises, by how many bytes must have been taken.
    promises: RefCell<VecDeque<(u64, Promise)>>,
    /// What tasks have given the stages.
    events: OnceCell<Rc<EventInbox>>,
    /// Of a channel without a record.
    features: OnceCell<Features>,
    bind: Cell<Option<SocketAddr>>,
    connect: Cell<Option<Target>>,
}

impl Link {
    pub(super) fn rare(&self) -> &Rare {
        self.rare.get_or_init(Box::default)
    }

    pub(crate) fn features(&self) -> &Features {
        match &self.record {
            Some(record) => record.features(),
            None => self.rare().features.get_or_init(Features::default),
        }
    }

    pub(crate) fn known_features(&self) -> Option<&Features> {
        match &self.record {
            Some(record) => Some(record.features()),
            None => self.rare.get()?.features.get(),
        }
    }

    #[cold]
    pub(crate) fn set_timer(&self, stage: StageId, key: u32, at: Instant) {
        let mut timers = self.rare().timers.borrow_mut();
        match timers.iter_mut().find(|timer| (timer.0, timer.1) == (stage, key)) {
            Some(timer) => timer.2 = at,
            None => {
                assert!(
                    timers.len() < TIMERS_MAX,
                    "the stages of a channel have at most {TIMERS_MAX} timers"
                );
                timers.push((stage, key, at));
            }
        }
    }

    pub(crate) fn cancel_timers(&self, of: impl Fn(StageId, u32) -> bool) {
        if let Some(rare) = self.rare.get() {
            rare.timers.borrow_mut().retain(|timer| !of(timer.0, timer.1));
        }
    }

    /// When the first timer comes, or a wait ends.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        let rare = self.rare.get()?;
        rare.timers.borrow().iter().map(|timer| timer.2).chain(rare.wait_ends.get()).min()
    }

    /// When the event loop is to look at timers, unless it is going to anyway.
    #[inline]
    pub(crate) fn timer_to_arm(&self) -> Option<Instant> {
        let at = self.next_timer()?;
        let armed = &self.rare().armed;
        if armed.get().is_some_and(|armed| armed <= at) {
            return None;
        }
        armed.set(Some(at));
        Some(at)
    }

    /// The event loop has come to look at timers.
    pub(crate) fn disarm(&self) {
        self.rare().armed.set(None);
    }

    /// No stage makes the channel wait any more.
    #[inline]
    pub(crate) fn end_wait(&self) {
        if let Some(rare) = self.rare.get() {
            rare.wait_ends.set(None);
        }
    }

    /// A stage makes the channel wait, if it didn't before: until this time.
    pub(crate) fn begin_wait(&self, until: Instant) {
        let ends = &self.rare().wait_ends;
        ends.set(ends.get().or(Some(until)));
    }

    /// Whether a wait has been too long.
    pub(crate) fn wait_is_over(&self, now: Instant) -> bool {
        self.rare.get().is_some_and(|rare| rare.wait_ends.get().is_some_and(|end| end <= now))
    }

    /// Takes a timer that has come, the earliest first.
    pub(crate) fn pop_timer(&self, now: Instant) -> Option<(StageId, u32)> {
        let mut timers = self.rare.get()?.timers.borrow_mut();
        let due = timers.iter().enumerate().filter(|(_, timer)| timer.2 <= now);
        let (at, _) = due.min_by_key(|(_, timer)| timer.2)?;
        let (stage, key, _) = timers.remove(at);
        Some((stage, key))
    }

    #[cold]
    pub(crate) fn ask(&self, stage: StageId) {
        let mut asking = self.rare().asking.borrow_mut();
        if !asking.contains(&stage) {
            asking.push(stage);
        }
    }

    pub(crate) fn is_asking(&self, stage: StageId) -> bool {
        self.rare.get().is_some_and(|rare| rare.asking.borrow().contains(&stage))
    }

    pub(crate) fn answer(&self, stage: StageId) {
        if let Some(rare) = self.rare.get() {
            rare.asking.borrow_mut().retain(|asking| *asking != stage);
        }
    }

    /// Resolved when the kernel has taken so many bytes.
    pub(crate) fn promise(&self, position: u64, promise: Promise) {
        if !self.takes_writes() {
            return; // dropped: it fails
        }
        self.rare().promises.borrow_mut().push_back((position, promise));
        self.resolve_promises();
    }

    #[inline]
    pub(super) fn resolve_promises(&self) {
        if let Some(rare) = self.rare.get() {
            rare.resolve_promises(self.taken);
        }
    }

    /// What tasks give the stages.
    pub(crate) fn events(&self, make: impl FnOnce() -> Rc<EventInbox>) -> Rc<EventInbox> {
        Rc::clone(self.rare().events.get_or_init(make))
    }

    pub(crate) fn pop_event(&self) -> Option<(StageId, crate::Event)> {
        self.rare.get()?.events.get()?.pop()
    }

    /// The channel can be woken: what stages have asked for before wakes it from now on, and is looked at once.
    pub(crate) fn set_waker(&self, channel: &Waker) {
        let events = self.rare.get().and_then(|rare| rare.events.get());
        if let Some(events) = events {
            events.set_waker(channel.clone());
        }
        if let Some(demand) = self.tasks_demand.get() {
            demand.set_waker(channel.clone());
        }
        if events.is_some() || self.tasks_demand.get().is_some() {
            channel.wake_by_ref();
        }
    }

    pub(crate) fn set_bind(&self, local: SocketAddr) {
        self.rare().bind.set(Some(local));
    }

    pub(crate) fn set_connect(&self, target: Target) {
        self.rare().connect.set(Some(target));
    }

    pub(crate) fn take_connect(&self) -> Option<(Option<SocketAddr>, Target)> {
        let rare = self.rare.get()?;
        rare.connect.take().map(|target| (rare.bind.take(), target))
    }

    /// The channel is closed: what still waits for it fails. Only the reason is kept.
    pub(crate) fn shut(&mut self) {
        self.record = None;
        self.tasks_demand.take();
        if let Some(failure) = self.rare.take().and_then(|mut rare| rare.failure.take()) {
            self.rare().failure.get_or_init(|| failure);
        }
    }
}

impl Rare {
    #[cold]
    fn resolve_promises(&self, taken: u64) {
        let next = || self.promises.borrow_mut().pop_front_if(|(position, _)| *position <= taken);
        while let Some((_, promise)) = next() {
            promise.resolve();
        }
    }
}

impl Drop for Rare {
    fn drop(&mut self) {
        if let Some(events) = self.events.get() {
            events.shut();
        }
    }
}
