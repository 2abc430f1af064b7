//! Ends connections whose time is over.

use perihelion_pipeline::Result;
use perihelion_pipeline::handlers::{IdleKind, IdleTooLong};
use perihelion_runtime::{now, timeout};
use std::fmt;
use std::pin::{Pin, pin};
use std::time::Duration;

use super::Next;
use crate::{ChannelHandle, Connection, ConnectionError};

/// A connection has been open for as long as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LifetimeOver {
    /// The limit.
    pub limit: Duration,
}

impl fmt::Display for LifetimeOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the connection was open for {:?}, as long as it may be", self.limit)
    }
}

impl std::error::Error for LifetimeOver {}

/// Closes a connection in order when it has been open for this long. The error of what comes next is then
/// [`LifetimeOver`], unless it has one of its own.
pub fn lifetime(limit: Duration) -> impl AsyncFn(Connection, Next) -> Result<()> + Send + Sync + 'static {
    async move |connection: Connection, next: Next| {
        let channel = connection.handle();
        let mut rest = pin!(next.run(connection));
        match timeout(limit.saturating_sub(channel.alive()), rest.as_mut()).await {
            Ok(done) => done,
            Err(_) => expire(&channel, rest, LifetimeOver { limit }).await,
        }
    }
}

/// Closes a connection in order when no byte has been received or sent for this long, whatever protocol it speaks. The
/// error of what comes next is then [`IdleTooLong`], unless it has one of its own.
///
/// The clock stands still while this side has nothing to send and has stopped reading: because a task has not read what
/// has come (`channel.unread_bytes_max`), in a pause, or while a stage works on a message. An asynchronous function that
/// works on something else for this long, while nothing moves, is cut off;
/// [`Idle`](perihelion_pipeline::handlers::Idle) counts what moves at one place of a pipeline.
///
/// # Panics
/// If the time is zero.
pub fn idle(limit: Duration) -> impl AsyncFn(Connection, Next) -> Result<()> + Send + Sync + 'static {
    assert!(!limit.is_zero(), "a connection is idle after some time, not at once");
    async move |connection: Connection, next: Next| {
        let channel = connection.handle();
        let mut rest = pin!(next.run(connection));
        loop {
            let idle = channel
                .traffic()
                .idle_since()
                .map_or(Duration::ZERO, |since| now().saturating_duration_since(since));
            let Some(left) = limit.checked_sub(idle).filter(|left| !left.is_zero()) else {
                return expire(&channel, rest, IdleTooLong { kind: IdleKind::Both, limit }).await;
            };
            if let Ok(done) = timeout(left, rest.as_mut()).await {
                return done;
            }
        }
    }
}

/// Closes the channel, and lets the rest of its way come to its end.
async fn expire(
    channel: &ChannelHandle,
    rest: Pin<&mut impl Future<Output = Result<()>>>,
    reason: impl std::error::Error + Send + Sync + 'static,
) -> Result<()> {
    tracing::debug!(peer = ?channel.addresses(), %reason, "a connection is closed");
    drop(channel.close());
    match rest.await {
        Err(error) if error.downcast_ref::<ConnectionError>().is_none() => Err(error),
        _ => Err(reason.into()),
    }
}
