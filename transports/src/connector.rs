//! Connects a socket, and hands it on.

use perihelion_runtime::{Completion, Endpoint, EndpointId, Io, TimerId, defer};
use socket2::Socket;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// A socket while it is being connected.
struct Connector {
    id: EndpointId,
    deadline: TimerId,
    result: Rc<Outcome<io::Result<OwnedFd>>>,
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
    let outcome = Rc::new(Outcome::new());
    let result = Rc::clone(&outcome);
    defer(move |io| result.set(call(io)));
    outcome.get().await
}

/// Connects a socket of this worker, within this time.
///
/// # Panics
/// Outside a worker.
pub(crate) async fn connect(socket: Socket, address: SocketAddr, limit: Duration) -> io::Result<OwnedFd> {
    let outcome = Rc::new(Outcome::new());
    let result = Rc::clone(&outcome);
    defer(move |io| {
        let theirs = Rc::clone(&result);
        let opened = io.open(socket, |io, id| {
            let at = io.now() + limit;
            Connector { id, deadline: io.set_timer(id, 0, at), result: theirs }
        });
        match opened {
            Ok(id) => io.connect(id, address),
            Err(_) => result.set(Err(io::Error::other("the worker can't hold more connections"))),
        }
    });
    outcome.get().await
}

/// Why a connect was given up.
pub(crate) fn no_answer() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer within channel.connect_ms")
}

impl<R> Outcome<R> {
    fn new() -> Self {
        Outcome { result: Cell::new(None), waiter: RefCell::new(None) }
    }

    fn set(&self, result: R) {
        self.result.set(Some(result));
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
    }

    async fn get(&self) -> R {
        poll_fn(|task| match self.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                self.waiter.replace(Some(task.waker().clone()));
                Poll::Pending
            }
        })
        .await
    }
}

impl Endpoint for Connector {
    fn complete(&mut self, io: &mut Io, completion: Completion) {
        let Completion::Connected(result) = completion else { unreachable!("a connector only connects") };
        io.cancel_timer(self.deadline);
        let mut released = || io.release(self.id).ok_or_else(|| io::Error::other("the socket is in use"));
        self.result.set(result.and_then(|()| released()));
        io.close(self.id);
    }

    fn finish_turn(&mut self, _io: &mut Io) {}

    fn wake(&mut self, _io: &mut Io) {}

    fn timer(&mut self, io: &mut Io, _key: u32) {
        self.result.set(Err(no_answer()));
        io.close(self.id);
    }

    fn notify(&mut self, _io: &mut Io, _notice: &dyn Any) {}
}
