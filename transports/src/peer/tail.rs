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
    /// Whether the stages below are.
    is_ready: bool,
    out: PhantomData<fn(Out)>,
}

impl<In, Out> PeerTail<In, Out> {
    /// On stages that are new.
    pub(super) fn new(inbox: &Rc<Inbox<In>>) -> Self {
        let generation = inbox.attach();
        PeerTail { inbox: Rc::clone(inbox), generation, is_ready: false, out: PhantomData }
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    /// The stages below are ready when they need no input any more.
    fn look(&mut self, cx: &mut Context<'_, Out>) {
        if !self.is_ready && !cx.needs_input() {
            self.is_ready = true;
            if !self.inbox.set_ready(self.generation) {
                cx.pause();
            }
        }
    }
}

impl<In, Out> Tail for PeerTail<In, Out> {
    type In = In;
    type Out = Out;

    fn open(&mut self, cx: &mut Context<'_, Out>) -> Result<()> {
        let reads = self.inbox.opened(cx.demand());
        if reads || cx.needs_input() {
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
        self.look(cx);
        if !self.inbox.deliver(frame) {
            cx.pause();
        }
        Ok(())
    }

    #[inline]
    fn read_complete(&mut self, cx: &mut Context<'_, Out>) -> Result<()> {
        self.look(cx);
        Ok(())
    }

    /// Whoever receives decides what follows.
    fn half_closed(&mut self, _cx: &mut Context<'_, Out>) -> Result<()> {
        self.inbox.set_ready(self.generation); // as far as they can be
        self.inbox.end();
        Ok(())
    }
}

impl<In: 'static, Out> Drop for PeerTail<In, Out> {
    fn drop(&mut self) {
        self.inbox.detach();
    }
}
