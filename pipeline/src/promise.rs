//! Write promises: a marker that follows what was written, and a future that resolves when the kernel has taken it.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::ChannelClosed;

/// Travels towards the transport behind what was written. Dropped on the way, it fails its future, which so never
/// hangs.
pub struct Promise(Rc<Shared>);

/// Resolves when the kernel has taken everything that was written before it; fails when the channel closes before.
/// What is written is sent at the end of the turn, so that nothing need be flushed for it. Dropped, it costs nothing.
#[must_use = "nobody learns whether the bytes were taken unless it is awaited; drop it on purpose otherwise"]
pub struct Written(Rc<Shared>);

struct Shared {
    state: Cell<State>,
    waiter: Cell<Option<Waker>>,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Waiting,
    Taken,
    Lost,
}

/// A promise with its future.
pub(crate) fn promise() -> (Promise, Written) {
    let shared = Rc::new(Shared { state: Cell::new(State::Waiting), waiter: Cell::new(None) });
    (Promise(Rc::clone(&shared)), Written(shared))
}

impl Promise {
    /// Everything before it has been taken.
    pub(crate) fn resolve(self) {
        self.settle(State::Taken);
    }

    fn settle(&self, state: State) {
        if self.0.state.get() == State::Waiting {
            self.0.state.set(state);
            if let Some(waiter) = self.0.waiter.take() {
                waiter.wake();
            }
        }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.settle(State::Lost);
    }
}

impl Future for Written {
    type Output = Result<(), ChannelClosed>;

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Result<(), ChannelClosed>> {
        match self.0.state.get() {
            State::Taken => Poll::Ready(Ok(())),
            State::Lost => Poll::Ready(Err(ChannelClosed)),
            State::Waiting => {
                self.0.waiter.set(Some(task.waker().clone()));
                Poll::Pending
            }
        }
    }
}
