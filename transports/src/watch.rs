//! A task's view of its channel: when it is closed, and the wish to close it.

use perihelion_pipeline::{self as pipeline, Runner};
use perihelion_runtime::defer;
use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::admission::Place;
use crate::channel::Channel;
use crate::group::Group;

/// Shared by a channel and its handle.
#[derive(Default)]
pub(crate) struct Watch {
    stage: RefCell<Stage>,
    /// Those who wait for the end.
    waiting: RefCell<Vec<Waker>>,
    wants_close: Cell<bool>,
}

#[derive(Default)]
enum Stage {
    /// The channel is on its way to the event loop.
    #[default]
    New,
    /// With the channel's waker.
    Open(Waker),
    Closed(Option<String>),
}

impl Watch {
    pub(crate) fn opened(&self, channel: Waker) {
        if self.wants_close.get() {
            channel.wake_by_ref();
        }
        self.stage.replace(Stage::Open(channel));
    }

    pub(crate) fn closed(&self, reason: Option<String>) {
        self.stage.replace(Stage::Closed(reason));
        self.waiting.take().into_iter().for_each(Waker::wake);
    }

    /// `None` while the channel is not closed.
    pub(crate) fn reason(&self) -> Option<Option<String>> {
        match &*self.stage.borrow() {
            Stage::Closed(reason) => Some(reason.clone()),
            Stage::New | Stage::Open(_) => None,
        }
    }

    pub(crate) fn take_close(&self) -> bool {
        self.wants_close.take()
    }
}

/// An open channel of a client or an acceptor. Dropped, it leaves the channel alone.
pub struct ChannelHandle(pub(crate) Rc<Watch>);

impl ChannelHandle {
    /// Opens a channel on this worker: not at once, for whoever asks may be a stage of another, and then the group's
    /// state is in use.
    pub(crate) fn open(
        fd: OwnedFd,
        group: Rc<Group>,
        place: Place,
        make: impl FnOnce(&pipeline::Channel) -> Runner + 'static,
    ) -> Self {
        let watch = Rc::new(Watch::default());
        let theirs = Rc::clone(&watch);
        defer(move |io| {
            let unopened = Rc::clone(&theirs);
            let runner = make(&group.channel.borrow());
            if io.open(fd, |io, id| Channel::new(io, id, runner, group, Some(theirs), place)).is_err() {
                unopened.closed(Some("the worker can't hold more connections".into()));
            }
        });
        ChannelHandle(watch)
    }

    /// Closes the channel, behind what was written. The future gives what [`closed`](ChannelHandle::closed) does; the
    /// channel closes whether it is awaited or not.
    pub fn close(&self) -> Closed {
        self.0.wants_close.set(true);
        if let Stage::Open(channel) = &*self.0.stage.borrow() {
            channel.wake_by_ref();
        }
        self.closed()
    }

    /// Waits until the channel is closed, and gives the reason unless it was closed in order.
    pub fn closed(&self) -> Closed {
        Closed(Rc::clone(&self.0))
    }
}

/// Done when a channel is closed: with the reason, unless it was closed in order.
pub struct Closed(Rc<Watch>);

impl Future for Closed {
    type Output = Option<String>;

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<String>> {
        if let Some(reason) = self.0.reason() {
            return Poll::Ready(reason);
        }
        let mut waiting = self.0.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(task.waker())) {
            waiting.push(task.waker().clone());
        }
        Poll::Pending
    }
}
