//! Tells of connections.

use perihelion_pipeline::handlers::Logging;
use perihelion_pipeline::{Result, transport};
use tracing::Level;
use tracing::field::display;

use super::{Next, ending};
use crate::{Addresses, ChannelHandle, Connection};

// A level is part of what `tracing` makes at compile time; this one is chosen at run time.
macro_rules! event {
    ($level:expr, $($fields:tt)+) => {
        event!(@each $level, ($($fields)+), TRACE DEBUG INFO WARN ERROR)
    };
    (@each $level:expr, $fields:tt, $($name:ident)+) => {
        match $level {
            $(Level::$name => event!(@one $name, $fields),)+
        }
    };
    (@one $name:ident, ($($fields:tt)+)) => {
        tracing::event!(target: "perihelion::connections", Level::$name, $($fields)+)
    };
}

/// Logs when a connection opens, with `side`, `peer` and `local`; and when it is closed, with `duration`, the bytes
/// `received` and `sent`, and the `reason` unless that was in order. The target is `perihelion::connections`.
///
/// The bytes that pass are logged by [`dump`].
pub fn log(level: Level) -> impl AsyncFn(Connection, Next) -> Result<()> + Send + Sync + 'static {
    async move |connection: Connection, next: Next| {
        let (peer, local) = ends(connection.addresses());
        event!(level, side = ?connection.side(), peer, local, "a connection is open");
        ending::run(connection, next, move |channel, reason| closed(level, channel, reason)).await
    }
}

fn closed(level: Level, channel: &ChannelHandle, reason: Option<String>) {
    let (peer, local) = ends(channel.addresses()); // which may be known better by now
    let (received, sent) = (channel.traffic().received(), channel.traffic().sent());
    event!(
        level,
        side = ?channel.side(), peer, local, duration = ?channel.alive(), received, sent, reason,
        "a connection is closed"
    );
}

fn ends(addresses: Option<Addresses>) -> (Option<impl tracing::Value>, Option<impl tracing::Value>) {
    addresses.map(|ends| (display(ends.peer), display(ends.local))).unzip()
}

/// Logs the bytes that pass, as [`Logging`] does: as they are where this middleware stands, so encrypted if TLS is put on
/// the connection further in.
pub fn dump(level: Level) -> impl AsyncFn(Connection, Next) -> Result<()> + Send + Sync + 'static {
    async move |connection: Connection, next: Next| {
        let stage = Logging::new("connection", level).hex_dump();
        next.run(connection.upgrade(transport().then(stage)).await?).await
    }
}
