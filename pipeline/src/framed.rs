//! A codec or protocol and all that stands above it: the source of messages, and so the place of the drive loop.

use bytes::Bytes;
use std::task::Poll;

use crate::context::Nested;
use crate::{Channel, Error, Flow, Input, Later, Outbound, Pipeline, Protocol, Result, Signal, Step, Wire};

/// A codec or protocol and all that stands above it.
pub struct Framed<P: Protocol, N> {
    coder: Coder<P>,
    input: Input,
    /// What the protocol waits for. A `Later` in a box of its own: few channels wait here, and all have room for it.
    later: Option<Box<Later<P::Frame>>>,
    next: N,
}

struct Coder<P> {
    protocol: P,
    /// Made where it stands on another stage. At the transport's end it writes into the channel's queue.
    nested: Option<Box<Nested>>,
}

/// The way out of the stage above: through the encoder.
struct Encode<'a, P, O> {
    coder: &'a mut Coder<P>,
    out: &'a mut O,
}

impl<P: Protocol, N> Framed<P, N> {
    pub(crate) fn new(protocol: P, next: N) -> Self {
        Framed { coder: Coder { protocol, nested: None }, input: Input::default(), later: None, next }
    }
}

impl<P: Protocol> Coder<P> {
    /// Calls the protocol, and counts what it wrote.
    #[inline]
    fn with<O: Outbound<Bytes>, R>(
        &mut self,
        ch: &mut Channel,
        out: &mut O,
        call: impl FnOnce(&mut P, &mut Wire<'_>) -> Result<R>,
    ) -> Result<R> {
        if out.is_transport() {
            let before = ch.link.output.len();
            let result = call(&mut self.protocol, &mut Wire::new(None, ch));
            ch.count(before, ch.link.output.len());
            return result;
        }
        let nested = self.nested.get_or_insert_default();
        let before = nested.output.len();
        let result = call(&mut self.protocol, &mut Wire::new(Some(nested), ch));
        ch.count(before, nested.output.len());
        if std::mem::take(&mut nested.closes)
            && let Err(error) = self.close_below(ch, out)
        {
            ch.fail(error);
        }
        result
    }

    #[cold]
    fn handle<O: Outbound<Bytes>>(&mut self, ch: &mut Channel, out: &mut O, error: Error) -> Result<()> {
        self.with(ch, out, |protocol, wire| protocol.error(wire, error))
    }

    fn hand_down<O: Outbound<Bytes>>(&mut self, ch: &mut Channel, out: &mut O) -> Result<()> {
        match &mut self.nested {
            Some(nested) => out.append(ch, &mut nested.output),
            None => Ok(()),
        }
    }

    /// Closes the stages below. They do so whatever became of this one's last bytes, but only once.
    fn close_below<O: Outbound<Bytes>>(&mut self, ch: &mut Channel, out: &mut O) -> Result<()> {
        let handed_down = self.hand_down(ch, out);
        let closed = if ch.is_closing() { Ok(()) } else { out.close(ch) };
        handed_down.and(closed)
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
        let flushed = self.flush(ch);
        let last_word = match self.coder.with(ch, self.out, |protocol, wire| protocol.close(wire)) {
            Ok(()) => Ok(()),
            Err(error) => self.coder.handle(ch, self.out, error),
        };
        flushed.and(last_word).and(self.coder.close_below(ch, self.out))
    }

    fn close_output(&mut self, ch: &mut Channel) -> Result<()> {
        let flushed = self.flush(ch);
        flushed.and(self.out.close_output(ch))
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
                    failed_at = usize::MAX;
                    if self.pass(ch, out, frame) == Step::Held {
                        return Step::Held;
                    }
                }
                Ok(Flow::Done) => break,
                Ok(Flow::Wait) => return Step::Held,
                Ok(Flow::Later(later)) => {
                    if self.wait(ch, out, later, &mut failed_at) == Step::Held {
                        return Step::Held;
                    }
                }
                Err(error) => self.fail_here(ch, out, error, &mut failed_at),
            }
        }
        self.input.settle();
        if self.input.pass_end() {
            return self.next.end(ch, &mut Encode { coder: &mut self.coder, out });
        }
        Step::Ready
    }

    #[inline]
    fn pass<O: Outbound<Bytes>>(&mut self, ch: &mut Channel, out: &mut O, frame: P::Frame) -> Step {
        ch.spend();
        self.next.read(ch, &mut Encode { coder: &mut self.coder, out }, frame)
    }

    /// `Ready`: the protocol is to be asked again.
    #[cold]
    fn wait<O: Outbound<Bytes>>(
        &mut self,
        ch: &mut Channel,
        out: &mut O,
        mut later: Later<P::Frame>,
        failed_at: &mut usize,
    ) -> Step {
        loop {
            match later.as_mut().poll(&mut std::task::Context::from_waker(ch.waker())) {
                Poll::Ready(Ok(Flow::Next(frame) | Flow::More(frame))) => return self.pass(ch, out, frame),
                Poll::Ready(Ok(Flow::Done)) => return Step::Ready,
                Poll::Ready(Ok(Flow::Wait)) => return Step::Held,
                Poll::Ready(Ok(Flow::Later(again))) => later = again,
                Poll::Ready(Err(error)) => {
                    self.fail_here(ch, out, error, failed_at);
                    return Step::Ready;
                }
                Poll::Pending => {
                    self.later = Some(Box::new(later));
                    return Step::Held;
                }
            }
        }
    }

    /// An error of the protocol. Handled, it must have used up its cause, or it would come again for ever: the second
    /// one at the same place closes.
    #[cold]
    fn fail_here<O: Outbound<Bytes>>(
        &mut self,
        ch: &mut Channel,
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
    fn fail<O: Outbound<Bytes>>(&mut self, ch: &mut Channel, out: &mut O, error: Error) {
        if let Err(error) = self.coder.handle(ch, out, error) {
            self.next.error(ch, &mut Encode { coder: &mut self.coder, out }, error);
        }
    }
}

impl<P: Protocol, N: Pipeline<In = P::Frame, Out = P::Item>> Pipeline for Framed<P, N> {
    type In = Bytes;
    type Out = Bytes;
    const MAKES_MESSAGES: bool = true;

    #[inline]
    fn read<O: Outbound<Bytes>>(&mut self, ch: &mut Channel, out: &mut O, chunk: Bytes) -> Step {
        self.input.push(chunk);
        self.pull(ch, out)
    }

    fn resume<O: Outbound<Bytes>>(&mut self, ch: &mut Channel, out: &mut O) -> Step {
        let above = self.next.resume(ch, &mut Encode { coder: &mut self.coder, out });
        if above == Step::Held || self.input.has_passed_end() {
            return above;
        }
        let mut failed_at = usize::MAX;
        if ch.may_go_on()
            && let Some(later) = self.later.take()
            && self.wait(ch, out, *later, &mut failed_at) == Step::Held
        {
            return Step::Held;
        }
        self.pull(ch, out)
    }

    fn end<O: Outbound<Bytes>>(&mut self, ch: &mut Channel, out: &mut O) -> Step {
        self.input.end();
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
