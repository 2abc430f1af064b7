//! Where a peer sits at the end of its pipeline.

use perihelion_pipeline::{Context, Event, Result, Tail};
use std::marker::PhantomData;
use std::rc::Rc;

use super::inbox::Inbox;

/// The end of a peer's pipeline. Its name appears in the bounds of what makes peers; there is no use for it elsewhere.
pub struct PeerTail<In: 'static, Out> {
    inbox: Rc<Inbox<In>>,
    /// Of the stages below. Those that were replaced have no say any more.
    generation: u32,
    out: PhantomData<fn(Out)>,
}

impl<In, Out> PeerTail<In, Out> {
    /// On stages that are new.
    pub(super) fn new(inbox: &Rc<Inbox<In>>) -> Self {
        let generation = inbox.attach();
        PeerTail { inbox: Rc::clone(inbox), generation, out: PhantomData }
    }

    fn look(&self, cx: &Context<'_, Out>) {
        if !cx.needs_input() {
            self.inbox.set_ready(self.generation);
        }
    }
}

impl<In, Out> Tail for PeerTail<In, Out> {
    type In = In;
    type Out = Out;

    fn open(&mut self, cx: &mut Context<'_, Out>) -> Result<()> {
        let demand = cx.demand();
        if self.inbox.opened(demand) {
            cx.resume();
        } else {
            cx.pause();
        }
        self.look(cx);
        Ok(())
    }

    fn event(&mut self, cx: &mut Context<'_, Out>, _event: &mut Event) -> Result<()> {
        self.look(cx);
        Ok(())
    }

    #[inline]
    fn read(&mut self, cx: &mut Context<'_, Out>, frame: In) -> Result<()> {
        if !self.inbox.deliver(frame) {
            cx.pause();
        }
        Ok(())
    }

    /// Whoever receives decides what follows.
    fn half_closed(&mut self, _cx: &mut Context<'_, Out>) -> Result<()> {
        self.inbox.end();
        Ok(())
    }
}

impl<In: 'static, Out> Drop for PeerTail<In, Out> {
    fn drop(&mut self) {
        self.inbox.detach();
    }
}
