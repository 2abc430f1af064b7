//! What a pipeline sees of its channel: demand, water marks, and the way to ask for a pause or a close.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::demand::DemandCell;
use crate::event::EventInbox;
use crate::link::Link;
use crate::{DemandHandle, Error, Event, EventSender, Pipeline};

/// Limits of a channel. Bytes are those written and not yet taken by the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Above this many outbound bytes a channel is unwritable, and its reads pause.
    pub high_water_bytes: usize,
    /// With this many or fewer it is writable again. At most the high-water mark.
    pub low_water_bytes: usize,
    /// Messages a channel may handle in one turn of the event loop, at least one; the rest waits for the next.
    pub messages_per_turn: u32,
    /// How long a stage may make its channel wait ([`Flow::Wait`](crate::Flow::Wait),
    /// [`Flow::Later`](crate::Flow::Later), an asynchronous function); then the channel closes. `None`: for ever.
    pub wait: Option<Duration>,
    /// Whether messages are read as they come. Otherwise a channel begins paused.
    pub auto_read: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            high_water_bytes: 64 * 1024,
            low_water_bytes: 32 * 1024,
            messages_per_turn: 256,
            wait: Some(Duration::from_secs(30)),
            auto_read: true,
        }
    }
}

/// The channel as its stages see it during a call: through [`Context`](crate::Context) and [`Wire`](crate::Wire).
///
/// An event loop keeps one for all its channels of a kind. It holds what belongs to the turn, and by exchange what
/// belongs to the channel that is being run: so the state of an idle channel stays small.
pub struct Channel {
    limits: Limits,
    now: Instant,
    waker: Waker,
    /// Done since the last [`take_work`](Channel::take_work), apart from messages.
    work: Work,
    messages_in: Cell<u64>,
    messages_out: Cell<u64>,
    /// Bytes that stages have unpacked.
    unpacked: Cell<usize>,
    /// Events that travelled to an end of a pipeline and were taken by nobody.
    untaken: Cell<u64>,
    /// Events that stages have raised and that the stages above them have not seen.
    raised: RefCell<VecDeque<(StageId, Event)>>,
    /// Whether there are any, which is looked at for each message.
    has_raised: Cell<bool>,
    pub(crate) link: Box<Link>,
}

/// What channels have done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Frames that the topmost codecs have made.
    pub messages_in: u64,
    /// Frames that the topmost codecs have been given.
    pub messages_out: u64,
    /// Bytes that the transport has delivered.
    pub bytes_in: u64,
    /// Bytes that the kernel has taken.
    pub bytes_out: u64,
}

/// Names a stage within its channel: a timer or a task's result goes back to the stage that asked for it. Names grow
/// towards the tail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd)]
pub struct StageId(pub(crate) u32);

impl StageId {
    /// Stands before all stages.
    pub(crate) const TRANSPORT: StageId = StageId(0);

    pub(crate) fn next(self) -> Self {
        StageId(self.0 + 1)
    }
}

/// For stages.
impl Channel {
    /// No message is handled after the present one until [`resume`](Channel::resume).
    pub fn pause(&self) {
        self.link.pause();
    }

    /// Ends a pause, and wakes the channel so that it goes on. Messages are handled as they come.
    pub fn resume(&self) {
        self.link.resume();
        self.waker.wake_by_ref();
    }

    /// One message more is handled, and then none until more are asked for.
    pub fn read_one(&self) {
        self.link.read_more(1);
        self.waker.wake_by_ref();
    }

    /// Pauses and resumes this channel from a task on the same core.
    pub fn demand(&self) -> DemandHandle {
        let waker = &self.waker;
        DemandHandle::new(self.link.demand(|| DemandCell::new(waker.clone())))
    }

    /// Whether a stage or a task has asked for no more messages for now.
    pub fn is_paused(&self) -> bool {
        self.link.is_paused()
    }

    /// Whether fewer bytes than the high-water mark wait to be sent.
    pub fn is_writable(&self) -> bool {
        self.link.is_writable()
    }

    /// Whether a stage, an error or the event loop has asked for the close.
    pub fn is_closing(&self) -> bool {
        self.link.is_closing()
    }

    /// Bytes written and not yet taken by the kernel.
    pub fn queued(&self) -> usize {
        self.link.queued()
    }

    /// The time at which this turn of the event loop began.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Whether a stage waits or works on a message, so that none is read.
    pub fn is_waiting(&self) -> bool {
        self.link.waits()
    }

    /// How many bytes the kernel has taken since the channel was opened. A large write is taken in parts of up to
    /// 256 KiB.
    pub fn taken(&self) -> u64 {
        self.link.taken()
    }

    /// Resets the connection at the end of this turn. What was written may be lost, and the other side sees an error.
    pub fn abort(&self) {
        self.link.abort();
    }

    /// Counts bytes that a stage keeps back towards the channel's water marks. What is [released](Channel::release)
    /// is not counted twice.
    pub fn hold(&self, bytes: usize) {
        self.count(0, bytes);
    }

    /// The stage no longer keeps back these bytes: it is about to write them, or has dropped them.
    ///
    /// # Panics
    /// In debug builds, if fewer are held.
    pub fn release(&self, bytes: usize) {
        self.count(bytes, 0);
    }

    /// Puts a value into the connection's [features](crate::Features), for whatever stands above: what a stage has found out,
    /// such as who the other side is. Gives the one of this type that was there before.
    pub fn insert<T: 'static>(&self, value: T) -> Option<Rc<T>> {
        self.link.features().insert(value)
    }

    /// The connection's feature of this type.
    pub fn get<T: 'static>(&self) -> Option<Rc<T>> {
        self.link.known_features()?.get()
    }

    /// This stage has unpacked so many bytes of what was received: decrypted or decompressed them into fresh memory.
    /// When channels have unpacked a lot, the event loop sees to it that what comes of it is sent before there is
    /// more, and while it is still in the processor's cache.
    #[inline]
    pub fn unpacked(&self, bytes: usize) {
        self.unpacked.set(self.unpacked.get() + bytes);
    }

    /// Whether the channel reads on though it is unwritable or paused: for a stage that has no message to pass on, and
    /// keeps back what is written, until something has come, such as the end of a handshake. Otherwise it would wait
    /// for what is not read.
    pub fn set_needs_input(&self, needs_input: bool) {
        self.link.set_needs_input(needs_input);
    }

    /// Whether a stage [needs input](Channel::set_needs_input) before it can do its work: its handshake is not done.
    pub fn needs_input(&self) -> bool {
        self.link.needs_input()
    }

    /// Wakes this channel: a stage that waits is then asked for `more`.
    pub fn waker(&self) -> &Waker {
        &self.waker
    }
}

/// For the pipeline.
impl Channel {
    /// Asked before each message is made.
    #[inline]
    pub(crate) fn may_go_on(&self) -> bool {
        self.link.may_go_on()
    }

    /// Asked before a stage goes on with what it holds.
    #[inline]
    pub(crate) fn may_finish(&self) -> bool {
        self.link.may_finish()
    }

    /// Something has been made for the stages `N`: a message, unless they make messages of it. Attempts that make
    /// nothing are free, or nested codecs would starve each other.
    #[inline]
    pub(crate) fn spend_on<N: Pipeline>(&self) {
        self.link.spend();
        if !N::MAKES_MESSAGES {
            self.link.meet_demand();
            self.messages_in.set(self.messages_in.get() + 1);
        }
    }

    /// A codec was given something to encode: a message, if `is_message`.
    #[inline]
    pub(crate) fn count_written(&self, is_message: bool) {
        self.messages_out.set(self.messages_out.get() + u64::from(is_message));
    }

    #[inline]
    pub(crate) fn count_received(&mut self, bytes: usize) {
        self.work.bytes_in += bytes as u64;
    }

    #[inline]
    pub(crate) fn count_sent(&mut self, bytes: usize) {
        self.work.bytes_out += bytes as u64;
    }

    /// An output that held `before` bytes now holds `after`.
    #[inline]
    pub(crate) fn count(&self, before: usize, after: usize) {
        self.link.count(before, after, &self.limits);
    }

    /// Everything written before it is sent first.
    pub(crate) fn begin_close(&self) {
        self.link.close();
    }

    #[cold]
    pub(crate) fn raise(&self, stage: StageId, event: Event) {
        self.raised.borrow_mut().push_back((stage, event));
        self.has_raised.set(true);
    }

    #[inline]
    pub(crate) fn has_raised(&self) -> bool {
        self.has_raised.get()
    }

    /// The next event of this stage or one above it, and the first stage that is to see it.
    #[cold]
    pub(crate) fn next_raised_from(&self, stage: StageId) -> Option<(StageId, Event)> {
        let mut raised = self.raised.borrow_mut();
        let at = raised.iter().position(|(raiser, _)| *raiser >= stage)?;
        let next = raised.remove(at).map(|(raiser, event)| (raiser.next(), event));
        self.has_raised.set(!raised.is_empty());
        next
    }

    #[cold]
    pub(crate) fn count_untaken(&self, event: &Event) {
        self.untaken.set(self.untaken.get() + u64::from(!event.is_taken()));
    }

    pub(crate) fn event_sender(&self, stage: StageId) -> EventSender {
        let waker = &self.waker;
        EventSender::new(stage, self.link.events(|| EventInbox::new(waker.clone())))
    }

    /// An error that no stage handled.
    pub(crate) fn fail(&self, error: Error) {
        self.link.fail(error);
    }
}

/// For the event loop.
impl Channel {
    /// One for all channels that have these limits.
    pub fn new(mut limits: Limits) -> Self {
        limits.messages_per_turn = limits.messages_per_turn.max(1); // with none, no channel would ever go on
        limits.low_water_bytes = limits.low_water_bytes.min(limits.high_water_bytes);
        let waker = Waker::noop().clone();
        Channel {
            limits,
            now: Instant::now(),
            waker,
            work: Work::default(),
            messages_in: Cell::default(),
            messages_out: Cell::default(),
            unpacked: Cell::default(),
            untaken: Cell::default(),
            raised: RefCell::default(),
            has_raised: Cell::default(),
            link: Box::new(Link::new(&limits)),
        }
    }

    /// The time and the waker of the channel that is run next.
    #[inline]
    pub fn prepare(&mut self, now: Instant, waker: Waker) {
        self.now = now;
        self.waker = waker;
        if self.has_raised.take() {
            self.raised.get_mut().clear(); // of a channel that a panic has ended
        }
    }

    /// What was done since the last call, on all channels.
    pub fn take_work(&mut self) -> Work {
        let (messages_in, messages_out) = (self.messages_in.take(), self.messages_out.take());
        Work { messages_in, messages_out, ..std::mem::take(&mut self.work) }
    }

    /// How many bytes stages have unpacked since the last call.
    #[inline]
    pub fn take_unpacked(&mut self) -> usize {
        self.unpacked.take()
    }

    /// How many events were taken by no stage since the last call.
    pub fn take_untaken_events(&mut self) -> u64 {
        self.untaken.take()
    }

    /// How many messages were made since [`take_work`](Channel::take_work).
    #[inline]
    pub(crate) fn messages(&self) -> u64 {
        self.messages_in.get()
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }
}
