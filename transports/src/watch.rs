//! A channel as tasks on its worker see it: what is known about it, when it is closed, and the wish to close it.

use bytes::Bytes;
use perihelion_pipeline::{Error, Features, Pipeline, Record, Runner, Traffic};
use perihelion_runtime::now;
use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::function::Turn;
use crate::group::Group;
use crate::line::{Line, Number};
use crate::new_channel::NewChannel;
use crate::{ConnectionError, NewConnection};

/// Shared by a channel and its handles.
pub(crate) struct Watch {
    busy: Busy,
    features: Features,
    side: Side,
    since: Cell<Instant>,
    stage: RefCell<Stage>,
    /// Why it closes or is closed, unless in order.
    reason: OnceCell<String>,
    /// Those who wait for the end.
    waiting: RefCell<Option<Box<Line>>>,
    wish: Cell<Option<Wish>>,
    /// For what reason the function that the connection belongs to has ended.
    failure: Cell<Option<Error>>,
    id: u64,
}

/// What each message touches, side by side in memory.
struct Busy {
    traffic: Traffic,
    turn: Turn,
}

enum Stage {
    /// The channel is on its way to the event loop.
    New,
    /// With the channel's waker.
    Open(Waker),
    /// One side has ended it, or wants to. With the channel's waker.
    Ending(Waker),
    Closed {
        after: Duration,
    },
}

/// How a handle wants its channel to end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wish {
    Close,
    /// With the reason that is left beside it.
    Fail,
    Abort,
}

/// Who has made a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The other side has: this one has accepted it.
    Accepted,
    /// This side has.
    Connected,
}

/// The two ends of a connection: a [feature](Features) of it. Middleware that learns of another address than the
/// socket's, such as that of a client behind a proxy, replaces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The other side's.
    pub peer: SocketAddr,
    /// This side's.
    pub local: SocketAddr,
}

impl Watch {
    /// Of a channel that is about to be made, with what is known about it.
    pub(crate) fn new(side: Side, addresses: Option<Addresses>, now: Instant) -> Rc<Self> {
        let features = Features::default();
        if let Some(addresses) = addresses {
            features.insert(addresses);
        }
        Rc::new(Watch {
            busy: Busy { traffic: Traffic::new(now), turn: Turn::default() },
            features,
            side,
            since: Cell::new(now),
            stage: RefCell::new(Stage::New),
            reason: OnceCell::new(),
            waiting: RefCell::default(),
            wish: Cell::default(),
            failure: Cell::default(),
            id: next_id(),
        })
    }

    /// The connection has been made, with this socket.
    pub(crate) fn connected(&self, socket: BorrowedFd<'_>, now: Instant) {
        self.since.set(now);
        if let Ok(addresses) = NewConnection::accepted(socket).addresses() {
            self.features.insert(addresses);
        }
    }

    pub(crate) fn opened(&self, channel: Waker) {
        self.stage.replace(Stage::Open(channel));
        if let Some(wish) = self.wish.get() {
            self.want(wish);
        }
    }

    /// One side has ended it, or is about to.
    pub(crate) fn ending(&self) {
        let stage = &mut *self.stage.borrow_mut();
        if let Stage::Open(channel) = stage {
            *stage = Stage::Ending(channel.clone());
        }
    }

    /// The channel begins to close. What fails from now on, fails for this reason.
    pub(crate) fn closing(&self, reason: &dyn fmt::Display) {
        self.reason.get_or_init(|| reason.to_string());
    }

    pub(crate) fn closed(&self, now: Instant, reason: Option<String>) {
        reason.iter().for_each(|reason| self.closing(reason));
        let after = now.saturating_duration_since(self.since.get());
        self.stage.replace(Stage::Closed { after });
        let waiting = self.waiting.take();
        waiting.into_iter().flat_map(|mut waiting| waiting.take()).for_each(Waker::wake);
    }

    /// Why it closes or is closed, unless in order.
    pub(crate) fn reason(&self) -> Option<String> {
        self.reason.get().cloned()
    }

    /// `None` while the channel is not closed.
    pub(crate) fn end(&self) -> Option<Option<String>> {
        matches!(*self.stage.borrow(), Stage::Closed { .. }).then(|| self.reason())
    }

    /// Of the channel's function.
    pub(crate) fn turn(&self) -> &Turn {
        &self.busy.turn
    }

    pub(crate) fn take_wish(&self) -> Option<Wish> {
        self.wish.take()
    }

    pub(crate) fn take_failure(&self) -> Option<Error> {
        self.failure.take()
    }

    fn want(&self, wish: Wish) {
        self.wish.set(self.wish.get().max(Some(wish)));
        self.ending();
        if let Stage::Ending(channel) = &*self.stage.borrow() {
            channel.wake_by_ref();
        }
    }
}

impl Record for Watch {
    fn features(&self) -> &Features {
        &self.features
    }

    fn traffic(&self) -> &Traffic {
        &self.busy.traffic
    }
}

/// An open channel, for tasks on its worker. Clones are the same channel; when all are dropped, the channel stays.
#[derive(Clone)]
pub struct ChannelHandle(pub(crate) Rc<Watch>);

impl ChannelHandle {
    /// Of a channel that is about to be made, with what is known about it.
    pub(crate) fn new(side: Side, addresses: Option<Addresses>) -> Self {
        ChannelHandle(Watch::new(side, addresses, now()))
    }

    /// Its channel, with this pipeline.
    pub(crate) fn channel<P>(&self, group: &Group, pipeline: P) -> NewChannel
    where
        P: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        let mut runner = Runner::new(pipeline, &group.channel.borrow());
        runner.keep(Rc::<Watch>::clone(&self.0));
        NewChannel { runner, watch: Some(Rc::clone(&self.0)), function: None }
    }

    /// Closes the channel, behind what was written. The future gives what [`closed`](ChannelHandle::closed) does; the
    /// channel closes whether it is awaited or not.
    pub fn close(&self) -> Closed {
        self.0.want(Wish::Close);
        self.closed()
    }

    /// Resets the connection: what was written may be lost, and the other side sees an error.
    pub fn abort(&self) -> Closed {
        self.0.want(Wish::Abort);
        self.closed()
    }

    /// Waits until the channel is closed, and gives the reason unless it was closed in order.
    pub fn closed(&self) -> Closed {
        Closed { watch: Rc::clone(&self.0), number: Number::default() }
    }

    /// Waits until the channel is closed.
    ///
    /// # Errors
    /// [`ConnectionError::Closed`], with the reason, unless it was closed in order.
    pub(crate) async fn ended(&self) -> Result<(), ConnectionError> {
        match self.closed().await {
            None => Ok(()),
            reason => Err(ConnectionError::Closed { reason }),
        }
    }

    /// Closes the channel for this reason, unless it was closed before.
    pub(crate) fn fail(&self, reason: Error) {
        self.0.failure.set(Some(reason));
        self.0.want(Wish::Fail);
    }

    /// A number that no other connection of the process has or had. It may go anywhere.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// Whether the channel is closed.
    pub fn is_closed(&self) -> bool {
        matches!(*self.0.stage.borrow(), Stage::Closed { .. })
    }

    /// Whether neither side has ended it, nor wants to.
    pub(crate) fn is_open(&self) -> bool {
        match *self.0.stage.borrow() {
            Stage::New => self.0.wish.get().is_none(),
            Stage::Open(_) => true,
            Stage::Ending(_) | Stage::Closed { .. } => false,
        }
    }

    /// Who has made the connection.
    pub fn side(&self) -> Side {
        self.0.side
    }

    /// What is known about the connection.
    pub fn features(&self) -> &Features {
        &self.0.features
    }

    /// What is known about the connection, of this type.
    pub fn get<T: 'static>(&self) -> Option<Rc<T>> {
        self.0.features.get()
    }

    /// The ends of the connection, unless it had been reset before they were asked for.
    pub fn addresses(&self) -> Option<Addresses> {
        self.get::<Addresses>().map(|addresses| *addresses)
    }

    /// How many bytes it has received and sent.
    pub fn traffic(&self) -> &Traffic {
        &self.0.busy.traffic
    }

    /// How long it has been open, or was until it was closed.
    ///
    /// # Panics
    /// Outside a worker.
    pub fn alive(&self) -> Duration {
        match *self.0.stage.borrow() {
            Stage::Closed { after } => after,
            Stage::New | Stage::Open(_) | Stage::Ending(_) => {
                perihelion_runtime::now().saturating_duration_since(self.0.since.get())
            }
        }
    }
}

/// Done when a channel is closed: with the reason, unless it was closed in order.
pub struct Closed {
    watch: Rc<Watch>,
    number: Number,
}

impl Future for Closed {
    type Output = Option<String>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<String>> {
        let Closed { watch, number } = &mut *self;
        if let Some(reason) = watch.end() {
            return Poll::Ready(reason);
        }
        watch.waiting.borrow_mut().get_or_insert_default().wait(number, task);
        Poll::Pending
    }
}

impl Drop for Closed {
    fn drop(&mut self) {
        if let Some(waiting) = &mut *self.watch.waiting.borrow_mut() {
            waiting.leave(&self.number);
        }
    }
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
