//! A peer from anywhere: other cores, and threads that are no workers.

use futures_channel::{mpsc, oneshot};
use perihelion_runtime::spawn_local;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::Poll;

use super::{Inner, Peer};
use crate::ConnectionError;

/// Orders that wait for the peer's core, beside one for each handle.
const ORDERS_MAX: usize = 64;

/// A peer from anywhere: a handle that may go to other cores and other threads. What is asked of it is done on the
/// peer's own core, in order. It does not keep the connection open. Made by [`Peer::remote`].
pub struct RemotePeer<In: 'static, Out: 'static>(mpsc::Sender<Order<In, Out>>);

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
        let (sender, mut orders) = mpsc::channel(ORDERS_MAX);
        let (peer, mut closed) = (Rc::downgrade(&self.0), self.closed());
        drop(spawn_local(async move {
            let mut obeying = pin!(obey(&peer, &mut orders));
            poll_fn(|task| match Pin::new(&mut closed).poll(task) {
                Poll::Ready(_) => Poll::Ready(()),
                Poll::Pending => obeying.as_mut().poll(task),
            })
            .await;
        }));
        RemotePeer(sender)
    }
}

/// Does what comes, until there is no handle or no peer any more.
async fn obey<In, Out>(peer: &Weak<Inner<In, Out>>, orders: &mut mpsc::Receiver<Order<In, Out>>) {
    while let Some(order) =
        poll_fn(|task| futures_core::Stream::poll_next(Pin::new(&mut *orders), task)).await
    {
        let Some(peer) = peer.upgrade().map(Peer) else { return };
        match order {
            // One after the other.
            Order::Send(frame, reply) => drop(reply.send(peer.send(frame).await)),
            Order::Run(call) => drop(spawn_local(call(peer))),
        }
    }
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
        answer.await.unwrap_or(Err(ConnectionError::Closed { reason: None }))
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
        answer.await.map_err(|_| ConnectionError::Closed { reason: None })
    }

    async fn order(&self, order: Order<In, Out>) -> Result<(), ConnectionError> {
        let mut sender = self.0.clone();
        let closed = |_| ConnectionError::Closed { reason: None };
        poll_fn(|task| sender.poll_ready(task)).await.map_err(closed)?;
        sender.start_send(order).map_err(closed)
    }
}

impl<In, Out> Clone for RemotePeer<In, Out> {
    fn clone(&self) -> Self {
        RemotePeer(self.0.clone())
    }
}
