//! A handler and all that stands above it.

use std::task::Poll;

use crate::flow::Held;
use crate::{Channel, Context, Error, Flow, Handler, Outbound, Pipeline, Result, Signal, Step};

/// A handler and all that stands above it.
pub struct Chain<H: Handler, N> {
    handler: H,
    held: Held<H::Next>,
    next: N,
}

/// The way out of the stage above: down through this handler.
struct Through<'a, H, O> {
    handler: &'a mut H,
    out: &'a mut O,
}

impl<H: Handler, N> Chain<H, N> {
    pub(crate) fn new(handler: H, next: N) -> Self {
        Chain { handler, held: Held::Nothing, next }
    }
}

impl<H: Handler, O: Outbound<H::Out>> Through<'_, H, O> {
    /// What failed is this stage's own error first.
    #[cold]
    fn handle(&mut self, ch: &mut Channel, error: Error) -> Result<()> {
        self.handler.error(&mut Context::new(self.out, ch), error)
    }
}

impl<H: Handler, O: Outbound<H::Out>> Outbound<H::Write> for Through<'_, H, O> {
    #[inline]
    fn write(&mut self, ch: &mut Channel, msg: H::Write) -> Result<()> {
        match self.handler.write(&mut Context::new(self.out, ch), msg) {
            Ok(()) => Ok(()),
            Err(error) => self.handle(ch, error),
        }
    }

    #[inline]
    fn flush(&mut self, ch: &mut Channel) -> Result<()> {
        match self.handler.flush(&mut Context::new(self.out, ch)) {
            Ok(()) => Ok(()),
            Err(error) => {
                self.handle(ch, error)?;
                self.out.flush(ch) // which the handler may not have come to
            }
        }
    }

    fn close(&mut self, ch: &mut Channel) -> Result<()> {
        let flushed = self.flush(ch); // or the close would overtake what the handler holds
        let closed = match self.handler.close(&mut Context::new(self.out, ch)) {
            Ok(()) => Ok(()),
            Err(error) => {
                let result = self.handle(ch, error);
                result.and(Context::new(self.out, ch).close()) // which the handler may not have come to
            }
        };
        flushed.and(closed)
    }

    fn close_output(&mut self, ch: &mut Channel) -> Result<()> {
        let flushed = self.flush(ch);
        flushed.and(self.out.close_output(ch))
    }
}

impl<H: Handler, N: Pipeline<In = H::Next, Out = H::Write>> Chain<H, N> {
    #[inline]
    fn pass<O: Outbound<H::Out>>(&mut self, ch: &mut Channel, out: &mut O, up: H::Next) -> Step {
        self.next.read(ch, &mut Through { handler: &mut self.handler, out }, up)
    }

    /// Does what a flow says. Only `Next` is in the hot path, and handled by the caller.
    ///
    /// A message that was `counted` where it was made is free here; others are this stage's own, or come in a later
    /// turn than the one that paid for them.
    #[cold]
    fn follow<O: Outbound<H::Out>>(
        &mut self,
        ch: &mut Channel,
        out: &mut O,
        mut flow: Result<Flow<H::Next>>,
        mut counted: bool,
    ) -> Step {
        loop {
            if !counted && matches!(flow, Ok(Flow::Next(_) | Flow::More(_))) {
                ch.spend();
            }
            match flow {
                Ok(Flow::Done) => return Step::Ready,
                Ok(Flow::Next(up)) => return self.pass(ch, out, up),
                Ok(Flow::More(up)) => {
                    self.held = Held::Again;
                    if self.pass(ch, out, up) == Step::Held || !ch.may_go_on() {
                        return Step::Held;
                    }
                    self.held = Held::Nothing;
                    counted = false;
                    flow = self.handler.more(&mut Context::new(out, ch));
                }
                Ok(Flow::Wait) => {
                    self.held = Held::Again;
                    return Step::Held;
                }
                Ok(Flow::Later(mut later)) => {
                    match later.as_mut().poll(&mut std::task::Context::from_waker(ch.waker())) {
                        Poll::Ready(then) => flow = then,
                        Poll::Pending => {
                            self.held = Held::Later(later);
                            return Step::Held;
                        }
                    }
                }
                Err(error) => {
                    self.fail(ch, out, error);
                    return Step::Ready;
                }
            }
        }
    }

    /// This stage's own hook, then each towards the tail.
    #[cold]
    fn fail<O: Outbound<H::Out>>(&mut self, ch: &mut Channel, out: &mut O, error: Error) {
        let mut through = Through { handler: &mut self.handler, out };
        if let Err(error) = through.handle(ch, error) {
            self.next.error(ch, &mut through, error);
        }
    }
}

impl<H: Handler, N: Pipeline<In = H::Next, Out = H::Write>> Pipeline for Chain<H, N> {
    type In = H::In;
    type Out = H::Out;

    #[inline]
    fn read<O: Outbound<H::Out>>(&mut self, ch: &mut Channel, out: &mut O, msg: H::In) -> Step {
        debug_assert!(self.held.is_nothing());
        match self.handler.read(&mut Context::new(out, ch), msg) {
            Ok(Flow::Next(up)) => self.pass(ch, out, up),
            flow => self.follow(ch, out, flow, true),
        }
    }

    fn resume<O: Outbound<H::Out>>(&mut self, ch: &mut Channel, out: &mut O) -> Step {
        let above = self.next.resume(ch, &mut Through { handler: &mut self.handler, out });
        if above == Step::Held {
            return Step::Held;
        }
        if self.held.is_nothing() {
            return Step::Ready;
        }
        if !ch.may_go_on() {
            return Step::Held;
        }
        let flow = match std::mem::replace(&mut self.held, Held::Nothing) {
            Held::Later(later) => Ok(Flow::Later(later)),
            _ => self.handler.more(&mut Context::new(out, ch)),
        };
        self.follow(ch, out, flow, false)
    }

    fn end<O: Outbound<H::Out>>(&mut self, ch: &mut Channel, out: &mut O) -> Step {
        if let Err(error) = self.handler.half_closed(&mut Context::new(out, ch)) {
            self.fail(ch, out, error);
        }
        self.next.end(ch, &mut Through { handler: &mut self.handler, out })
    }

    #[inline]
    fn read_complete<O: Outbound<H::Out>>(&mut self, ch: &mut Channel, out: &mut O) {
        if let Err(error) = self.handler.read_complete(&mut Context::new(out, ch)) {
            self.fail(ch, out, error);
        }
        self.next.read_complete(ch, &mut Through { handler: &mut self.handler, out });
    }

    #[inline]
    fn flush<O: Outbound<H::Out>>(&mut self, ch: &mut Channel, out: &mut O) {
        self.next.flush(ch, &mut Through { handler: &mut self.handler, out });
    }

    fn signal<O: Outbound<H::Out>>(&mut self, ch: &mut Channel, out: &mut O, signal: Signal<'_>) {
        let cx = &mut Context::new(out, ch);
        let result = match signal {
            Signal::Open => self.handler.open(cx),
            Signal::Writable(writable) => self.handler.writable(cx, writable),
            Signal::Closed(why) => {
                self.held = Held::Nothing; // cancels what it waits for
                self.handler.closed(why);
                Ok(())
            }
        };
        if let Err(error) = result {
            self.fail(ch, out, error);
        }
        self.next.signal(ch, &mut Through { handler: &mut self.handler, out }, signal);
    }

    fn error<O: Outbound<H::Out>>(&mut self, ch: &mut Channel, out: &mut O, error: Error) {
        self.fail(ch, out, error);
    }

    fn close<O: Outbound<H::Out>>(&mut self, ch: &mut Channel, out: &mut O) -> Result<()> {
        self.next.close(ch, &mut Through { handler: &mut self.handler, out })
    }
}
