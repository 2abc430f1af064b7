//! Writing into a channel from beside its pipeline, on the same core.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::promise::promise;
use crate::{Promise, Queue, Result, Written};

/// Writes messages into a channel from a task on the same core. Its queue is bounded, and drains only while the
/// channel is writable. Clones write into the same queue; when the last is dropped, the channel stays.
///
/// It is given to a pipeline with [`Builder::tail_with_writer`](crate::Builder::tail_with_writer). When a
/// [switch](crate::SwitchKey) replaces that pipeline by another that has been given the same writer, what is queued
/// goes out through the successor.
pub struct Writer<T>(Rc<Outbox<T>>);

/// The queue between writers and the tail. What each message touches stands together, and first.
pub(crate) struct Outbox<T> {
    queue: RefCell<Queue<Entry<T>>>,
    /// Of the queue, these are to be written now; those behind them wait for a flush.
    flushed: Cell<usize>,
    /// Messages that the queue takes. None, once nothing may follow.
    capacity: Cell<usize>,
    written: Cell<u64>,
    /// Entries that were taken.
    taken: Cell<u64>,
    rare: OnceCell<Box<Rare>>,
    channel: RefCell<Option<Waker>>,
    /// Who keeps the queue open: one tail, or during a switch two.
    tails: Cell<usize>,
    /// Of the tail that came last.
    last_tail: Cell<u64>,
    state: Cell<State>,
}

/// What few writers need.
#[derive(Default)]
struct Rare {
    /// After so many entries, the others are for this tail and those after it.
    divides: RefCell<VecDeque<(u64, u64)>>,
    /// Those who wait for room in the queue, the oldest first.
    waiting: RefCell<BTreeMap<u64, Waker>>,
    /// Who waits longest has the lowest number.
    last_number: Cell<u64>,
    /// Those who poll for room. Nobody knows when they give up.
    polling: RefCell<Vec<Waker>>,
}

pub(crate) enum Entry<T> {
    Close,
    CloseOutput,
    Message(T, Option<Promise>),
    /// Resolved when everything before it has been taken.
    Promise(Promise),
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Open,
    /// A close stands at the end of the queue: nothing may follow it.
    Closing,
    Closed,
}

/// The channel is closed: the message was not written.
#[derive(Debug)]
pub struct ChannelClosed;

impl fmt::Display for ChannelClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the channel is closed")
    }
}

impl std::error::Error for ChannelClosed {}

impl<T> Writer<T> {
    /// A writer whose queue holds up to `capacity` messages, at least one.
    pub fn new(capacity: usize) -> Self {
        Writer(Rc::new(Outbox {
            queue: RefCell::default(),
            flushed: Cell::new(0),
            capacity: Cell::new(capacity.max(1)),
            written: Cell::new(0),
            taken: Cell::new(0),
            rare: OnceCell::new(),
            channel: RefCell::default(),
            tails: Cell::new(0),
            last_tail: Cell::new(0),
            state: Cell::new(State::Open),
        }))
    }

    /// Queues the message, or gives it back where the queue is full or [`close`](Writer::close) was called or the
    /// channel is closed.
    ///
    /// # Errors
    /// The message.
    pub fn try_write(&self, msg: T) -> Result<(), T> {
        self.put(msg, None)?;
        self.0.flush();
        Ok(())
    }

    /// Like [`try_write`](Writer::try_write), but the message waits until something is flushed or written behind it.
    ///
    /// # Errors
    /// The message.
    pub fn try_queue(&self, msg: T) -> Result<(), T> {
        self.put(msg, None)
    }

    /// Like [`try_queue`](Writer::try_queue) for what belongs together: all of it is queued when there is room for one
    /// message, however many there are, and otherwise none of it.
    ///
    /// # Errors
    /// The messages.
    pub fn try_queue_all(&self, msgs: Vec<T>) -> Result<(), Vec<T>> {
        if !self.0.has_room() {
            return Err(msgs);
        }
        msgs.into_iter().for_each(|msg| self.0.push(Entry::Message(msg, None)));
        Ok(())
    }

    /// Like [`try_queue`](Writer::try_queue); gives a future that resolves when the kernel has taken the message.
    ///
    /// # Errors
    /// The message.
    pub fn try_queue_acked(&self, msg: T) -> Result<Written, T> {
        let (promise, written) = promise();
        self.put(msg, Some(promise))?;
        Ok(written)
    }

    /// Like [`try_write`](Writer::try_write); gives a future that resolves when the kernel has taken the message.
    ///
    /// # Errors
    /// The message.
    pub fn try_send(&self, msg: T) -> Result<Written, T> {
        let written = self.try_queue_acked(msg)?;
        self.0.flush();
        Ok(written)
    }

    /// Everything queued is written, and waits until the kernel has taken it.
    ///
    /// # Errors
    /// [`ChannelClosed`], when the channel has closed before.
    pub async fn flush(&self) -> Result<(), ChannelClosed> {
        self.flush_queued();
        self.with_room((), Self::try_flush).await?.await
    }

    /// Everything queued is written.
    pub fn flush_queued(&self) {
        self.0.flush();
    }

    /// Like [`flush_queued`](Writer::flush_queued), for whoever knows that the channel is about to end its turn: nothing
    /// is woken for it.
    pub fn flush_in_turn(&self) {
        self.0.flush_all();
    }

    fn try_flush(&self, (): ()) -> Result<Written, ()> {
        if !self.0.has_room() {
            return Err(());
        }
        let (promise, written) = promise();
        self.0.push(Entry::Promise(promise));
        self.0.flush();
        Ok(written)
    }

    fn put(&self, msg: T, promise: Option<Promise>) -> Result<(), T> {
        if !self.0.has_room() {
            return Err(msg);
        }
        self.0.push(Entry::Message(msg, promise));
        Ok(())
    }

    /// Queues the message as soon as there is room for it.
    ///
    /// # Errors
    /// [`ChannelClosed`], when it will never be written.
    pub async fn write(&self, msg: T) -> Result<(), ChannelClosed> {
        self.with_room(msg, Self::try_write).await
    }

    /// Queues the message as soon as there is room for it, and waits until the kernel has taken it.
    ///
    /// # Errors
    /// [`ChannelClosed`], when the channel has closed before.
    pub async fn send(&self, msg: T) -> Result<(), ChannelClosed> {
        self.with_room(msg, Self::try_send).await?.await
    }

    async fn with_room<M, R>(&self, msg: M, put: fn(&Self, M) -> Result<R, M>) -> Result<R, ChannelClosed> {
        self.room().await?;
        put(self, msg).map_err(|_| ChannelClosed) // there was room for it
    }

    /// Waits until there is room for a message. What is queued is written to make some.
    pub fn room(&self) -> Room<'_, T> {
        Room { outbox: &self.0, number: None }
    }

    /// Like [`room`](Writer::room), for those who can't keep a future.
    ///
    /// # Errors
    /// [`ChannelClosed`], when there will be none.
    pub fn poll_ready(&self, task: &mut Context<'_>) -> Poll<Result<(), ChannelClosed>> {
        self.0.poll_room(|outbox| {
            let mut polling = outbox.rare().polling.borrow_mut();
            if !polling.iter().any(|waker| waker.will_wake(task.waker())) {
                polling.push(task.waker().clone());
            }
        })
    }

    /// Closes the channel once everything queued has been sent. Those who wait for room in the queue are refused.
    pub fn close(&self) {
        self.finish(Entry::Close);
    }

    /// Tells the other side, once everything queued has been sent, that no more will be. What it sends is read on.
    /// Those who wait for room in the queue are refused.
    pub fn close_output(&self) {
        self.finish(Entry::CloseOutput);
    }

    fn finish(&self, last: Entry<T>) {
        if self.0.state.get() == State::Open {
            self.0.state.set(State::Closing);
            self.0.capacity.set(0);
            self.0.push(last);
            self.0.flush();
            self.0.wake_waiting();
        }
    }

    /// Messages that are queued.
    pub fn queued(&self) -> usize {
        self.0.queue.borrow().len()
    }

    /// Messages that have been handed to the stages.
    pub fn written(&self) -> u64 {
        self.0.written.get()
    }

    /// Whether messages can be written: neither is the channel closed, nor has this side asked for that.
    pub fn is_open(&self) -> bool {
        self.0.state.get() == State::Open
    }

    /// Whether the channel is closed.
    pub fn is_closed(&self) -> bool {
        self.0.state.get() == State::Closed
    }

    /// Keeps the queue from being shut while no tail drains it.
    pub fn attach(&self) -> Attachment<T> {
        self.0.tails.set(self.0.tails.get() + 1);
        self.0.last_tail.set(self.0.last_tail.get() + 1);
        Attachment { outbox: self.0.clone(), number: self.0.last_tail.get() }
    }

    /// What has not been flushed, and what is written from now on, goes out through a tail that is still to be
    /// [attached](Writer::attach), whenever that takes the place of the present one.
    pub fn divide(&self) {
        let before = self.0.taken.get() + self.0.flushed.get() as u64;
        self.0.rare().divides.borrow_mut().push_back((before, self.0.last_tail.get() + 1));
    }
}

/// Waits until there is room in the queue of a [`Writer`]; fails with [`ChannelClosed`], when there will be none. Those who
/// wait get their turn in the order in which they came. Made by [`Writer::room`].
#[must_use = "futures do nothing unless they are awaited"]
pub struct Room<'a, T> {
    outbox: &'a Outbox<T>,
    number: Option<u64>,
}

impl<T> Future for Room<'_, T> {
    type Output = Result<(), ChannelClosed>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        let Room { outbox, number } = &mut *self;
        outbox.poll_room(|outbox| {
            let Rare { waiting, last_number, .. } = outbox.rare();
            let number = *number.get_or_insert_with(|| {
                last_number.set(last_number.get() + 1);
                last_number.get()
            });
            waiting.borrow_mut().insert(number, task.waker().clone());
        })
    }
}

impl<T> Drop for Room<'_, T> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.outbox.rare().waiting.borrow_mut().remove(&number);
        }
    }
}

/// What keeps a [`Writer`]'s queue from being shut. A tail that drains it has one; when the last is dropped, what is
/// queued will not be written.
pub struct Attachment<T> {
    outbox: Rc<Outbox<T>>,
    number: u64,
}

impl<T> Attachment<T> {
    pub(crate) fn outbox(&self) -> &Rc<Outbox<T>> {
        &self.outbox
    }

    /// Names the tail that has it.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Whether somebody else keeps the queue open too.
    pub(crate) fn is_shared(&self) -> bool {
        self.outbox.tails.get() > 1
    }
}

impl<T> Drop for Attachment<T> {
    fn drop(&mut self) {
        self.outbox.tails.set(self.outbox.tails.get() - 1);
        if self.outbox.tails.get() == 0 {
            self.outbox.shut();
        }
    }
}

impl<T> Clone for Writer<T> {
    fn clone(&self) -> Self {
        Writer(self.0.clone())
    }
}

impl<T> Outbox<T> {
    pub(crate) fn open(&self, channel: Waker) {
        if self.flushed.get() > 0 {
            channel.wake_by_ref();
        }
        self.channel.replace(Some(channel));
    }

    /// Whether something is to be written now.
    #[inline]
    pub(crate) fn is_flushed(&self) -> bool {
        self.flushed.get() > 0
    }

    /// The next entry that this tail is to write now. Whoever takes some calls [`made_room`](Outbox::made_room) when done.
    #[inline]
    pub(crate) fn pop(&self, tail: u64) -> Option<Entry<T>> {
        let left = self.flushed.get().checked_sub(1)?;
        if !self.is_for(tail) {
            return None;
        }
        self.flushed.set(left);
        self.taken.set(self.taken.get() + 1);
        let entry = self.queue.borrow_mut().pop_front();
        if let Some(Entry::Message(..)) = entry {
            self.written.set(self.written.get() + 1);
        }
        entry
    }

    /// Whether the next entry is for this tail, rather than for one that comes later.
    #[inline]
    fn is_for(&self, tail: u64) -> bool {
        self.rare.get().is_none_or(|rare| self.is_before_divides(rare, tail))
    }

    #[cold]
    fn is_before_divides(&self, rare: &Rare, tail: u64) -> bool {
        let mut divides = rare.divides.borrow_mut();
        while let Some((before, from)) = divides.front()
            && *before <= self.taken.get()
        {
            if tail < *from {
                return false;
            }
            divides.pop_front();
        }
        true
    }

    /// All that is queued is to be written.
    pub(crate) fn flush_all(&self) {
        self.flushed.set(self.queue.borrow().len());
    }

    #[inline]
    pub(crate) fn made_room(&self) {
        if self.rare.get().is_some() && self.has_room() {
            self.wake_waiting();
        }
    }

    /// The channel is closed: what is still queued will not be written.
    fn shut(&self) {
        self.state.set(State::Closed);
        self.capacity.set(0);
        self.channel.take();
        self.flushed.set(0);
        let left = self.queue.take();
        self.wake_waiting();
        drop(left);
    }

    fn has_room(&self) -> bool {
        self.queue.borrow().len() < self.capacity.get()
    }

    fn push(&self, entry: Entry<T>) {
        self.queue.borrow_mut().push_back(entry);
    }

    fn flush(&self) {
        self.flush_all();
        if let Some(channel) = &*self.channel.borrow() {
            channel.wake_by_ref();
        }
    }

    fn poll_room(&self, wait: impl FnOnce(&Self)) -> Poll<Result<(), ChannelClosed>> {
        if self.has_room() {
            Poll::Ready(Ok(()))
        } else if self.state.get() != State::Open {
            Poll::Ready(Err(ChannelClosed))
        } else {
            wait(self);
            self.flush(); // what waits for a flush would take the room for ever
            Poll::Pending
        }
    }

    fn wake_waiting(&self) {
        let Some(rare) = self.rare.get() else { return };
        rare.waiting.take().into_values().for_each(Waker::wake);
        rare.polling.take().into_iter().for_each(Waker::wake);
    }

    fn rare(&self) -> &Rare {
        self.rare.get_or_init(Box::default)
    }
}
