//! What reaches a worker from other threads: messages, tasks that became ready, and endpoints that were woken.

use async_task::Runnable;
use crossbeam_channel::{Receiver, Sender, TrySendError};
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock, RwLock};

use crate::awake::Awake;
use crate::{EndpointId, Error, Io};

/// A message to a worker: it runs there, between two turns of channels.
pub(crate) type Message = Box<dyn FnOnce(&mut Io) + Send>;

/// What another thread has woken. A queue without a bound of its own: a task stands in it at most once, and an
/// endpoint once for each waker that it had given away.
pub(crate) enum Woken {
    Endpoint(EndpointId),
    Task(Runnable),
}

/// The senders' side of a worker's mailbox. Both queues are looked at once a turn.
pub(crate) struct Mailbox {
    messages: Sender<Message>,
    woken: Sender<Woken>,
    pub(crate) awake: Awake,
    /// Wakes the worker from its sleep in the kernel.
    event: EventCounter,
}

/// The worker's side.
pub(crate) struct Inbox {
    pub(crate) messages: Receiver<Message>,
    pub(crate) woken: Receiver<Woken>,
}

/// An `eventfd`: a write to it ends a read of it.
pub(crate) struct EventCounter(std::fs::File);

impl Mailbox {
    pub(crate) fn new(capacity: usize) -> Result<(Mailbox, Inbox), Error> {
        let (messages, message_inbox) = crossbeam_channel::bounded(capacity);
        let (woken, woken_inbox) = crossbeam_channel::unbounded();
        let mailbox = Mailbox { messages, woken, awake: Awake::new(), event: EventCounter::new()? };
        Ok((mailbox, Inbox { messages: message_inbox, woken: woken_inbox }))
    }

    /// # Errors
    /// [`Error::MailboxFull`] or [`Error::Stopped`]: the message is dropped.
    pub(crate) fn send(&self, message: Message) -> Result<(), Error> {
        self.messages.try_send(message).map_err(|refused| match refused {
            TrySendError::Full(_) => Error::MailboxFull,
            TrySendError::Disconnected(_) => Error::Stopped,
        })?;
        self.notify();
        Ok(())
    }

    /// Gives back what a worker that is gone can't take.
    pub(crate) fn wake(&self, woken: Woken) -> Result<(), Woken> {
        self.woken.send(woken).map_err(|refused| refused.0)?;
        self.notify();
        Ok(())
    }

    /// The descriptor that the worker reads while it sleeps.
    pub(crate) fn event(&self) -> Result<OwnedFd, Error> {
        self.event.0.try_clone().map(OwnedFd::from).map_err(Error::os("duplicating an event descriptor"))
    }

    fn notify(&self) {
        if self.awake.is_to_be_woken() {
            self.event.add_one();
        }
    }
}

impl Inbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.woken.is_empty()
    }
}

impl EventCounter {
    fn new() -> Result<Self, Error> {
        crate::sys::event_counter()
            .map(|fd| EventCounter(fd.into()))
            .map_err(Error::os("creating an event descriptor"))
    }

    fn add_one(&self) {
        // It can only fail by overflow, and then the reader is woken all the same.
        let _ = std::io::Write::write(&mut &self.0, &1u64.to_ne_bytes());
    }
}

/// The mailboxes of all workers of the process, by number: a waker has only room for that.
static MAILBOXES: OnceLock<RwLock<Vec<Option<Arc<Mailbox>>>>> = OnceLock::new();

/// Gives a mailbox the lowest number that is free.
pub(crate) fn register(mailbox: Arc<Mailbox>) -> u16 {
    let mut all =
        MAILBOXES.get_or_init(RwLock::default).write().expect("no thread panics while it holds the lock");
    let number = all.iter().position(Option::is_none).unwrap_or(all.len());
    if number == all.len() {
        all.push(None);
    }
    all[number] = Some(mailbox);
    u16::try_from(number).expect("a process has fewer than 65,536 workers")
}

/// Frees a number. A waker that still carries it can wake the next worker with this number for nothing.
pub(crate) fn unregister(number: u16) {
    let mut all =
        MAILBOXES.get_or_init(RwLock::default).write().expect("no thread panics while it holds the lock");
    all[usize::from(number)] = None;
}

pub(crate) fn find(number: u16) -> Option<Arc<Mailbox>> {
    let all = MAILBOXES.get()?.read().expect("no thread panics while it holds the lock");
    all.get(usize::from(number))?.clone()
}
