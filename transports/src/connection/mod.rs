//! A connection as an asynchronous function sees it: a stream of bytes, on which protocols can be put.

mod io;
mod messages;
mod stream;

use bytes::Bytes;
use perihelion_pipeline::{
    Builder, Fold, FoldOnSwitch, Pipeline, Stack, Switch, SwitchKey, TailStage, transport,
};
use perihelion_runtime::ChannelConfig;
use std::any::Any;
use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;

pub use messages::{MessageReader, MessageTooLong, MessageWriter, Parse};

use stream::{Stream, Unreadable};

use crate::group::Group;
use crate::new_channel::NewChannel;
use crate::peer::{Peer, PeerTail};
use crate::{Addresses, ChannelHandle, ConnectionError, Side};

/// A connection, as an asynchronous function on its worker sees it: a stream of bytes, until a protocol is put on it.
///
/// It is the same for servers and clients. Reading and writing go through the traits of `futures::io`, by owned buffers
/// without a copy, or by messages ([`MessageReader`], [`MessageWriter`]). Bytes that were received and not read go to
/// whatever is put on the connection: an upgrade, a [pipeline](Connection::pipeline), a [peer](Connection::peer).
///
/// ```
/// use perihelion_pipeline::Result;
/// use perihelion_transports::Connection;
///
/// async fn echo(connection: Connection) -> Result<()> {
///     while let Some(bytes) = connection.read().await? {
///         connection.write(bytes).await?;
///     }
///     Ok(())
/// }
/// ```
///
/// Dropped, it is closed in order: what was written is sent. It dereferences to its [handle](ChannelHandle), which says
/// what is known about it.
pub struct Connection {
    owner: Owner,
    /// Replaces all that stands above the bytes.
    key: SwitchKey<Bytes, Bytes>,
    stream: Stream,
    /// What keeps the peer open that it was detached from.
    kept: Option<Box<dyn Any>>,
}

/// What waits on one connection, at most.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) unread_bytes: usize,
    pub(crate) unread_frames: usize,
    pub(crate) unsent_frames: usize,
    pub(crate) requests: usize,
    /// How long a request waits.
    pub(crate) request: Duration,
}

impl Limits {
    pub(crate) fn of(config: &ChannelConfig) -> Self {
        Limits {
            unread_bytes: config.unread_bytes_max,
            unread_frames: config.unread_frames_max,
            unsent_frames: config.unsent_frames_max,
            requests: config.requests_max.max(1), // or no request would ever be made
            request: config.request(),
        }
    }
}

/// Closes its channel when it is dropped.
pub(crate) struct Owner {
    channel: ChannelHandle,
    released: bool,
}

impl Owner {
    pub(crate) fn new(channel: ChannelHandle) -> Self {
        Owner { channel, released: false }
    }

    /// The channel goes on without it.
    fn release(mut self) -> ChannelHandle {
        self.released = true;
        self.channel.clone()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if !self.released {
            drop(self.channel.close());
        }
    }
}

impl Deref for Owner {
    type Target = ChannelHandle;
    fn deref(&self) -> &ChannelHandle {
        &self.channel
    }
}

impl Connection {
    /// A channel with nothing on it but a stream of bytes.
    pub(crate) fn new(group: &Group, side: Side, addresses: Option<Addresses>) -> (NewChannel, Connection) {
        let handle = ChannelHandle::new(side, addresses);
        let (key, stream) = (SwitchKey::new(), Stream::new(&handle, Limits::of(&group.config)));
        let pipeline = transport().tail_on_switch(&key, stream.tail(), stream.writer());
        let channel = handle.channel(group, pipeline);
        (channel, Connection { owner: Owner::new(handle), key, stream, kept: None })
    }

    /// The bytes that this key leads to other stages.
    pub(crate) fn in_place_of(
        owner: Owner,
        below: &SwitchKey<Bytes, Bytes>,
        limits: Limits,
        kept: Box<dyn Any>,
    ) -> Result<Self, ConnectionError> {
        let (key, stream) = (SwitchKey::new(), Stream::new(&owner, limits));
        let pipeline = transport().tail_on_switch(&key, stream.tail(), stream.writer());
        below.request(pipeline).map_err(|_| ConnectionError::closed(&owner))?;
        Ok(Connection { owner, key, stream, kept: Some(kept) })
    }

    pub(crate) fn is_same(&self, channel: &ChannelHandle) -> bool {
        Rc::ptr_eq(&self.owner.0, &channel.0)
    }

    pub(crate) fn key(&self) -> &SwitchKey<Bytes, Bytes> {
        &self.key
    }

    /// The channel goes on without it.
    pub(crate) fn release(self) -> ChannelHandle {
        self.owner.release()
    }

    /// Whether a conversation can begin: neither side has ended, and no byte is left of another.
    pub(crate) fn is_fresh(&self) -> bool {
        self.owner.is_open() && self.stream.writer().is_open() && self.stream.is_fresh()
    }

    /// What has been received, as soon as there is something. `None`: the other side sends no more.
    ///
    /// Dropped, the future loses nothing.
    ///
    /// # Errors
    /// [`ConnectionError::Closed`], when it is not the other side's orderly end; and
    /// [`ConnectionError::ReceivePending`], when another task waits already.
    pub async fn read(&self) -> Result<Option<Bytes>, ConnectionError> {
        self.stream.read().await.map_err(|error| self.error(error))
    }

    /// Sends bytes when there is room for them in the queue. They go out at the end of this turn of the event loop.
    ///
    /// # Errors
    /// [`ConnectionError::Closed`].
    pub async fn write(&self, bytes: Bytes) -> Result<(), ConnectionError> {
        let open = self.stream.writer().room().await.is_ok();
        if open && self.stream.try_write(bytes) { Ok(()) } else { Err(self.closed_error()) }
    }

    /// Waits until the kernel has taken everything that was written.
    ///
    /// # Errors
    /// [`ConnectionError::Closed`].
    pub async fn flush(&self) -> Result<(), ConnectionError> {
        self.stream.writer().flush().await.map_err(|_| self.closed_error())
    }

    /// Tells the other side, behind what was written, that no more will be. What it sends is read on.
    pub fn close_output(&self) {
        self.stream.writer().close_output();
    }

    /// Puts stages below the stream that make bytes of bytes, such as TLS or compression. What was written goes out
    /// before; what was received and not read goes to the new stages. Gives the stream above them, when they are ready:
    /// when a handshake is done.
    ///
    /// ```no_run
    /// # use perihelion_pipeline::{Raw, codec};
    /// # use perihelion_transports::Connection;
    /// # async fn example(connection: Connection) -> perihelion_pipeline::Result<()> {
    /// # let tls = Raw;
    /// connection.write("ready when you are\n".into()).await?;
    /// let secured = connection.upgrade(codec(tls)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ConnectionError::Closed`], with the reason, when the stages fail.
    pub async fn upgrade<S>(self, stages: Builder<S>) -> Result<Connection, ConnectionError>
    where
        S: Stack<Up = Bytes, Down = Bytes> + Fold<Switch<Bytes, Bytes>>,
        S::Pipeline: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        let (key, stream) = (SwitchKey::new(), Stream::new(&self.owner, self.stream.limits()));
        let above = transport().tail_with_writer(stream.tail(), stream.writer());
        self.key.request(stages.switch(&key, above)).map_err(|_| self.closed_error())?;
        let connection = Connection { owner: self.owner, key, stream, kept: self.kept };
        connection.stream.ready().await.map_err(|error| connection.error(error))?;
        Ok(connection)
    }

    /// Puts a pipeline on the connection. What was written goes out before; what was received and not read goes to the
    /// pipeline, and so does what comes, unless that pauses. The channel then lives as long as the pipeline wants, whether
    /// the handle is kept or not.
    pub fn pipeline<P>(self, pipeline: P) -> ChannelHandle
    where
        P: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        self.hand_over(pipeline);
        self.release()
    }

    /// Puts a pipeline on the connection, and waits for its end. Dropped, the future closes the connection.
    ///
    /// # Errors
    /// [`ConnectionError::Closed`], with the reason, unless it was closed in order.
    pub async fn pipeline_until_closed<P>(self, pipeline: P) -> Result<(), ConnectionError>
    where
        P: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        self.hand_over(pipeline);
        self.owner.ended().await
    }

    fn hand_over(&self, pipeline: impl Pipeline<In = Bytes, Out = Bytes> + 'static) {
        self.stream.leave();
        let _ = self.key.request(pipeline); // closed already, as the handle says
    }

    /// What is known about the connection, and ends it, without keeping it open.
    pub fn handle(&self) -> ChannelHandle {
        self.owner.clone()
    }

    /// Makes a peer of the connection, with these stages. What was written goes out before; what was received and not
    /// read goes to the stages.
    pub fn peer<S>(self, stages: Builder<S>) -> Peer<S::Up, S::Down>
    where
        S: Stack<Up: 'static, Down: 'static> + FoldOnSwitch<TailStage<PeerTail<S::Up, S::Down>>>,
        S::Pipeline: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        Peer::on_connection(self.owner, &self.key, self.stream.limits(), stages)
    }

    fn closed_error(&self) -> ConnectionError {
        ConnectionError::closed(&self.owner)
    }

    fn error(&self, error: Unreadable) -> ConnectionError {
        match error {
            Unreadable::Closed => self.closed_error(),
            Unreadable::Taken => ConnectionError::ReceivePending,
        }
    }
}

impl Deref for Connection {
    type Target = ChannelHandle;
    fn deref(&self) -> &ChannelHandle {
        &self.owner
    }
}
