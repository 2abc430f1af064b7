//! So many connections at once, and no more.

use futures_channel::oneshot;
use perihelion_pipeline::Result;
use perihelion_runtime::timeout;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use super::Next;
use crate::{Connection, ConnectionError};

/// How many connections there may be at once, in all workers, servers and clients that have a clone of it; and what
/// becomes of those that come when there are as many.
///
/// A server has a limit of its own in its configuration (`server.connections_max`), which keeps connections out before
/// there is a channel. This one is for what several share, for clients, and for connections that wait for so long and no
/// longer.
#[derive(Clone)]
pub struct ConnectionLimit(Arc<Shared>);

struct Shared {
    max: usize,
    waiting_max: usize,
    /// How long one may wait.
    wait: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: usize,
    /// Those that wait, in the order in which they came. Among them may be some that have given up.
    waiting: VecDeque<oneshot::Sender<()>>,
    refused: u64,
}

/// A connection's place. Dropped, it is the next one's that waits.
struct Place(ConnectionLimit);

/// A connection that waits for a place. Dropped, it waits no more.
struct Turn {
    came: oneshot::Receiver<()>,
    limit: ConnectionLimit,
}

impl ConnectionLimit {
    /// Up to `max` connections; those that come when there are as many are reset at once.
    ///
    /// # Panics
    /// If `max` is 0.
    pub fn refuse(max: usize) -> Self {
        Self::wait(max, 0, Duration::ZERO)
    }

    /// Up to `max` connections; of those that come when there are as many, up to `waiting_max` wait for up to this time,
    /// in the order in which they came. The others are reset.
    ///
    /// # Panics
    /// If `max` is 0.
    pub fn wait(max: usize, waiting_max: usize, wait: Duration) -> Self {
        assert!(max > 0, "with a limit of 0 no connection would ever be let in");
        ConnectionLimit(Arc::new(Shared { max, waiting_max, wait, state: Mutex::default() }))
    }

    /// Connections that have a place.
    pub fn open(&self) -> usize {
        self.state().open
    }

    /// Connections that wait for one.
    pub fn waiting(&self) -> usize {
        self.state().waiting.iter().filter(|waiting| !waiting.is_canceled()).count()
    }

    /// Connections that were refused, or have waited in vain.
    pub fn refused(&self) -> u64 {
        self.state().refused
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for this connection, perhaps after a while.
    async fn place(&self, connection: &Connection) -> Result<Place, ConnectionError> {
        let turn = match self.ask() {
            Ok(place) => return Ok(place),
            Err(turn) => turn,
        };
        if let Some(turn) = turn {
            // One that is closed needs no place any more.
            let (mut turn, mut closed) = (pin!(turn.come()), connection.closed());
            let come = poll_fn(|task| match Pin::new(&mut closed).poll(task) {
                Poll::Ready(reason) => Poll::Ready(Err(ConnectionError::Closed { reason })),
                Poll::Pending => turn.as_mut().poll(task).map(Ok),
            });
            if let Ok(come) = timeout(self.0.wait, come).await {
                return come;
            }
        }
        self.state().refused += 1;
        Err(ConnectionError::NoPlace { max: self.0.max })
    }

    /// A place; or else a turn, if one may wait.
    fn ask(&self) -> Result<Place, Option<Turn>> {
        let mut state = self.state();
        if state.open < self.0.max {
            state.open += 1;
            return Ok(Place(self.clone()));
        }
        if state.waiting.len() >= self.0.waiting_max {
            state.waiting.retain(|waiting| !waiting.is_canceled());
        }
        Err((state.waiting.len() < self.0.waiting_max).then(|| {
            let (turn, came) = oneshot::channel();
            state.waiting.push_back(turn);
            Turn { came, limit: self.clone() }
        }))
    }

    /// Whose turn it is. Without anybody the place is free.
    fn next(&self) -> Option<oneshot::Sender<()>> {
        let mut state = self.state();
        let next = state.waiting.pop_front();
        state.open -= usize::from(next.is_none());
        next
    }
}

impl Turn {
    async fn come(mut self) -> Place {
        // The other end is kept by the limit, which is kept by this one.
        let _ = (&mut self.came).await;
        Place(self.limit.clone())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.came.close();
        if let Ok(Some(())) = self.came.try_recv() {
            drop(Place(self.limit.clone())); // it came, and nobody has taken it
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        while let Some(next) = self.0.next() {
            if next.send(()).is_ok() {
                return;
            }
        }
    }
}

/// Keeps the number of connections within a limit. One that gets no place is reset, and what comes next is not called: the
/// error is [`ConnectionError::NoPlace`].
///
/// A connection has its place until it is closed; while it waits for one, what the other side sends is not read beyond
/// `channel.unread_bytes_max`.
pub fn limit(limit: ConnectionLimit) -> impl AsyncFn(Connection, Next) -> Result<()> + Send + Sync + 'static {
    async move |connection: Connection, next: Next| {
        let _place = match limit.place(&connection).await {
            Ok(place) => place,
            Err(error) => {
                tracing::debug!(peer = ?connection.addresses(), %error, "a connection gets no place");
                connection.abort().await;
                return Err(error.into());
            }
        };
        let channel = connection.handle();
        let result = next.run(connection).await;
        channel.closed().await;
        result
    }
}
