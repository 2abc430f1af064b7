//! What a stage sees during one call: the way to the transport, and its channel.

use std::ops::{Deref, DerefMut};

use crate::{Channel, Outbound, Output, Result};

/// For handlers and tails: they write messages. Dereferences to the [`Channel`].
pub struct Context<'a, T> {
    out: &'a mut (dyn Outbound<T> + 'a),
    ch: &'a mut Channel,
}

impl<'a, T> Context<'a, T> {
    #[inline]
    pub(crate) fn new(out: &'a mut (dyn Outbound<T> + 'a), ch: &'a mut Channel) -> Self {
        Context { out, ch }
    }

    /// Writes a message towards the transport. It is sent at the end of this turn of the event loop.
    ///
    /// # Errors
    /// What a stage on the way could not write and did not handle.
    #[inline]
    pub fn write(&mut self, msg: T) -> Result<()> {
        self.out.write(self.ch, msg)
    }

    /// Makes the stages on the way hand down what they hold. The end of a turn does it too.
    ///
    /// # Errors
    /// What a stage on the way could not finish and did not handle.
    #[inline]
    pub fn flush(&mut self) -> Result<()> {
        self.out.flush(self.ch)
    }

    /// Closes once everything written has been sent. The stages on the way hand down what they hold, and may say a
    /// last word; a channel that is closing already is left alone.
    ///
    /// # Errors
    /// What a stage on the way could not finish and did not handle. The channel closes all the same.
    pub fn close(&mut self) -> Result<()> {
        if self.ch.is_closing() { Ok(()) } else { self.out.close(self.ch) }
    }

    /// Tells the other side, once everything written has been sent, that no more will be. What it sends is read on.
    /// Nothing may be written after it.
    ///
    /// # Errors
    /// What a stage on the way could not finish and did not handle.
    pub fn close_output(&mut self) -> Result<()> {
        self.out.close_output(self.ch)
    }
}

impl<T> Deref for Context<'_, T> {
    type Target = Channel;
    #[inline]
    fn deref(&self) -> &Channel {
        self.ch
    }
}

impl<T> DerefMut for Context<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Channel {
        self.ch
    }
}

/// For protocols: they write bytes. Dereferences to the [`Channel`].
pub struct Wire<'a> {
    /// Where the protocol stands on another stage. At the transport's end it writes into the channel's queue.
    nested: Option<&'a mut Nested>,
    ch: &'a mut Channel,
}

/// What a protocol that stands on another stage has for that stage.
#[derive(Default)]
pub(crate) struct Nested {
    /// Written since the last flush.
    pub(crate) output: Output,
    /// Whether it has asked for the close, which then travels through the stages below.
    pub(crate) closes: bool,
}

impl<'a> Wire<'a> {
    #[inline]
    pub(crate) fn new(nested: Option<&'a mut Nested>, ch: &'a mut Channel) -> Self {
        Wire { nested, ch }
    }

    /// What is written here goes towards the transport.
    #[inline]
    pub fn output(&mut self) -> &mut Output {
        match &mut self.nested {
            Some(nested) => &mut nested.output,
            None => &mut self.ch.link.output,
        }
    }

    /// Closes once everything written has been sent.
    pub fn close(&mut self) {
        match &mut self.nested {
            Some(nested) => nested.closes = true,
            None => self.ch.begin_close(),
        }
    }
}

impl Deref for Wire<'_> {
    type Target = Channel;
    #[inline]
    fn deref(&self) -> &Channel {
        self.ch
    }
}

impl DerefMut for Wire<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Channel {
        self.ch
    }
}
