//! What clients may take: how they come back, and how many connections they keep.

use serde::Deserialize;
use std::time::Duration;

/// How clients come back to a server that is gone.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReconnectConfig {
    /// The most that the first delay can be, in milliseconds.
    pub first_ms: u64,
    /// The most that any delay can be, in milliseconds.
    pub max_ms: u64,
    /// How often in a row to try again; 0 is without limit.
    pub attempts_max: u32,
    /// How long a connection must have been up for the delays to begin anew, in milliseconds.
    pub stable_ms: u64,
}

/// What each pool of connections may take. A pool belongs to one worker.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PoolConfig {
    /// Connections that it has at once, those that are being made included.
    pub connections_max: usize,
    /// How long a connection may be idle, in milliseconds; then it is closed.
    pub idle_ms: u64,
    /// How old a connection may be when it comes back or is idle, in milliseconds; then it is closed. Up to a tenth is
    /// taken off at random, so that they don't all end at once. 0 is without limit.
    pub lifetime_ms: u64,
    /// How long to wait for a connection when all are in use, in milliseconds.
    pub wait_ms: u64,
    /// How many may wait at once; more are refused.
    pub waiting_max: usize,
    /// A connection that has been idle for so long is checked before it is given out, in milliseconds; 0 is always.
    pub check_after_ms: u64,
    /// How long such a check may take, in milliseconds.
    pub check_ms: u64,
}

impl Default for ReconnectConfig {
    fn default() -> Self {
        ReconnectConfig { first_ms: 100, max_ms: 30_000, attempts_max: 0, stable_ms: 10_000 }
    }
}

impl Default for PoolConfig {
    fn default() -> Self {
        PoolConfig {
            connections_max: 16,
            idle_ms: 60_000,
            lifetime_ms: 0,
            wait_ms: 5_000,
            waiting_max: 1024,
            check_after_ms: 1_000,
            check_ms: 1_000,
        }
    }
}

impl ReconnectConfig {
    /// The most that the first delay can be.
    pub fn first(&self) -> Duration {
        Duration::from_millis(self.first_ms)
    }

    /// The most that any delay can be.
    pub fn max(&self) -> Duration {
        Duration::from_millis(self.max_ms)
    }

    /// How long a connection must have been up for the delays to begin anew.
    pub fn stable(&self) -> Duration {
        Duration::from_millis(self.stable_ms)
    }
}

impl PoolConfig {
    /// How long a connection may be idle.
    pub fn idle(&self) -> Duration {
        Duration::from_millis(self.idle_ms)
    }

    /// How old a connection may be. `None`: without limit.
    pub fn lifetime(&self) -> Option<Duration> {
        (self.lifetime_ms > 0).then(|| Duration::from_millis(self.lifetime_ms))
    }

    /// How long to wait for a connection.
    pub fn wait(&self) -> Duration {
        Duration::from_millis(self.wait_ms)
    }

    /// How long a connection must have been idle to be checked.
    pub fn check_after(&self) -> Duration {
        Duration::from_millis(self.check_after_ms)
    }

    /// How long a check may take.
    pub fn check(&self) -> Duration {
        Duration::from_millis(self.check_ms)
    }
}
