//! A codec or protocol and all that stands above it: the source of messages, and so the place of the drive loop.

use bytes::Bytes;
use std::task::Poll;

use crate::{
    Channel, Error, Flow, Input, Later, Outbound, Output, Pipeline, Protocol, Result, Signal, Step, Wire,
};

/// A codec or protocol and all that stands above it.
pub struct Framed<P: Protocol, N> {
    coder: Coder<P>,
    input: Input,
    later: Option<Later<P::Frame>>,
    end: End,
    next: N,
}

struct Coder<P> {
    protocol: P,
    /// Used where it stands on another stage. At the transport's end it writes into the channel's queue.
    output: Output,
}

/// The stream's end is a pseudo-message: it stands in line behind the last frame.
#[derive(Clone, Copy, PartialEq)]
enum End {
    None,
    Seen,
    Passed,
}

/// The way out of the stage above: through the encoder.
struct Encode<'a, P, O> {
    coder: &'a mut Coder<P>,
    out: &'a mut O,
}

impl<P: Protocol, N> Framed<P, N> {
    pub(crate) fn new(protocol: P, next: N) -> Self {
        let coder = Coder { protocol, output: Output::default() };
        Framed { coder, input: Input::default(), later: None, end: End::None, next }
    }
}

impl<P: Protocol> Coder<P> {
    /// Calls the protocol, and counts what it wrote.
    #[inline]
    fn with<O: Outbound<Bytes>, R>(
        &mut self,
        ch: &mut Channel,
        out: &O,
        call: impl FnOnce(&mut P, &mut Wire<'_>) -> Result<R>,
    ) -> Result<R> {
        let own = if out.is_transport() { None } else { Some(&mut self.output) };
        let mut wire = Wire::new(own, ch);
        let before = wire.output().len();
        let result = call(&mut self.protocol, &mut wire);
        let after = wire.output().len();
        ch.count(before, after);
        result
    }

    #[cold]
    fn handle<O: Outbound<Bytes>>(&mut self, ch: &mut Channel, out: &O, error: Error) -> Result<()> {
        self.with(ch, out, |protocol, wire| protocol.error(wire, error))
    }

    fn hand_down<O: Outbound<Bytes>>(&mut self, ch: &mut Channel, out: &mut O) -> Result<()> {
        if out.is_transport() { Ok(()) } else { out.append(ch, &mut self.output) }
    }
}

impl<P: Protocol, O: Outbound<Bytes>> Outbound<P::Item> for Encode<'_, P, O> {
    #[inline]
    fn write(&mut self, ch: &mut Channel, item: P::Item) -> Result<()> {
        match self.coder.with(ch, self.out, |protocol, wire| protocol.write(wire, item)) {
            Ok(()) => Ok(()),
            Err(error) => self.coder.handle(ch, self.out, error),
        }
    }

    #[inline]
    fn flush(&mut self, ch: &mut Channel) -> Result<()> {
        if let Err(error) = self.coder.with(ch, self.out, |protocol, wire| protocol.flush(wire)) {
            self.coder.handle(ch, self.out, error)?;
        }
        self.coder.hand_down(ch, self.out)?;
        self.out.flush(ch)
    }

    fn close(&mut self, ch: &mut Channel) -> Result<()> {
        if let Err(error) = self.coder.with(ch, self.out, |protocol, wire| protocol.close(wire)) {
            self.coder.handle(ch, self.out, error)?;
        }
        self.coder.hand_down(ch, self.out)?;
        self.out.close(ch)
    }
}

impl<P: Protocol, N: Pipeline<In = P::Frame, Out = P::Item>> Framed<P, N> {
    /// Makes messages and hands them on, one by one, until there is no input left or something stops it.
    fn pull<O: Outbound<Bytes>>(&mut self, ch: &mut Channel, out: &mut O) -> Step {
        let mut failed_at = usize::MAX;
        loop {
            if !ch.may_go_on() {
                return Step::Held;
            }
            match self.coder.with(ch, out, |protocol, wire| protocol.read(wire, &mut self.input)) {
                Ok(Flow::Next(frame) | Flow::More(frame)) => {
                    if self.pass(ch, out, frame) == Step::Held {
                        return Step::Held;
                    }
                }
                Ok(Flow::Done) => break,
                Ok(Flow::Wait) => return Step::Held,
                Ok(Flow::Later(later)) => {
                    if self.wait(ch, out, later) == Step::Held {
                        return Step::Held;
                    }
                }
                // A handled error must have used up its cause, or it would come again for ever.
                Err(error) if self.input.len() == failed_at => ch.fail(error),
                Err(error) => {
                    failed_at = self.input.len();
                    self.fail(ch, out, error);
                }
            }
        }
        self.input.settle();
        if self.end == End::Seen {
            self.end = End::Passed;
            return self.next.end(ch, &mut Encode { coder: &mut self.coder, out });
        }
        Step::Ready
    }

    #[inline]
    fn pass<O: Outbound<Bytes>>(&mut self, ch: &mut Channel, out: &mut O, frame: P::Frame) -> Step {
        ch.spend();
        self.next.read(ch, &mut Encode { coder: &mut self.coder, out }, frame)
    }

    /// `Ready`: go on pulling.
    #[cold]
    fn wait<O: Outbound<Bytes>>(
        &mut self,
        ch: &mut Channel,
        out: &mut O,
        mut later: Later<P::Frame>,
    ) -> Step {
        loop {
            match later.as_mut().poll(&mut std::task::Context::from_waker(ch.waker())) {
                Poll::Pending => {
                    self.later = Some(later);
                    return Step::Held;
                }
                Poll::Ready(Ok(Flow::Later(again))) => later = again,
                Poll::Ready(Ok(Flow::Next(frame) | Flow::More(frame))) => return self.pass(ch, out, frame),
                Poll::Ready(Ok(Flow::Done)) => return Step::Ready,
                Poll::Ready(Ok(Flow::Wait)) => return Step::Held,
                Poll::Ready(Err(error)) => {
                    self.fail(ch, out, error);
                    return Step::Ready;
                }
            }
        }
    }

    #[cold]
    fn fail<O: Outbound<Bytes>>(&mut self, ch: &mut Channel, out: &mut O, error: Error) {
        if let Err(error) = self.coder.handle(ch, out, error) {
            self.next.error(ch, &mut Encode { coder: &mut self.coder, out }, error);
        }
    }
}

impl<P: Protocol, N: Pipeline<In = P::Frame, Out = P::Item>> Pipeline for Framed<P, N> {
    type In = Bytes;
    type Out = Bytes;

    #[inline]
    fn read<O: Outbound<Bytes>>(&mut self, ch: &mut Channel, out: &mut O, chunk: Bytes) -> Step {
        self.input.push(chunk);
        self.pull(ch, out)
    }

    fn resume<O: Outbound<Bytes>>(&mut self, ch: &mut Channel, out: &mut O) -> Step {
        if self.next.resume(ch, &mut Encode { coder: &mut self.coder, out }) == Step::Held {
            return Step::Held;
        }
        if self.later.is_some() && !ch.may_go_on() {
            return Step::Held;
        }
        if let Some(later) = self.later.take()
            && self.wait(ch, out, later) == Step::Held
        {
            return Step::Held;
        }
        self.pull(ch, out)
    }

    fn end<O: Outbound<Bytes>>(&mut self, ch: &mut Channel, out: &mut O) -> Step {
        self.input.end();
        self.end = End::Seen;
        self.pull(ch, out)
    }

    #[inline]
    fn read_complete<O: Outbound<Bytes>>(&mut self, ch: &mut Channel, out: &mut O) {
        self.next.read_complete(ch, &mut Encode { coder: &mut self.coder, out });
    }

    #[inline]
    fn flush<O: Outbound<Bytes>>(&mut self, ch: &mut Channel, out: &mut O) {
        self.next.flush(ch, &mut Encode { coder: &mut self.coder, out });
    }

    fn signal<O: Outbound<Bytes>>(&mut self, ch: &mut Channel, out: &mut O, signal: Signal<'_>) {
        let result = match signal {
            Signal::Open => self.coder.with(ch, out, |protocol, wire| protocol.open(wire)),
            Signal::Writable(_) => Ok(()),
            Signal::Closed(why) => {
                self.later = None; // cancels what it waits for
                self.coder.protocol.closed(why);
                Ok(())
            }
        };
        if let Err(error) = result {
            self.fail(ch, out, error);
        }
        self.next.signal(ch, &mut Encode { coder: &mut self.coder, out }, signal);
    }

    fn error<O: Outbound<Bytes>>(&mut self, ch: &mut Channel, out: &mut O, error: Error) {
        self.fail(ch, out, error);
    }

    fn close<O: Outbound<Bytes>>(&mut self, ch: &mut Channel, out: &mut O) -> Result<()> {
        self.next.close(ch, &mut Encode { coder: &mut self.coder, out })
    }
}
