//! What reaches a worker from other threads: messages, tasks that became ready, and endpoints that were woken.

use async_task::Runnable;
use crossbeam_channel::{Receiver, Sender};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, RwLock};

use crate::awake::Awake;
use crate::{EndpointId, Error, Io};

/// A message to a worker: it runs there, between two turns of channels.
pub(crate) type Message = Box<dyn FnOnce(&mut Io) + Send>;

/// What another thread has woken. The queue has no bound of its own: a task stands in it at most once, and an endpoint
/// as often as others have woken it since its worker last looked.
pub(crate) enum Woken {
    Endpoint(EndpointId),
    Task(Runnable),
}

/// The senders' side of a worker's mailbox. Both queues are looked at once a turn.
///
/// Messages are bounded by a count beside their queue: a bounded queue of `crossbeam` keeps what is in it when its
/// receiver is dropped, and whoever waits for the answer to such a message would wait for ever.
pub(crate) struct Mailbox {
    messages: Sender<Message>,
    /// How many more messages there may be.
    room: Arc<AtomicUsize>,
    woken: Sender<Woken>,
    pub(crate) awake: Awake,
    /// Wakes the worker from its sleep in the kernel.
    event: EventCounter,
}

/// The worker's side.
pub(crate) struct Inbox {
    messages: Receiver<Message>,
    room: Arc<AtomicUsize>,
    pub(crate) woken: Receiver<Woken>,
}

/// An `eventfd`: a write to it ends a read of it.
pub(crate) struct EventCounter(std::fs::File);

impl Mailbox {
    pub(crate) fn new(capacity: usize) -> Result<(Mailbox, Inbox), Error> {
        let (messages, message_inbox) = crossbeam_channel::unbounded();
        let (woken, woken_inbox) = crossbeam_channel::unbounded();
        let room = Arc::new(AtomicUsize::new(capacity));
        let inbox = Inbox { messages: message_inbox, room: Arc::clone(&room), woken: woken_inbox };
        Ok((Mailbox { messages, room, woken, awake: Awake::new(), event: EventCounter::new()? }, inbox))
    }

    /// # Errors
    /// [`Error::MailboxFull`] or [`Error::Stopped`]: the message is dropped.
    pub(crate) fn send(&self, message: Message) -> Result<(), Error> {
        let less = |room: usize| room.checked_sub(1);
        self.room.fetch_update(Relaxed, Relaxed, less).map_err(|_| Error::MailboxFull)?;
        self.messages.send(message).map_err(|_| Error::Stopped)?;
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
    /// The next message.
    pub(crate) fn message(&self) -> Option<Message> {
        let message = self.messages.try_recv().ok()?;
        self.room.fetch_add(1, Relaxed);
        Some(message)
    }

    pub(crate) fn messages(&self) -> usize {
        self.messages.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.woken.is_empty()
    }
}

impl Drop for Inbox {
    /// A mailbox whose worker is gone is never full: it says that the worker is gone.
    fn drop(&mut self) {
        self.room.store(usize::MAX, Relaxed);
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
