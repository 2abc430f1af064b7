//! What few channels need, behind one pointer of the channel's state: timers, promises, what tasks and stages give.

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
    pub(super) failure: Option<Error>,
    /// When a stage has made the channel wait for too long.
    wait_ends: Option<Instant>,
    timers: Vec<(StageId, u32, Instant)>,
    /// When the event loop is going to look at timers.
    armed: Option<Instant>,
    /// Stages that want to be asked for more.
    asking: Vec<StageId>,
    /// Promises, by how many bytes must have been taken.
    promises: VecDeque<(u64, Promise)>,
    /// What tasks have given the stages.
    events: Option<Rc<EventInbox>>,
    /// Of a channel without a record.
    features: Option<Features>,
    bind: Option<SocketAddr>,
    connect: Option<Target>,
}

impl Link {
    pub(super) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    pub(crate) fn features(&mut self) -> &Features {
        match &self.record {
            Some(record) => record.features(),
            None => self.rare.get_or_insert_default().features.get_or_insert_default(),
        }
    }

    pub(crate) fn known_features(&self) -> Option<&Features> {
        match &self.record {
            Some(record) => Some(record.features()),
            None => self.rare.as_ref()?.features.as_ref(),
        }
    }

    #[cold]
    pub(crate) fn set_timer(&mut self, stage: StageId, key: u32, at: Instant) {
        let timers = &mut self.rare().timers;
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

    pub(crate) fn cancel_timers(&mut self, of: impl Fn(StageId, u32) -> bool) {
        if let Some(rare) = &mut self.rare {
            rare.timers.retain(|timer| !of(timer.0, timer.1));
        }
    }

    /// When the first timer comes, or a wait ends.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        let rare = self.rare.as_ref()?;
        rare.timers.iter().map(|timer| timer.2).chain(rare.wait_ends).min()
    }

    /// When the event loop is to look at timers, unless it is going to anyway.
    #[inline]
    pub(crate) fn timer_to_arm(&mut self) -> Option<Instant> {
        let at = self.next_timer()?;
        let rare = self.rare();
        let earlier = rare.armed.is_none_or(|armed| at < armed);
        earlier.then(|| *rare.armed.insert(at))
    }

    /// The event loop has come to look at timers.
    pub(crate) fn disarm(&mut self) {
        self.rare().armed = None;
    }

    /// No stage makes the channel wait any more.
    #[inline]
    pub(crate) fn end_wait(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.wait_ends = None;
        }
    }

    /// A stage makes the channel wait, if it didn't before: until this time.
    pub(crate) fn begin_wait(&mut self, until: Instant) {
        self.rare().wait_ends.get_or_insert(until);
    }

    /// Whether a wait has been too long.
    pub(crate) fn wait_is_over(&self, now: Instant) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.wait_ends.is_some_and(|end| end <= now))
    }

    /// Takes a timer that has come, the earliest first.
    pub(crate) fn pop_timer(&mut self, now: Instant) -> Option<(StageId, u32)> {
        let timers = &mut self.rare.as_mut()?.timers;
        let due = timers.iter().enumerate().filter(|(_, timer)| timer.2 <= now);
        let (at, _) = due.min_by_key(|(_, timer)| timer.2)?;
        let (stage, key, _) = timers.remove(at);
        Some((stage, key))
    }

    #[cold]
    pub(crate) fn ask(&mut self, stage: StageId) {
        let asking = &mut self.rare().asking;
        if !asking.contains(&stage) {
            asking.push(stage);
        }
    }

    pub(crate) fn is_asking(&self, stage: StageId) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.asking.contains(&stage))
    }

    pub(crate) fn answer(&mut self, stage: StageId) {
        if let Some(rare) = &mut self.rare {
            rare.asking.retain(|asking| *asking != stage);
        }
    }

    /// Resolved when the kernel has taken all that is in the output.
    pub(crate) fn promise(&mut self, promise: Promise) {
        if !self.takes_writes() {
            return; // dropped: it fails
        }
        let position = self.output.end();
        self.rare().promises.push_back((position, promise));
        self.resolve_promises();
    }

    #[cold]
    pub(super) fn resolve_promises(&mut self) {
        let Some(rare) = &mut self.rare else { return };
        while let Some((_, promise)) = rare.promises.pop_front_if(|(position, _)| *position <= self.taken) {
            promise.resolve();
        }
    }

    /// What tasks give the stages.
    pub(crate) fn events(&mut self, make: impl FnOnce() -> Rc<EventInbox>) -> Rc<EventInbox> {
        Rc::clone(self.rare().events.get_or_insert_with(make))
    }

    pub(crate) fn pop_event(&self) -> Option<(StageId, crate::Event)> {
        self.rare.as_ref()?.events.as_ref()?.pop()
    }

    /// The channel can be woken: what stages have asked for before wakes it from now on, and is looked at once.
    pub(crate) fn set_waker(&mut self, channel: &Waker) {
        let events = self.rare.as_ref().and_then(|rare| rare.events.as_ref());
        if let Some(events) = events {
            events.set_waker(channel.clone());
        }
        if let Some(demand) = &self.tasks_demand {
            demand.set_waker(channel.clone());
        }
        if events.is_some() || self.tasks_demand.is_some() {
            channel.wake_by_ref();
        }
    }

    pub(crate) fn set_bind(&mut self, local: SocketAddr) {
        self.rare().bind = Some(local);
    }

    pub(crate) fn set_connect(&mut self, target: Target) {
        self.rare().connect = Some(target);
    }

    pub(crate) fn take_connect(&mut self) -> Option<(Option<SocketAddr>, Target)> {
        let rare = self.rare.as_mut()?;
        rare.connect.take().map(|target| (rare.bind.take(), target))
    }

    /// The channel is closed: what still waits for it fails. Only the reason is kept.
    pub(crate) fn shut(&mut self) {
        self.record = None;
        self.tasks_demand = None;
        if let Some(failure) = self.rare.take().and_then(|mut rare| rare.failure.take()) {
            self.rare().failure = Some(failure);
        }
    }
}

impl Drop for Rare {
    fn drop(&mut self) {
        if let Some(events) = &self.events {
            events.shut();
        }
    }
}
