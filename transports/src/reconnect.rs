//! Keeps a connection up: makes it again whenever it ends, with growing delays while that fails.

use perihelion_runtime::{now, sleep_until, spawn_local};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use crate::{Backoff, ChannelHandle, Connection, Peer};

/// Keeps a connection up, from a task of its worker. It is made again whenever it ends, for whatever reason, after a
/// delay of a [`Backoff`]; the delays begin anew when a connection has lasted for a while. [`Client::keep_connected`]
/// makes one for channels.
///
/// Dropped, it stops: an attempt is given up, and an open connection closed in order.
///
/// [`Client::keep_connected`]: crate::Client::keep_connected
pub struct Reconnect {
    shared: Rc<Shared>,
    /// The change that was looked at last.
    seen: u64,
}

/// How a connection stands that is kept up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReconnectState {
    /// It is being made.
    Connecting {
        /// Which attempt this is, from 1, since the last connection that was stable.
        attempt: u32,
    },
    /// It is up.
    Connected,
    /// It will be made again.
    Waiting {
        /// When.
        until: Instant,
        /// Why the connection ended, or could not be made.
        cause: String,
    },
    /// It will not be made again: there were as many attempts as there may be.
    GaveUp {
        /// Why the last connection ended, or could not be made.
        cause: String,
    },
    /// It will not be made again: it was told to stop.
    Stopped,
}

/// A connection that can be kept up.
pub trait Connected {
    /// Closes it in order, behind what was written. Does nothing to one that is closed.
    fn close(&self);

    /// Waits until it is closed, and gives the reason unless it was closed in order.
    fn closed(&self) -> impl Future<Output = Option<String>>;
}

impl Connected for ChannelHandle {
    fn close(&self) {
        drop(self.close());
    }

    fn closed(&self) -> impl Future<Output = Option<String>> {
        self.closed()
    }
}

/// A peer has ended when the other side has: whoever waits for its end closes it then. What was received before stays to
/// be received.
///
/// Kept up, it belongs to its [`Reconnect`]; a clone goes to whoever uses it.
impl<In, Out> Connected for Peer<In, Out> {
    fn close(&self) {
        drop(ChannelHandle::close(self));
    }

    async fn closed(&self) -> Option<String> {
        self.ended().await;
        ChannelHandle::close(self).await
    }
}

impl Connected for Connection {
    fn close(&self) {
        drop(ChannelHandle::close(self));
    }

    fn closed(&self) -> impl Future<Output = Option<String>> {
        ChannelHandle::closed(self)
    }
}

/// What the handle and its task share.
struct Shared {
    state: RefCell<ReconnectState>,
    changes: Cell<u64>,
    /// Of whom waits for a change.
    observer: Cell<Option<Waker>>,
    stopping: Cell<bool>,
    /// Of the task.
    keeper: Cell<Option<Waker>>,
}

impl Reconnect {
    /// Keeps up what `connect` makes. The delays begin anew after a connection that has lasted for `stable`: those of a
    /// server that accepts and closes at once go on growing.
    ///
    /// ```no_run
    /// # use perihelion_pipeline::{Raw, codec};
    /// # use perihelion_transports::{Backoff, Client, ReconnectState, Reconnect};
    /// # use std::time::Duration;
    /// # async fn example(client: Client) {
    /// let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    /// let mut kept = Reconnect::new(backoff, Duration::from_secs(10), async move || {
    ///     let address = "tcp://localhost:7000".parse()?;
    ///     client.connect(&address, codec(Raw).service(async |bytes| Ok(bytes))).await
    /// });
    /// while kept.changed().await != ReconnectState::Connected {}
    /// kept.close().await;
    /// # }
    /// ```
    ///
    /// # Panics
    /// Outside a worker.
    pub fn new<C, E>(
        backoff: Backoff,
        stable: Duration,
        connect: impl AsyncFnMut() -> Result<C, E> + 'static,
    ) -> Self
    where
        C: Connected + 'static,
        E: fmt::Display + 'static,
    {
        let shared = Rc::new(Shared {
            state: RefCell::new(ReconnectState::Connecting { attempt: 1 }),
            changes: Cell::new(0),
            observer: Cell::default(),
            stopping: Cell::new(false),
            keeper: Cell::default(),
        });
        drop(spawn_local(keep(Keeper(Rc::clone(&shared)), backoff, stable, connect)));
        Reconnect { shared, seen: 0 }
    }

    /// How it stands.
    pub fn state(&self) -> ReconnectState {
        self.shared.state.borrow().clone()
    }

    /// Waits until it stands otherwise than when this was called last, and gives how. When it changes several times
    /// before this is polled, that is the last of them. Once it has given up or stopped, it gives that each time.
    pub async fn changed(&mut self) -> ReconnectState {
        poll_fn(|task| {
            let shared = &self.shared;
            if self.seen == shared.changes.get() && !shared.state.borrow().is_final() {
                shared.observer.set(Some(task.waker().clone()));
                return Poll::Pending;
            }
            self.seen = shared.changes.get();
            Poll::Ready(self.state())
        })
        .await
    }

    /// Stops, and waits until the connection is closed.
    pub async fn close(&mut self) {
        self.shared.stop();
        while !self.changed().await.is_final() {}
    }
}

impl Drop for Reconnect {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl ReconnectState {
    fn is_final(&self) -> bool {
        matches!(self, ReconnectState::GaveUp { .. } | ReconnectState::Stopped)
    }
}

impl Shared {
    fn set(&self, state: ReconnectState) {
        self.state.replace(state);
        self.changes.set(self.changes.get() + 1);
        if let Some(observer) = self.observer.take() {
            observer.wake();
        }
    }

    fn stop(&self) {
        self.stopping.set(true);
        if let Some(keeper) = self.keeper.take() {
            keeper.wake();
        }
    }

    /// What the future gives, unless it is to stop before; then the future is dropped.
    async fn unless_stopped<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        poll_fn(|task| {
            if self.stopping.get() {
                return Poll::Ready(None);
            }
            self.keeper.set(Some(task.waker().clone()));
            future.as_mut().poll(task).map(Some)
        })
        .await
    }
}

/// The task's side. However the task ends, nobody waits for a change that doesn't come.
struct Keeper(Rc<Shared>);

impl Drop for Keeper {
    fn drop(&mut self) {
        if self.0.state.borrow().is_final() {
            return;
        }
        self.0.set(match std::thread::panicking() {
            true => ReconnectState::GaveUp { cause: "making it panicked".into() },
            false => ReconnectState::Stopped,
        });
    }
}

async fn keep<C: Connected, E: fmt::Display>(
    keeper: Keeper,
    mut backoff: Backoff,
    stable: Duration,
    mut connect: impl AsyncFnMut() -> Result<C, E>,
) {
    let shared = &keeper.0;
    let mut attempt = 0u32;
    loop {
        attempt = attempt.saturating_add(1);
        shared.set(ReconnectState::Connecting { attempt });
        let cause = match shared.unless_stopped(connect()).await {
            None => return,
            Some(Err(error)) => error.to_string(),
            Some(Ok(connection)) => {
                shared.set(ReconnectState::Connected);
                let since = now();
                let Some(reason) = shared.unless_stopped(connection.closed()).await else {
                    connection.close();
                    connection.closed().await;
                    return;
                };
                if now() - since >= stable {
                    attempt = 0;
                    backoff.reset();
                }
                reason.unwrap_or_else(|| "it was closed in order".into())
            }
        };
        let Some(delay) = backoff.next() else {
            tracing::warn!(%cause, attempt, "a connection is given up");
            return shared.set(ReconnectState::GaveUp { cause });
        };
        tracing::debug!(%cause, ?delay, "a connection will be made again");
        let until = now() + delay;
        shared.set(ReconnectState::Waiting { until, cause });
        if shared.unless_stopped(sleep_until(until)).await.is_none() {
            return;
        }
    }
}
