//! A stage with all that stands above it, up to the tail: statically typed, and behind a pointer.

use crate::channel::StageId;
use crate::{Channel, Error, Event, Operation, Outbound, Result, Step};

/// What travels a pipeline beside messages, from the transport towards the tail.
pub enum Signal<'a> {
    /// Stages get their names. Comes before everything else.
    Name,
    /// The channel is open.
    Open,
    /// The outbound queue crossed one of its water marks.
    Writable(bool),
    /// A timer of this stage has come.
    Timer(StageId, u32),
    /// A user event, for this stage and those above it.
    Event(StageId, Event),
    /// No message is on its way: changes that were asked for take effect.
    Settle,
    /// Another pipeline is about to take the place of these stages: the last chance to write.
    Leaving,
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
    /// Whether one of its stages makes messages of what it takes, and counts them. Otherwise each thing that it takes is
    /// one. (A TLS record is no message: what is cut from it is.)
    const MAKES_MESSAGES: bool = false;

    /// A message. Only after the last call said `Ready`.
    fn read<O: Outbound<Self::Out>>(&mut self, ch: &Channel, out: &mut O, msg: Self::In) -> Step;

    /// The same, where messages seldom come: `read` is made part of its caller, with all stages above, and should be so
    /// only once.
    #[cold]
    fn read_apart<O: Outbound<Self::Out>>(&mut self, ch: &Channel, out: &mut O, msg: Self::In) -> Step {
        self.read(ch, out, msg)
    }

    /// Goes on with what is held, the oldest (the nearest to the tail) first.
    fn resume<O: Outbound<Self::Out>>(&mut self, ch: &Channel, out: &mut O) -> Step;

    /// No message follows. Only after the last call said `Ready`.
    fn end<O: Outbound<Self::Out>>(&mut self, ch: &Channel, out: &mut O) -> Step;

    /// The messages of one read are done. A method of its own, like `flush`: where nobody listens it costs nothing.
    fn read_complete<O: Outbound<Self::Out>>(&mut self, ch: &Channel, out: &mut O);

    /// Enters at the tail and travels towards the transport.
    fn flush<O: Outbound<Self::Out>>(&mut self, ch: &Channel, out: &mut O);

    /// An event for every stage, the lowest first.
    fn signal<O: Outbound<Self::Out>>(&mut self, ch: &Channel, out: &mut O, signal: &mut Signal<'_>);

    /// An error of a stage below.
    fn error<O: Outbound<Self::Out>>(&mut self, ch: &Channel, out: &mut O, error: Error);

    /// Enters at the tail and travels towards the transport.
    ///
    /// # Errors
    /// What a stage on the way could not do and did not handle.
    fn operate<O: Outbound<Self::Out>>(
        &mut self,
        ch: &Channel,
        out: &mut O,
        operation: Operation,
    ) -> Result<()>;

    /// Whether a message is on its way through its stages.
    fn is_busy(&self) -> bool;

    /// Takes what its lowest stage has been given and not used, for the pipeline that takes its place.
    fn take_unused(&mut self) -> Option<Self::In>;

    /// How many bytes its stages hold undecoded.
    fn undecoded(&self) -> usize;
}

/// A whole pipeline behind a pointer, over what stands below it: one virtual call for all that one receive does.
pub(crate) trait DynPipeline<In, O> {
    fn read(&mut self, ch: &Channel, out: &mut O, msg: In) -> Step;
    fn resume(&mut self, ch: &Channel, out: &mut O) -> Step;
    fn end(&mut self, ch: &Channel, out: &mut O) -> Step;
    fn read_complete(&mut self, ch: &Channel, out: &mut O);
    fn flush(&mut self, ch: &Channel, out: &mut O);
    fn signal(&mut self, ch: &Channel, out: &mut O, signal: &mut Signal<'_>);
    fn error(&mut self, ch: &Channel, out: &mut O, error: Error);
    fn operate(&mut self, ch: &Channel, out: &mut O, operation: Operation) -> Result<()>;
    fn is_busy(&self) -> bool;
    fn take_unused(&mut self) -> Option<In>;
    fn undecoded(&self) -> usize;
}

impl<P: Pipeline, O: Outbound<P::Out>> DynPipeline<P::In, O> for P {
    fn read(&mut self, ch: &Channel, out: &mut O, msg: P::In) -> Step {
        if !P::MAKES_MESSAGES {
            ch.spend_on::<P>();
        }
        Pipeline::read(self, ch, out, msg)
    }
    fn resume(&mut self, ch: &Channel, out: &mut O) -> Step {
        Pipeline::resume(self, ch, out)
    }
    fn end(&mut self, ch: &Channel, out: &mut O) -> Step {
        Pipeline::end(self, ch, out)
    }
    fn read_complete(&mut self, ch: &Channel, out: &mut O) {
        Pipeline::read_complete(self, ch, out)
    }
    fn flush(&mut self, ch: &Channel, out: &mut O) {
        Pipeline::flush(self, ch, out)
    }
    fn signal(&mut self, ch: &Channel, out: &mut O, signal: &mut Signal<'_>) {
        Pipeline::signal(self, ch, out, signal)
    }
    fn error(&mut self, ch: &Channel, out: &mut O, error: Error) {
        Pipeline::error(self, ch, out, error)
    }
    fn operate(&mut self, ch: &Channel, out: &mut O, operation: Operation) -> Result<()> {
        Pipeline::operate(self, ch, out, operation)
    }
    fn is_busy(&self) -> bool {
        Pipeline::is_busy(self)
    }
    fn take_unused(&mut self) -> Option<P::In> {
        Pipeline::take_unused(self)
    }
    fn undecoded(&self) -> usize {
        Pipeline::undecoded(self)
    }
}
