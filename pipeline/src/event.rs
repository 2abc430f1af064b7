//! User events: typed values that travel a pipeline beside its messages.

use std::any::Any;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;
use std::task::Waker;

use crate::channel::StageId;

/// A typed value that a stage may look at, or take so that it goes no further.
///
/// ```
/// # use perihelion_pipeline::Event;
/// let mut event = Event::new(LoggedIn { user: "ada".into() });
/// struct LoggedIn { user: String }
/// assert!(event.take::<u32>().is_none());
/// assert_eq!(event.get::<LoggedIn>().unwrap().user, "ada");
/// assert!(event.take::<LoggedIn>().is_some());
/// assert!(event.is_taken());
/// ```
pub struct Event(Option<Box<dyn Any>>);

impl Event {
    /// An event of this type.
    pub fn new<T: 'static>(value: T) -> Self {
        Event(Some(Box::new(value)))
    }

    /// The value, if it is a `T`.
    pub fn get<T: 'static>(&self) -> Option<&T> {
        self.0.as_ref()?.downcast_ref()
    }

    /// Takes the value, if it is a `T`.
    pub fn take<T: 'static>(&mut self) -> Option<T> {
        match self.0.take()?.downcast::<T>() {
            Ok(value) => Some(*value),
            Err(other) => {
                self.0 = Some(other);
                None
            }
        }
    }

    /// Whether a stage has taken it.
    pub fn is_taken(&self) -> bool {
        self.0.is_none()
    }
}

/// How many events tasks may give a channel before it has seen the first of them.
const WAITING_MAX: usize = 1024;

/// Gives events to the stage that made it, from a task on the same core: the result of a look-up or of a blocking call.
///
/// Made by [`Context::events`](crate::Context::events). An event comes to the stage's own
/// [`event`](crate::Handler::event) first, and then to those above it.
#[derive(Clone)]
pub struct EventSender {
    stage: StageId,
    inbox: Rc<EventInbox>,
}

/// What tasks have given a channel's stages.
pub(crate) struct EventInbox {
    waiting: RefCell<VecDeque<(StageId, Event)>>,
    /// `None`: the channel is closed.
    channel: RefCell<Option<Waker>>,
}

/// The event was not given: the channel is closed, or has too many events to look at.
#[derive(Debug, PartialEq, Eq)]
pub struct EventRefused;

impl EventSender {
    pub(crate) fn new(stage: StageId, inbox: Rc<EventInbox>) -> Self {
        EventSender { stage, inbox }
    }

    /// Gives an event to the stage, in the channel's next turn.
    ///
    /// # Errors
    /// [`EventRefused`], when the channel is closed or 1024 events wait for it.
    pub fn send<T: 'static>(&self, event: T) -> Result<(), EventRefused> {
        let channel = self.inbox.channel.borrow();
        let mut waiting = self.inbox.waiting.borrow_mut();
        let Some(channel) = channel.as_ref().filter(|_| waiting.len() < WAITING_MAX) else {
            return Err(EventRefused);
        };
        waiting.push_back((self.stage, Event::new(event)));
        channel.wake_by_ref();
        Ok(())
    }
}

impl EventInbox {
    pub(crate) fn new(channel: Waker) -> Rc<Self> {
        Rc::new(EventInbox { waiting: RefCell::default(), channel: RefCell::new(Some(channel)) })
    }

    pub(crate) fn set_waker(&self, channel: Waker) {
        self.channel.replace(Some(channel));
    }

    pub(crate) fn pop(&self) -> Option<(StageId, Event)> {
        self.waiting.borrow_mut().pop_front()
    }

    pub(crate) fn shut(&self) {
        self.channel.take();
        drop(self.waiting.take());
    }
}

impl fmt::Display for EventRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the channel is closed, or too many events wait for it")
    }
}

impl std::error::Error for EventRefused {}
