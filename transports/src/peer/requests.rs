//! Requests that wait for their replies: by identifier, or in order.

use slab::Slab;
use std::any::Any;
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::hash::Hash;
use std::task::{Context, Poll, Waker};

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

/// Requests that wait for their replies.
pub(super) struct Requests<In>(RefCell<Inner<In>>);

struct Inner<In> {
    waiters: Slab<Waiter<In>>,
    matching: Matching<In>,
    /// Those who wait until fewer requests wait.
    queue: VecDeque<Waker>,
    max: usize,
    closed: bool,
}

enum Waiter<In> {
    Waiting(Option<Waker>),
    Replied(In),
    /// The channel is closed.
    Failed,
    /// Nobody waits any more, but a reply will come in its turn.
    Forgotten,
}

/// How replies find their requests.
enum Matching<In> {
    /// No request has been made.
    None,
    ById(Box<dyn ById<In>>),
    /// The oldest first.
    InOrder(VecDeque<usize>),
}

/// Keys of waiters by identifier, whatever the identifier's type.
trait ById<In> {
    fn claim(&mut self, frame: &In) -> Result<usize, Unclaimed>;
    fn as_any(&mut self) -> &mut dyn Any;
}

struct Keys<Id>(HashMap<Id, usize>);

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

impl<In: 'static> Requests<In> {
    pub(super) fn new(max: usize) -> Self {
        let (waiters, matching, queue) = (Slab::new(), Matching::None, VecDeque::new());
        Requests(RefCell::new(Inner { waiters, matching, queue, max, closed: false }))
    }

    /// Ready when one more may wait.
    pub(super) fn poll_ready(&self, task: &mut Context<'_>) -> Poll<()> {
        let inner = &mut *self.0.borrow_mut();
        if inner.closed || inner.waiters.len() < inner.max {
            return Poll::Ready(());
        }
        if !inner.queue.iter().any(|waker| waker.will_wake(task.waker())) {
            inner.queue.push_back(task.waker().clone());
        }
        Poll::Pending
    }

    /// Whether a request with this identifier waits.
    pub(super) fn is_waiting(&self, id: &In::Id) -> Result<bool, Ambiguous>
    where
        In: Reply,
    {
        Ok(self.0.borrow_mut().keys::<In>()?.0.contains_key(id))
    }

    /// A request has been written.
    pub(super) fn wait_for(&self, id: In::Id) -> Result<Ticket<'_, In, In::Id>, Ambiguous>
    where
        In: Reply,
        In::Id: Clone,
    {
        let inner = &mut *self.0.borrow_mut();
        let key = inner.waiters.insert(Waiter::Waiting(None));
        inner.keys::<In>()?.0.insert(id.clone(), key);
        Ok(Ticket { requests: self, key, id: Some(id) })
    }

    /// A request whose reply comes in its turn has been written.
    pub(super) fn wait_in_turn(&self) -> Result<Ticket<'_, In, ()>, Ambiguous> {
        let inner = &mut *self.0.borrow_mut();
        let key = inner.waiters.insert(Waiter::Waiting(None));
        inner.order()?.push_back(key);
        Ok(Ticket { requests: self, key, id: None })
    }

    /// Gives a frame to the request that waits for it.
    #[inline]
    pub(super) fn claim(&self, frame: In) -> Claim<In> {
        let inner = &mut *self.0.borrow_mut();
        let key = match &mut inner.matching {
            Matching::None => return Claim::PassOn(frame),
            Matching::ById(keys) => match keys.claim(&frame) {
                Ok(key) => key,
                Err(Unclaimed::Drop) => return Claim::Unwanted,
                Err(Unclaimed::PassOn) => return Claim::PassOn(frame),
            },
            Matching::InOrder(order) => match order.pop_front() {
                Some(key) => key,
                None => return Claim::PassOn(frame),
            },
        };
        match std::mem::replace(&mut inner.waiters[key], Waiter::Replied(frame)) {
            Waiter::Waiting(waker) => waker.into_iter().for_each(Waker::wake),
            Waiter::Forgotten => {
                inner.remove(key);
                return Claim::Unwanted;
            }
            Waiter::Replied(_) | Waiter::Failed => unreachable!("a request is claimed once"),
        }
        Claim::Taken
    }

    /// The channel is closed: all that wait fail.
    pub(super) fn fail(&self) {
        let inner = &mut *self.0.borrow_mut();
        inner.closed = true;
        inner.matching = Matching::None;
        inner.waiters.retain(|_, waiter| !matches!(waiter, Waiter::Forgotten));
        for (_, waiter) in &mut inner.waiters {
            if let Waiter::Waiting(waker) = waiter {
                let waker = waker.take();
                *waiter = Waiter::Failed;
                waker.into_iter().for_each(Waker::wake);
            }
        }
        inner.queue.drain(..).for_each(Waker::wake);
    }

    /// How many wait.
    pub(super) fn in_flight(&self) -> usize {
        self.0.borrow().waiters.len()
    }
}

impl<In: 'static> Inner<In> {
    fn keys<R: Reply<Id: Eq + Hash>>(&mut self) -> Result<&mut Keys<R::Id>, Ambiguous>
    where
        Keys<R::Id>: ById<In>,
    {
        if let Matching::None = self.matching {
            self.matching = Matching::ById(Box::new(Keys::<R::Id>(HashMap::new())));
        }
        match &mut self.matching {
            Matching::ById(keys) => keys.as_any().downcast_mut().ok_or(Ambiguous),
            Matching::None | Matching::InOrder(_) => Err(Ambiguous),
        }
    }

    fn order(&mut self) -> Result<&mut VecDeque<usize>, Ambiguous> {
        if let Matching::None = self.matching {
            self.matching = Matching::InOrder(VecDeque::new());
        }
        match &mut self.matching {
            Matching::InOrder(order) => Ok(order),
            Matching::None | Matching::ById(_) => Err(Ambiguous),
        }
    }

    fn remove(&mut self, key: usize) {
        self.waiters.remove(key);
        self.queue.pop_front().into_iter().for_each(Waker::wake);
    }
}

impl<In: Reply> ById<In> for Keys<In::Id> {
    fn claim(&mut self, frame: &In) -> Result<usize, Unclaimed> {
        let Some(id) = frame.reply_to() else { return Err(Unclaimed::PassOn) };
        self.0.remove(&id).ok_or_else(|| frame.unclaimed())
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

impl<In: 'static, Id: Eq + Hash + 'static> Ticket<'_, In, Id> {
    /// The reply; `None`: there will be none, for the channel is closed.
    pub(super) async fn reply(mut self) -> Option<In> {
        poll_fn(|task| self.poll(task)).await
    }

    fn poll(&mut self, task: &mut Context<'_>) -> Poll<Option<In>> {
        let waiters = &mut self.requests.0.borrow_mut().waiters;
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
        let inner = &mut *self.requests.0.borrow_mut();
        if let (Waiter::Waiting(_), Matching::InOrder(_)) = (&inner.waiters[self.key], &inner.matching) {
            // The reply still comes in its turn.
            inner.waiters[self.key] = Waiter::Forgotten;
            return;
        }
        if let (Waiter::Waiting(_), Matching::ById(keys), Some(id)) =
            (&inner.waiters[self.key], &mut inner.matching, &self.id)
            && let Some(keys) = keys.as_any().downcast_mut::<Keys<Id>>()
        {
            keys.0.remove(id);
        }
        inner.remove(self.key);
    }
}
