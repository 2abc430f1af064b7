//! The asynchronous function that a connection belongs to, run by the connection's channel.
//!
//! It could be a task like any other. But a frame would then wake the task, whose reply would wake the channel, at about
//! a tenth of the cost of an echo. Here the channel calls the function itself when a frame has come for it, and takes
//! what it sends when it has returned.

use perihelion_runtime::{prefetch, spawn_local};
use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::task::{Context, Waker};

/// The asynchronous function that a connection belongs to.
pub(crate) struct Function(Pin<Box<dyn Future<Output = ()>>>);

/// Seen by a function's channel and by what the function waits for.
#[derive(Default)]
pub(crate) struct Turn {
    /// The channel's waker, while the channel is calling the function.
    running: RefCell<Option<Waker>>,
    /// Something has come for it.
    due: Cell<bool>,
}

/// Who waits for what a channel delivers.
pub(crate) enum Receiver {
    Task(Waker),
    /// The channel's own function.
    Function,
}

impl Function {
    pub(crate) fn new(future: impl Future<Output = ()> + 'static) -> Self {
        Function(Box::pin(future))
    }

    #[inline]
    pub(crate) fn prefetch(&self) {
        prefetch(&*self.0);
    }

    /// Calls it. True when it is done.
    pub(crate) fn run(&mut self, turn: &Turn, channel: &Waker) -> bool {
        struct Running<'a>(&'a Turn);
        impl Drop for Running<'_> {
            fn drop(&mut self) {
                self.0.running.take();
            }
        }
        turn.due.set(false);
        turn.running.replace(Some(channel.clone()));
        let _running = Running(turn);
        self.0.as_mut().poll(&mut Context::from_waker(channel)).is_ready()
    }

    /// Its channel is closed: it goes on as a task.
    pub(crate) fn spawn(self) {
        drop(spawn_local(self.0));
    }
}

impl Turn {
    /// Whether something has come for the function that wakes nobody.
    pub(crate) fn is_due(&self) -> bool {
        self.due.get()
    }

    /// Whether the channel is calling its function now, and so will look at what that has done.
    pub(crate) fn is_running(&self) -> bool {
        self.running.borrow().is_some()
    }
}

impl Receiver {
    /// Whoever polls with this task's waker. A part of the function may have one of its own, by which it knows that it is
    /// to be polled.
    pub(crate) fn of(task: &Context<'_>, turn: &Turn) -> Self {
        let function = turn.running.borrow();
        if function.as_ref().is_some_and(|function| function.will_wake(task.waker())) {
            Receiver::Function
        } else {
            Receiver::Task(task.waker().clone())
        }
    }

    pub(crate) fn wake(self, turn: &Turn) {
        match self {
            Receiver::Task(waker) => waker.wake(),
            Receiver::Function => turn.due.set(true),
        }
    }
}
