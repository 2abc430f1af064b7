//! The way from a stage to the transport.

use bytes::Bytes;

use crate::{Channel, ChannelClosed, Operation, Result};

/// What stands below a stage: the next stage towards the transport, with all below it.
pub trait Outbound<T> {
    /// Passes a message on.
    ///
    /// # Errors
    /// What a stage on the way could not write and did not handle; [`ChannelClosed`] behind a close.
    fn write(&mut self, ch: &mut Channel, msg: T) -> Result<()>;

    /// Hands down what was written.
    ///
    /// # Errors
    /// What a stage on the way could not finish and did not handle.
    fn flush(&mut self, ch: &mut Channel) -> Result<()>;

    /// Passes an operation on, behind what was written.
    ///
    /// # Errors
    /// What a stage on the way could not do and did not handle.
    fn operate(&mut self, ch: &mut Channel, operation: Operation) -> Result<()>;

    /// Whether bytes written here go straight to the channel's outbound queue.
    #[inline]
    fn is_transport(&self) -> bool {
        false
    }
}

impl<T, O: Outbound<T> + ?Sized> Outbound<T> for &mut O {
    #[inline]
    fn write(&mut self, ch: &mut Channel, msg: T) -> Result<()> {
        (**self).write(ch, msg)
    }

    #[inline]
    fn flush(&mut self, ch: &mut Channel) -> Result<()> {
        (**self).flush(ch)
    }

    fn operate(&mut self, ch: &mut Channel, operation: Operation) -> Result<()> {
        (**self).operate(ch, operation)
    }

    #[inline]
    fn is_transport(&self) -> bool {
        (**self).is_transport()
    }
}

/// The transport's end of a pipeline: the lowest stage writes into the channel's outbound queue.
pub(crate) struct Edge;

impl Outbound<Bytes> for Edge {
    #[inline]
    fn write(&mut self, ch: &mut Channel, msg: Bytes) -> Result<()> {
        if !ch.link.takes_writes() {
            return Err(ChannelClosed.into());
        }
        let n = msg.len();
        ch.link.output.put_bytes(msg);
        ch.count(0, n);
        Ok(())
    }

    #[inline]
    fn flush(&mut self, _ch: &mut Channel) -> Result<()> {
        Ok(())
    }

    fn operate(&mut self, ch: &mut Channel, operation: Operation) -> Result<()> {
        match operation {
            Operation::Bind(local) => ch.link.set_bind(local),
            Operation::Connect(target) => ch.link.set_connect(target),
            Operation::Close => {
                ch.begin_close();
                ch.link.end_writes();
            }
            Operation::CloseOutput => ch.link.half_close(),
            Operation::Promise(promise) => ch.link.promise(promise),
            Operation::Event(event) => ch.count_untaken(&event),
        }
        Ok(())
    }

    #[inline]
    fn is_transport(&self) -> bool {
        true
    }
}
