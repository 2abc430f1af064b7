//! Connections that a task takes when it wants them.

use bytes::Bytes;
use perihelion_pipeline::{Builder, FoldOnSwitch, Pipeline, Stack, TailStage};
use perihelion_runtime::{Completion, Config, Endpoint, EndpointId, Io, defer};
use socket2::Socket;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::admission::{Admission, Place};
use crate::entrance::Entrance;
use crate::group::Group;
use crate::new_channel::NewChannel;
use crate::{
    Address, Addresses, ChannelHandle, Connection, Error, NewConnection, Peer, PeerTail, Refusals, Server,
    Side,
};

/// Listens on one worker, and accepts a connection when a task asks for one; until then, connections wait in the
/// kernel's backlog. Dropped, it is [closed](Acceptor::close).
///
/// Filters and limits are a [`Server`]'s; [`Server::acceptor`] makes an acceptor that has filters. Only of those
/// connections that an asynchronous filter decides on, or that wait for a place, there may be more than are asked for.
///
/// ```
/// # use perihelion_pipeline::{Lines, codec};
/// # use perihelion_runtime::Config;
/// # use perihelion_transports::{Acceptor, Error};
/// # async fn example() -> Result<(), Error> {
/// let acceptor = Acceptor::bind("tcp://127.0.0.1:7000", &Config::default())?;
/// let accepted = acceptor.accept().await?;
/// let shout = codec(Lines::lf(99)).service(async |line: String| Ok(line.to_uppercase()));
/// accepted.pipeline(shout).closed().await;
/// # Ok(())
/// # }
/// ```
pub struct Acceptor {
    address: SocketAddr,
    /// To end it with. `None`: it is closed.
    socket: RefCell<Option<Socket>>,
    admission: Arc<Admission>,
    queue: Rc<Queue>,
}

/// A connection that was accepted and is not a channel yet. Dropped, it is closed.
pub struct Accepted {
    /// Given back before the other side sees the end.
    place: Place,
    fd: OwnedFd,
    group: Rc<Group>,
}

impl Acceptor {
    /// Listens on `tcp://HOST:PORT` with these limits and socket options; port 0 picks a free one.
    ///
    /// # Errors
    /// As for [`Server::acceptor`].
    ///
    /// # Panics
    /// Outside a worker.
    pub fn bind(address: impl AsRef<str>, config: &Config) -> Result<Self, Error> {
        Server::bind(address).acceptor(config)
    }

    pub(crate) fn new(
        socket: Socket,
        address: SocketAddr,
        admission: Arc<Admission>,
        group: Rc<Group>,
    ) -> io::Result<Self> {
        let (ours, queue) = (socket.try_clone()?, Rc::new(Queue::default()));
        let (theirs, entering) = (Rc::clone(&queue), Arc::clone(&admission));
        defer(move |io| {
            let unopened = Rc::clone(&theirs);
            let open = |io: &mut Io, id| {
                theirs.opened(io.waker(id));
                let entrance = Entrance::new(id, entering, Io::accept_one);
                Gate { id, entrance, queue: theirs, group }
            };
            if io.open(socket, open).is_err() {
                tracing::error!("a worker can't listen: it can't hold more connections");
                unopened.close();
            }
        });
        Ok(Acceptor { address, socket: RefCell::new(Some(ours)), admission, queue })
    }

    /// Where it listens, with the port that was picked.
    pub fn address(&self) -> Address {
        self.address.into()
    }

    /// Takes the next connection. Those who ask are served in the order in which they began to wait.
    ///
    /// A future that is dropped loses no connection: one that was accepted meanwhile is the next one's. That no
    /// connection can be accepted for now, for want of descriptors, is waited out.
    ///
    /// # Errors
    /// When the acceptor is closed.
    pub async fn accept(&self) -> Result<Accepted, Error> {
        let turn = self.queue.stand_in_line();
        let accepted = poll_fn(|task| turn.poll(task)).await;
        accepted.ok_or_else(|| Error::Closed { address: self.address() })
    }

    /// Frees the address at once, and closes the connections that nobody has taken. Those that were taken stay.
    pub fn close(&self) {
        if let Some(socket) = self.socket.take() {
            // The event loop closes its descriptor of the same socket later.
            let _ = socket.shutdown(Shutdown::Read);
        }
        self.queue.close();
    }

    /// How many connections it has refused, and why.
    pub fn refusals(&self) -> Refusals {
        self.admission.refusals()
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.close();
    }
}

impl Accepted {
    /// The other side's address. Takes a system call.
    ///
    /// # Errors
    /// When the other side is gone already.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        NewConnection::accepted(self.fd.as_fd()).peer_addr()
    }

    /// This side's address. Takes a system call.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        NewConnection::accepted(self.fd.as_fd()).local_addr()
    }

    /// Opens the channel, with this pipeline.
    ///
    /// # Panics
    /// Outside a worker, and inside a stage of another channel of the same acceptor.
    pub fn pipeline<P>(self, pipeline: P) -> ChannelHandle
    where
        P: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        self.open(|group, addresses| {
            let handle = ChannelHandle::new(Side::Accepted, addresses);
            (handle.channel(group, pipeline), handle)
        })
    }

    /// Opens the channel, with no protocol on it yet.
    ///
    /// # Panics
    /// As for [`pipeline`](Accepted::pipeline).
    pub fn connection(self) -> Connection {
        self.open(|group, addresses| Connection::new(group, Side::Accepted, addresses))
    }

    /// Opens the channel, as a [`Peer`] with these stages.
    ///
    /// # Panics
    /// As for [`pipeline`](Accepted::pipeline).
    pub fn peer<S>(self, stages: Builder<S>) -> Peer<S::Up, S::Down>
    where
        S: Stack<Up: 'static, Down: 'static> + FoldOnSwitch<TailStage<PeerTail<S::Up, S::Down>>> + 'static,
        S::Pipeline: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        self.open(|group, addresses| Peer::open(group, Side::Accepted, addresses, stages))
    }

    fn open<T>(self, make: impl FnOnce(&Group, Option<Addresses>) -> (NewChannel, T)) -> T {
        let Accepted { place, fd, group } = self;
        let addresses = NewConnection::accepted(fd.as_fd()).addresses().ok();
        let (channel, opened) = make(&group, addresses);
        channel.open(fd, group, place);
        opened
    }
}

/// Tasks that ask for connections, and connections that nobody has taken. The first connection is that of the first who
/// asks, and so on: so one who doesn't come for his own keeps nobody else from theirs.
#[derive(Default)]
struct Queue {
    asking: RefCell<VecDeque<Asking>>,
    accepted: RefCell<VecDeque<Accepted>>,
    next_number: Cell<u64>,
    stage: RefCell<Stage>,
}

struct Asking {
    number: u64,
    waker: Waker,
}

#[derive(Default)]
enum Stage {
    /// The listener is on its way to the event loop.
    #[default]
    New,
    /// With the listener's waker.
    Open(Waker),
    Closed,
}

/// A place among those who ask, until it is dropped.
struct Turn<'a> {
    queue: &'a Queue,
    number: u64,
}

impl Queue {
    fn opened(&self, listener: Waker) {
        listener.wake_by_ref(); // somebody may have asked, or closed it, before
        let stage = &mut *self.stage.borrow_mut();
        if let Stage::New = stage {
            *stage = Stage::Open(listener);
        }
    }

    fn is_closed(&self) -> bool {
        matches!(*self.stage.borrow(), Stage::Closed)
    }

    fn close(&self) {
        self.wake_listener();
        self.stage.replace(Stage::Closed);
        self.accepted.take();
        let asking: Vec<Waker> = self.asking.borrow().iter().map(|asking| asking.waker.clone()).collect();
        asking.into_iter().for_each(Waker::wake);
    }

    /// Whether there are more who ask than connections.
    fn wants(&self) -> bool {
        self.asking.borrow().len() > self.accepted.borrow().len()
    }

    fn add(&self, accepted: Accepted) {
        self.accepted.borrow_mut().push_back(accepted);
        self.wake_last_served();
    }

    /// Wakes the last of those for whom there is a connection.
    fn wake_last_served(&self) {
        let last = self.accepted.borrow().len().checked_sub(1);
        let waker = last.and_then(|last| Some(self.asking.borrow().get(last)?.waker.clone()));
        waker.into_iter().for_each(Waker::wake);
    }

    /// What is asked for has changed.
    fn wake_listener(&self) {
        if let Stage::Open(listener) = &*self.stage.borrow() {
            listener.wake_by_ref();
        }
    }

    fn stand_in_line(&self) -> Turn<'_> {
        let number = self.next_number.get();
        self.next_number.set(number + 1);
        self.asking.borrow_mut().push_back(Asking { number, waker: Waker::noop().clone() });
        self.wake_listener();
        Turn { queue: self, number }
    }
}

impl Turn<'_> {
    /// How many ask before this one. `None`: it has been served.
    fn position(&self) -> Option<usize> {
        self.queue.asking.borrow().binary_search_by_key(&self.number, |asking| asking.number).ok()
    }

    /// Gives `None` when the acceptor is closed.
    fn poll(&self, task: &Context<'_>) -> Poll<Option<Accepted>> {
        let Some(position) = self.position() else { return Poll::Ready(None) };
        let accepted = self.queue.accepted.borrow_mut().remove(position);
        if accepted.is_some() {
            self.queue.asking.borrow_mut().remove(position);
        } else if !self.queue.is_closed() {
            self.queue.asking.borrow_mut()[position].waker.clone_from(task.waker());
            return Poll::Pending;
        }
        Poll::Ready(accepted)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(position) = self.position() {
            self.queue.asking.borrow_mut().remove(position);
            // A connection that was this one's is the next one's, and so on.
            self.queue.wake_last_served();
            self.queue.wake_listener();
        }
    }
}

/// The acceptor on the event loop.
struct Gate {
    id: EndpointId,
    entrance: Entrance,
    queue: Rc<Queue>,
    group: Rc<Group>,
}

impl Gate {
    fn let_in(&mut self, io: &mut Io) {
        if self.queue.is_closed() {
            return io.close(self.id);
        }
        while let Some((fd, place)) = self.entrance.next(io) {
            self.queue.add(Accepted { place, fd, group: Rc::clone(&self.group) });
        }
        self.entrance.accept(io, self.queue.wants());
    }
}

impl Endpoint for Gate {
    fn complete(&mut self, io: &mut Io, completion: Completion) {
        let Completion::Accepted(result) = completion else { unreachable!("an acceptor only accepts") };
        self.entrance.accepted(io, result);
        self.let_in(io);
    }

    fn finish_turn(&mut self, _io: &mut Io) {}

    /// Somebody asks or doesn't any more, it is closed, a place has come free, or a filter has decided.
    fn wake(&mut self, io: &mut Io) {
        self.let_in(io);
    }

    fn timer(&mut self, io: &mut Io, key: u32) {
        self.entrance.timer(io, key);
        self.let_in(io);
    }

    fn notify(&mut self, _io: &mut Io, _notice: &dyn Any) {}
}

impl Drop for Gate {
    /// Its worker stops, unless it is closed already.
    fn drop(&mut self) {
        self.queue.close();
    }
}
