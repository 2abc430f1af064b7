//! What a channel was told, for the test to read.

use perihelion::prelude::*;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};

use super::eventually;

/// Shared by a test and the stages that write it.
#[derive(Clone, Default)]
pub(crate) struct Journal(Arc<Mutex<Vec<String>>>);

/// A stage that passes everything on and notes the events.
pub(crate) struct Notes<M> {
    journal: Journal,
    message: PhantomData<M>,
}

impl Journal {
    pub(crate) fn stage<M>(&self) -> Notes<M> {
        Notes { journal: self.clone(), message: PhantomData }
    }

    pub(crate) fn note(&self, entry: impl Into<String>) {
        self.0.lock().unwrap().push(entry.into());
    }

    pub(crate) fn entries(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, part: &str) -> usize {
        self.entries().iter().filter(|entry| entry.contains(part)).count()
    }

    /// Waits for an entry that has this in it.
    pub(crate) fn wait_for(&self, part: &str) {
        self.wait_for_some(1, part);
    }

    pub(crate) fn wait_for_some(&self, least: usize, part: &str) {
        eventually(&format!("{least} times `{part}` in the journal"), || self.count(part) >= least);
    }
}

impl<M> Handler for Notes<M> {
    type In = M;
    type Next = M;
    type Write = M;
    type Out = M;

    fn read(&mut self, _cx: &mut Context<'_, M>, message: M) -> Result<Flow<M>> {
        Ok(Flow::Next(message))
    }

    fn write(&mut self, cx: &mut Context<'_, M>, message: M) -> Result<()> {
        cx.write(message)
    }

    fn open(&mut self, _cx: &mut Context<'_, M>) -> Result<()> {
        self.journal.note("open");
        Ok(())
    }

    fn writable(&mut self, _cx: &mut Context<'_, M>, writable: bool) -> Result<()> {
        self.journal.note(if writable { "writable" } else { "unwritable" });
        Ok(())
    }

    fn half_closed(&mut self, _cx: &mut Context<'_, M>) -> Result<()> {
        self.journal.note("half-closed");
        Ok(())
    }

    fn closed(&mut self, why: Option<&Error>) {
        self.journal.note(match why {
            Some(error) => format!("closed: {error}"),
            None => "closed in order".into(),
        });
    }
}
