//! A handler and all that stands above it.

use std::task::Poll;

use crate::channel::StageId;
use crate::flow::{Deferred, Held};
use crate::{
    Channel, Context, Error, Event, Flow, Handler, Later, Operation, Outbound, Pipeline, Result, Signal, Step,
};

/// A handler and all that stands above it.
pub struct Chain<H: Handler, N> {
    stage: Stage<H>,
    held: Held<H::Next>,
    next: N,
}

struct Stage<H> {
    handler: H,
    id: StageId,
}

/// The way out of the stage above: down through this handler.
///
/// The handler's context is made once for each message, on its way up, and is used again for what is written. Made anew
/// on the way down, it would be stored and at once loaded, from stage to stage, and each would wait for that: measured
/// at 2 ns a stage.
struct Through<'a, H: Handler> {
    handler: &'a mut H,
    cx: Context<'a, H::Out>,
}

impl<H: Handler, N> Chain<H, N> {
    pub(crate) fn new(handler: H, next: N) -> Self {
        Chain { stage: Stage { handler, id: StageId::TRANSPORT }, held: Held::Nothing, next }
    }
}

impl<H: Handler> Stage<H> {
    #[inline]
    fn through<'a, O: Outbound<H::Out>>(&'a mut self, ch: &'a Channel, out: &'a mut O) -> Through<'a, H> {
        Through { handler: &mut self.handler, cx: Context::new(out, ch, self.id) }
    }

    #[inline]
    fn call<O: Outbound<H::Out>, R>(
        &mut self,
        ch: &Channel,
        out: &mut O,
        call: impl FnOnce(&mut H, &mut Context<'_, H::Out>) -> R,
    ) -> R {
        call(&mut self.handler, &mut Context::new(out, ch, self.id))
    }
}

impl<H: Handler> Through<'_, H> {
    /// What failed is this stage's own error first.
    #[cold]
    fn handle(&mut self, error: Error) -> Result<()> {
        self.handler.error(&mut self.cx, error)
    }
}

impl<H: Handler> Outbound<H::Write> for Through<'_, H> {
    #[inline]
    fn write(&mut self, msg: H::Write) -> Result<()> {
        match self.handler.write(&mut self.cx, msg) {
            Ok(()) => Ok(()),
            Err(error) => self.handle(error),
        }
    }

    #[inline(always)] // so it is no call where the handler keeps nothing back
    fn flush(&mut self) -> Result<()> {
        match self.handler.flush(&mut self.cx) {
            Ok(()) => Ok(()),
            Err(error) => {
                self.handle(error)?;
                self.cx.flush() // which the handler may not have come to
            }
        }
    }

    fn operate(&mut self, operation: Operation) -> Result<()> {
        let flushed = match operation {
            Operation::Bind(_) | Operation::Connect(_) => Ok(()), // nothing has been written yet
            _ => self.flush(), // or the operation would overtake what the handler holds
        };
        let closes = matches!(operation, Operation::Close);
        let operated = match self.handler.operate(&mut self.cx, operation) {
            Ok(()) => Ok(()),
            Err(error) => {
                let handled = self.handle(error);
                // A close goes on, even if the handler did not come to it.
                if closes { handled.and(self.cx.close()) } else { handled }
            }
        };
        flushed.and(operated)
    }
}

impl<H: Handler, N: Pipeline<In = H::Next, Out = H::Write>> Chain<H, N> {
    fn pass_event<O: Outbound<H::Out>>(&mut self, ch: &Channel, out: &mut O, event: Event) {
        let mut signal = Signal::Event(self.stage.id.next(), event);
        self.next.signal(ch, &mut self.stage.through(ch, out), &mut signal);
        if let Signal::Event(_, event) = &signal {
            ch.count_untaken(event);
        }
    }

    /// Does what a flow says. Only `Next` is in the hot path, and handled by the caller.
    ///
    /// A message that was `counted` where it was made is free here; others are this stage's own, or come in a later
    /// turn than the one that paid for them.
    #[cold]
    fn follow<O: Outbound<H::Out>>(
        &mut self,
        ch: &Channel,
        out: &mut O,
        mut flow: Result<Flow<H::Next>>,
        mut counted: bool,
    ) -> Step {
        loop {
            if !counted && matches!(flow, Ok(Flow::Next(_) | Flow::More(_))) {
                ch.spend_on::<N>();
            }
            match flow {
                Ok(Flow::Done) => return Step::Ready,
                Ok(Flow::Next(up)) => {
                    return self.next.read_apart(ch, &mut self.stage.through(ch, out), up);
                }
                Ok(Flow::More(up)) => {
                    self.held = Held::Again;
                    let above = self.next.read_apart(ch, &mut self.stage.through(ch, out), up);
                    if above == Step::Held || !ch.may_finish() {
                        return Step::Held;
                    }
                    self.held = Held::Nothing;
                    counted = false;
                    flow = self.stage.call(ch, out, |handler, cx| handler.more(cx));
                }
                Ok(Flow::Later(Later(Deferred::Raise(raise)))) => {
                    let (event, then) = *raise;
                    self.pass_event(ch, out, event);
                    (flow, counted) = (Ok(then), true);
                }
                Ok(Flow::Wait) => {
                    self.held = Held::Again;
                    return Step::Held;
                }
                Ok(Flow::Later(Later(Deferred::Future(mut later)))) => {
                    match later.as_mut().poll(&mut std::task::Context::from_waker(ch.waker())) {
                        Poll::Ready(then) => flow = then,
                        Poll::Pending => {
                            self.held = Held::Later(Box::new(later));
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
    fn fail<O: Outbound<H::Out>>(&mut self, ch: &Channel, out: &mut O, error: Error) {
        let mut through = self.stage.through(ch, out);
        if let Err(error) = through.handle(error) {
            self.next.error(ch, &mut through, error);
        }
    }
}

impl<H: Handler, N: Pipeline<In = H::Next, Out = H::Write>> Pipeline for Chain<H, N> {
    type In = H::In;
    type Out = H::Out;
    const MAKES_MESSAGES: bool = N::MAKES_MESSAGES;

    // Always: a message that is handed over by a call lies in memory, word by word, where copying it waits (4 ns).
    #[inline(always)]
    fn read<O: Outbound<H::Out>>(&mut self, ch: &Channel, out: &mut O, msg: H::In) -> Step {
        debug_assert!(self.held.is_nothing());
        let mut through = self.stage.through(ch, out);
        // (Not by a closure: a message that one captures is copied once more.)
        match through.handler.read(&mut through.cx, msg) {
            Ok(Flow::Next(up)) => self.next.read(ch, &mut through, up),
            flow => self.follow(ch, out, flow, true),
        }
    }

    #[cold]
    fn read_apart<O: Outbound<H::Out>>(&mut self, ch: &Channel, out: &mut O, msg: H::In) -> Step {
        let flow = self.stage.call(ch, out, |handler, cx| handler.read(cx, msg));
        self.follow(ch, out, flow, true)
    }

    fn resume<O: Outbound<H::Out>>(&mut self, ch: &Channel, out: &mut O) -> Step {
        let above = self.next.resume(ch, &mut self.stage.through(ch, out));
        if above == Step::Held {
            return Step::Held;
        }
        let asking = ch.link.is_asking(self.stage.id);
        if self.held.is_nothing() && !asking {
            return Step::Ready;
        }
        if !ch.may_finish() {
            return Step::Held;
        }
        if asking {
            ch.link.answer(self.stage.id);
        }
        let flow = match std::mem::replace(&mut self.held, Held::Nothing) {
            Held::Later(later) => Ok(Flow::Later(Later(Deferred::Future(*later)))),
            _ => self.stage.call(ch, out, |handler, cx| handler.more(cx)),
        };
        self.follow(ch, out, flow, false)
    }

    fn end<O: Outbound<H::Out>>(&mut self, ch: &Channel, out: &mut O) -> Step {
        if let Err(error) = self.stage.call(ch, out, |handler, cx| handler.half_closed(cx)) {
            self.fail(ch, out, error);
        }
        self.next.end(ch, &mut self.stage.through(ch, out))
    }

    #[inline]
    fn read_complete<O: Outbound<H::Out>>(&mut self, ch: &Channel, out: &mut O) {
        if let Err(error) = self.stage.call(ch, out, |handler, cx| handler.read_complete(cx)) {
            self.fail(ch, out, error);
        }
        self.next.read_complete(ch, &mut self.stage.through(ch, out));
    }

    #[inline]
    fn flush<O: Outbound<H::Out>>(&mut self, ch: &Channel, out: &mut O) {
        self.next.flush(ch, &mut self.stage.through(ch, out));
    }

    fn signal<O: Outbound<H::Out>>(&mut self, ch: &Channel, out: &mut O, signal: &mut Signal<'_>) {
        let result = match signal {
            Signal::Name => {
                self.stage.id = ch.link.name_stage();
                Ok(())
            }
            Signal::Open => self.stage.call(ch, out, |handler, cx| handler.open(cx)),
            Signal::Writable(writable) => {
                self.stage.call(ch, out, |handler, cx| handler.writable(cx, *writable))
            }
            Signal::Timer(of, key) if *of == self.stage.id => {
                if let Err(error) = self.stage.call(ch, out, |handler, cx| handler.timer(cx, *key)) {
                    self.fail(ch, out, error);
                }
                return;
            }
            Signal::Event(from, event) if *from <= self.stage.id && !event.is_taken() => {
                self.stage.call(ch, out, |handler, cx| handler.event(cx, event))
            }
            Signal::Timer(..) | Signal::Event(..) | Signal::Leaving => Ok(()),
            Signal::Settle => self.stage.call(ch, out, |handler, cx| handler.settle(cx)),
            Signal::Closed(why) => {
                self.held = Held::Nothing; // cancels what it waits for
                self.stage.handler.closed(*why);
                Ok(())
            }
        };
        if let Err(error) = result {
            self.fail(ch, out, error);
        }
        self.next.signal(ch, &mut self.stage.through(ch, out), signal);
    }

    fn error<O: Outbound<H::Out>>(&mut self, ch: &Channel, out: &mut O, error: Error) {
        self.fail(ch, out, error);
    }

    fn operate<O: Outbound<H::Out>>(
        &mut self,
        ch: &Channel,
        out: &mut O,
        operation: Operation,
    ) -> Result<()> {
        self.next.operate(ch, &mut self.stage.through(ch, out), operation)
    }

    fn is_busy(&self) -> bool {
        !self.held.is_nothing() || self.next.is_busy()
    }

    fn take_unused(&mut self) -> Option<H::In> {
        None
    }

    fn undecoded(&self) -> usize {
        self.next.undecoded()
    }
}
