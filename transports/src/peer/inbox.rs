//! What a peer has received, and who gets it.

use perihelion_pipeline::{DemandHandle, Queue};
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

use super::observers::{Observers, Offer, OnReceived, Subscriber};
use super::requests::{Claim, Requests};
use super::{Handling, Mode};
use crate::ChannelHandle;
use crate::function::Receiver;
use crate::line::{Line, Number};

/// What a peer has received, and who gets it. What each frame touches stands first; what few peers need, behind pointers.
pub(super) struct Inbox<In: 'static> {
    inner: RefCell<Inner<In>>,
    frames: Cell<u64>,
    limit: usize,
    requests: OnceCell<Box<Requests<In>>>,
    requests_max: usize,
    dropped: Cell<u64>,
    /// The ends of pipelines that feed it: one, or during a switch two.
    tails: Cell<usize>,
    /// Of the newest.
    generation: Cell<u32>,
    /// Of the newest whose stages are ready.
    ready: Cell<u32>,
}

struct Inner<In> {
    queue: Queue<In>,
    /// Its function may be the one that receives.
    channel: ChannelHandle,
    receiver: Option<Receiver>,
    observers: Option<Box<Observers<In>>>,
    /// Pauses the channel, once it is open. See [`Inner::demand`].
    demand: Option<DemandHandle>,
    /// Those who wait for a change of `state` or `ready`.
    watching: Option<Box<Line>>,
    mode: Mode,
    state: State,
    /// Reading has stopped, for a queue is full.
    full: bool,
    /// In passive mode: a frame has been asked for and has not come.
    asked: bool,
    /// A task waits in `recv`.
    receiving: bool,
}

/// The end of frames.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
pub(super) enum State {
    /// The stages below are not ready: a handshake is under way. Or somebody else reads the bytes.
    Preparing,
    Open,
    /// The other side sends no more.
    Ended,
    Closed,
}

/// For the pipeline's end.
impl<In: 'static> Inbox<In> {
    pub(super) fn new(channel: &ChannelHandle, limit: usize, requests_max: usize) -> Self {
        Inbox {
            inner: RefCell::new(Inner {
                queue: Queue::default(),
                channel: channel.clone(),
                receiver: None,
                observers: None,
                demand: None,
                watching: None,
                mode: Mode::Active,
                state: State::Preparing,
                full: false,
                asked: false,
                receiving: false,
            }),
            frames: Cell::new(0),
            limit,
            requests: OnceCell::new(),
            requests_max,
            dropped: Cell::new(0),
            tails: Cell::new(0),
            generation: Cell::new(0),
            ready: Cell::new(0),
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
        inner.reads()
    }

    /// The stages of this generation are ready. Says whether the channel is to go on reading.
    pub(super) fn set_ready(&self, generation: u32) -> bool {
        self.ready.set(self.ready.get().max(generation));
        self.advance(if generation == self.generation.get() { State::Open } else { State::Preparing });
        self.inner.borrow().reads()
    }

    /// The other side sends no more.
    pub(super) fn end(&self) {
        self.advance(State::Ended);
    }

    /// A frame has come: a reply, or for the task that waits, or for the event, or for subscribers, or for the queue.
    /// Says whether the channel is to go on reading.
    pub(super) fn deliver(&self, frame: In) -> bool {
        self.frames.set(self.frames.get() + 1);
        let mode = {
            let mut inner = self.inner.borrow_mut();
            inner.asked = false;
            inner.mode
        };
        let claim = match (self.requests.get(), mode) {
            (None, _) => Claim::PassOn(frame),
            (Some(requests), Mode::Active) => requests.claim(frame),
            (Some(requests), Mode::Passive) => {
                requests.pass_by();
                Claim::PassOn(frame)
            }
        };
        let mut inner = self.inner.borrow_mut();
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
        let on_received = self.inner.borrow_mut().observers().on_received.take();
        if let Some(mut on_received) = on_received {
            let handling = on_received(&frame);
            // It may have set another, which then takes its place.
            let other = self.inner.borrow_mut().observers().on_received.take();
            drop(self.replace_on_received(other.unwrap_or(on_received)));
            if handling == Handling::Handled {
                return;
            }
        }
        let keys = self.inner.borrow_mut().observers().keys();
        let mut is_wanted = false;
        for key in keys {
            let offer = self.inner.borrow_mut().observers().take_offer(key);
            let Some(mut offer) = offer else { continue };
            let wanted = offer(&frame);
            let inner = &mut *self.inner.borrow_mut();
            // It may have dropped its subscription, and made another.
            if let Some(subscriber) = inner.observers().subscribers.get_mut(key)
                && subscriber.offer.is_none()
            {
                subscriber.offer = Some(offer);
                is_wanted |= wanted.is_some();
                subscriber.queue.extend(wanted);
                let queued = subscriber.queue.len();
                subscriber.waker.take().into_iter().for_each(Waker::wake);
                inner.full |= queued >= self.limit;
            }
        }
        if !is_wanted {
            self.count_dropped();
        }
    }

    /// The state goes one way: an end in order stays one when the channel is closed.
    fn advance(&self, state: State) {
        if state >= State::Ended
            && let Some(requests) = self.requests.get()
        {
            requests.fail();
        }
        let mut inner = self.inner.borrow_mut();
        if state > inner.state && inner.state != State::Ended {
            inner.state = state;
            inner.wake_receiver();
            inner.observers.iter_mut().for_each(|observers| observers.wake());
        }
        let watching = inner.watching.take();
        // What is called for frames may hold what holds this.
        let unused = (state == State::Closed).then(|| {
            inner.demand = None;
            inner.observers.as_mut().map(|observers| observers.take_calls())
        });
        drop(inner);
        drop(unused);
        watching.into_iter().flat_map(|mut watching| watching.take()).for_each(Waker::wake);
    }

    /// Of the newest stages.
    pub(super) fn generation(&self) -> u32 {
        self.generation.get()
    }

    /// Whether no pipeline feeds it any more.
    pub(super) fn is_closed(&self) -> bool {
        self.tails.get() == 0
    }
}

/// For tasks.
impl<In: 'static> Inbox<In> {
    /// The oldest frame in the queue.
    pub(super) fn pop(&self) -> Option<In> {
        let mut inner = self.inner.borrow_mut();
        let frame = inner.queue.pop_front()?;
        let left = inner.queue.len();
        inner.make_room(left, self.limit);
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
            inner.demand().for_each(DemandHandle::resume); // until a frame has come
        }
        inner.receiver = Some(Receiver::of(task, inner.channel.0.turn()));
        Poll::Pending
    }

    /// A task begins to wait. False when another waits already.
    pub(super) fn begin_receiving(&self) -> bool {
        !std::mem::replace(&mut self.inner.borrow_mut().receiving, true)
    }

    pub(super) fn is_receiving(&self) -> bool {
        self.inner.borrow().receiving
    }

    pub(super) fn end_receiving(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.receiving = false;
        inner.receiver = None;
    }

    /// Waits until the other side sends no more.
    pub(super) async fn ended(&self) {
        self.watch(|inbox| inbox.inner.borrow().state >= State::Ended).await;
    }

    /// Waits until the stages of this generation are ready, or will never be.
    pub(super) async fn ready(&self, generation: u32) {
        self.watch(|inbox| inbox.ready.get() >= generation || inbox.is_closed()).await;
    }

    async fn watch(&self, has_come: impl Fn(&Self) -> bool) {
        struct Watching<'a, In: 'static>(&'a Inbox<In>, Number);
        impl<In> Drop for Watching<'_, In> {
            fn drop(&mut self) {
                if let Some(watching) = &mut self.0.inner.borrow_mut().watching {
                    watching.leave(&self.1);
                }
            }
        }
        let mut watching = Watching(self, Number::default());
        poll_fn(|task| {
            if has_come(self) {
                return Poll::Ready(());
            }
            self.inner.borrow_mut().watching.get_or_insert_default().wait(&mut watching.1, task);
            Poll::Pending
        })
        .await;
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
                inner.demand().for_each(DemandHandle::pause);
                inner.wake_receiver(); // to ask for a frame
            }
        }
    }

    pub(super) fn set_on_received(&self, on_received: OnReceived<In>) {
        drop(self.replace_on_received(on_received)); // it may hold what holds this
    }

    /// Gives what will not be called.
    fn replace_on_received(&self, on_received: OnReceived<In>) -> Option<OnReceived<In>> {
        if self.is_closed() {
            return Some(on_received);
        }
        self.inner.borrow_mut().observers().on_received.replace(on_received)
    }

    pub(super) fn requests(&self) -> &Requests<In> {
        self.requests.get_or_init(|| {
            let requests = Requests::new(self.requests_max);
            if self.inner.borrow().state >= State::Ended {
                requests.fail();
            }
            Box::new(requests)
        })
    }

    pub(super) fn requests_in_flight(&self) -> usize {
        self.requests.get().map_or(0, |requests| requests.in_flight())
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
            if with_queued { std::mem::take(&mut self.inner.borrow_mut().queue) } else { Queue::default() };
        let mut queue = VecDeque::new();
        let mut rest = Queue::default();
        for frame in queued {
            if wants(&frame) { queue.push_back(frame) } else { rest.push_back(frame) }
        }
        let mut offer: Option<Offer<In>> = None;
        if !self.is_closed() {
            offer = Some(Box::new(move |frame| wants(frame).then(|| frame.clone())));
        }
        let inner = &mut *self.inner.borrow_mut();
        let key = inner.observers().subscribers.insert(Subscriber { offer, queue, waker: None });
        if with_queued {
            let left = rest.len();
            inner.queue = rest;
            inner.make_room(left, self.limit);
        }
        key
    }

    pub(super) fn unsubscribe(&self, key: usize) {
        let mut inner = self.inner.borrow_mut();
        let subscriber = inner.observers().subscribers.try_remove(key);
        inner.make_room(0, self.limit);
        drop(inner);
        drop(subscriber); // user code
    }

    pub(super) fn poll_subscription(&self, key: usize, task: &mut Context<'_>) -> Poll<Option<In>> {
        let inner = &mut *self.inner.borrow_mut();
        let state = inner.state;
        let subscriber = &mut inner.observers().subscribers[key];
        if let Some(frame) = subscriber.queue.pop_front() {
            let left = subscriber.queue.len();
            inner.make_room(left, self.limit);
            return Poll::Ready(Some(frame));
        }
        if let State::Ended | State::Closed = state {
            return Poll::Ready(None);
        }
        subscriber.waker = Some(task.waker().clone());
        Poll::Pending
    }
}

impl<In> Inner<In> {
    /// Whether a task waits for the next frame.
    fn is_awaited(&self) -> bool {
        (self.receiving || self.receiver.is_some()) && self.queue.is_empty()
    }

    fn wake_receiver(&mut self) {
        if let Some(receiver) = self.receiver.take() {
            receiver.wake(self.channel.0.turn());
        }
    }

    fn observers(&mut self) -> &mut Observers<In> {
        self.observers.get_or_insert_default()
    }

    /// Whether a frame is to be read.
    fn reads(&self) -> bool {
        match self.mode {
            Mode::Active => !self.full,
            Mode::Passive => self.asked,
        }
    }

    fn read_on(&self) {
        if self.reads() {
            self.demand().for_each(DemandHandle::resume);
        }
    }

    /// To pause and resume the channel with. While the stages are not ready, they read what they need; and what stands
    /// in a peer's place reads what it wants.
    fn demand(&self) -> impl Iterator<Item = &DemandHandle> {
        self.demand.iter().filter(|_| self.state != State::Preparing)
    }

    fn is_observed(&self) -> bool {
        self.observers.as_ref().is_some_and(|observers| !observers.is_empty())
    }

    fn push(&mut self, frame: In, limit: usize) {
        self.queue.push_back(frame);
        self.full |= self.queue.len() >= limit;
        self.wake_receiver();
    }

    /// A queue holds so many frames now. Reads on when it is half empty, and none is full.
    fn make_room(&mut self, left: usize, limit: usize) {
        if self.full
            && left <= limit / 2
            && self.queue.len() < limit
            && !self.observers.as_ref().is_some_and(|observers| observers.is_full(limit))
        {
            self.full = false;
            self.read_on();
        }
    }
}
