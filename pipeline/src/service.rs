//! An asynchronous function per request: one future per connection, no allocation per request, replies in order.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::{Channel, Error, Operation, Outbound, Pipeline, Result, Signal, Step};

/// The tail that [`Builder::service`](crate::Builder::service) makes of an asynchronous function.
pub struct Service<In, Out> {
    exchange: Rc<Exchange<In, Out>>,
    /// `None` once the channel is closed.
    driver: Option<Pin<Box<dyn Future<Output = ()>>>>,
    busy: bool,
}

/// What stage and function hand each other.
///
/// A `Cell` hides what values a message can't have, so that "none" is a flag beside the message, and not a null pointer
/// in it. A message whose first word is looked at by itself is copied in unequal parts; when it is copied again, loads
/// wait for stores that they span. Measured at 2 to 4 ns a message.
struct Exchange<In, Out> {
    request: Cell<Option<Cell<In>>>,
    reply: Cell<Option<Result<Cell<Out>>>>,
}

/// The next request. It needs no waker: only the stage gives requests, and it polls the driver when it did.
struct Request<'a, In, Out>(&'a Exchange<In, Out>);

impl<In, Out> Future for Request<'_, In, Out> {
    type Output = In;
    fn poll(self: Pin<&mut Self>, _task: &mut Context<'_>) -> Poll<In> {
        self.0.request.take().map_or(Poll::Pending, |request| Poll::Ready(request.into_inner()))
    }
}

impl<In: 'static, Out: 'static> Service<In, Out> {
    pub(crate) fn new(mut call: impl AsyncFnMut(In) -> Result<Out> + 'static) -> Self {
        let exchange = Rc::new(Exchange { request: Cell::new(None), reply: Cell::new(None) });
        let shared = exchange.clone();
        // The future owns the function, so that a request's future may borrow from it.
        let driver = Box::pin(async move {
            loop {
                // (A name for the request or the reply would be another copy of it.)
                shared.reply.set(Some(call(Request(&shared).await).await.map(Cell::new)));
            }
        });
        Service { exchange, driver: Some(driver), busy: false }
    }

    #[inline]
    fn drive<O: Outbound<Out>>(&mut self, ch: &Channel, out: &mut O) -> Step {
        if let Some(driver) = &mut self.driver {
            // It never ends: it waits for the next request, or inside the present one.
            let _ = driver.as_mut().poll(&mut Context::from_waker(ch.waker()));
        }
        match self.exchange.reply.take() {
            None => return Step::Held,
            Some(Ok(reply)) => out.write(reply.into_inner()).unwrap_or_else(|error| ch.fail(error)),
            Some(Err(error)) => ch.fail(error),
        }
        self.busy = false;
        Step::Ready
    }
}

impl<In: 'static, Out: 'static> Pipeline for Service<In, Out> {
    type In = In;
    type Out = Out;

    #[inline]
    fn read<O: Outbound<Out>>(&mut self, ch: &Channel, out: &mut O, msg: In) -> Step {
        self.exchange.request.set(Some(Cell::new(msg)));
        self.busy = true;
        self.drive(ch, out)
    }

    fn resume<O: Outbound<Out>>(&mut self, ch: &Channel, out: &mut O) -> Step {
        if self.busy { self.drive(ch, out) } else { Step::Ready }
    }

    fn end<O: Outbound<Out>>(&mut self, ch: &Channel, out: &mut O) -> Step {
        if let Err(error) = self.operate(ch, out, Operation::Close) {
            ch.fail(error);
        }
        Step::Ready
    }

    #[inline]
    fn read_complete<O: Outbound<Out>>(&mut self, _ch: &Channel, _out: &mut O) {}

    #[inline]
    fn flush<O: Outbound<Out>>(&mut self, ch: &Channel, out: &mut O) {
        if let Err(error) = out.flush() {
            ch.fail(error);
        }
    }

    fn signal<O: Outbound<Out>>(&mut self, _ch: &Channel, _out: &mut O, signal: &mut Signal<'_>) {
        if let Signal::Closed(_) = signal {
            self.driver = None; // cancels the request in progress
        }
    }

    fn error<O: Outbound<Out>>(&mut self, ch: &Channel, _out: &mut O, error: Error) {
        ch.fail(error);
    }

    fn operate<O: Outbound<Out>>(&mut self, ch: &Channel, out: &mut O, operation: Operation) -> Result<()> {
        match operation {
            Operation::Close if ch.is_closing() => Ok(()),
            operation => out.operate(operation),
        }
    }

    fn is_busy(&self) -> bool {
        self.busy
    }

    fn take_unused(&mut self) -> Option<In> {
        None
    }

    fn undecoded(&self) -> usize {
        0
    }
}
