//! A slot holds a boxed handler of fixed message types, which can be replaced or removed between two of its messages.

use std::rc::Rc;
use std::sync::Arc;

use crate::change::{Door, Letterbox};
use crate::{Context, Error, Event, Flow, Handler, Operation, Pass, Result};

type Boxed<In, Next, Write, Out> = Box<dyn Handler<In = In, Next = Next, Write = Write, Out = Out>>;

/// Names a slot, with its message types. Whoever holds it, on the channel's core, can change the slot: a stage of the
/// pipeline, or a task. [`remote`](SlotKey::remote) gives a key for other cores.
///
/// A change takes effect at the slot's next message, or at once when no message is on its way: the present message is
/// finished by the handler that has begun it, and replies to it pass that handler. Of several changes between two
/// messages the last counts. The old handler is told ([`removed`](Handler::removed)), its timers end, and the new one
/// is told that the channel is [`open`](Handler::open).
///
/// One key belongs to one slot of one channel.
pub struct SlotKey<In, Next = In, Write = In, Out = Write>(Rc<Door<Boxed<In, Next, Write, Out>>>);

/// Names a slot from other cores.
pub struct RemoteSlotKey<In, Next = In, Write = In, Out = Write>(Arc<Letterbox<Boxed<In, Next, Write, Out>>>);

impl<In, Next, Write, Out> SlotKey<In, Next, Write, Out> {
    /// A key of no slot yet.
    pub fn new() -> Self {
        SlotKey(Rc::new(Door::new()))
    }

    /// Puts another handler into the slot.
    ///
    /// # Errors
    /// [`StageGone`](crate::StageGone), when the channel is closed.
    pub fn replace(
        &self,
        handler: impl Handler<In = In, Next = Next, Write = Write, Out = Out> + 'static,
    ) -> Result<()> {
        self.0.put(Box::new(handler))
    }

    /// A key for other cores.
    pub fn remote(&self) -> RemoteSlotKey<In, Next, Write, Out> {
        RemoteSlotKey(self.0.letterbox())
    }
}

impl<M: 'static, W: 'static> SlotKey<M, M, W, W> {
    /// Empties the slot: messages pass it.
    ///
    /// # Errors
    /// [`StageGone`](crate::StageGone), when the channel is closed.
    pub fn remove(&self) -> Result<()> {
        self.replace(Pass::default()) // a box of nothing: no allocation
    }
}

impl<In, Next, Write, Out> RemoteSlotKey<In, Next, Write, Out> {
    /// Puts another handler into the slot, which is made on the channel's core.
    ///
    /// # Errors
    /// [`StageGone`](crate::StageGone), when the channel is closed.
    pub fn replace<H>(&self, make: impl FnOnce() -> H + Send + 'static) -> Result<()>
    where
        H: Handler<In = In, Next = Next, Write = Write, Out = Out> + 'static,
    {
        self.0.put(Box::new(|| Box::new(make())))
    }
}

impl<M: 'static, W: 'static> RemoteSlotKey<M, M, W, W> {
    /// Empties the slot: messages pass it.
    ///
    /// # Errors
    /// [`StageGone`](crate::StageGone), when the channel is closed.
    pub fn remove(&self) -> Result<()> {
        self.replace(Pass::default)
    }
}

impl<In, Next, Write, Out> Default for SlotKey<In, Next, Write, Out> {
    fn default() -> Self {
        Self::new()
    }
}

impl<In, Next, Write, Out> Clone for SlotKey<In, Next, Write, Out> {
    fn clone(&self) -> Self {
        SlotKey(Rc::clone(&self.0))
    }
}

impl<In, Next, Write, Out> Clone for RemoteSlotKey<In, Next, Write, Out> {
    fn clone(&self) -> Self {
        RemoteSlotKey(Arc::clone(&self.0))
    }
}

/// A handler that can be replaced. Made by [`Builder::slot`](crate::Builder::slot).
pub struct Slot<In, Next, Write, Out> {
    current: Boxed<In, Next, Write, Out>,
    door: Rc<Door<Boxed<In, Next, Write, Out>>>,
}

impl<In, Next, Write, Out> Slot<In, Next, Write, Out> {
    pub(crate) fn new(
        key: &SlotKey<In, Next, Write, Out>,
        handler: impl Handler<In = In, Next = Next, Write = Write, Out = Out> + 'static,
    ) -> Self {
        Slot { current: Box::new(handler), door: Rc::clone(&key.0) }
    }

    #[cold]
    fn change(&mut self, cx: &mut Context<'_, Out>) -> Result<()> {
        let Some(successor) = self.door.take() else { return Ok(()) };
        let removed = self.current.removed(cx).or_else(|error| self.current.error(cx, error));
        cx.cancel_timers();
        self.current = successor;
        removed.and(self.current.open(cx))
    }

    /// (Apart from [`read`](Handler::read), whose result is so that of a call in any case and stays where the call puts
    /// it. Joined with an error from here, it would be copied word by word.)
    #[cold]
    #[inline(never)]
    fn change_and_read(&mut self, cx: &mut Context<'_, Out>, msg: In) -> Result<Flow<Next>> {
        self.change(cx)?;
        self.current.read(cx, msg)
    }
}

impl<In, Next, Write, Out> Drop for Slot<In, Next, Write, Out> {
    fn drop(&mut self) {
        self.door.close();
    }
}

impl<In, Next, Write, Out> Handler for Slot<In, Next, Write, Out> {
    type In = In;
    type Next = Next;
    type Write = Write;
    type Out = Out;

    #[inline]
    fn read(&mut self, cx: &mut Context<'_, Out>, msg: In) -> Result<Flow<Next>> {
        if self.door.is_asked() {
            return self.change_and_read(cx, msg);
        }
        self.current.read(cx, msg)
    }

    #[inline]
    fn write(&mut self, cx: &mut Context<'_, Out>, msg: Write) -> Result<()> {
        self.current.write(cx, msg)
    }

    fn more(&mut self, cx: &mut Context<'_, Out>) -> Result<Flow<Next>> {
        self.current.more(cx)
    }

    fn open(&mut self, cx: &mut Context<'_, Out>) -> Result<()> {
        self.door.open(cx.waker().clone());
        self.current.open(cx)
    }

    fn settle(&mut self, cx: &mut Context<'_, Out>) -> Result<()> {
        self.door.look();
        if self.door.is_asked() { self.change(cx) } else { Ok(()) }
    }

    #[inline]
    fn flush(&mut self, cx: &mut Context<'_, Out>) -> Result<()> {
        self.door.look();
        self.current.flush(cx)
    }

    fn read_complete(&mut self, cx: &mut Context<'_, Out>) -> Result<()> {
        self.current.read_complete(cx)
    }

    fn writable(&mut self, cx: &mut Context<'_, Out>, writable: bool) -> Result<()> {
        self.current.writable(cx, writable)
    }

    fn half_closed(&mut self, cx: &mut Context<'_, Out>) -> Result<()> {
        self.current.half_closed(cx)
    }

    fn operate(&mut self, cx: &mut Context<'_, Out>, operation: Operation) -> Result<()> {
        self.current.operate(cx, operation)
    }

    fn event(&mut self, cx: &mut Context<'_, Out>, event: &mut Event) -> Result<()> {
        self.current.event(cx, event)
    }

    fn timer(&mut self, cx: &mut Context<'_, Out>, key: u32) -> Result<()> {
        self.current.timer(cx, key)
    }

    fn error(&mut self, cx: &mut Context<'_, Out>, error: Error) -> Result<()> {
        self.current.error(cx, error)
    }

    fn removed(&mut self, cx: &mut Context<'_, Out>) -> Result<()> {
        self.current.removed(cx)
    }

    fn closed(&mut self, why: Option<&Error>) {
        self.door.close();
        self.current.closed(why);
    }
}
