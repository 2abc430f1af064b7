//! How much a channel reads, as tasks ask for it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;

use crate::link::Link;

/// Pauses and resumes a channel's reading from a task on the same core. Made by
/// [`Channel::demand`](crate::Channel::demand); stages have the same methods on their context.
///
/// Acts between two messages. Without effect once the channel is closed.
#[derive(Clone)]
pub struct DemandHandle(Rc<DemandCell>);

/// What a task has asked for, until the channel's next turn.
pub(crate) struct DemandCell {
    asked: Cell<Asked>,
    channel: RefCell<Waker>,
}

#[derive(Clone, Copy, Default)]
enum Asked {
    #[default]
    Nothing,
    Pause,
    Resume,
    /// This many messages, after a pause or without one.
    Messages {
        after_pause: bool,
        count: u32,
    },
}

impl DemandHandle {
    pub(crate) fn new(cell: Rc<DemandCell>) -> Self {
        DemandHandle(cell)
    }

    /// No message is handled after the present one.
    pub fn pause(&self) {
        self.ask(Asked::Pause);
    }

    /// All messages are handled as they come.
    pub fn resume(&self) {
        self.ask(Asked::Resume);
    }

    /// One message more is handled, and then none until more are asked for.
    pub fn read_one(&self) {
        self.ask(match self.0.asked.get() {
            Asked::Nothing => Asked::Messages { after_pause: false, count: 1 },
            Asked::Pause | Asked::Resume => Asked::Messages { after_pause: true, count: 1 },
            Asked::Messages { after_pause, count } => {
                Asked::Messages { after_pause, count: count.saturating_add(1) }
            }
        });
    }

    fn ask(&self, asked: Asked) {
        self.0.asked.set(asked);
        self.0.channel.borrow().wake_by_ref();
    }
}

impl DemandCell {
    pub(crate) fn new(channel: Waker) -> Rc<Self> {
        Rc::new(DemandCell { asked: Cell::default(), channel: RefCell::new(channel) })
    }

    pub(crate) fn set_waker(&self, channel: Waker) {
        self.channel.replace(channel);
    }

    /// Does what was asked for.
    pub(crate) fn apply(&self, link: &Link) {
        match self.asked.take() {
            Asked::Nothing => {}
            Asked::Pause => link.pause(),
            Asked::Resume => link.resume(),
            Asked::Messages { after_pause, count } => {
                if after_pause {
                    link.pause();
                }
                link.read_more(count);
            }
        }
    }
}
