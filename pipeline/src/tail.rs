//! Where the application sits: a synchronous handler at the end of a pipeline.

use std::rc::Rc;

use crate::channel::StageId;
use crate::writer::{Attachment, Entry};
use crate::{Channel, Context, Error, Event, Operation, Outbound, Pipeline, Result, Signal, Step};

/// The end of a pipeline, with the state of one connection and no lock: the fastest way to answer.
///
/// ```
/// use perihelion_pipeline::{Context, Result, Tail};
///
/// struct Shout;
///
/// impl Tail for Shout {
///     type In = String;
///     type Out = String;
///     fn read(&mut self, cx: &mut Context<'_, String>, msg: String) -> Result<()> {
///         cx.write(msg.to_uppercase())
///     }
/// }
/// ```
///
/// An error that a method gives goes to [`error`](Tail::error) and, unless it is handled there, closes the channel
/// with that reason.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a `Tail`, so a pipeline can't end with it",
    label = "expected a tail here"
)]
pub trait Tail {
    /// What it takes.
    type In;
    /// What it writes.
    type Out;

    /// A message.
    ///
    /// # Errors
    /// See [`Tail`].
    fn read(&mut self, cx: &mut Context<'_, Self::Out>, msg: Self::In) -> Result<()>;

    /// The channel is open. Called once, before any message.
    ///
    /// # Errors
    /// See [`Tail`].
    fn open(&mut self, _cx: &mut Context<'_, Self::Out>) -> Result<()> {
        Ok(())
    }

    /// The messages that have been received so far in this turn are done: the place for a tail that collects messages
    /// and acts on all of them at once.
    ///
    /// ```
    /// # use perihelion_pipeline::{Context, Result, Tail};
    /// /// Adds numbers, and answers once for all that came together.
    /// #[derive(Default)]
    /// struct Sums {
    ///     batch: Vec<u64>,
    /// }
    ///
    /// impl Tail for Sums {
    ///     type In = u64;
    ///     type Out = u64;
    ///     fn read(&mut self, _cx: &mut Context<'_, u64>, number: u64) -> Result<()> {
    ///         self.batch.push(number);
    ///         Ok(())
    ///     }
    ///     fn read_complete(&mut self, cx: &mut Context<'_, u64>) -> Result<()> {
    ///         cx.write(self.batch.drain(..).sum())
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    /// See [`Tail`].
    #[inline]
    fn read_complete(&mut self, _cx: &mut Context<'_, Self::Out>) -> Result<()> {
        Ok(())
    }

    /// The outbound queue went over its high-water mark, or fell below its low-water mark.
    ///
    /// # Errors
    /// See [`Tail`].
    fn writable(&mut self, _cx: &mut Context<'_, Self::Out>, _writable: bool) -> Result<()> {
        Ok(())
    }

    /// The other side sends no more. The default closes, behind what was written: most protocols have nothing to
    /// say to one that sends no more.
    ///
    /// # Errors
    /// See [`Tail`].
    fn half_closed(&mut self, cx: &mut Context<'_, Self::Out>) -> Result<()> {
        cx.close()
    }

    /// A user event that no stage has taken, or from a task of this one.
    ///
    /// # Errors
    /// See [`Tail`].
    fn event(&mut self, _cx: &mut Context<'_, Self::Out>, _event: &mut Event) -> Result<()> {
        Ok(())
    }

    /// A timer that it has set has come.
    ///
    /// # Errors
    /// See [`Tail`].
    fn timer(&mut self, _cx: &mut Context<'_, Self::Out>, _key: u32) -> Result<()> {
        Ok(())
    }

    /// An error of any stage that none of them handled. Given back, it closes the channel.
    ///
    /// # Errors
    /// The error, where it is not handled.
    fn error(&mut self, _cx: &mut Context<'_, Self::Out>, error: Error) -> Result<()> {
        Err(error)
    }

    /// The whole pipeline is about to be switched for another: what this tail was given and has no use for, in one
    /// message. The successor gets it.
    fn take_unused(&mut self) -> Option<Self::In> {
        None
    }

    /// The channel is closed, in order or for this reason; or the whole pipeline has been switched for another. Called
    /// once; nothing follows.
    fn closed(&mut self, _why: Option<&Error>) {}
}

/// A tail as the last stage of a pipeline.
pub struct TailStage<T: Tail> {
    tail: T,
    id: StageId,
    outbox: Option<Attachment<T::Out>>,
}

/// What is written of what tasks have queued.
#[derive(Clone, Copy, PartialEq)]
enum Queued {
    /// What was flushed, while the channel is writable: above the high-water mark the queue is to fill, and those who
    /// write are to wait.
    AsWritable,
    /// What was flushed. What was not goes out through the tail that comes next.
    Flushed,
    /// Everything, before the channel closes.
    All,
}

impl<T: Tail> TailStage<T> {
    pub(crate) fn new(tail: T, outbox: Option<Attachment<T::Out>>) -> Self {
        TailStage { tail, id: StageId::TRANSPORT, outbox }
    }

    #[inline]
    fn with<O: Outbound<T::Out>, R>(
        &mut self,
        ch: &Channel,
        out: &mut O,
        call: impl FnOnce(&mut T, &mut Context<'_, T::Out>) -> R,
    ) -> R {
        call(&mut self.tail, &mut Context::new(out, ch, self.id))
    }

    /// Writes what tasks have queued.
    #[inline]
    fn drain<O: Outbound<T::Out>>(&mut self, ch: &Channel, out: &mut O, which: Queued) {
        let Some(attachment) = &self.outbox else { return };
        let outbox = attachment.outbox();
        if which == Queued::All {
            outbox.flush_all();
        }
        if !outbox.is_flushed() {
            return;
        }
        let (outbox, own) = (Rc::clone(outbox), attachment.number());
        while !ch.is_closing()
            && (which != Queued::AsWritable || ch.is_writable())
            && let Some(entry) = outbox.pop(own)
        {
            let result = match entry {
                Entry::Close => out.operate(Operation::Close),
                Entry::CloseOutput => out.operate(Operation::CloseOutput),
                Entry::Promise(promise) => out.operate(Operation::Promise(promise)),
                Entry::Message(msg, None) => out.write(msg),
                Entry::Message(msg, Some(promise)) => {
                    out.write(msg).and_then(|()| out.operate(Operation::Promise(promise)))
                }
            };
            if let Err(error) = result {
                self.fail(ch, out, error);
            }
        }
        outbox.made_room();
    }

    /// (Apart: behind a call that was shown the way out, each stage on it would be looked up again, by every tail.)
    #[inline(never)]
    fn flush_outbox<O: Outbound<T::Out>>(&mut self, ch: &Channel, out: &mut O) {
        self.drain(ch, out, Queued::AsWritable);
        if let Err(error) = out.flush() {
            self.fail(ch, out, error);
        }
    }

    #[cold]
    fn fail<O: Outbound<T::Out>>(&mut self, ch: &Channel, out: &mut O, error: Error) {
        if let Err(error) = self.with(ch, out, |tail, cx| tail.error(cx, error)) {
            ch.fail(error);
        }
    }
}

impl<T: Tail> Pipeline for TailStage<T> {
    type In = T::In;
    type Out = T::Out;

    #[inline(always)] // as those of all stages
    fn read<O: Outbound<T::Out>>(&mut self, ch: &Channel, out: &mut O, msg: T::In) -> Step {
        if let Err(error) = self.tail.read(&mut Context::new(out, ch, self.id), msg) {
            self.fail(ch, out, error);
        }
        Step::Ready
    }

    fn resume<O: Outbound<T::Out>>(&mut self, ch: &Channel, out: &mut O) -> Step {
        self.drain(ch, out, Queued::AsWritable);
        Step::Ready
    }

    fn end<O: Outbound<T::Out>>(&mut self, ch: &Channel, out: &mut O) -> Step {
        self.drain(ch, out, Queued::All); // most tails close now
        if let Err(error) = self.with(ch, out, |tail, cx| tail.half_closed(cx)) {
            self.fail(ch, out, error);
        }
        Step::Ready
    }

    #[inline]
    fn read_complete<O: Outbound<T::Out>>(&mut self, ch: &Channel, out: &mut O) {
        if let Err(error) = self.with(ch, out, |tail, cx| tail.read_complete(cx)) {
            self.fail(ch, out, error);
        }
    }

    #[inline]
    fn flush<O: Outbound<T::Out>>(&mut self, ch: &Channel, out: &mut O) {
        if self.outbox.is_some() {
            return self.flush_outbox(ch, out);
        }
        if let Err(error) = out.flush() {
            self.fail(ch, out, error);
        }
    }

    fn signal<O: Outbound<T::Out>>(&mut self, ch: &Channel, out: &mut O, signal: &mut Signal<'_>) {
        let result = match signal {
            Signal::Name => {
                self.id = ch.link.name_stage();
                Ok(())
            }
            Signal::Open => {
                if let Some(attachment) = &self.outbox {
                    attachment.outbox().open(ch.waker().clone());
                }
                self.with(ch, out, |tail, cx| tail.open(cx))
            }
            Signal::Writable(writable) => self.with(ch, out, |tail, cx| tail.writable(cx, *writable)),
            Signal::Timer(of, key) if *of == self.id => self.with(ch, out, |tail, cx| tail.timer(cx, *key)),
            Signal::Event(from, event) if *from <= self.id && !event.is_taken() => {
                self.with(ch, out, |tail, cx| tail.event(cx, event))
            }
            Signal::Leaving => {
                let goes_on = self.outbox.as_ref().is_some_and(|outbox| outbox.is_shared());
                self.drain(ch, out, if goes_on { Queued::Flushed } else { Queued::All });
                Ok(())
            }
            Signal::Timer(..) | Signal::Event(..) | Signal::Settle => Ok(()),
            Signal::Closed(why) => {
                self.tail.closed(*why);
                self.outbox = None;
                Ok(())
            }
        };
        if let Err(error) = result {
            self.fail(ch, out, error);
        }
    }

    fn error<O: Outbound<T::Out>>(&mut self, ch: &Channel, out: &mut O, error: Error) {
        self.fail(ch, out, error);
    }

    fn operate<O: Outbound<T::Out>>(
        &mut self,
        ch: &Channel,
        out: &mut O,
        operation: Operation,
    ) -> Result<()> {
        if let Operation::Bind(_) | Operation::Connect(_) = operation {
            return out.operate(operation); // a refusal is for whoever connects
        }
        if let Operation::Close | Operation::CloseOutput = operation {
            self.drain(ch, out, Queued::All);
        }
        if let Err(error) = self.with(ch, out, |_, cx| cx.operate(operation)) {
            self.fail(ch, out, error);
        }
        Ok(())
    }

    fn is_busy(&self) -> bool {
        false
    }

    fn take_unused(&mut self) -> Option<T::In> {
        self.tail.take_unused()
    }

    fn undecoded(&self) -> usize {
        0
    }
}
