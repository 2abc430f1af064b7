//! Counts connections, for all threads to see.

use perihelion_pipeline::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::{Next, ending};
use crate::Connection;

/// What is counted of connections. Clones are the same numbers: one is given to [`measure`], the others are read by
/// whoever wants to know, on any thread.
#[derive(Clone, Debug, Default)]
pub struct ConnectionMetrics(Arc<Counts>);

/// Written once when a connection opens and once when it is closed, so that it matters little that cores share them.
#[derive(Debug, Default)]
struct Counts {
    total: AtomicU64,
    closed: AtomicU64,
    failed: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    nanoseconds: AtomicU64,
}

/// What was counted of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionsReport {
    /// Connections that are open.
    pub open: u64,
    /// Connections that there have been, with those that are open.
    pub total: u64,
    /// Connections that were closed for a reason, or whose function failed: those that the other side has reset or this
    /// one refused, for example.
    pub failed: u64,
    /// Bytes that closed connections have received.
    pub received: u64,
    /// Bytes that closed connections have sent.
    pub sent: u64,
    /// How long closed connections were open, all together.
    pub duration: Duration,
}

impl ConnectionMetrics {
    /// What was counted so far.
    pub fn report(&self) -> ConnectionsReport {
        let counts = &*self.0;
        let closed = counts.closed.load(Relaxed); // before the total, which is never less
        let total = counts.total.load(Relaxed);
        ConnectionsReport {
            open: total.saturating_sub(closed),
            total,
            failed: counts.failed.load(Relaxed),
            received: counts.received.load(Relaxed),
            sent: counts.sent.load(Relaxed),
            duration: Duration::from_nanos(counts.nanoseconds.load(Relaxed)),
        }
    }
}

/// Counts connections, with what comes of them in the middleware inside this one. The numbers are a
/// [feature](perihelion_pipeline::Features) of each connection, so that what stands inside finds them.
pub fn measure(
    metrics: ConnectionMetrics,
) -> impl AsyncFn(Connection, Next) -> Result<()> + Send + Sync + 'static {
    async move |connection: Connection, next: Next| {
        connection.features().insert(metrics.clone());
        let counts = Arc::clone(&metrics.0);
        counts.total.fetch_add(1, Relaxed);
        ending::run(connection, next, move |channel, reason| {
            counts.failed.fetch_add(reason.is_some().into(), Relaxed);
            counts.received.fetch_add(channel.traffic().received(), Relaxed);
            counts.sent.fetch_add(channel.traffic().sent(), Relaxed);
            counts.nanoseconds.fetch_add(channel.alive().as_nanos() as u64, Relaxed);
            counts.closed.fetch_add(1, Relaxed);
        })
        .await
    }
}
