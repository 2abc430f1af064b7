//! Writing into a channel from beside its pipeline, on the same core.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::promise::promise;
use crate::{Promise, Result, Written};

/// Writes messages into a channel from a task on the same core. Its queue is bounded, and drains only while the
/// channel is writable. Clones write into the same queue; when the last is dropped, the channel stays.
///
/// It is given to a pipeline with [`Builder::tail_with_writer`](crate::Builder::tail_with_writer).
pub struct Writer<T>(Rc<Outbox<T>>);

/// The queue between writers and the tail.
pub(crate) struct Outbox<T> {
    queue: RefCell<VecDeque<Entry<T>>>,
    capacity: usize,
    channel: RefCell<Option<Waker>>,
    /// Those who wait for room in the queue.
    waiting: RefCell<Vec<Waker>>,
    state: Cell<State>,
}

pub(crate) enum Entry<T> {
    Close,
    CloseOutput,
    Message(T, Option<Promise>),
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
            capacity: capacity.max(1),
            channel: RefCell::default(),
            waiting: RefCell::default(),
            state: Cell::new(State::Open),
        }))
    }

    /// Queues the message, or gives it back where the queue is full or [`close`](Writer::close) was called or the
    /// channel is closed.
    ///
    /// # Errors
    /// The message.
    pub fn try_write(&self, msg: T) -> Result<(), T> {
        self.put(msg, None)
    }

    /// Like [`try_write`](Writer::try_write); gives a future that resolves when the kernel has taken the message.
    ///
    /// # Errors
    /// The message.
    pub fn try_send(&self, msg: T) -> Result<Written, T> {
        let (promise, written) = promise();
        self.put(msg, Some(promise))?;
        Ok(written)
    }

    fn put(&self, msg: T, promise: Option<Promise>) -> Result<(), T> {
        let outbox = &*self.0;
        if outbox.state.get() != State::Open || outbox.queue.borrow().len() >= outbox.capacity {
            return Err(msg);
        }
        outbox.push(Entry::Message(msg, promise));
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

    async fn with_room<R>(&self, msg: T, put: fn(&Self, T) -> Result<R, T>) -> Result<R, ChannelClosed> {
        let mut msg = Some(msg);
        poll_fn(|task| {
            let Some(unwritten) = msg.take() else { return Poll::Pending };
            match put(self, unwritten) {
                Ok(done) => Poll::Ready(Ok(done)),
                Err(_) if self.0.state.get() != State::Open => Poll::Ready(Err(ChannelClosed)),
                Err(back) => {
                    msg = Some(back);
                    self.0.wait(task.waker());
                    Poll::Pending
                }
            }
        })
        .await
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
            self.0.push(last);
            self.0.wake_waiting();
        }
    }

    /// Whether the channel is closed.
    pub fn is_closed(&self) -> bool {
        self.0.state.get() == State::Closed
    }

    pub(crate) fn outbox(&self) -> Rc<Outbox<T>> {
        self.0.clone()
    }
}

impl<T> Clone for Writer<T> {
    fn clone(&self) -> Self {
        Writer(self.0.clone())
    }
}

impl<T> Outbox<T> {
    pub(crate) fn open(&self, channel: Waker) {
        if !self.queue.borrow().is_empty() {
            channel.wake_by_ref();
        }
        self.channel.replace(Some(channel));
    }

    /// The next entry. Whoever takes one calls [`made_room`](Outbox::made_room) when done.
    pub(crate) fn pop(&self) -> Option<Entry<T>> {
        self.queue.borrow_mut().pop_front()
    }

    pub(crate) fn made_room(&self) {
        if self.queue.borrow().len() < self.capacity {
            self.wake_waiting();
        }
    }

    /// The channel is closed: what is still queued will not be written.
    pub(crate) fn shut(&self) {
        self.state.set(State::Closed);
        self.channel.take();
        let left = self.queue.take();
        self.wake_waiting();
        drop(left);
    }

    fn push(&self, entry: Entry<T>) {
        self.queue.borrow_mut().push_back(entry);
        if let Some(channel) = &*self.channel.borrow() {
            channel.wake_by_ref();
        }
    }

    fn wait(&self, task: &Waker) {
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(task)) {
            waiting.push(task.clone());
        }
    }

    fn wake_waiting(&self) {
        for waker in self.waiting.take() {
            waker.wake();
        }
    }
}
