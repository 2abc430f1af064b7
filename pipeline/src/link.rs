//! What a pipeline's channel keeps between two turns.

mod rare;

use std::rc::Rc;
use std::time::Instant;

use crate::channel::StageId;
use crate::demand::DemandCell;
use crate::{ChannelClosed, Error, Limits, Output, Record};
use rare::Rare;

/// What a pipeline's channel keeps between two turns. Small, since most channels are idle.
pub(crate) struct Link {
    pub(crate) output: Output,
    /// Bytes written and not yet taken by the kernel, on all levels.
    queued: usize,
    /// Bytes that the kernel has taken.
    taken: u64,
    /// Messages that may still be handled in this turn.
    budget: u32,
    stops: Stops,
    demand: Demand,
    writing: Writing,
    /// Fewer bytes than the high-water mark wait, or have waited since there were few enough.
    writable: bool,
    /// A stage must read on before it can send what it holds.
    needs_input: bool,
    /// Whether a stage makes the channel wait.
    waits: bool,
    /// The stage that was named last.
    stages: u32,
    /// What tasks want read.
    tasks_demand: Option<Rc<DemandCell>>,
    /// What is kept for those who watch.
    record: Option<Rc<dyn Record>>,
    /// What few channels need.
    rare: Option<Box<Rare>>,
}

/// Why a channel reads nothing; it reads when there is no reason.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Stops(u8);

impl Stops {
    const PAUSED: u8 = 1;
    const UNWRITABLE: u8 = 2;
    const CLOSING: u8 = 4;
    /// A pipeline is to take the place of another: the old one decodes no more.
    const SWITCHING: u8 = 8;

    fn set(&mut self, reason: u8) {
        self.0 |= reason;
    }
    fn clear(&mut self, reason: u8) {
        self.0 &= !reason;
    }
    fn has(self, reason: u8) -> bool {
        self.0 & reason != 0
    }
    fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Who decides how many messages are read.
#[derive(Clone, Copy, PartialEq)]
enum Demand {
    /// All that come.
    Auto,
    /// This many more.
    Messages(u32),
}

/// What becomes of what is written now.
#[derive(Clone, Copy, PartialEq)]
enum Writing {
    Open,
    /// Nothing may follow, and the other side is to be told.
    HalfClosed,
    /// Nothing may follow: the channel closes.
    Closed,
    /// What is written is not sent any more: the connection is reset.
    Aborted,
}

impl Link {
    pub(crate) fn new(limits: &Limits) -> Self {
        let mut link = Link {
            output: Output::default(),
            queued: 0,
            taken: 0,
            budget: limits.messages_per_turn,
            stops: Stops::default(),
            demand: Demand::Auto,
            writing: Writing::Open,
            writable: true,
            needs_input: false,
            waits: false,
            stages: 0,
            tasks_demand: None,
            record: None,
            rare: None,
        };
        if !limits.auto_read {
            link.pause();
        }
        link
    }

    /// A new turn.
    #[inline]
    pub(crate) fn refill(&mut self, limits: &Limits) {
        self.budget = limits.messages_per_turn;
    }

    /// Something has been made, in this turn.
    #[inline]
    pub(crate) fn spend(&mut self) {
        self.budget = self.budget.saturating_sub(1);
    }

    /// A message has been made: one fewer is asked for.
    #[inline]
    pub(crate) fn meet_demand(&mut self) {
        if let Demand::Messages(left) = &mut self.demand {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.stop_if_paused();
            }
        }
    }

    pub(crate) fn pause(&mut self) {
        self.demand = Demand::Messages(0);
        self.stop_if_paused();
    }

    pub(crate) fn resume(&mut self) {
        self.demand = Demand::Auto;
        self.stops.clear(Stops::PAUSED);
    }

    /// For tasks, to ask for more or none.
    pub(crate) fn demand(&mut self, make: impl FnOnce() -> Rc<DemandCell>) -> Rc<DemandCell> {
        Rc::clone(self.tasks_demand.get_or_insert_with(make))
    }

    /// What tasks want read.
    pub(crate) fn asked_demand(&self) -> Option<Rc<DemandCell>> {
        self.tasks_demand.clone()
    }

    /// From now on, keeps the record of what happens.
    pub(crate) fn keep(&mut self, record: Rc<dyn Record>) {
        self.record = Some(record);
    }

    /// Asks for this many messages more.
    pub(crate) fn read_more(&mut self, count: u32) {
        let left = match self.demand {
            Demand::Auto => 0,
            Demand::Messages(left) => left,
        };
        self.demand = Demand::Messages(left.saturating_add(count));
        self.stops.clear(Stops::PAUSED);
    }

    /// An output that held `before` bytes now holds `after`.
    #[inline]
    pub(crate) fn count(&mut self, before: usize, after: usize, limits: &Limits) {
        self.queued = self.queued + after - before;
        if self.queued > limits.high_water_bytes {
            self.writable = false;
            self.stop_if_unwritable();
        }
    }

    /// Whether a stage must read on before it can send what it holds, or pass a message on: then the channel reads
    /// though it is unwritable, or paused.
    pub(crate) fn set_needs_input(&mut self, needs_input: bool) {
        self.needs_input = needs_input;
        self.stop_if_unwritable();
        self.stop_if_paused();
    }

    pub(crate) fn needs_input(&self) -> bool {
        self.needs_input
    }

    fn stop_if_unwritable(&mut self) {
        if self.writable || self.needs_input {
            self.stops.clear(Stops::UNWRITABLE);
        } else {
            self.stops.set(Stops::UNWRITABLE);
        }
    }

    fn stop_if_paused(&mut self) {
        if self.is_paused() && !self.needs_input {
            self.stops.set(Stops::PAUSED);
        } else {
            self.stops.clear(Stops::PAUSED);
        }
    }

    /// The kernel took `n` bytes. True when the channel became writable again by it.
    #[inline]
    pub(crate) fn sent(&mut self, n: usize, now: Instant, limits: &Limits) -> bool {
        debug_assert!(n <= self.queued, "more was sent than was written");
        self.queued -= n;
        self.taken += n as u64;
        if self.rare.is_some() {
            self.resolve_promises();
        }
        if let Some(record) = &self.record {
            record.traffic().add_sent(n, now);
        }
        let back = !self.is_writable() && self.queued <= limits.low_water_bytes;
        if back {
            self.writable = true;
            self.stop_if_unwritable();
        }
        back
    }

    /// The transport has delivered `n` bytes.
    #[inline]
    pub(crate) fn received(&self, n: usize, now: Instant) {
        if let Some(record) = &self.record {
            record.traffic().add_received(n, now);
        }
    }

    /// At the end of a turn: tells those who watch whether it is this side that nothing moves for.
    #[inline]
    pub(crate) fn count_stops(&self, now: Instant) {
        if let Some(record) = &self.record {
            let reads = !self.stops.has(Stops::PAUSED) && !self.waits;
            record.traffic().set_stopped(!reads && self.queued == 0, now);
        }
    }

    /// Whether another message may be made in this turn.
    #[inline]
    pub(crate) fn may_go_on(&self) -> bool {
        self.budget != 0 && self.stops.is_empty()
    }

    /// Whether a stage may go on with what it holds, in this turn: a switch waits for it.
    #[inline]
    pub(crate) fn may_finish(&self) -> bool {
        self.budget != 0 && self.may_read()
    }

    /// Whether another message may be made, in this turn or the next. A pause does not keep stages from finishing what a
    /// switch waits for.
    #[inline]
    pub(crate) fn may_read(&self) -> bool {
        let switching = self.stops.has(Stops::SWITCHING);
        let passed_over = if switching { Stops::SWITCHING | Stops::PAUSED } else { 0 };
        self.stops.0 & !passed_over == 0
    }

    /// Whether the messages of this turn are used up.
    #[inline]
    pub(crate) fn is_spent(&self) -> bool {
        self.budget == 0
    }

    #[inline]
    pub(crate) fn is_closing(&self) -> bool {
        self.stops.has(Stops::CLOSING)
    }

    #[inline]
    pub(crate) fn is_writable(&self) -> bool {
        self.writable
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.demand == Demand::Messages(0)
    }

    /// Whether what is written now can still be sent.
    #[inline]
    pub(crate) fn takes_writes(&self) -> bool {
        self.writing == Writing::Open
    }

    /// Nothing may follow what has been written.
    pub(crate) fn end_writes(&mut self) {
        if self.writing == Writing::Open {
            self.writing = Writing::Closed;
        }
    }

    /// Nothing may follow what has been written, and the other side is to be told.
    pub(crate) fn half_close(&mut self) {
        if self.writing == Writing::Open {
            self.writing = Writing::HalfClosed;
        }
    }

    /// The connection is to be reset.
    pub(crate) fn abort(&mut self) {
        self.writing = Writing::Aborted;
        self.close();
    }

    pub(crate) fn is_aborted(&self) -> bool {
        self.writing == Writing::Aborted
    }

    /// Whether a stage makes the channel wait: it can take no message, though it may.
    #[inline]
    pub(crate) fn set_waits(&mut self, waits: bool) {
        self.waits = waits;
    }

    pub(crate) fn waits(&self) -> bool {
        self.waits
    }

    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// Whether the other side is to be told that no more will be sent.
    #[inline]
    pub(crate) fn is_half_closed(&self) -> bool {
        self.writing == Writing::HalfClosed
    }

    pub(crate) fn set_switching(&mut self, switching: bool) {
        if switching { self.stops.set(Stops::SWITCHING) } else { self.stops.clear(Stops::SWITCHING) }
    }

    pub(crate) fn queued(&self) -> usize {
        self.queued
    }

    pub(crate) fn close(&mut self) {
        self.stops.set(Stops::CLOSING);
    }

    /// The first error becomes the reason of the close. That nothing can be written after a close is none.
    #[cold]
    pub(crate) fn fail(&mut self, error: Error) {
        let refused = error.downcast_ref::<ChannelClosed>().is_some();
        if refused && self.needs_input {
            return; // a stage keeps the close back, and what was written before it
        }
        if !(refused && self.is_closing()) {
            self.rare().failure.get_or_insert(error);
        }
        self.close();
    }

    pub(crate) fn failure(&self) -> Option<&Error> {
        self.rare.as_ref()?.failure.as_ref()
    }

    pub(crate) fn has_named_stages(&self) -> bool {
        self.stages > 0
    }

    /// A name for a stage, greater than all before.
    pub(crate) fn name_stage(&mut self) -> StageId {
        self.stages = self.stages.checked_add(1).expect("a channel has fewer than 2^32 stages in its life");
        StageId(self.stages)
    }
}
