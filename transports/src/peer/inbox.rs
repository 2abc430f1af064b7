//! What a peer has received, and who gets it.

use perihelion_pipeline::DemandHandle;
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::requests::{Claim, Requests};
use super::{Handling, Mode};
use crate::function::{Receiver, Turn};

/// What a peer has received, and who gets it.
pub(super) struct Inbox<In: 'static> {
    inner: RefCell<Inner<In>>,
    pub(super) requests: Requests<In>,
    frames: Cell<u64>,
    dropped: Cell<u64>,
    /// The ends of pipelines that feed it: one, or during a switch two.
    tails: Cell<usize>,
    /// Of the newest.
    generation: Cell<u32>,
    limit: usize,
}

struct Inner<In> {
    /// Of the channel's function, which may be the one that receives.
    turn: Rc<Turn>,
    queue: VecDeque<In>,
    mode: Mode,
    state: State,
    /// Pauses the channel, once it is open.
    demand: Option<DemandHandle>,
    /// Reading has stopped, for a queue is full.
    full: bool,
    /// In passive mode: a frame has been asked for and has not come.
    asked: bool,
    /// A task waits in `recv`.
    receiving: bool,
    receiver: Option<Receiver>,
    /// Those who wait for a change of `state`.
    watching: Vec<Waker>,
    on_received: Option<OnReceived<In>>,
    subscribers: Slab<Subscriber<In>>,
}

/// The end of frames.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
pub(super) enum State {
    /// The stages below are not ready: a handshake is under way.
    Preparing,
    Open,
    /// The other side sends no more.
    Ended,
    Closed,
}

pub(super) type OnReceived<In> = Box<dyn FnMut(&In) -> Handling>;

struct Subscriber<In> {
    /// A copy of the frame, if it is wanted.
    offer: Offer<In>,
    queue: VecDeque<In>,
    waker: Option<Waker>,
}

/// Tells a subscriber's wishes, and copies what it wants. Taken out while it is called.
pub(super) type Offer<In> = Option<Box<dyn FnMut(&In) -> Option<In>>>;

/// For the pipeline's end.
impl<In: 'static> Inbox<In> {
    pub(super) fn new(turn: &Rc<Turn>, limit: usize, requests_max: usize) -> Self {
        Inbox {
            inner: RefCell::new(Inner {
                turn: Rc::clone(turn),
                queue: VecDeque::new(),
                mode: Mode::Active,
                state: State::Preparing,
                demand: None,
                full: false,
                asked: false,
                receiving: false,
                receiver: None,
                watching: Vec::new(),
                on_received: None,
                subscribers: Slab::new(),
            }),
            requests: Requests::new(requests_max),
            frames: Cell::new(0),
            dropped: Cell::new(0),
            tails: Cell::new(0),
            generation: Cell::new(0),
            limit,
        }
    }

    /// Another pipeline is to feed it. Gives the pipeline's generation.
    pub(super) fn attach(&self) -> u32 {
        self.tails.set(self.tails.get() + 1);
        self.generation.set(self.generation.get() + 1);
        let mut inner = self.inner.borrow_mut();
        if inner.state == State::Open {
            inner.state = State::Preparing;
        }
        self.generation.get()
    }

    /// A pipeline feeds it no more. When it was the last, nothing follows.
    pub(super) fn detach(&self) {
        self.tails.set(self.tails.get() - 1);
        if self.tails.get() == 0 {
            self.advance(State::Closed);
        }
    }

    /// The channel is open, or the pipeline is a new one. Says whether it is to read.
    pub(super) fn opened(&self, demand: DemandHandle) -> bool {
        let mut inner = self.inner.borrow_mut();
        inner.demand = Some(demand);
        if std::mem::take(&mut inner.asked) {
            inner.wake_receiver(); // to ask again
        }
        inner.reads()
    }

    /// The stages of this generation are ready.
    pub(super) fn set_ready(&self, generation: u32) {
        if generation == self.generation.get() {
            self.advance(State::Open);
        }
    }

    /// The other side sends no more.
    pub(super) fn end(&self) {
        self.advance(State::Ended);
    }

    /// A frame has come: a reply, or for the task that waits, or for the event, or for subscribers, or for the queue.
    /// Says whether the channel is to go on reading.
    pub(super) fn deliver(&self, frame: In) -> bool {
        self.frames.set(self.frames.get() + 1);
        let mut inner = self.inner.borrow_mut();
        inner.asked = false;
        let claim = match inner.mode {
            Mode::Active => self.requests.claim(frame),
            Mode::Passive => Claim::PassOn(frame),
        };
        match claim {
            Claim::Taken => {}
            Claim::Unwanted => self.count_dropped(),
            Claim::PassOn(frame)
                if inner.mode == Mode::Active && inner.is_observed() && !inner.is_awaited() =>
            {
                drop(inner);
                self.show(frame);
                inner = self.inner.borrow_mut();
            }
            Claim::PassOn(frame) => inner.push(frame, self.limit),
        }
        inner.reads()
    }

    /// Shows a frame to the event and the subscribers.
    #[cold]
    fn show(&self, frame: In) {
        let on_received = self.inner.borrow_mut().on_received.take();
        if let Some(mut on_received) = on_received {
            let handling = on_received(&frame);
            self.inner.borrow_mut().on_received.get_or_insert(on_received);
            if handling == Handling::Handled {
                return;
            }
        }
        let keys: Vec<usize> = self.inner.borrow().subscribers.iter().map(|(key, _)| key).collect();
        for key in keys {
            let take = |inner: &mut Inner<In>| inner.subscribers.get_mut(key)?.offer.take();
            let Some(mut offer) = take(&mut self.inner.borrow_mut()) else { continue };
            let wanted = offer(&frame);
            let inner = &mut *self.inner.borrow_mut();
            if let Some(subscriber) = inner.subscribers.get_mut(key) {
                subscriber.offer = Some(offer);
                subscriber.queue.extend(wanted);
                inner.full |= subscriber.queue.len() >= self.limit;
                subscriber.waker.take().into_iter().for_each(Waker::wake);
            }
        }
    }

    /// The state goes one way: an end in order stays one when the channel is closed.
    fn advance(&self, state: State) {
        let mut inner = self.inner.borrow_mut();
        if state == State::Closed {
            inner.demand = None;
            self.requests.fail();
        }
        if state <= inner.state || (inner.state == State::Ended) {
            return;
        }
        inner.state = state;
        let mut waiting = std::mem::take(&mut inner.watching);
        inner.wake_receiver();
        waiting.extend(inner.subscribers.iter_mut().filter_map(|(_, subscriber)| subscriber.waker.take()));
        if state == State::Closed {
            let on_received = inner.on_received.take();
            drop(inner);
            drop(on_received); // it may hold what holds this
        } else {
            drop(inner);
        }
        waiting.into_iter().for_each(Waker::wake);
    }
}

/// For tasks.
impl<In: 'static> Inbox<In> {
    /// The oldest frame in the queue.
    pub(super) fn pop(&self) -> Option<In> {
        let mut inner = self.inner.borrow_mut();
        let frame = inner.queue.pop_front()?;
        inner.make_room(self.limit);
        Some(frame)
    }

    /// The next frame, or how it ended.
    pub(super) fn poll_recv(&self, task: &mut Context<'_>) -> Poll<Result<In, State>> {
        if let Some(frame) = self.pop() {
            return Poll::Ready(Ok(frame));
        }
        let inner = &mut *self.inner.borrow_mut();
        if let State::Ended | State::Closed = inner.state {
            return Poll::Ready(Err(inner.state));
        }
        if inner.mode == Mode::Passive && !std::mem::replace(&mut inner.asked, true) {
            inner.demand.iter().for_each(DemandHandle::read_one);
        }
        inner.receiver = Some(Receiver::of(task, &inner.turn));
        Poll::Pending
    }

    /// A task begins to wait. False when another waits already.
    pub(super) fn begin_receiving(&self) -> bool {
        !std::mem::replace(&mut self.inner.borrow_mut().receiving, true)
    }

    pub(super) fn end_receiving(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.receiving = false;
        inner.receiver = None;
    }

    /// Ready when the state is this one or a later one.
    pub(super) fn poll_state(&self, task: &mut Context<'_>, at_least: State) -> Poll<State> {
        let mut inner = self.inner.borrow_mut();
        if inner.state >= at_least {
            return Poll::Ready(inner.state);
        }
        if !inner.watching.iter().any(|waker| waker.will_wake(task.waker())) {
            inner.watching.push(task.waker().clone());
        }
        Poll::Pending
    }

    /// Whether frames may come, and none has been left.
    pub(super) fn is_fresh(&self) -> bool {
        let inner = self.inner.borrow();
        inner.state <= State::Open && inner.queue.is_empty()
    }

    pub(super) fn mode(&self) -> Mode {
        self.inner.borrow().mode
    }

    pub(super) fn set_mode(&self, mode: Mode) {
        let mut inner = self.inner.borrow_mut();
        if std::mem::replace(&mut inner.mode, mode) == mode {
            return;
        }
        inner.asked = false;
        match mode {
            Mode::Active => inner.read_on(),
            Mode::Passive => {
                inner.demand.iter().for_each(DemandHandle::pause);
                inner.wake_receiver(); // to ask for a frame
            }
        }
    }

    pub(super) fn set_on_received(&self, on_received: Option<OnReceived<In>>) {
        let before = std::mem::replace(&mut self.inner.borrow_mut().on_received, on_received);
        drop(before); // it may hold what holds this
    }

    pub(super) fn frames(&self) -> u64 {
        self.frames.get()
    }

    pub(super) fn queued(&self) -> usize {
        self.inner.borrow().queue.len()
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    pub(super) fn count_dropped(&self) {
        self.dropped.set(self.dropped.get() + 1);
    }
}

/// For subscriptions.
impl<In: 'static> Inbox<In> {
    /// Adds a subscriber. What is queued already goes to it, as far as it wants it, if `with_queued`.
    pub(super) fn subscribe(&self, mut wants: impl FnMut(&In) -> bool + 'static, with_queued: bool) -> usize
    where
        In: Clone + 'static,
    {
        let queued =
            if with_queued { std::mem::take(&mut self.inner.borrow_mut().queue) } else { VecDeque::new() };
        let mut queue = VecDeque::new();
        let mut rest = VecDeque::new();
        for frame in queued {
            if wants(&frame) { queue.push_back(frame) } else { rest.push_back(frame) }
        }
        let offer: Offer<In> = Some(Box::new(move |frame| wants(frame).then(|| frame.clone())));
        let inner = &mut *self.inner.borrow_mut();
        if with_queued {
            inner.queue = rest;
        }
        inner.subscribers.insert(Subscriber { offer, queue, waker: None })
    }

    pub(super) fn unsubscribe(&self, key: usize) {
        let mut inner = self.inner.borrow_mut();
        let subscriber = inner.subscribers.try_remove(key);
        inner.make_room(self.limit);
        drop(inner);
        drop(subscriber); // user code
    }

    pub(super) fn poll_subscription(&self, key: usize, task: &mut Context<'_>) -> Poll<Option<In>> {
        let inner = &mut *self.inner.borrow_mut();
        let subscriber = &mut inner.subscribers[key];
        if let Some(frame) = subscriber.queue.pop_front() {
            inner.make_room(self.limit);
            return Poll::Ready(Some(frame));
        }
        if let State::Ended | State::Closed = inner.state {
            return Poll::Ready(None);
        }
        subscriber.waker = Some(task.waker().clone());
        Poll::Pending
    }
}

impl<In> Inner<In> {
    /// Whether a task waits for the next frame.
    fn is_awaited(&self) -> bool {
        self.receiving && self.queue.is_empty()
    }

    fn wake_receiver(&mut self) {
        if let Some(receiver) = self.receiver.take() {
            receiver.wake(&self.turn);
        }
    }

    /// Whether frames are read as they come.
    fn reads(&self) -> bool {
        self.mode == Mode::Active && !self.full
    }

    fn read_on(&self) {
        if self.reads() {
            self.demand.iter().for_each(DemandHandle::resume);
        }
    }

    fn is_observed(&self) -> bool {
        self.on_received.is_some() || !self.subscribers.is_empty()
    }

    fn push(&mut self, frame: In, limit: usize) {
        self.queue.push_back(frame);
        self.full |= self.queue.len() >= limit;
        self.wake_receiver();
    }

    /// Reads on when no queue is more than half full.
    fn make_room(&mut self, limit: usize) {
        let roomy = |queue: &VecDeque<In>| queue.len() <= limit / 2;
        if self.full
            && roomy(&self.queue)
            && self.subscribers.iter().all(|(_, subscriber)| roomy(&subscriber.queue))
        {
            self.full = false;
            self.read_on();
        }
    }
}
