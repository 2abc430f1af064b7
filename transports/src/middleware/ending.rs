//! How a connection has ended, for middleware that tells of it.

use perihelion_pipeline::Result;

use super::Next;
use crate::{ChannelHandle, Connection, ConnectionError};

/// Hands the connection on, waits until it is closed, and tells how it has ended: once, and also where the rest of its
/// way is dropped or panics. The reason is that of the close, or what the rest has met with; `None` is in order.
pub(super) async fn run(
    connection: Connection,
    next: Next,
    tell: impl FnOnce(&ChannelHandle, Option<String>),
) -> Result<()> {
    let unfinished = Some("its function panicked, or its worker stopped".to_owned());
    let mut ending = Ending { channel: connection.handle(), reason: unfinished, tell: Some(tell) };
    let result = next.run(connection).await;
    let reason = ending.channel.closed().await;
    ending.reason = reason.or_else(|| failure(&result));
    result
}

/// What a connection's function has failed with: that it found the connection closed in order is no failure.
fn failure(result: &Result<()>) -> Option<String> {
    let error = result.as_ref().err()?;
    match error.downcast_ref() {
        Some(ConnectionError::Closed { reason: None }) => None,
        _ => Some(error.to_string()),
    }
}

struct Ending<F: FnOnce(&ChannelHandle, Option<String>)> {
    channel: ChannelHandle,
    reason: Option<String>,
    tell: Option<F>,
}

impl<F: FnOnce(&ChannelHandle, Option<String>)> Drop for Ending<F> {
    fn drop(&mut self) {
        if let Some(tell) = self.tell.take() {
            tell(&self.channel, self.reason.take());
        }
    }
}
