//! A codec or protocol and all that stands above it: the source of messages, and so the place of the drive loop.

use bytes::Bytes;
use std::task::Poll;

use crate::channel::StageId;
use crate::context::Behind;
use crate::flow::{Deferred, LocalFuture};
use crate::{
    Channel, ChannelClosed, Error, Event, Flow, Input, Later, Operation, Outbound, Output, Pipeline,
    Protocol, Result, Segment, Signal, Step, Wire,
};

/// A codec or protocol and all that stands above it.
pub struct Framed<P: Protocol, N> {
    coder: Coder<P>,
    input: Input,
    /// What the protocol waits for. In a box: few channels wait here, and all have room for it.
    waits: Option<Box<Waiting<P::Frame>>>,
    next: N,
}

enum Waiting<F> {
    Future(LocalFuture<F>),
    WakeUp,
}

struct Coder<P> {
    protocol: P,
    id: StageId,
    /// Whether what it encodes is a message, and not what a codec above has encoded.
    is_top: bool,
    /// Made where it stands on another stage. At the transport's end it writes into the channel's queue.
    nested: Option<Box<Nested>>,
}

/// What a protocol that stands on another stage has for that stage.
#[derive(Default)]
struct Nested {
    /// Written since the last flush.
    output: Output,
    behind: Behind,
}

/// The way out of the stage above: through the encoder.
struct Encode<'a, P, O> {
    coder: &'a mut Coder<P>,
    ch: &'a Channel,
    out: &'a mut O,
}

impl<P: Protocol, N> Framed<P, N> {
    pub(crate) fn new(protocol: P, next: N) -> Self {
        let coder = Coder { protocol, id: StageId::TRANSPORT, is_top: false, nested: None };
        Framed { coder, input: Input::default(), waits: None, next }
    }
}

impl<P: Protocol> Coder<P> {
    /// The protocol, and what it writes to.
    #[inline]
    fn wire<'a, O: Outbound<Bytes>>(&'a mut self, ch: &'a Channel, out: &'a mut O) -> (&'a mut P, Wire<'a>) {
        let (output, behind) = match out.transport() {
            Some(output) => (output, None),
            None => {
                let Nested { output, behind } = &mut **self.nested.get_or_insert_default();
                (output, Some(behind))
            }
        };
        (&mut self.protocol, Wire::new(output, behind, ch, self.id))
    }

    /// Calls the protocol, and counts what it wrote.
    #[inline]
    fn with<O: Outbound<Bytes>, R>(
        &mut self,
        ch: &Channel,
        out: &mut O,
        call: impl FnOnce(&mut P, &mut Wire<'_>) -> Result<R>,
    ) -> Result<R> {
        let (protocol, mut wire) = self.wire(ch, out);
        let before = wire.output().len();
        let result = call(protocol, &mut wire);
        ch.count(before, wire.output().len());
        if let Some(ending) = wire.take_ending()
            && let Err(error) = self.end_below(ch, out, ending)
        {
            ch.fail(error);
        }
        result
    }

    #[cold]
    fn handle<O: Outbound<Bytes>>(&mut self, ch: &Channel, out: &mut O, error: Error) -> Result<()> {
        self.with(ch, out, |protocol, wire| protocol.error(wire, error))
    }

    /// The protocol finishes what was written.
    #[inline]
    fn flush<O: Outbound<Bytes>>(&mut self, ch: &Channel, out: &mut O) -> Result<()> {
        match self.with(ch, out, |protocol, wire| protocol.flush(wire)) {
            Ok(()) => Ok(()),
            Err(error) => self.handle(ch, out, error),
        }
    }

    /// Hands on the output of a codec that stands on another stage, and the promises behind it.
    fn hand_down<O: Outbound<Bytes>>(&mut self, ch: &Channel, out: &mut O) -> Result<()> {
        let Some(nested) = &mut self.nested else { return Ok(()) };
        let Nested { output, behind } = &mut **nested;
        loop {
            while let Some((_, promise)) =
                behind.promises.pop_front_if(|(position, _)| *position <= output.popped())
            {
                out.operate(Operation::Promise(promise))?;
            }
            let Some(segment) = output.pop() else { return Ok(()) };
            ch.count(segment.len(), 0);
            let bytes = match segment {
                Segment::Copied(bytes) => bytes.into(),
                Segment::Shared(bytes) => bytes,
            };
            out.write(bytes)?;
        }
    }

    /// Closes the stages below, or half of them. They do so whatever became of this one's last bytes, but only once.
    fn end_below<O: Outbound<Bytes>>(&mut self, ch: &Channel, out: &mut O, ending: Operation) -> Result<()> {
        let handed_down = self.hand_down(ch, out);
        let ended = if ch.is_closing() { Ok(()) } else { out.operate(ending) };
        handed_down.and(ended)
    }
}

impl<P: Protocol, O: Outbound<Bytes>> Outbound<P::Item> for Encode<'_, P, O> {
    #[inline(always)] // where the tail is known, it has the encoder in it
    fn write(&mut self, item: P::Item) -> Result<()> {
        if !self.ch.link.takes_writes() {
            return Err(closed());
        }
        self.ch.count_written(self.coder.is_top);
        match self.coder.with(self.ch, self.out, |protocol, wire| protocol.write(wire, item)) {
            Ok(()) => Ok(()),
            Err(error) => self.coder.handle(self.ch, self.out, error),
        }
    }

    #[inline]
    fn flush(&mut self) -> Result<()> {
        self.coder.flush(self.ch, self.out)?;
        self.coder.hand_down(self.ch, self.out)?;
        self.out.flush()
    }

    fn operate(&mut self, operation: Operation) -> Result<()> {
        if let Operation::Bind(_) | Operation::Connect(_) = operation {
            return self.out.operate(operation); // nothing has been written yet
        }
        let closes = matches!(operation, Operation::Close);
        let flushed = match operation {
            // In line with what the protocol has written, which need not be handed down for it.
            Operation::Promise(_) => self.coder.flush(self.ch, self.out),
            _ => self.flush(),
        };
        let operated =
            match self.coder.with(self.ch, self.out, |protocol, wire| protocol.operate(wire, operation)) {
                Ok(Some(Operation::Close)) => self.coder.end_below(self.ch, self.out, Operation::Close),
                Ok(Some(Operation::Promise(promise))) => self.coder.with(self.ch, self.out, |_, wire| {
                    wire.promise(promise);
                    Ok(())
                }),
                Ok(Some(operation)) => {
                    self.coder.hand_down(self.ch, self.out).and_then(|()| self.out.operate(operation))
                }
                Ok(None) => Ok(()),
                Err(error) => {
                    let handled = self.coder.handle(self.ch, self.out, error);
                    if closes {
                        handled.and(self.coder.end_below(self.ch, self.out, Operation::Close))
                    } else {
                        handled
                    }
                }
            };
        flushed.and(operated)
    }
}

#[cold]
fn closed() -> Error {
    ChannelClosed.into()
}

impl<P: Protocol, N: Pipeline<In = P::Frame, Out = P::Item>> Framed<P, N> {
    /// Makes messages and hands them on, one by one, until there is no input left or something stops it.
    #[inline]
    fn pull<O: Outbound<Bytes>>(&mut self, ch: &Channel, out: &mut O) -> Step {
        if P::IS_CODEC { self.pull_frames(ch, out) } else { self.pull_flows(ch, out) }
    }

    /// Of a codec, which can neither write meanwhile nor raise an event, nor wait.
    fn pull_frames<O: Outbound<Bytes>>(&mut self, ch: &Channel, out: &mut O) -> Step {
        let mut failed_at = usize::MAX;
        while ch.may_go_on() {
            match self.coder.protocol.next_frame(&mut self.input) {
                Ok(Some(frame)) => {
                    failed_at = usize::MAX;
                    if self.pass(ch, out, frame) == Step::Held {
                        return Step::Held;
                    }
                }
                Ok(None) => return self.need_input(ch, out),
                Err(error) => self.fail_here(ch, out, error, &mut failed_at),
            }
        }
        Step::Held
    }

    fn pull_flows<O: Outbound<Bytes>>(&mut self, ch: &Channel, out: &mut O) -> Step {
        let mut failed_at = usize::MAX;
        while ch.may_go_on() {
            let flow = self.coder.with(ch, out, |protocol, wire| protocol.read(wire, &mut self.input));
            if ch.has_raised() {
                self.pass_raised(ch, out); // before the frame
            }
            match flow {
                Ok(Flow::Next(frame) | Flow::More(frame)) => {
                    failed_at = usize::MAX;
                    if self.pass(ch, out, frame) == Step::Held {
                        return Step::Held;
                    }
                }
                Ok(Flow::Done) => return self.need_input(ch, out),
                Err(error) => self.fail_here(ch, out, error, &mut failed_at),
                Ok(Flow::Wait) => {
                    self.waits = Some(Box::new(Waiting::WakeUp));
                    return Step::Held;
                }
                Ok(Flow::Later(later)) => {
                    if self.follow(ch, out, later, &mut failed_at) == Step::Held {
                        return Step::Held;
                    }
                }
            }
        }
        Step::Held
    }

    /// What is left of the input is no whole frame.
    #[inline]
    fn need_input<O: Outbound<Bytes>>(&mut self, ch: &Channel, out: &mut O) -> Step {
        self.input.settle();
        if self.input.pass_end() {
            return self.end_above(ch, out);
        }
        Step::Ready
    }

    /// (Inlined into the loop, which comes here once, it would take registers there.)
    #[cold]
    fn end_above<O: Outbound<Bytes>>(&mut self, ch: &Channel, out: &mut O) -> Step {
        self.next.end(ch, &mut Encode { coder: &mut self.coder, ch, out })
    }

    #[inline(always)] // it is in the hot path once, and elsewhere in cold ones
    fn pass<O: Outbound<Bytes>>(&mut self, ch: &Channel, out: &mut O, frame: P::Frame) -> Step {
        ch.spend_on::<N>();
        let step = self.next.read(ch, &mut Encode { coder: &mut self.coder, ch, out }, frame);
        if ch.has_raised() {
            self.pass_raised(ch, out);
        }
        step
    }

    /// What this stage and those above it have raised.
    #[cold]
    fn pass_raised<O: Outbound<Bytes>>(&mut self, ch: &Channel, out: &mut O) {
        while let Some((from, event)) = ch.next_raised_from(self.coder.id) {
            self.pass_event(ch, out, from, event);
        }
    }

    fn pass_event<O: Outbound<Bytes>>(&mut self, ch: &Channel, out: &mut O, from: StageId, event: Event) {
        let mut signal = Signal::Event(from, event);
        self.next.signal(ch, &mut Encode { coder: &mut self.coder, ch, out }, &mut signal);
        if let Signal::Event(_, event) = &signal {
            ch.count_untaken(event);
        }
    }

    /// `Ready`: the protocol is to be asked again.
    #[cold]
    fn follow<O: Outbound<Bytes>>(
        &mut self,
        ch: &Channel,
        out: &mut O,
        mut later: Later<P::Frame>,
        failed_at: &mut usize,
    ) -> Step {
        loop {
            let then = match later.0 {
                Deferred::Raise(raise) => {
                    let (event, then) = *raise;
                    self.pass_event(ch, out, self.coder.id.next(), event);
                    Ok(then)
                }
                Deferred::Future(mut future) => {
                    match future.as_mut().poll(&mut std::task::Context::from_waker(ch.waker())) {
                        Poll::Ready(then) => then,
                        Poll::Pending => {
                            self.waits = Some(Box::new(Waiting::Future(future)));
                            return Step::Held;
                        }
                    }
                }
            };
            match then {
                Ok(Flow::Next(frame) | Flow::More(frame)) => return self.pass(ch, out, frame),
                Ok(Flow::Done) => return Step::Ready,
                Ok(Flow::Wait) => {
                    self.waits = Some(Box::new(Waiting::WakeUp));
                    return Step::Held;
                }
                Ok(Flow::Later(again)) => later = again,
                Err(error) => {
                    self.fail_here(ch, out, error, failed_at);
                    return Step::Ready;
                }
            }
        }
    }

    /// An error of the protocol. Handled, it must have used up its cause, or it would come again for ever: the second
    /// one at the same place closes.
    #[cold]
    fn fail_here<O: Outbound<Bytes>>(
        &mut self,
        ch: &Channel,
        out: &mut O,
        error: Error,
        failed_at: &mut usize,
    ) {
        if std::mem::replace(failed_at, self.input.len()) == self.input.len() {
            ch.fail(error);
        } else {
            self.fail(ch, out, error);
        }
    }

    #[cold]
    fn fail<O: Outbound<Bytes>>(&mut self, ch: &Channel, out: &mut O, error: Error) {
        if let Err(error) = self.coder.handle(ch, out, error) {
            self.next.error(ch, &mut Encode { coder: &mut self.coder, ch, out }, error);
        }
    }
}

impl<P: Protocol, N: Pipeline<In = P::Frame, Out = P::Item>> Pipeline for Framed<P, N> {
    type In = Bytes;
    type Out = Bytes;
    const MAKES_MESSAGES: bool = true;

    #[inline]
    fn read<O: Outbound<Bytes>>(&mut self, ch: &Channel, out: &mut O, chunk: Bytes) -> Step {
        self.input.push(chunk);
        self.pull(ch, out)
    }

    fn resume<O: Outbound<Bytes>>(&mut self, ch: &Channel, out: &mut O) -> Step {
        let above = self.next.resume(ch, &mut Encode { coder: &mut self.coder, ch, out });
        if above == Step::Held || self.input.has_passed_end() {
            return above;
        }
        if !ch.may_finish() {
            return Step::Held;
        }
        ch.link.answer(self.coder.id); // it is going to be asked
        if let Some(Waiting::Future(future)) = self.waits.take().map(|waiting| *waiting)
            && self.follow(ch, out, Later(Deferred::Future(future)), &mut { usize::MAX }) == Step::Held
        {
            return Step::Held;
        }
        self.pull(ch, out)
    }

    fn end<O: Outbound<Bytes>>(&mut self, ch: &Channel, out: &mut O) -> Step {
        self.input.end();
        self.pull(ch, out)
    }

    #[inline]
    fn read_complete<O: Outbound<Bytes>>(&mut self, ch: &Channel, out: &mut O) {
        self.next.read_complete(ch, &mut Encode { coder: &mut self.coder, ch, out });
    }

    #[inline]
    fn flush<O: Outbound<Bytes>>(&mut self, ch: &Channel, out: &mut O) {
        self.next.flush(ch, &mut Encode { coder: &mut self.coder, ch, out });
    }

    fn signal<O: Outbound<Bytes>>(&mut self, ch: &Channel, out: &mut O, signal: &mut Signal<'_>) {
        let result = match signal {
            Signal::Name => {
                self.coder.id = ch.link.name_stage();
                self.coder.is_top = !N::MAKES_MESSAGES;
                Ok(())
            }
            Signal::Open => self.coder.with(ch, out, |protocol, wire| protocol.open(wire)),
            Signal::Timer(of, key) if *of == self.coder.id => {
                if let Err(error) = self.coder.with(ch, out, |protocol, wire| protocol.timer(wire, *key)) {
                    self.fail(ch, out, error);
                }
                return;
            }
            Signal::Event(from, event) if *from <= self.coder.id && !event.is_taken() => {
                self.coder.with(ch, out, |protocol, wire| protocol.event(wire, event))
            }
            Signal::Writable(_)
            | Signal::Timer(..)
            | Signal::Event(..)
            | Signal::Settle
            | Signal::Leaving => Ok(()),
            Signal::Closed(why) => {
                self.waits = None; // cancels what it waits for
                self.coder.protocol.closed(*why);
                Ok(())
            }
        };
        if let Err(error) = result {
            self.fail(ch, out, error);
        }
        self.next.signal(ch, &mut Encode { coder: &mut self.coder, ch, out }, signal);
    }

    fn error<O: Outbound<Bytes>>(&mut self, ch: &Channel, out: &mut O, error: Error) {
        self.fail(ch, out, error);
    }

    fn operate<O: Outbound<Bytes>>(&mut self, ch: &Channel, out: &mut O, operation: Operation) -> Result<()> {
        self.next.operate(ch, &mut Encode { coder: &mut self.coder, ch, out }, operation)
    }

    fn is_busy(&self) -> bool {
        self.waits.is_some() || self.next.is_busy()
    }

    fn take_unused(&mut self) -> Option<Bytes> {
        Some(self.input.take_all()).filter(|rest| !rest.is_empty())
    }

    fn undecoded(&self) -> usize {
        self.input.len() + self.next.undecoded()
    }
}
