//! A stage with all that stands above it, up to the tail: statically typed, and behind a pointer.

use bytes::Bytes;

use crate::outbound::Edge;
use crate::{Channel, Error, Outbound, Result, Step};

/// What travels a pipeline beside messages, from the transport towards the tail.
#[derive(Clone, Copy)]
pub enum Signal<'a> {
    /// The channel is open.
    Open,
    /// The outbound queue crossed one of its water marks.
    Writable(bool),
    /// The channel is closed, in order or for this reason.
    Closed(Option<&'a Error>),
}

/// A stage with all that stands above it. Built with [`codec`](crate::codec) and [`transport`](crate::transport);
/// user code has no need to implement it.
#[diagnostic::on_unimplemented(
    message = "this is not a whole pipeline: end it with `.tail(..)` or `.service(..)`",
    label = "the pipeline has no tail"
)]
pub trait Pipeline {
    /// What its lowest stage takes.
    type In;
    /// What its lowest stage writes.
    type Out;
    /// Whether its lowest stage makes messages of what it takes, and counts them. Otherwise each is one.
    const MAKES_MESSAGES: bool = false;

    /// A message. Only after the last call said `Ready`.
    fn read<O: Outbound<Self::Out>>(&mut self, ch: &mut Channel, out: &mut O, msg: Self::In) -> Step;

    /// Goes on with what is held, the oldest (the nearest to the tail) first.
    fn resume<O: Outbound<Self::Out>>(&mut self, ch: &mut Channel, out: &mut O) -> Step;

    /// No message follows. Only after the last call said `Ready`.
    fn end<O: Outbound<Self::Out>>(&mut self, ch: &mut Channel, out: &mut O) -> Step;

    /// The messages of one read are done. A method of its own, like `flush`: where nobody listens it costs nothing.
    fn read_complete<O: Outbound<Self::Out>>(&mut self, ch: &mut Channel, out: &mut O);

    /// Enters at the tail and travels towards the transport.
    fn flush<O: Outbound<Self::Out>>(&mut self, ch: &mut Channel, out: &mut O);

    /// An event for every stage, the lowest first.
    fn signal<O: Outbound<Self::Out>>(&mut self, ch: &mut Channel, out: &mut O, signal: Signal<'_>);

    /// An error of a stage below.
    fn error<O: Outbound<Self::Out>>(&mut self, ch: &mut Channel, out: &mut O, error: Error);

    /// Enters at the tail and travels towards the transport.
    ///
    /// # Errors
    /// What a stage on the way could not finish and did not handle.
    fn close<O: Outbound<Self::Out>>(&mut self, ch: &mut Channel, out: &mut O) -> Result<()>;
}

/// A whole pipeline behind a pointer, at the transport's end: one virtual call for all that one receive does.
pub trait DynPipeline {
    /// See [`Pipeline::read`].
    fn read(&mut self, ch: &mut Channel, chunk: Bytes) -> Step;
    /// See [`Pipeline::resume`].
    fn resume(&mut self, ch: &mut Channel) -> Step;
    /// See [`Pipeline::end`].
    fn end(&mut self, ch: &mut Channel) -> Step;
    /// See [`Pipeline::read_complete`].
    fn read_complete(&mut self, ch: &mut Channel);
    /// See [`Pipeline::flush`].
    fn flush(&mut self, ch: &mut Channel);
    /// See [`Pipeline::signal`].
    fn signal(&mut self, ch: &mut Channel, signal: Signal<'_>);
    /// See [`Pipeline::error`].
    fn error(&mut self, ch: &mut Channel, error: Error);
    /// See [`Pipeline::close`].
    ///
    /// # Errors
    /// See [`Pipeline::close`].
    fn close(&mut self, ch: &mut Channel) -> Result<()>;
}

impl<P: Pipeline<In = Bytes, Out = Bytes>> DynPipeline for P {
    fn read(&mut self, ch: &mut Channel, chunk: Bytes) -> Step {
        if !P::MAKES_MESSAGES {
            ch.spend();
        }
        Pipeline::read(self, ch, &mut Edge, chunk)
    }
    fn resume(&mut self, ch: &mut Channel) -> Step {
        Pipeline::resume(self, ch, &mut Edge)
    }
    fn end(&mut self, ch: &mut Channel) -> Step {
        Pipeline::end(self, ch, &mut Edge)
    }
    fn read_complete(&mut self, ch: &mut Channel) {
        Pipeline::read_complete(self, ch, &mut Edge)
    }
    fn flush(&mut self, ch: &mut Channel) {
        Pipeline::flush(self, ch, &mut Edge)
    }
    fn signal(&mut self, ch: &mut Channel, signal: Signal<'_>) {
        Pipeline::signal(self, ch, &mut Edge, signal)
    }
    fn error(&mut self, ch: &mut Channel, error: Error) {
        Pipeline::error(self, ch, &mut Edge, error)
    }
    fn close(&mut self, ch: &mut Channel) -> Result<()> {
        Pipeline::close(self, ch, &mut Edge)
    }
}
