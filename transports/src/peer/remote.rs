//! A peer from anywhere: other cores, and threads that are no workers.

use futures_channel::oneshot;
use perihelion_runtime::spawn_local;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::{Inner, Peer};
use crate::ConnectionError;
use crate::line::{Line, Number};

/// Orders that wait for the peer's core.
const ORDERS_MAX: usize = 64;

/// A peer from anywhere: a handle that may go to other cores and other threads. What is asked of it is done on the
/// peer's own core, in order. It does not keep the connection open. Made by [`Peer::remote`].
///
/// Of what is asked by all clones 64 things wait for the peer's core; whoever asks for more waits before that.
pub struct RemotePeer<In: 'static, Out: 'static>(Arc<Handles<In, Out>>);

/// Tells when the last handle is dropped.
struct Handles<In: 'static, Out: 'static>(Arc<Mutex<Orders<In, Out>>>);

/// What waits for the peer's core. Nobody's code is called while it is locked.
struct Orders<In: 'static, Out: 'static> {
    waiting: VecDeque<Order<In, Out>>,
    /// Those who wait until there is room.
    line: Line,
    state: State,
    /// Of the task that does what is ordered.
    obeying: Option<Waker>,
}

#[derive(Clone)]
enum State {
    Open,
    /// There are no handles any more.
    Unused,
    /// There is no peer any more.
    Closed {
        reason: Option<String>,
    },
}

enum Order<In: 'static, Out: 'static> {
    Send(Out, oneshot::Sender<Result<(), ConnectionError>>),
    Run(Call<In, Out>),
}

type Call<In, Out> = Box<dyn FnOnce(Peer<In, Out>) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

impl<In, Out> Peer<In, Out> {
    /// A handle for other cores and threads.
    ///
    /// # Panics
    /// Outside a worker.
    pub fn remote(&self) -> RemotePeer<In, Out> {
        let (waiting, line) = (VecDeque::new(), Line::default());
        let orders = Orders { waiting, line, state: State::Open, obeying: None };
        let handles = Handles(Arc::new(Mutex::new(orders)));
        let (peer, mut closed) = (Rc::downgrade(&self.0), self.closed());
        let obeyed = Obeyed(Arc::clone(&handles.0));
        drop(spawn_local(async move {
            let mut obeying = pin!(obey(&peer, &obeyed.0));
            let reason = poll_fn(|task| match Pin::new(&mut closed).poll(task) {
                Poll::Pending => obeying.as_mut().poll(task).map(|()| None),
                Poll::Ready(reason) => Poll::Ready(reason),
            });
            let reason = reason.await;
            obeyed.end(reason);
        }));
        RemotePeer(Arc::new(handles))
    }
}

/// Does what comes, until there is no handle or no peer any more.
async fn obey<In, Out>(peer: &Weak<Inner<In, Out>>, orders: &Mutex<Orders<In, Out>>) {
    while let Some(order) = poll_fn(|task| poll_take(orders, task)).await {
        let Some(peer) = peer.upgrade().map(Peer) else { return };
        match order {
            Order::Send(frame, reply) => {
                let sender = peer.sender();
                drop(peer); // while this waits for room it keeps nothing open
                drop(reply.send(sender.send(frame).await)); // one after the other
            }
            Order::Run(call) => drop(spawn_local(call(peer))),
        }
    }
}

/// Whoever orders something is told when nobody obeys any more, also where the task is dropped.
struct Obeyed<In: 'static, Out: 'static>(Arc<Mutex<Orders<In, Out>>>);

impl<In, Out> Obeyed<In, Out> {
    fn end(&self, reason: Option<String>) {
        let mut orders = lock(&self.0);
        if let State::Closed { .. } = orders.state {
            return;
        }
        orders.state = State::Closed { reason };
        let (left, waiting) = (std::mem::take(&mut orders.waiting), orders.line.take());
        drop(orders);
        drop(left);
        waiting.for_each(Waker::wake);
    }
}

impl<In, Out> Drop for Obeyed<In, Out> {
    fn drop(&mut self) {
        self.end(None);
    }
}

/// The next order. `None`: there are no handles any more.
fn poll_take<In, Out>(
    orders: &Mutex<Orders<In, Out>>,
    task: &mut Context<'_>,
) -> Poll<Option<Order<In, Out>>> {
    let mut orders = lock(orders);
    if let Some(order) = orders.waiting.pop_front() {
        let next = orders.admit();
        drop(orders);
        next.into_iter().for_each(Waker::wake);
        return Poll::Ready(Some(order));
    }
    if let State::Open = orders.state {
        orders.obeying = Some(task.waker().clone());
        return Poll::Pending;
    }
    Poll::Ready(None)
}

impl<In, Out> Orders<In, Out> {
    fn has_room(&self) -> bool {
        self.waiting.len() + self.line.admitted() < ORDERS_MAX
    }

    /// Lets the next one in who waits, if there is room, and who is to be woken.
    fn admit(&mut self) -> Option<Waker> {
        if self.has_room() { self.line.admit() } else { None }
    }

    fn closed(&self) -> Option<ConnectionError> {
        match &self.state {
            State::Closed { reason } => Some(ConnectionError::Closed { reason: reason.clone() }),
            State::Open | State::Unused => None,
        }
    }
}

/// Nobody's code is called under the lock, so that no panic leaves anything half done.
fn lock<In, Out>(orders: &Mutex<Orders<In, Out>>) -> MutexGuard<'_, Orders<In, Out>> {
    orders.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<In, Out> RemotePeer<In, Out> {
    /// Sends a frame, as [`send`](super::PeerSender::send) does on the peer's core.
    ///
    /// # Errors
    /// [`ConnectionError::Closed`]: the frame will not be sent.
    pub async fn send(&self, frame: Out) -> Result<(), ConnectionError>
    where
        Out: Send,
    {
        let (reply, answer) = oneshot::channel();
        self.order(Order::Send(frame, reply)).await?;
        answer.await.unwrap_or_else(|_| Err(self.closed_error()))
    }

    /// Calls an asynchronous function with the peer, as a task on its core, and gives what that gives. Dropped, the
    /// future leaves the function alone.
    ///
    /// ```
    /// # use perihelion_transports::{ConnectionError, RemotePeer};
    /// # async fn example(remote: RemotePeer<String, String>) -> Result<(), ConnectionError> {
    /// let dropped = remote.run(async |peer| peer.statistics().dropped).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ConnectionError::Closed`]: the peer is gone, or the function has panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        call: impl AsyncFnOnce(Peer<In, Out>) -> T + Send + 'static,
    ) -> Result<T, ConnectionError> {
        let (reply, answer) = oneshot::channel();
        let run: Call<In, Out> = Box::new(|peer| Box::pin(async move { drop(reply.send(call(peer).await)) }));
        self.order(Order::Run(run)).await?;
        answer.await.map_err(|_| self.closed_error())
    }

    async fn order(&self, order: Order<In, Out>) -> Result<(), ConnectionError> {
        let mut order = Some(order);
        let mut place = Place { orders: &self.0.0, number: Number::default() };
        poll_fn(|task| {
            let mut orders = lock(place.orders);
            if let Some(closed) = orders.closed() {
                return Poll::Ready(Err(closed));
            }
            if !orders.line.has_admitted(&place.number) && !orders.has_room() {
                orders.line.wait(&mut place.number, task);
                return Poll::Pending;
            }
            orders.waiting.extend(order.take());
            let obeying = orders.obeying.take();
            drop(orders);
            obeying.into_iter().for_each(Waker::wake);
            Poll::Ready(Ok(()))
        })
        .await
    }

    fn closed_error(&self) -> ConnectionError {
        lock(&self.0.0).closed().unwrap_or(ConnectionError::Closed { reason: None })
    }
}

/// A place among those who wait until there is room, until it is dropped.
struct Place<'a, In: 'static, Out: 'static> {
    orders: &'a Mutex<Orders<In, Out>>,
    number: Number,
}

impl<In, Out> Drop for Place<'_, In, Out> {
    fn drop(&mut self) {
        let mut orders = lock(self.orders);
        let was_admitted = orders.line.leave(&self.number);
        let next = if was_admitted { orders.admit() } else { None }; // it may not have used its place
        drop(orders);
        next.into_iter().for_each(Waker::wake);
    }
}

impl<In, Out> Drop for Handles<In, Out> {
    fn drop(&mut self) {
        let mut orders = lock(&self.0);
        if let State::Open = orders.state {
            orders.state = State::Unused;
        }
        let obeying = orders.obeying.take();
        drop(orders);
        obeying.into_iter().for_each(Waker::wake);
    }
}

impl<In, Out> Clone for RemotePeer<In, Out> {
    fn clone(&self) -> Self {
        RemotePeer(Arc::clone(&self.0))
    }
}
