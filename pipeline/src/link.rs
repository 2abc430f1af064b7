//! What a pipeline's channel keeps between two turns.

mod rare;

use std::cell::{Cell, OnceCell};
use std::rc::Rc;
use std::time::Instant;

use crate::channel::StageId;
use crate::demand::DemandCell;
use crate::{ChannelClosed, Error, Limits, Record};
use rare::Rare;

/// What a pipeline's channel keeps between two turns, beside its output. Small, since most channels are idle.
///
/// All stages on the way of a message see it at once: hence the cells.
pub(crate) struct Link {
    /// Bytes written and not yet taken by the kernel, on all levels.
    queued: Cell<usize>,
    /// Bytes that the kernel has taken.
    taken: u64,
    /// Messages that may still be handled in this turn.
    budget: Cell<u32>,
    stops: Cell<Stops>,
    demand: Cell<Demand>,
    writing: Cell<Writing>,
    /// Fewer bytes than the high-water mark wait, or have waited since there were few enough.
    writable: Cell<bool>,
    /// A stage must read on before it can send what it holds.
    needs_input: Cell<bool>,
    /// Whether a stage makes the channel wait.
    waits: bool,
    /// The stage that was named last.
    stages: Cell<u32>,
    /// What tasks want read.
    tasks_demand: OnceCell<Rc<DemandCell>>,
    /// What is kept for those who watch.
    record: Option<Rc<dyn Record>>,
    /// What few channels need.
    rare: OnceCell<Box<Rare>>,
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

    /// With this reason, or without it.
    fn with(self, reason: u8, applies: bool) -> Self {
        Stops(if applies { self.0 | reason } else { self.0 & !reason })
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
        let link = Link {
            queued: Cell::new(0),
            taken: 0,
            budget: Cell::new(limits.messages_per_turn),
            stops: Cell::default(),
            demand: Cell::new(Demand::Auto),
            writing: Cell::new(Writing::Open),
            writable: Cell::new(true),
            needs_input: Cell::new(false),
            waits: false,
            stages: Cell::new(0),
            tasks_demand: OnceCell::new(),
            record: None,
            rare: OnceCell::new(),
        };
        if !limits.auto_read {
            link.pause();
        }
        link
    }

    /// A new turn.
    #[inline]
    pub(crate) fn refill(&self, limits: &Limits) {
        self.budget.set(limits.messages_per_turn);
    }

    /// Something has been made, in this turn.
    #[inline]
    pub(crate) fn spend(&self) {
        self.budget.set(self.budget.get().saturating_sub(1));
    }

    /// A message has been made: one fewer is asked for.
    #[inline]
    pub(crate) fn meet_demand(&self) {
        if let Demand::Messages(left) = self.demand.get() {
            self.demand.set(Demand::Messages(left.saturating_sub(1)));
            self.stop_if_paused();
        }
    }

    pub(crate) fn pause(&self) {
        self.demand.set(Demand::Messages(0));
        self.stop_if_paused();
    }

    pub(crate) fn resume(&self) {
        self.demand.set(Demand::Auto);
        self.stop_if_paused();
    }

    /// For tasks, to ask for more or none.
    pub(crate) fn demand(&self, make: impl FnOnce() -> Rc<DemandCell>) -> Rc<DemandCell> {
        Rc::clone(self.tasks_demand.get_or_init(make))
    }

    /// What tasks want read.
    pub(crate) fn asked_demand(&self) -> Option<&DemandCell> {
        self.tasks_demand.get().map(|demand| &**demand)
    }

    /// From now on, keeps the record of what happens.
    pub(crate) fn keep(&mut self, record: Rc<dyn Record>) {
        self.record = Some(record);
    }

    /// Asks for this many messages more.
    pub(crate) fn read_more(&self, count: u32) {
        let left = match self.demand.get() {
            Demand::Auto => 0,
            Demand::Messages(left) => left,
        };
        self.demand.set(Demand::Messages(left.saturating_add(count)));
        self.stop_if_paused();
    }

    /// An output that held `before` bytes now holds `after`.
    #[inline]
    pub(crate) fn count(&self, before: usize, after: usize, limits: &Limits) {
        let queued = self.queued.get() + after - before;
        self.queued.set(queued);
        if queued > limits.high_water_bytes {
            self.writable.set(false);
            self.stop_if_unwritable();
        }
    }

    /// Whether a stage must read on before it can send what it holds, or pass a message on: then the channel reads
    /// though it is unwritable, or paused.
    pub(crate) fn set_needs_input(&self, needs_input: bool) {
        self.needs_input.set(needs_input);
        self.stop_if_unwritable();
        self.stop_if_paused();
    }

    pub(crate) fn needs_input(&self) -> bool {
        self.needs_input.get()
    }

    fn set_stop(&self, reason: u8, applies: bool) {
        self.stops.set(self.stops.get().with(reason, applies));
    }

    fn stop_if_unwritable(&self) {
        self.set_stop(Stops::UNWRITABLE, !self.is_writable() && !self.needs_input());
    }

    fn stop_if_paused(&self) {
        self.set_stop(Stops::PAUSED, self.is_paused() && !self.needs_input());
    }

    /// The kernel took `n` bytes. True when the channel became writable again by it.
    #[inline]
    pub(crate) fn sent(&mut self, n: usize, now: Instant, limits: &Limits) -> bool {
        let queued = self.queued.get_mut();
        debug_assert!(n <= *queued, "more was sent than was written");
        *queued -= n;
        self.taken += n as u64;
        self.resolve_promises();
        if let Some(record) = &self.record {
            record.traffic().add_sent(n, now);
        }
        let back = !self.is_writable() && self.queued() <= limits.low_water_bytes;
        if back {
            self.writable.set(true);
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
            let reads = !self.stops.get().has(Stops::PAUSED) && !self.waits;
            record.traffic().set_stopped(!reads && self.queued() == 0, now);
        }
    }

    /// Whether another message may be made in this turn.
    #[inline]
    pub(crate) fn may_go_on(&self) -> bool {
        !self.is_spent() && self.stops.get().is_empty()
    }

    /// Whether a stage may go on with what it holds, in this turn: a switch waits for it.
    #[inline]
    pub(crate) fn may_finish(&self) -> bool {
        !self.is_spent() && self.may_read()
    }

    /// Whether another message may be made, in this turn or the next. A pause does not keep stages from finishing what a
    /// switch waits for.
    #[inline]
    pub(crate) fn may_read(&self) -> bool {
        let stops = self.stops.get();
        let passed_over = if stops.has(Stops::SWITCHING) { Stops::SWITCHING | Stops::PAUSED } else { 0 };
        stops.with(passed_over, false).is_empty()
    }

    /// Whether the messages of this turn are used up.
    #[inline]
    pub(crate) fn is_spent(&self) -> bool {
        self.budget.get() == 0
    }

    #[inline]
    pub(crate) fn is_closing(&self) -> bool {
        self.stops.get().has(Stops::CLOSING)
    }

    #[inline]
    pub(crate) fn is_writable(&self) -> bool {
        self.writable.get()
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.demand.get() == Demand::Messages(0)
    }

    /// Whether what is written now can still be sent.
    #[inline]
    pub(crate) fn takes_writes(&self) -> bool {
        self.writing.get() == Writing::Open
    }

    /// Nothing may follow what has been written.
    pub(crate) fn end_writes(&self) {
        if self.takes_writes() {
            self.writing.set(Writing::Closed);
        }
    }

    /// Nothing may follow what has been written, and the other side is to be told.
    pub(crate) fn half_close(&self) {
        if self.takes_writes() {
            self.writing.set(Writing::HalfClosed);
        }
    }

    /// The connection is to be reset.
    pub(crate) fn abort(&self) {
        self.writing.set(Writing::Aborted);
        self.close();
    }

    pub(crate) fn is_aborted(&self) -> bool {
        self.writing.get() == Writing::Aborted
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
        self.writing.get() == Writing::HalfClosed
    }

    pub(crate) fn set_switching(&self, switching: bool) {
        self.set_stop(Stops::SWITCHING, switching);
    }

    pub(crate) fn queued(&self) -> usize {
        self.queued.get()
    }

    pub(crate) fn close(&self) {
        self.set_stop(Stops::CLOSING, true);
    }

    /// The first error becomes the reason of the close. That nothing can be written after a close is none.
    #[cold]
    pub(crate) fn fail(&self, error: Error) {
        let refused = error.downcast_ref::<ChannelClosed>().is_some();
        if refused && self.needs_input() {
            return; // a stage keeps the close back, and what was written before it
        }
        if !(refused && self.is_closing()) {
            self.rare().failure.get_or_init(|| error);
        }
        self.close();
    }

    pub(crate) fn failure(&self) -> Option<&Error> {
        self.rare.get()?.failure.get()
    }

    pub(crate) fn has_named_stages(&self) -> bool {
        self.stages.get() > 0
    }

    /// A name for a stage, greater than all before.
    pub(crate) fn name_stage(&self) -> StageId {
        let name =
            self.stages.get().checked_add(1).expect("a channel has fewer than 2^32 stages in its life");
        self.stages.set(name);
        StageId(name)
    }
}
