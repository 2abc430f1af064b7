//! What a stage's read did.

use std::pin::Pin;

use crate::Result;

/// A future that finishes a read: polled by the channel, dropped when the channel closes.
pub type Later<T> = Pin<Box<dyn Future<Output = Result<Flow<T>>>>>;

/// What a stage's read did, and so what comes next.
pub enum Flow<T> {
    /// Pass this on; the message that was read is done with.
    Next(T),
    /// Nothing to pass on: consumed, or more input is needed.
    Done,
    /// Pass this on, then ask the stage again (`more`) before anything new.
    More(T),
    /// Ask the stage again (`more`) once the channel's waker has been woken, perhaps for another reason. No new input
    /// till then.
    Wait,
    /// No new input until this future is done; then do what it says.
    Later(Later<T>),
}

impl<T> Flow<T> {
    /// A flow that goes on when the future is done.
    pub fn later(future: impl Future<Output = Result<Flow<T>>> + 'static) -> Self {
        Flow::Later(Box::pin(future))
    }
}

/// Whether a part of a pipeline can take another message.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// It holds something: it must be resumed until it says `Ready` before it is given more.
    Held,
    /// Everything it was given is done with.
    Ready,
}

/// What a stage still holds.
pub(crate) enum Held<T> {
    Again,
    Later(Later<T>),
    Nothing,
}

impl<T> Held<T> {
    #[inline]
    pub(crate) fn is_nothing(&self) -> bool {
        matches!(self, Held::Nothing)
    }
}
