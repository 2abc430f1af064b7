//! What a stage sees during one call: the way to the transport, and its channel.

use std::collections::VecDeque;
use std::ops::Deref;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use crate::channel::StageId;
use crate::promise::promise;
use crate::{Channel, Event, EventSender, Operation, Outbound, Output, Promise, Result, Written};

/// For handlers and tails: they write messages. Dereferences to the [`Channel`].
pub struct Context<'a, T> {
    out: &'a mut (dyn Outbound<T> + 'a),
    ch: &'a Channel,
    stage: StageId,
}

impl<'a, T> Context<'a, T> {
    #[inline]
    pub(crate) fn new(out: &'a mut (dyn Outbound<T> + 'a), ch: &'a Channel, stage: StageId) -> Self {
        Context { out, ch, stage }
    }

    /// Writes a message towards the transport. It is sent at the end of this turn of the event loop.
    ///
    /// # Errors
    /// What a stage on the way could not write and did not handle; [`ChannelClosed`](crate::ChannelClosed) behind a
    /// close.
    #[inline]
    pub fn write(&mut self, msg: T) -> Result<()> {
        self.out.write(msg)
    }

    /// A future that resolves when the kernel has taken everything written so far.
    ///
    /// # Errors
    /// What a stage on the way could not do and did not handle.
    pub fn written(&mut self) -> Result<Written> {
        let (promise, written) = promise();
        self.operate(Operation::Promise(promise))?;
        Ok(written)
    }

    /// Makes the stages on the way hand down what they hold. The end of a turn does it too.
    ///
    /// # Errors
    /// What a stage on the way could not finish and did not handle.
    #[inline]
    pub fn flush(&mut self) -> Result<()> {
        self.out.flush()
    }

    /// Closes once everything written has been sent. The stages on the way hand down what they hold, and may say a
    /// last word; a channel that is closing already is left alone.
    ///
    /// # Errors
    /// What a stage on the way could not finish and did not handle. The channel closes all the same.
    pub fn close(&mut self) -> Result<()> {
        self.operate(Operation::Close)
    }

    /// Tells the other side, once everything written has been sent, that no more will be. What it sends is read on.
    /// What is written after it is an error.
    ///
    /// # Errors
    /// What a stage on the way could not finish and did not handle.
    pub fn close_output(&mut self) -> Result<()> {
        self.operate(Operation::CloseOutput)
    }

    /// Sends a user event towards the transport, behind what was written.
    ///
    /// # Errors
    /// What a stage on the way made of it.
    pub fn send_event<E: 'static>(&mut self, event: E) -> Result<()> {
        self.operate(Operation::Event(Event::new(event)))
    }

    /// Passes an operation on towards the transport, behind what was written.
    ///
    /// # Errors
    /// What a stage on the way could not do and did not handle.
    pub fn operate(&mut self, operation: Operation) -> Result<()> {
        match operation {
            Operation::Close if self.ch.is_closing() => Ok(()),
            operation => self.out.operate(operation),
        }
    }
}

/// For protocols: they write bytes. Dereferences to the [`Channel`].
pub struct Wire<'a> {
    output: &'a mut Output,
    /// Where the protocol stands on another stage. At the transport's end the output is the channel's own.
    behind: Option<&'a mut Behind>,
    ch: &'a Channel,
    stage: StageId,
}

/// What a protocol that stands on another stage has for that stage, behind its output.
#[derive(Default)]
pub(crate) struct Behind {
    /// Promises that travel behind what was written, by the position in the output.
    pub(crate) promises: VecDeque<(u64, Promise)>,
    /// The close that it has asked for, which then travels through the stages below.
    pub(crate) ending: Option<Operation>,
}

impl<'a> Wire<'a> {
    #[inline]
    pub(crate) fn new(
        output: &'a mut Output,
        behind: Option<&'a mut Behind>,
        ch: &'a Channel,
        stage: StageId,
    ) -> Self {
        Wire { output, behind, ch, stage }
    }

    /// What is written here goes towards the transport.
    #[inline]
    pub fn output(&mut self) -> &mut Output {
        self.output
    }

    /// Closes once everything written has been sent.
    pub fn close(&mut self) {
        match &mut self.behind {
            Some(behind) => behind.ending = Some(Operation::Close),
            None => self.ch.begin_close(),
        }
    }

    /// Tells the other side, once everything written has been sent, that no more will be. What it sends is read on.
    pub fn close_output(&mut self) {
        match &mut self.behind {
            Some(behind) => behind.ending = behind.ending.take().or(Some(Operation::CloseOutput)),
            None => self.ch.link.half_close(),
        }
    }

    /// The close that the protocol has asked for, unless the transport knows of it.
    #[inline]
    pub(crate) fn take_ending(&mut self) -> Option<Operation> {
        self.behind.as_mut()?.ending.take()
    }

    /// Passes a promise on that this stage has kept back, behind what is in the output.
    pub fn promise(&mut self, promise: Promise) {
        let position = self.output.end();
        match &mut self.behind {
            Some(behind) => behind.promises.push_back((position, promise)),
            None => self.ch.link.promise(position, promise),
        }
    }
}

macro_rules! stage_access {
    ($context:ident $(, $T:ident)?) => {
        impl<$($T)?> Deref for $context<'_ $(, $T)?> {
            type Target = Channel;
            #[inline]
            fn deref(&self) -> &Channel {
                self.ch
            }
        }

        /// What concerns the calling stage.
        impl<$($T)?> $context<'_ $(, $T)?> {
            /// Raises a user event for the stages towards the tail. It comes to them when the present message is done,
            /// or before the frame that a protocol is making; [`Flow::raise`](crate::Flow::raise) raises one before a
            /// handler's message.
            pub fn raise<E: 'static>(&mut self, event: E) {
                self.ch.raise(self.stage, Event::new(event));
            }

            /// Gives events to this stage from a task: the result of a look-up or of a blocking call.
            pub fn events(&mut self) -> EventSender {
                self.ch.event_sender(self.stage)
            }

            /// Calls this stage's `timer` with the key after this time, to the millisecond. A timer with the same key
            /// is moved, which costs no more than a store.
            ///
            /// # Panics
            /// If the stages of the channel have 1024 timers already.
            pub fn set_timer(&mut self, key: u32, after: Duration) {
                let at = self.ch.now() + after;
                self.ch.link.set_timer(self.stage, key, at);
            }

            /// Cancels this stage's timer with the key, if it has one.
            pub fn cancel_timer(&mut self, key: u32) {
                let own = self.stage;
                self.ch.link.cancel_timers(|stage, of| stage == own && of == key);
            }

            /// Cancels all timers of this stage.
            pub fn cancel_timers(&mut self) {
                let own = self.stage;
                self.ch.link.cancel_timers(|stage, _| stage == own);
            }

            /// This stage has a message to pass on: it is asked for `more` (a protocol: to `read`) when the stages
            /// above can take one, in another turn.
            pub fn ask(&mut self) {
                self.ch.link.ask(self.stage);
                self.ch.waker().wake_by_ref();
            }

            /// Polls a future that the stage keeps, and gives its result once. The stage is asked for `more` when the
            /// future wakes, if it said [`Flow::Wait`](crate::Flow::Wait).
            pub fn poll<R>(&mut self, future: &mut Option<Pin<Box<dyn Future<Output = R>>>>) -> Option<R> {
                let polled = future.as_mut()?.as_mut().poll(&mut std::task::Context::from_waker(self.ch.waker()));
                match polled {
                    Poll::Pending => None,
                    Poll::Ready(result) => {
                        *future = None;
                        Some(result)
                    }
                }
            }
        }
    };
}

stage_access!(Context, T);
stage_access!(Wire);
