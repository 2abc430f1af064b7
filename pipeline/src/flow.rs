//! What a stage's read did.

use std::pin::Pin;

use crate::{Event, Result};

/// What happens before a flow goes on. Made by [`Flow::later`] and [`Flow::raise`].
pub struct Later<T>(pub(crate) Deferred<T>);

pub(crate) enum Deferred<T> {
    Future(LocalFuture<T>),
    Raise(Box<(Event, Flow<T>)>),
}

/// A future that finishes a read: polled by the channel, dropped when the channel closes.
pub(crate) type LocalFuture<T> = Pin<Box<dyn Future<Output = Result<Flow<T>>>>>;

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
    /// No new input until a future is done, or an event raised; then do what that says. Made by
    /// [`later`](Flow::later) and [`raise`](Flow::raise).
    Later(Later<T>),
}

impl<T> Flow<T> {
    /// A flow that goes on when the future is done.
    pub fn later(future: impl Future<Output = Result<Flow<T>>> + 'static) -> Self {
        Flow::Later(Later(Deferred::Future(Box::pin(future))))
    }

    /// A flow that raises a user event for the stages towards the tail, before the message of `then`.
    pub fn raise<E: 'static>(event: E, then: Flow<T>) -> Self {
        Flow::Later(Later(Deferred::Raise(Box::new((Event::new(event), then)))))
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
    /// In a box of its own: few stages wait for a future, and all have room for it.
    Later(Box<LocalFuture<T>>),
    Nothing,
}

impl<T> Held<T> {
    #[inline]
    pub(crate) fn is_nothing(&self) -> bool {
        matches!(self, Held::Nothing)
    }
}
