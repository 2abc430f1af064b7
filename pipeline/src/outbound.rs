//! The way from a stage to the transport.

use bytes::Bytes;

use crate::{Channel, ChannelClosed, Operation, Output, Result};

/// What stands below a stage: the next stage towards the transport, with all below it.
pub trait Outbound<T> {
    /// Passes a message on.
    ///
    /// # Errors
    /// What a stage on the way could not write and did not handle; [`ChannelClosed`] behind a close.
    fn write(&mut self, msg: T) -> Result<()>;

    /// Hands down what was written.
    ///
    /// # Errors
    /// What a stage on the way could not finish and did not handle.
    fn flush(&mut self) -> Result<()>;

    /// Passes an operation on, behind what was written.
    ///
    /// # Errors
    /// What a stage on the way could not do and did not handle.
    fn operate(&mut self, operation: Operation) -> Result<()>;

    /// The channel's outbound queue, where bytes that are written here go straight to it.
    #[inline]
    fn transport(&mut self) -> Option<&mut Output> {
        None
    }
}

impl<T, O: Outbound<T> + ?Sized> Outbound<T> for &mut O {
    #[inline]
    fn write(&mut self, msg: T) -> Result<()> {
        (**self).write(msg)
    }

    #[inline]
    fn flush(&mut self) -> Result<()> {
        (**self).flush()
    }

    fn operate(&mut self, operation: Operation) -> Result<()> {
        (**self).operate(operation)
    }

    #[inline]
    fn transport(&mut self) -> Option<&mut Output> {
        (**self).transport()
    }
}

/// The transport's end of a pipeline: the lowest stage writes into the channel's outbound queue.
pub(crate) struct Edge<'a> {
    pub(crate) ch: &'a Channel,
    pub(crate) output: &'a mut Output,
}

impl Outbound<Bytes> for Edge<'_> {
    #[inline]
    fn write(&mut self, msg: Bytes) -> Result<()> {
        if !self.ch.link.takes_writes() {
            return Err(ChannelClosed.into());
        }
        let n = msg.len();
        self.output.put_bytes(msg);
        self.ch.count(0, n);
        Ok(())
    }

    #[inline]
    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    fn operate(&mut self, operation: Operation) -> Result<()> {
        let ch = self.ch;
        match operation {
            Operation::Bind(local) => ch.link.set_bind(local),
            Operation::Connect(target) => ch.link.set_connect(target),
            Operation::Close => {
                ch.begin_close();
                ch.link.end_writes();
            }
            Operation::CloseOutput => ch.link.half_close(),
            Operation::Promise(promise) => ch.link.promise(self.output.end(), promise),
            Operation::Event(event) => ch.count_untaken(&event),
        }
        Ok(())
    }

    #[inline]
    fn transport(&mut self) -> Option<&mut Output> {
        Some(self.output)
    }
}
