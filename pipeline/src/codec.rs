//! Bytes to frames and back.

use std::fmt;

use crate::{Error, Event, Flow, Input, Operation, Output, Result, Wire};

/// Bytes to frames and back, and nothing else: easy to write, to test and to fuzz.
///
/// ```
/// use perihelion_pipeline::{Codec, Input, Output, Result};
/// use bytes::{Buf, BufMut};
///
/// /// Numbers of two bytes, big-endian.
/// struct Numbers;
///
/// impl Codec for Numbers {
///     type Frame = u16;
///     type Item = u16;
///     fn decode(&mut self, input: &mut Input) -> Result<Option<u16>> {
///         Ok((input.len() >= 2).then(|| input.take(2).get_u16()))
///     }
///     fn encode(&mut self, item: u16, output: &mut Output) -> Result<()> {
///         output.put_buf().put_u16(item);
///         Ok(())
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is neither a `Codec` nor a `Protocol`",
    label = "expected a codec or a protocol here"
)]
pub trait Codec {
    /// What arrives.
    type Frame;
    /// What is written.
    type Item;

    /// Cuts the next frame from the input, or leaves the input alone where a frame is not whole yet.
    ///
    /// # Errors
    /// Bytes that can't be a frame. Where a stage handles the error, decoding goes on; a second error at the same
    /// place closes the channel.
    fn decode(&mut self, input: &mut Input) -> Result<Option<Self::Frame>>;

    /// Appends an item's bytes.
    ///
    /// # Errors
    /// An item that has no encoding; nothing must have been appended.
    fn encode(&mut self, item: Self::Item, output: &mut Output) -> Result<()>;

    /// Like [`decode`](Codec::decode), when no byte will follow.
    ///
    /// # Errors
    /// By default [`Truncated`], for bytes that are left over at the end.
    fn decode_eof(&mut self, input: &mut Input) -> Result<Option<Self::Frame>> {
        match self.decode(input)? {
            None if !input.is_empty() => Err(Truncated { left: input.len() }.into()),
            frame => Ok(frame),
        }
    }
}

/// The stream ended inside a frame.
#[derive(Debug)]
pub struct Truncated {
    /// How many bytes of the unfinished frame had come.
    pub left: usize,
}

impl fmt::Display for Truncated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the stream ended inside a frame, after {} bytes of it", self.left)
    }
}

impl std::error::Error for Truncated {}

/// A codec with a will of its own: a handshake, an answer to a ping. Every [`Codec`] is one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is neither a `Codec` nor a `Protocol`",
    label = "expected a codec or a protocol here"
)]
pub trait Protocol {
    /// What arrives.
    type Frame;
    /// What is written.
    type Item;
    /// Whether it is a codec, and asked for its [`next_frame`](Protocol::next_frame) instead of to read.
    #[doc(hidden)]
    const IS_CODEC: bool = false;

    /// Asked again after each frame, until it says [`Flow::Done`]: more bytes are needed.
    ///
    /// # Errors
    /// Bytes that can't be a frame, or the end of the stream in the middle of one.
    fn read(&mut self, wire: &mut Wire<'_>, input: &mut Input) -> Result<Flow<Self::Frame>>;

    /// Of a codec.
    #[doc(hidden)]
    fn next_frame(&mut self, _input: &mut Input) -> Result<Option<Self::Frame>> {
        unreachable!("a protocol is asked to read")
    }

    /// Appends an item's bytes to the wire's output.
    ///
    /// # Errors
    /// An item that can't be written.
    fn write(&mut self, wire: &mut Wire<'_>, item: Self::Item) -> Result<()>;

    /// The channel is open.
    ///
    /// # Errors
    /// Whatever makes the channel unusable.
    fn open(&mut self, _wire: &mut Wire<'_>) -> Result<()> {
        Ok(())
    }

    /// Before what was written goes on towards the transport.
    ///
    /// # Errors
    /// What was written can't be finished.
    #[inline]
    fn flush(&mut self, _wire: &mut Wire<'_>) -> Result<()> {
        Ok(())
    }

    /// A close, a promise or the like on its way to the transport: for a close, the place for a last word. Gives what
    /// is to go on; what it keeps back it passes on later.
    ///
    /// # Errors
    /// What can't be done. A close goes on all the same.
    fn operate(&mut self, _wire: &mut Wire<'_>, operation: Operation) -> Result<Option<Operation>> {
        Ok(Some(operation))
    }

    /// A user event from a stage nearer to the transport, or from a task of this stage. Unless it is taken it goes on
    /// towards the tail.
    ///
    /// # Errors
    /// Whatever makes the channel unusable.
    fn event(&mut self, _wire: &mut Wire<'_>, _event: &mut Event) -> Result<()> {
        Ok(())
    }

    /// A timer that this stage has set has come.
    ///
    /// # Errors
    /// Whatever makes the channel unusable.
    fn timer(&mut self, _wire: &mut Wire<'_>, _key: u32) -> Result<()> {
        Ok(())
    }

    /// An error of its own. Handled, or given back to go on towards the tail.
    ///
    /// # Errors
    /// The error, where it is not handled.
    fn error(&mut self, _wire: &mut Wire<'_>, error: Error) -> Result<()> {
        Err(error)
    }

    /// The channel is closed, in order or for this reason; or the whole pipeline has been switched for another.
    fn closed(&mut self, _why: Option<&Error>) {}
}

impl<C: Codec> Protocol for C {
    type Frame = C::Frame;
    type Item = C::Item;
    const IS_CODEC: bool = true;

    fn read(&mut self, _wire: &mut Wire<'_>, input: &mut Input) -> Result<Flow<C::Frame>> {
        Ok(self.next_frame(input)?.map_or(Flow::Done, Flow::Next))
    }

    #[inline]
    fn next_frame(&mut self, input: &mut Input) -> Result<Option<C::Frame>> {
        if input.is_ended() { read_at_end(self, input) } else { self.decode(input) }
    }

    #[inline]
    fn write(&mut self, wire: &mut Wire<'_>, item: C::Item) -> Result<()> {
        self.encode(item, wire.output())
    }
}

/// Out of line: where a codec is read at the end of a stream, it is not worth inlining a second time.
#[cold]
fn read_at_end<C: Codec>(codec: &mut C, input: &mut Input) -> Result<Option<C::Frame>> {
    codec.decode_eof(input)
}
