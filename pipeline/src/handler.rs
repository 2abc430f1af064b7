//! Messages to messages, both ways.

use std::marker::PhantomData;

use crate::{Context, Error, Event, Flow, Operation, Result};

/// A stage between a codec and the tail. It sees every message of both directions, and every event.
///
/// No method is called while another one of the same pipeline runs below or above it in a way that this stage could
/// notice: a reply that the tail writes during `read` comes to `write` after `read` has returned.
///
/// ```
/// use perihelion_pipeline::{Context, Flow, Handler, Result};
///
/// /// Answers pings itself.
/// struct Pings;
///
/// impl Handler for Pings {
///     type In = String;
///     type Next = String;
///     type Write = String;
///     type Out = String;
///     fn read(&mut self, cx: &mut Context<'_, String>, msg: String) -> Result<Flow<String>> {
///         if msg == "ping" {
///             cx.write("pong".into())?;
///             return Ok(Flow::Done);
///         }
///         Ok(Flow::Next(msg))
///     }
///     fn write(&mut self, cx: &mut Context<'_, String>, msg: String) -> Result<()> {
///         cx.write(msg)
///     }
/// }
/// ```
///
/// An error that a method gives goes to [`error`](Handler::error) of the same stage, and from there, unless it is
/// handled, towards the tail. Unhandled, it closes the channel.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a `Handler`, so it can't stand between two stages",
    label = "expected a handler here"
)]
pub trait Handler {
    /// Inbound: what it takes.
    type In;
    /// Inbound: what it passes towards the application.
    type Next;
    /// Outbound: what the application side writes.
    type Write;
    /// Outbound: what it passes towards the transport.
    type Out;

    /// A message from the transport's side.
    ///
    /// # Errors
    /// See [`Handler`].
    fn read(&mut self, cx: &mut Context<'_, Self::Out>, msg: Self::In) -> Result<Flow<Self::Next>>;

    /// A message from the application's side.
    ///
    /// # Errors
    /// See [`Handler`]; the writer gets it too, unless it is handled here.
    fn write(&mut self, cx: &mut Context<'_, Self::Out>, msg: Self::Write) -> Result<()>;

    /// Asked after [`Flow::More`], and after [`Flow::Wait`] when the channel's waker has been woken.
    ///
    /// # Errors
    /// See [`Handler`].
    fn more(&mut self, _cx: &mut Context<'_, Self::Out>) -> Result<Flow<Self::Next>> {
        Ok(Flow::Done)
    }

    /// The channel is open. Called once, before any message.
    ///
    /// # Errors
    /// See [`Handler`].
    fn open(&mut self, _cx: &mut Context<'_, Self::Out>) -> Result<()> {
        Ok(())
    }

    /// The messages that have been received so far in this turn are done.
    ///
    /// # Errors
    /// See [`Handler`].
    #[inline]
    fn read_complete(&mut self, _cx: &mut Context<'_, Self::Out>) -> Result<()> {
        Ok(())
    }

    /// The outbound queue went over its high-water mark, or fell below its low-water mark.
    ///
    /// # Errors
    /// See [`Handler`].
    fn writable(&mut self, _cx: &mut Context<'_, Self::Out>, _writable: bool) -> Result<()> {
        Ok(())
    }

    /// The other side sends no more. Comes after its last message.
    ///
    /// # Errors
    /// See [`Handler`].
    fn half_closed(&mut self, _cx: &mut Context<'_, Self::Out>) -> Result<()> {
        Ok(())
    }

    /// Hands down what this stage holds. Called at the end of every turn in which the channel did something, at least.
    /// The default passes the request on.
    ///
    /// # Errors
    /// See [`Handler`].
    #[inline]
    fn flush(&mut self, cx: &mut Context<'_, Self::Out>) -> Result<()> {
        cx.flush()
    }

    /// A close, a promise or the like on its way to the transport, behind what was written. The default passes it on.
    ///
    /// # Errors
    /// See [`Handler`]. A close goes on all the same.
    fn operate(&mut self, cx: &mut Context<'_, Self::Out>, operation: Operation) -> Result<()> {
        cx.operate(operation)
    }

    /// A user event from a stage nearer to the transport, or from a task of this stage. Unless it is taken it goes on
    /// towards the tail.
    ///
    /// # Errors
    /// See [`Handler`].
    fn event(&mut self, _cx: &mut Context<'_, Self::Out>, _event: &mut Event) -> Result<()> {
        Ok(())
    }

    /// A timer that this stage has set has come.
    ///
    /// # Errors
    /// See [`Handler`].
    fn timer(&mut self, _cx: &mut Context<'_, Self::Out>, _key: u32) -> Result<()> {
        Ok(())
    }

    /// An error of this stage or of one nearer to the transport. Handled, or given back to go on towards the tail.
    ///
    /// # Errors
    /// The error, where it is not handled.
    fn error(&mut self, _cx: &mut Context<'_, Self::Out>, error: Error) -> Result<()> {
        Err(error)
    }

    /// It is taken out of its slot: the place for a last word. Its timers end.
    ///
    /// # Errors
    /// See [`Handler`].
    fn removed(&mut self, _cx: &mut Context<'_, Self::Out>) -> Result<()> {
        Ok(())
    }

    /// The channel is closed, in order or for this reason; or the whole pipeline has been switched for another. Called
    /// once; nothing follows.
    fn closed(&mut self, _why: Option<&Error>) {}

    /// For slots: changes take effect.
    #[doc(hidden)]
    fn settle(&mut self, _cx: &mut Context<'_, Self::Out>) -> Result<()> {
        Ok(())
    }
}

/// Passes everything on.
pub struct Pass<M, W>(PhantomData<fn(M) -> W>);

impl<M, W> Default for Pass<M, W> {
    fn default() -> Self {
        Pass(PhantomData)
    }
}

impl<M, W> Handler for Pass<M, W> {
    type In = M;
    type Next = M;
    type Write = W;
    type Out = W;

    #[inline]
    fn read(&mut self, _cx: &mut Context<'_, W>, msg: M) -> Result<Flow<M>> {
        Ok(Flow::Next(msg))
    }

    #[inline]
    fn write(&mut self, cx: &mut Context<'_, W>, msg: W) -> Result<()> {
        cx.write(msg)
    }
}
