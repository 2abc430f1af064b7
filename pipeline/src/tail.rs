//! Where the application sits: a synchronous handler at the end of a pipeline.

use std::rc::Rc;

use crate::writer::{Entry, Outbox};
use crate::{Channel, Context, Error, Outbound, Pipeline, Result, Signal, Step};

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

    /// The messages that have been received so far in this turn are done.
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

    /// An error of any stage that none of them handled. Given back, it closes the channel.
    ///
    /// # Errors
    /// The error, where it is not handled.
    fn error(&mut self, _cx: &mut Context<'_, Self::Out>, error: Error) -> Result<()> {
        Err(error)
    }

    /// The channel is closed, in order or for this reason. Called once; nothing follows.
    fn closed(&mut self, _why: Option<&Error>) {}
}

/// A tail as the last stage of a pipeline.
pub struct TailStage<T: Tail> {
    tail: T,
    outbox: Option<Rc<Outbox<T::Out>>>,
}

impl<T: Tail> TailStage<T> {
    pub(crate) fn new(tail: T, outbox: Option<Rc<Outbox<T::Out>>>) -> Self {
        TailStage { tail, outbox }
    }

    fn shut(&self) {
        if let Some(outbox) = &self.outbox {
            outbox.shut();
        }
    }

    /// Writes what tasks have queued: while the channel is writable, since above the high-water mark the queue is to
    /// fill and those who write are to wait; or all of it, before the channel closes.
    fn drain<O: Outbound<T::Out>>(&mut self, ch: &mut Channel, out: &mut O, all: bool) {
        let Some(outbox) = self.outbox.clone() else { return };
        while !ch.is_closing()
            && (all || ch.is_writable())
            && let Some(entry) = outbox.pop()
        {
            let result = match entry {
                Entry::Close => Context::new(out, ch).close(),
                Entry::CloseOutput => out.close_output(ch),
                Entry::Message(msg) => out.write(ch, msg),
            };
            if let Err(error) = result {
                self.fail(ch, out, error);
            }
        }
        outbox.made_room();
    }

    #[cold]
    fn fail<O: Outbound<T::Out>>(&mut self, ch: &mut Channel, out: &mut O, error: Error) {
        if let Err(error) = self.tail.error(&mut Context::new(out, ch), error) {
            ch.fail(error);
        }
    }
}

impl<T: Tail> Pipeline for TailStage<T> {
    type In = T::In;
    type Out = T::Out;

    #[inline]
    fn read<O: Outbound<T::Out>>(&mut self, ch: &mut Channel, out: &mut O, msg: T::In) -> Step {
        if let Err(error) = self.tail.read(&mut Context::new(out, ch), msg) {
            self.fail(ch, out, error);
        }
        Step::Ready
    }

    fn resume<O: Outbound<T::Out>>(&mut self, ch: &mut Channel, out: &mut O) -> Step {
        self.drain(ch, out, false);
        Step::Ready
    }

    fn end<O: Outbound<T::Out>>(&mut self, ch: &mut Channel, out: &mut O) -> Step {
        self.drain(ch, out, true); // most tails close now
        if let Err(error) = self.tail.half_closed(&mut Context::new(out, ch)) {
            self.fail(ch, out, error);
        }
        Step::Ready
    }

    #[inline]
    fn read_complete<O: Outbound<T::Out>>(&mut self, ch: &mut Channel, out: &mut O) {
        if let Err(error) = self.tail.read_complete(&mut Context::new(out, ch)) {
            self.fail(ch, out, error);
        }
    }

    #[inline]
    fn flush<O: Outbound<T::Out>>(&mut self, ch: &mut Channel, out: &mut O) {
        if let Err(error) = out.flush(ch) {
            self.fail(ch, out, error);
        }
    }

    fn signal<O: Outbound<T::Out>>(&mut self, ch: &mut Channel, out: &mut O, signal: Signal<'_>) {
        let result = match signal {
            Signal::Open => {
                if let Some(outbox) = &self.outbox {
                    outbox.open(ch.waker().clone());
                }
                self.tail.open(&mut Context::new(out, ch))
            }
            Signal::Writable(writable) => self.tail.writable(&mut Context::new(out, ch), writable),
            Signal::Closed(why) => {
                self.tail.closed(why);
                self.shut();
                Ok(())
            }
        };
        if let Err(error) = result {
            self.fail(ch, out, error);
        }
    }

    fn error<O: Outbound<T::Out>>(&mut self, ch: &mut Channel, out: &mut O, error: Error) {
        self.fail(ch, out, error);
    }

    fn close<O: Outbound<T::Out>>(&mut self, ch: &mut Channel, out: &mut O) -> Result<()> {
        self.drain(ch, out, true);
        Context::new(out, ch).close()
    }
}

impl<T: Tail> Drop for TailStage<T> {
    fn drop(&mut self) {
        self.shut();
    }
}
