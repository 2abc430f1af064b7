//! A peer: frames to receive with `await`, by event or by subscription, and frames to send.

mod group;
mod inbox;
mod observers;
mod receiving;
mod remote;
mod requesting;
mod requests;
mod sender;
mod statistics;
mod subscription;
mod tail;

use bytes::Bytes;
use perihelion_pipeline::{Builder, FoldOnSwitch, Pipeline, Stack, SwitchKey, TailStage, Writer};
use perihelion_runtime::now;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

pub use group::{Heard, Membership, PeerGroup, Slow};
pub use receiving::Receiving;
pub use remote::RemotePeer;
pub use requests::{Reply, Request, Unclaimed};
pub use sender::{PeerSender, Sending};
pub use statistics::PeerStatistics;
pub use subscription::Subscription;
pub use tail::PeerTail;

use crate::connection::{Connection, Limits, Owner};
use crate::group::Group;
use crate::new_channel::NewChannel;
use crate::{Addresses, ChannelHandle, ConnectionError, Side};
use inbox::{Inbox, State};

/// One side of a connection that exchanges frames: the same type for the side that accepts and the one that connects.
///
/// ```
/// use perihelion_pipeline::Result;
/// use perihelion_transports::Peer;
///
/// async fn echo(peer: Peer<String, String>) -> Result<()> {
///     while let Some(line) = peer.recv().await? {
///         peer.send(line).await?;
///     }
///     Ok(())
/// }
/// ```
///
/// Clones are the same peer. When the last is dropped the connection is closed in order: what was sent and queued goes
/// out. It dereferences to its [sender](PeerSender), and so to the connection's [handle](ChannelHandle).
///
/// # Who gets a frame
/// In active mode, the first of these:
///
/// 1. the [request](Peer::request) that it is the reply to;
/// 2. the task that waits in [`recv`](Peer::recv);
/// 3. the function given to [`on_received`](Peer::on_received), which may say that the frame is done with;
/// 4. every [subscription](Peer::subscribe) that wants it;
/// 5. the queue, if there is neither such a function nor a subscription.
///
/// When the queue or a subscription's is full (`channel.unread_frames_max`), nothing more is read until it is half empty.
/// A task that calls `recv` again after a frame waits again only when it runs again: what has come between is shown to
/// the function and the subscriptions, if there are any.
///
/// In passive mode no frame is read unless `recv` waits for it, and 1, 3 and 4 don't apply: the place for a conversation
/// in steps, and for an [upgrade](Peer::upgrade). The mode can be changed at any time, and no byte is lost by it.
pub struct Peer<In: 'static, Out: 'static>(Rc<Inner<In, Out>>);

struct Inner<In: 'static, Out: 'static> {
    owner: Owner,
    /// Replaces the topmost codec and all above it.
    key: RefCell<SwitchKey<Bytes, Bytes>>,
    sender: PeerSender<Out>,
    inbox: Rc<Inbox<In>>,
    limits: Limits,
    /// Whether the bytes are read by a connection.
    detached: Cell<bool>,
}

/// When a peer reads frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As they come.
    Active,
    /// When a task waits in [`Peer::recv`].
    Passive,
}

/// What became of a frame in [`Peer::on_received`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handling {
    /// It is done with.
    Handled,
    /// It goes on to the subscriptions.
    PassOn,
}

/// What a peer needs of its connection.
struct Parts<In: 'static, Out: 'static> {
    key: SwitchKey<Bytes, Bytes>,
    writer: Writer<Out>,
    inbox: Rc<Inbox<In>>,
    limits: Limits,
}

impl<In, Out> Parts<In, Out> {
    fn new(channel: &ChannelHandle, limits: Limits) -> Self {
        let inbox = Rc::new(Inbox::new(channel, limits.unread_frames, limits.requests));
        Parts { key: SwitchKey::new(), writer: Writer::new(limits.unsent_frames), inbox, limits }
    }

    fn pipeline<S>(&self, stages: Builder<S>) -> S::Pipeline
    where
        S: Stack + FoldOnSwitch<TailStage<PeerTail<In, Out>>>,
    {
        stages.tail_on_switch(&self.key, PeerTail::new(&self.inbox), &self.writer)
    }

    fn on(self, owner: Owner) -> Peer<In, Out> {
        let Parts { key, writer, inbox, limits } = self;
        let sender = PeerSender::new(writer, owner.clone());
        Peer(Rc::new(Inner {
            owner,
            key: RefCell::new(key),
            sender,
            inbox,
            limits,
            detached: Cell::new(false),
        }))
    }
}

/// Making peers.
impl<In, Out> Peer<In, Out> {
    /// A channel that is a peer's from its first byte.
    pub(crate) fn open<S>(
        group: &Group,
        side: Side,
        addresses: Option<Addresses>,
        stages: Builder<S>,
    ) -> (NewChannel, Self)
    where
        S: Stack<Up = In, Down = Out> + FoldOnSwitch<TailStage<PeerTail<In, Out>>>,
        S::Pipeline: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        let handle = ChannelHandle::new(side, addresses);
        let parts = Parts::new(&handle, Limits::of(&group.config));
        let channel = handle.channel(group, parts.pipeline(stages));
        (channel, parts.on(Owner::new(handle)))
    }

    /// On a connection whose bytes, from now on, this key leads to other stages.
    pub(crate) fn on_connection<S>(
        owner: Owner,
        below: &SwitchKey<Bytes, Bytes>,
        limits: Limits,
        stages: Builder<S>,
    ) -> Self
    where
        S: Stack<Up = In, Down = Out> + FoldOnSwitch<TailStage<PeerTail<In, Out>>>,
        S::Pipeline: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        let parts = Parts::new(&owner, limits);
        let _ = below.request(parts.pipeline(stages)); // closed already, as the handle says
        parts.on(owner)
    }
}

/// Receiving.
impl<In, Out> Peer<In, Out> {
    /// The next frame. `None`: the other side sends no more.
    ///
    /// Dropped, the future loses nothing.
    ///
    /// # Errors
    /// [`ConnectionError::Closed`], unless the other side has ended in order before; and
    /// [`ConnectionError::ReceivePending`], when another task waits already.
    pub fn recv(&self) -> Receiving<'_, In, Out> {
        Receiving::new(self)
    }

    fn check_attached(&self) -> Result<(), ConnectionError> {
        let is_detached = self.0.detached.get() && !self.0.inbox.is_closed();
        if is_detached { Err(ConnectionError::Detached) } else { Ok(()) }
    }

    /// A frame of the queue, if there is one.
    pub fn try_recv(&self) -> Option<In> {
        self.0.inbox.pop()
    }

    fn poll_recv(&self, task: &mut Context<'_>) -> Poll<Result<Option<In>, ConnectionError>> {
        Poll::Ready(match ready!(self.0.inbox.poll_recv(task)) {
            Ok(frame) => Ok(Some(frame)),
            Err(State::Ended) => Ok(None),
            Err(_) => Err(self.closed_error()),
        })
    }

    /// Calls a function for each frame that is no reply and that no task waits for, on the connection's way: before the
    /// next frame is decoded. It takes the place of the one given before. If it panics the connection is reset.
    ///
    /// A function that holds the peer itself keeps the connection from being closed when the peer is dropped; one that
    /// answers holds a [sender](Peer::sender).
    pub fn on_received(&self, call: impl FnMut(&In) -> Handling + 'static) {
        self.0.inbox.set_on_received(Box::new(call));
    }

    /// Copies of the frames that are wanted, from now on, as a stream. The predicate is called on the connection's way.
    pub fn subscribe(&self, wants: impl FnMut(&In) -> bool + 'static) -> Subscription<In>
    where
        In: Clone,
    {
        Subscription::new(&self.0.inbox, wants, false)
    }

    /// Like [`subscribe`](Peer::subscribe), with those frames of the queue that are wanted: they are taken out of it.
    pub fn subscribe_with_queued(&self, wants: impl FnMut(&In) -> bool + 'static) -> Subscription<In>
    where
        In: Clone,
    {
        Subscription::new(&self.0.inbox, wants, true)
    }

    /// Waits until the stages below are ready, as after [`upgrade`](Peer::upgrade): for TLS at the head of the pipeline,
    /// until the handshake is done and its session is among the connection's features.
    ///
    /// # Errors
    /// [`ConnectionError::Closed`], with the reason, when the stages fail.
    pub async fn ready(&self) -> Result<(), ConnectionError> {
        self.are_ready(self.0.inbox.generation()).await
    }

    /// Waits until the other side sends no more, or the connection is closed.
    pub async fn ended(&self) {
        self.0.inbox.ended().await;
    }

    /// Whether a conversation can begin: neither side has ended, and no frame is left of another.
    pub(crate) fn is_fresh(&self) -> bool {
        let Inner { owner, sender, inbox, detached, .. } = &*self.0;
        owner.is_open() && sender.writer().is_open() && inbox.is_fresh() && !detached.get()
    }

    /// When frames are read.
    pub fn mode(&self) -> Mode {
        self.0.inbox.mode()
    }

    /// Changes when frames are read. Those that have been read and not received stay in the queue.
    pub fn set_mode(&self, mode: Mode) {
        self.0.inbox.set_mode(mode);
    }
}

/// The connection.
impl<In, Out> Peer<In, Out> {
    /// What sends, without keeping the connection open.
    pub fn sender(&self) -> PeerSender<Out> {
        self.0.sender.clone()
    }

    /// Replaces the topmost codec and all above it, up to the peer: with TLS or compression below another codec, or by
    /// another codec. What was sent goes out before, and what is queued, and sent from now on, through the new stages. They
    /// get what was received and not decoded. Done when they are ready: when a handshake is.
    ///
    /// # Errors
    /// [`ConnectionError::Closed`], with the reason, when the stages fail; [`ConnectionError::WrongMode`] in active mode,
    /// in which more might be decoded by the old stages.
    pub async fn upgrade<S>(&self, stages: Builder<S>) -> Result<(), ConnectionError>
    where
        S: Stack<Up = In, Down = Out> + FoldOnSwitch<TailStage<PeerTail<In, Out>>>,
        S::Pipeline: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        self.check_passive("an upgrade")?;
        self.0.sender.writer().divide();
        let generation = self.replace_stages(&self.key(), stages)?;
        self.are_ready(generation).await
    }

    /// Takes the topmost codec and all above it away, and gives the bytes. What was sent goes out before; what is queued,
    /// and sent from now on, waits until the peer is [attached](Peer::attach) again, as do frames that were received
    /// before.
    ///
    /// # Errors
    /// [`ConnectionError::Closed`]; [`ConnectionError::WrongMode`] in active mode, in which more might be decoded.
    pub fn detach(&self) -> Result<Connection, ConnectionError> {
        self.check_passive("raw access")?;
        let inner = &*self.0;
        inner.sender.writer().divide();
        let kept: Box<dyn Any> =
            Box::new((PeerTail::<In, Out>::new(&inner.inbox), inner.sender.writer().attach()));
        let owner = Owner::new(inner.owner.clone());
        let connection = Connection::in_place_of(owner, &self.key(), inner.limits, kept)?;
        inner.detached.set(true);
        inner.key.take(); // it leads to what is gone
        Ok(connection)
    }

    /// Goes on with frames where a [detached](Peer::detach) connection has come to.
    ///
    /// # Errors
    /// [`ConnectionError::Closed`].
    ///
    /// # Panics
    /// If the connection is another's.
    pub fn attach<S>(&self, connection: Connection, stages: Builder<S>) -> Result<(), ConnectionError>
    where
        S: Stack<Up = In, Down = Out> + FoldOnSwitch<TailStage<PeerTail<In, Out>>>,
        S::Pipeline: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        assert!(connection.is_same(&self.0.owner), "a peer is attached to its own connection only");
        self.replace_stages(connection.key(), stages)?;
        self.0.detached.set(false);
        connection.release();
        Ok(())
    }

    /// What it has done so far.
    ///
    /// # Panics
    /// Outside a worker.
    pub fn statistics(&self) -> PeerStatistics {
        let Inner { owner, sender, inbox, .. } = &*self.0;
        PeerStatistics {
            frames_in: inbox.frames(),
            frames_out: sender.writer().written(),
            bytes_in: owner.traffic().received(),
            bytes_out: owner.traffic().sent(),
            unread_frames: inbox.queued(),
            unsent_frames: sender.queued(),
            dropped: inbox.dropped() + sender.skipped(),
            requests: inbox.requests_in_flight(),
            alive: owner.alive(),
            idle: now().saturating_duration_since(owner.traffic().last_activity()),
        }
    }

    /// Waits until the stages of this generation are ready.
    async fn are_ready(&self, generation: u32) -> Result<(), ConnectionError> {
        let inbox = &self.0.inbox;
        inbox.ready(generation).await;
        if inbox.is_closed() { Err(self.closed_error()) } else { Ok(()) }
    }

    fn key(&self) -> SwitchKey<Bytes, Bytes> {
        self.0.key.borrow().clone()
    }

    fn check_passive(&self, what: &'static str) -> Result<(), ConnectionError> {
        match self.mode() {
            _ if self.0.detached.get() => Err(ConnectionError::Detached),
            Mode::Passive => Ok(()),
            Mode::Active => Err(ConnectionError::WrongMode { what, needs: Mode::Passive }),
        }
    }

    /// Leads the bytes of this key to new stages, and through them to this peer. Gives their generation.
    fn replace_stages<S>(
        &self,
        below: &SwitchKey<Bytes, Bytes>,
        stages: Builder<S>,
    ) -> Result<u32, ConnectionError>
    where
        S: Stack<Up = In, Down = Out> + FoldOnSwitch<TailStage<PeerTail<In, Out>>>,
        S::Pipeline: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        let inner = &*self.0;
        let key = SwitchKey::new();
        let tail = PeerTail::new(&inner.inbox);
        let generation = tail.generation();
        let pipeline = stages.tail_on_switch(&key, tail, inner.sender.writer());
        below.request(pipeline).map_err(|_| self.closed_error())?;
        inner.key.replace(key);
        Ok(generation)
    }
}

impl<In, Out> Clone for Peer<In, Out> {
    fn clone(&self) -> Self {
        Peer(Rc::clone(&self.0))
    }
}

impl<In, Out> Deref for Peer<In, Out> {
    type Target = PeerSender<Out>;
    fn deref(&self) -> &PeerSender<Out> {
        &self.0.sender
    }
}
