//! Connects a socket, and hands it on.

use perihelion_runtime::{Completion, Endpoint, EndpointId, Io, defer};
use socket2::Socket;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

/// A socket on its way to being connected. Dropped, it closes the socket at once.
pub(crate) struct Connecting(Rc<Attempt>);

#[derive(Default)]
struct Attempt {
    outcome: Outcome<io::Result<OwnedFd>>,
    /// Of the connector, which closes the socket when nobody waits for the outcome any more.
    connector: Cell<Option<Waker>>,
}

/// The socket on the event loop.
struct Connector {
    id: EndpointId,
    attempt: Weak<Attempt>,
}

/// What a task waits for and the event loop finds out.
struct Outcome<R> {
    result: Cell<Option<R>>,
    waiter: RefCell<Option<Waker>>,
}

/// Calls something on the event loop, when what runs now has returned, and gives its result.
///
/// # Panics
/// Outside a worker.
pub(crate) async fn on_loop<R: 'static>(call: impl FnOnce(&mut Io) -> R + 'static) -> R {
    let outcome = Rc::new(Outcome::default());
    let result = Rc::clone(&outcome);
    defer(move |io| result.set(call(io)));
    poll_fn(|task| outcome.poll(task)).await
}

/// Connects a socket of this worker.
///
/// # Panics
/// Outside a worker.
pub(crate) fn connect(socket: Socket, address: SocketAddr) -> Connecting {
    let attempt = Rc::<Attempt>::default();
    let weak = Rc::downgrade(&attempt);
    defer(move |io| {
        let Some(attempt) = weak.upgrade() else { return };
        let opened = io.open(socket, |io, id| {
            attempt.connector.set(Some(io.waker(id)));
            Connector { id, attempt: weak }
        });
        match opened {
            Ok(id) => io.connect(id, address),
            Err(_) => attempt.outcome.set(Err(io::Error::other("the worker can't hold more connections"))),
        }
    });
    Connecting(attempt)
}

impl Future for Connecting {
    type Output = io::Result<OwnedFd>;

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<OwnedFd>> {
        self.0.outcome.poll(task)
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        if let Some(connector) = self.0.connector.take() {
            connector.wake();
        }
    }
}

impl<R> Default for Outcome<R> {
    fn default() -> Self {
        Outcome { result: Cell::new(None), waiter: RefCell::new(None) }
    }
}

impl<R> Outcome<R> {
    fn set(&self, result: R) {
        self.result.set(Some(result));
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
    }

    fn poll(&self, task: &mut Context<'_>) -> Poll<R> {
        match self.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                self.waiter.replace(Some(task.waker().clone()));
                Poll::Pending
            }
        }
    }
}

impl Endpoint for Connector {
    fn complete(&mut self, io: &mut Io, completion: Completion) {
        let Completion::Connected(result) = completion else { unreachable!("a connector only connects") };
        if let Some(attempt) = self.attempt.upgrade() {
            let mut released = || io.release(self.id).ok_or_else(|| io::Error::other("the socket is in use"));
            attempt.outcome.set(result.and_then(|()| released()));
        }
        io.close(self.id);
    }

    fn finish_turn(&mut self, _io: &mut Io) {}

    fn wake(&mut self, io: &mut Io) {
        if self.attempt.strong_count() == 0 {
            io.close(self.id);
        }
    }

    fn timer(&mut self, _io: &mut Io, _key: u32) {}

    fn notify(&mut self, _io: &mut Io, _notice: &dyn Any) {}
}
