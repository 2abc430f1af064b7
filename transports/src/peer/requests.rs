//! Requests that wait for their replies: by identifier, or in order.

use slab::Slab;
use std::any::Any;
use std::cell::{OnceCell, RefCell};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::hash::Hash;
use std::task::{Context, Poll, Waker};

use crate::line::{Line, Number};

/// A frame that asks for a reply, and says how the reply is known.
pub trait Request {
    /// What a request and its reply have in common.
    type Id;

    /// The identifier. It is the program's to choose: no other request of the peer may have it until the reply is there.
    fn request_id(&self) -> Self::Id;
}

/// A frame that may be the reply to a [request](Request).
pub trait Reply {
    /// What a request and its reply have in common.
    type Id: Eq + Hash + 'static;

    /// The identifier of the request that this is the reply to; `None`, if it is no reply.
    fn reply_to(&self) -> Option<Self::Id>;

    /// What becomes of this reply when no request waits for it: it is late, or was never asked for.
    fn unclaimed(&self) -> Unclaimed {
        Unclaimed::Drop
    }
}

/// What becomes of a reply for which no request waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unclaimed {
    /// It is dropped, and counted.
    Drop,
    /// It is received like any other frame.
    PassOn,
}

/// Requests that wait for their replies. No borrow lasts while a frame's own code runs, which may look at the peer.
pub(super) struct Requests<In> {
    waiting: RefCell<Waiting<In>>,
    /// Chosen by the first request.
    matching: OnceCell<Matching<In>>,
}

struct Waiting<In> {
    waiters: Slab<Waiter<In>>,
    /// Those who wait until fewer requests wait.
    line: Line,
    max: usize,
    closed: bool,
}

enum Waiter<In> {
    Waiting(Option<Waker>),
    Replied(In),
    /// There will be no reply.
    Failed,
    /// Nobody waits any more, but a reply will come in its turn.
    Forgotten,
}

/// How replies find their requests.
enum Matching<In> {
    ById(Box<dyn ById<In>>),
    /// The oldest first.
    InOrder(RefCell<VecDeque<usize>>),
}

/// Keys of waiters by identifier, whatever the identifier's type.
trait ById<In> {
    fn claim(&self, frame: &In) -> Result<usize, Unclaimed>;
    fn clear(&self);
    fn as_any(&self) -> &dyn Any;
}

struct Keys<Id>(RefCell<HashMap<Id, usize>>);

/// What became of a frame.
pub(super) enum Claim<In> {
    /// A request's reply.
    Taken,
    /// A reply that nobody wants.
    Unwanted,
    PassOn(In),
}

/// An identifier that is in use; or replies by identifier and in order at once.
#[derive(Debug)]
pub(super) struct Ambiguous;

/// A place among those that wait, until it is dropped.
pub(super) struct Ticket<'a, In: 'static, Id: Eq + Hash + 'static> {
    requests: &'a Requests<In>,
    key: usize,
    /// `None`: replies come in order.
    id: Option<Id>,
}

/// A place among those who wait until fewer requests wait, and then the right to be one, until it is dropped.
pub(super) struct Queued<'a, In: 'static> {
    requests: &'a Requests<In>,
    number: Number,
}

impl<In: 'static> Requests<In> {
    pub(super) fn new(max: usize) -> Self {
        let waiting = Waiting { waiters: Slab::new(), line: Line::default(), max, closed: false };
        Requests { waiting: RefCell::new(waiting), matching: OnceCell::new() }
    }

    pub(super) fn queue(&self) -> Queued<'_, In> {
        Queued { requests: self, number: Number::default() }
    }

    /// Whether a request with this identifier waits.
    pub(super) fn is_waiting(&self, id: &In::Id) -> Result<bool, Ambiguous>
    where
        In: Reply,
    {
        Ok(self.keys()?.0.borrow().contains_key(id))
    }

    /// A request is about to be written.
    pub(super) fn wait_for(&self, id: In::Id) -> Result<Ticket<'_, In, In::Id>, Ambiguous>
    where
        In: Reply,
        In::Id: Clone,
    {
        match self.keys()?.0.borrow_mut().entry(id.clone()) {
            Entry::Occupied(_) => Err(Ambiguous),
            Entry::Vacant(place) => {
                let key = *place.insert(self.insert());
                Ok(Ticket { requests: self, key, id: Some(id) })
            }
        }
    }

    /// A request whose reply comes in its turn is about to be written.
    pub(super) fn wait_in_turn(&self) -> Result<Ticket<'_, In, ()>, Ambiguous> {
        let in_order = || Matching::InOrder(RefCell::default());
        let Matching::InOrder(order) = self.matching.get_or_init(in_order) else { return Err(Ambiguous) };
        let key = self.insert();
        order.borrow_mut().push_back(key);
        Ok(Ticket { requests: self, key, id: None })
    }

    fn insert(&self) -> usize {
        self.waiting.borrow_mut().waiters.insert(Waiter::Waiting(None))
    }

    fn keys(&self) -> Result<&Keys<In::Id>, Ambiguous>
    where
        In: Reply,
    {
        let by_id = || Matching::ById(Box::new(Keys::<In::Id>(RefCell::default())));
        match self.matching.get_or_init(by_id) {
            Matching::ById(keys) => keys.as_any().downcast_ref().ok_or(Ambiguous),
            Matching::InOrder(_) => Err(Ambiguous),
        }
    }

    /// Gives a frame to the request that waits for it.
    #[inline]
    pub(super) fn claim(&self, frame: In) -> Claim<In> {
        let key = match self.matching.get() {
            None => return Claim::PassOn(frame),
            Some(Matching::ById(keys)) => match keys.claim(&frame) {
                Ok(key) => key,
                Err(Unclaimed::Drop) => return Claim::Unwanted,
                Err(Unclaimed::PassOn) => return Claim::PassOn(frame),
            },
            Some(Matching::InOrder(order)) => match order.borrow_mut().pop_front() {
                Some(key) => key,
                None => return Claim::PassOn(frame),
            },
        };
        self.settle(key, Waiter::Replied(frame))
    }

    /// Somebody else receives a frame that, if replies come in order, was the oldest request's.
    pub(super) fn pass_by(&self) {
        if let Some(Matching::InOrder(order)) = self.matching.get()
            && let Some(key) = order.borrow_mut().pop_front()
        {
            self.settle(key, Waiter::Failed);
        }
    }

    /// The end of a wait.
    fn settle(&self, key: usize, end: Waiter<In>) -> Claim<In> {
        let mut waiting = self.waiting.borrow_mut();
        match std::mem::replace(&mut waiting.waiters[key], end) {
            Waiter::Waiting(waker) => {
                drop(waiting);
                waker.into_iter().for_each(Waker::wake);
                Claim::Taken
            }
            Waiter::Forgotten => {
                let unwanted = waiting.remove(key);
                drop(waiting);
                drop(unwanted);
                Claim::Unwanted
            }
            Waiter::Replied(_) | Waiter::Failed => unreachable!("a request is claimed once"),
        }
    }

    /// No reply will come any more: all that wait fail.
    pub(super) fn fail(&self) {
        match self.matching.get() {
            None => {}
            Some(Matching::ById(keys)) => keys.clear(),
            Some(Matching::InOrder(order)) => order.borrow_mut().clear(),
        }
        let mut waiting = self.waiting.borrow_mut();
        waiting.closed = true;
        waiting.waiters.retain(|_, waiter| !matches!(waiter, Waiter::Forgotten));
        let mut failed: Vec<Waker> = waiting.line.take().collect();
        for (_, waiter) in &mut waiting.waiters {
            if let Waiter::Waiting(waker) = waiter {
                failed.extend(waker.take());
                *waiter = Waiter::Failed;
            }
        }
        drop(waiting);
        failed.into_iter().for_each(Waker::wake);
    }

    /// Whether no reply will come any more.
    pub(super) fn has_failed(&self) -> bool {
        self.waiting.borrow().closed
    }

    /// How many wait.
    pub(super) fn in_flight(&self) -> usize {
        self.waiting.borrow().waiters.len()
    }
}

impl<In> Waiting<In> {
    fn has_room(&self) -> bool {
        self.waiters.len() + self.line.admitted() < self.max
    }

    fn remove(&mut self, key: usize) -> Waiter<In> {
        let waiter = self.waiters.remove(key);
        self.admit();
        waiter
    }

    fn admit(&mut self) {
        if self.has_room() {
            self.line.admit().into_iter().for_each(Waker::wake);
        }
    }
}

impl<In: Reply> ById<In> for Keys<In::Id> {
    fn claim(&self, frame: &In) -> Result<usize, Unclaimed> {
        let Some(id) = frame.reply_to() else { return Err(Unclaimed::PassOn) };
        let claimed = self.0.borrow_mut().remove_entry(&id);
        claimed.map(|(_, key)| key).ok_or_else(|| frame.unclaimed())
    }

    fn clear(&self) {
        drop(self.0.take());
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl<In: 'static> Queued<'_, In> {
    /// Ready when one more may wait, or none will be answered.
    pub(super) fn poll(&mut self, task: &mut Context<'_>) -> Poll<()> {
        let waiting = &mut *self.requests.waiting.borrow_mut();
        if waiting.closed || waiting.line.has_admitted(&self.number) || waiting.has_room() {
            return Poll::Ready(());
        }
        waiting.line.wait(&mut self.number, task);
        Poll::Pending
    }
}

impl<In: 'static> Drop for Queued<'_, In> {
    fn drop(&mut self) {
        let waiting = &mut *self.requests.waiting.borrow_mut();
        if waiting.line.leave(&self.number) {
            waiting.admit(); // it may not have used its place
        }
    }
}

impl<In: 'static, Id: Eq + Hash + 'static> Ticket<'_, In, Id> {
    /// The reply; `None`: there will be none.
    pub(super) async fn reply(mut self) -> Option<In> {
        poll_fn(|task| self.poll(task)).await
    }

    fn poll(&mut self, task: &mut Context<'_>) -> Poll<Option<In>> {
        let waiters = &mut self.requests.waiting.borrow_mut().waiters;
        match std::mem::replace(&mut waiters[self.key], Waiter::Failed) {
            Waiter::Replied(frame) => Poll::Ready(Some(frame)),
            Waiter::Waiting(_) => {
                waiters[self.key] = Waiter::Waiting(Some(task.waker().clone()));
                Poll::Pending
            }
            Waiter::Failed | Waiter::Forgotten => Poll::Ready(None),
        }
    }
}

impl<In: 'static, Id: Eq + Hash + 'static> Drop for Ticket<'_, In, Id> {
    fn drop(&mut self) {
        let mut waiting = self.requests.waiting.borrow_mut();
        let mut forgotten = None;
        if let Waiter::Waiting(_) = waiting.waiters[self.key] {
            match (self.requests.matching.get(), &self.id) {
                (Some(Matching::InOrder(_)), _) => {
                    // The reply still comes in its turn.
                    waiting.waiters[self.key] = Waiter::Forgotten;
                    return;
                }
                (Some(Matching::ById(keys)), Some(id)) => {
                    let keys = keys.as_any().downcast_ref::<Keys<Id>>();
                    forgotten = keys.and_then(|keys| keys.0.borrow_mut().remove_entry(id));
                }
                _ => {}
            }
        }
        let unwanted = waiting.remove(self.key);
        drop(waiting);
        drop((unwanted, forgotten));
    }
}
