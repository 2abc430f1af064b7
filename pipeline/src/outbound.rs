//! The way from a stage to the transport.

use bytes::Bytes;

use crate::{Channel, Output, Result, Segment};

/// What stands below a stage: the next stage towards the transport, with all below it.
pub trait Outbound<T> {
    /// Passes a message on.
    ///
    /// # Errors
    /// What a stage on the way could not write and did not handle.
    fn write(&mut self, ch: &mut Channel, msg: T) -> Result<()>;

    /// Hands down what was written.
    ///
    /// # Errors
    /// What a stage on the way could not finish and did not handle.
    fn flush(&mut self, ch: &mut Channel) -> Result<()>;

    /// Closes in order, behind what was written.
    ///
    /// # Errors
    /// What a stage on the way could not finish and did not handle.
    fn close(&mut self, ch: &mut Channel) -> Result<()>;

    /// Tells the other side, behind what was written, that no more will be.
    ///
    /// # Errors
    /// What a stage on the way could not finish and did not handle.
    fn close_output(&mut self, ch: &mut Channel) -> Result<()>;

    /// Whether bytes written here go straight to the channel's outbound queue.
    #[inline]
    fn is_transport(&self) -> bool {
        false
    }

    /// Hands on the output of a codec that stands on another stage.
    ///
    /// # Errors
    /// As for [`write`](Outbound::write).
    fn append(&mut self, ch: &mut Channel, output: &mut Output) -> Result<()>
    where
        T: From<Bytes>,
    {
        while let Some(segment) = output.pop() {
            ch.count(segment.len(), 0);
            let bytes = match segment {
                Segment::Copied(bytes) => bytes.into(),
                Segment::Shared(bytes) => bytes,
            };
            self.write(ch, T::from(bytes))?;
        }
        Ok(())
    }
}

/// The transport's end of a pipeline: the lowest stage writes into the channel's outbound queue.
pub(crate) struct Edge;

impl Outbound<Bytes> for Edge {
    #[inline]
    fn write(&mut self, ch: &mut Channel, msg: Bytes) -> Result<()> {
        let n = msg.len();
        ch.link.output.put_bytes(msg);
        ch.count(0, n);
        Ok(())
    }

    #[inline]
    fn flush(&mut self, _ch: &mut Channel) -> Result<()> {
        Ok(())
    }

    fn close(&mut self, ch: &mut Channel) -> Result<()> {
        ch.begin_close();
        Ok(())
    }

    fn close_output(&mut self, ch: &mut Channel) -> Result<()> {
        ch.link.output_closed = true;
        Ok(())
    }

    #[inline]
    fn is_transport(&self) -> bool {
        true
    }
}
