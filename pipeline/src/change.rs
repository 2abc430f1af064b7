//! Where a change of a pipeline is left until the stage that it concerns takes it, between two messages.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use crate::{Error, Result};

/// Makes what takes another's place, on the core of its channel.
pub(crate) type Make<C> = Box<dyn FnOnce() -> C + Send>;

/// Shared by a stage and its keys on the same core.
pub(crate) struct Door<C> {
    change: Cell<Option<C>>,
    /// Looked at for each message: a change in a `Cell` can only be taken out and put back.
    asked: Cell<bool>,
    channel: RefCell<Life>,
    /// Changes from other cores, if there are keys there.
    letters: OnceCell<Arc<Letterbox<C>>>,
}

/// Changes from other cores.
pub(crate) struct Letterbox<C>(Mutex<Letters<C>>);

struct Letters<C> {
    change: Option<Make<C>>,
    channel: Life,
}

/// Of the stage's channel.
#[derive(Clone)]
enum Life {
    NotYet,
    Open(Waker),
    Closed,
}

impl Life {
    fn wake(&self) {
        if let Life::Open(channel) = self {
            channel.wake_by_ref();
        }
    }
}

/// A slot's or switch's channel is closed, or has no such stage any more: nothing has been changed.
#[derive(Debug)]
pub struct StageGone;

impl fmt::Display for StageGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the channel of this slot or switch is closed, or has it no more")
    }
}

impl std::error::Error for StageGone {}

/// For keys.
impl<C> Door<C> {
    pub(crate) fn new() -> Self {
        Door {
            change: Cell::new(None),
            asked: Cell::new(false),
            channel: RefCell::new(Life::NotYet),
            letters: OnceCell::new(),
        }
    }

    /// Of several changes between two messages the last counts.
    pub(crate) fn put(&self, change: C) -> Result<()> {
        let channel = self.channel.borrow();
        if let Life::Closed = *channel {
            return Err(Error::from(StageGone));
        }
        self.change.set(Some(change));
        self.asked.set(true);
        channel.wake();
        Ok(())
    }

    pub(crate) fn letterbox(&self) -> Arc<Letterbox<C>> {
        let make = || {
            Arc::new(Letterbox(Mutex::new(Letters { change: None, channel: self.channel.borrow().clone() })))
        };
        Arc::clone(self.letters.get_or_init(make))
    }
}

/// For the stage.
impl<C> Door<C> {
    pub(crate) fn open(&self, channel: Waker) {
        self.set_life(Life::Open(channel.clone()));
        self.look(); // what was asked for before woke nobody
        if self.asked.get() {
            channel.wake();
        }
    }

    pub(crate) fn close(&self) {
        self.set_life(Life::Closed);
        drop(self.change.take()); // it may hold a key to this very stage
        if let Some(letters) = self.letters.get() {
            let change = letters.lock().change.take();
            drop(change);
        }
    }

    /// Whether there is a change, as far as this core knows.
    #[inline]
    pub(crate) fn is_asked(&self) -> bool {
        self.asked.get()
    }

    /// Looks for changes from other cores.
    #[inline]
    pub(crate) fn look(&self) {
        if let Some(letters) = self.letters.get()
            && let Some(make) = letters.take()
        {
            self.change.set(Some(make()));
            self.asked.set(true);
        }
    }

    #[cold]
    pub(crate) fn take(&self) -> Option<C> {
        self.asked.set(false);
        self.change.take()
    }

    /// Whether nobody but the stage can come to it.
    pub(crate) fn has_no_keys(self: &Rc<Self>) -> bool {
        let has_letters = self.letters.get().is_some_and(|letters| Arc::strong_count(letters) > 1);
        Rc::strong_count(self) == 1 && !has_letters
    }

    /// Whether the stage is on the channel that this waker wakes.
    pub(crate) fn is_of(&self, channel: &Waker) -> bool {
        matches!(&*self.channel.borrow(), Life::Open(own) if own.will_wake(channel))
    }

    fn set_life(&self, life: Life) {
        if let Some(letters) = self.letters.get() {
            letters.lock().channel = life.clone();
        }
        self.channel.replace(life);
    }
}

impl<C> Letterbox<C> {
    pub(crate) fn put(&self, make: Make<C>) -> Result<()> {
        let mut letters = self.lock();
        if let Life::Closed = letters.channel {
            return Err(Error::from(StageGone));
        }
        let before = letters.change.replace(make);
        let channel = letters.channel.clone();
        drop(letters);
        channel.wake();
        drop(before);
        Ok(())
    }

    fn take(&self) -> Option<Make<C>> {
        self.lock().change.take()
    }

    /// User code never runs under the lock, so that it can't be poisoned in the middle of a change.
    fn lock(&self) -> MutexGuard<'_, Letters<C>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
