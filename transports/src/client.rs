//! A client: one connection with a pipeline, made from a task of its worker.

use bytes::Bytes;
use futures_channel::oneshot;
use perihelion_pipeline::{self as pipeline, Builder, FoldOnSwitch, Pipeline, Stack, TailStage, Target};
use perihelion_runtime::{Config, TcpConfig, TimedOut, now, run_blocking, spawn_local, timeout};
use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::admission::Place;
use crate::connector::{connect, on_loop};
use crate::group::Group;
use crate::happy_eyeballs::{Failed, interleave, race, too_late};
use crate::middleware::{self, Layer, Protocol};
use crate::new_channel::NewChannel;
use crate::watch::{ChannelHandle, Side};
use crate::{Address, Backoff, Connection, Error, Next, Peer, PeerTail, Reconnect, socket};

/// Connects, and puts pipelines on the connections. It belongs to one worker; clones share what they count.
///
/// ```no_run
/// # use perihelion_pipeline::{Context, Lines, Result, Tail, codec};
/// # use perihelion_transports::Client;
/// struct Print;
///
/// impl Tail for Print {
///     type In = String;
///     type Out = String;
///     fn open(&mut self, cx: &mut Context<'_, String>) -> Result<()> {
///         cx.write("hello".into())
///     }
///     fn read(&mut self, _cx: &mut Context<'_, String>, line: String) -> Result<()> {
///         println!("{line}");
///         Ok(())
///     }
/// }
///
/// # async fn example() -> Result<(), perihelion_transports::Error> {
/// let client = Client::new(&Default::default());
/// let address = "tcp://127.0.0.1:7000".parse()?;
/// let channel = client.connect(&address, codec(Lines::lf(8192)).tail(Print)).await?;
/// channel.closed().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    group: Rc<Group>,
    tcp: TcpConfig,
    local: Option<SocketAddr>,
    /// How long a connection that is kept up must last for its delays to begin anew.
    stable: Duration,
    middleware: Rc<[Layer]>,
}

impl Client {
    /// A client with these limits and socket options.
    pub fn new(config: &Config) -> Self {
        let (group, tcp) = (Group::new(&config.channel, &config.tcp, Arc::default()), config.tcp.clone());
        Client { group, tcp, local: None, stable: config.reconnect.stable(), middleware: Rc::default() }
    }

    /// Binds sockets to this address before they connect; port 0 is any.
    pub fn bind(mut self, local: SocketAddr) -> Self {
        self.local = Some(local);
        self
    }

    /// Connects to one of the host's addresses. A name is looked up on another thread. Of several addresses, IPv6 and
    /// IPv4 in turns, each is given `channel.connect_attempt_delay_ms` before the next is tried beside it; the first
    /// that answers is used, and the others are given up (RFC 8305). Up to 16 are tried.
    ///
    /// All of this takes no longer than `channel.connect_ms`. Dropped, the future gives up at once.
    ///
    /// The stages of the pipeline see the operation before ([`Operation::Connect`](perihelion_pipeline::Operation)):
    /// they may lead it to another target, or refuse it.
    ///
    /// # Errors
    /// A name that doesn't resolve, the refusal of a stage, or what each of the attempts met with.
    ///
    /// # Panics
    /// Outside a worker.
    pub async fn connect<P>(&self, address: &Address, pipeline: P) -> Result<ChannelHandle, Error>
    where
        P: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        self.connect_to_target(address.into(), pipeline).await
    }

    /// Connects to an address that needs no looking up, within `channel.connect_ms`. Dropped, the future gives up at
    /// once.
    ///
    /// # Errors
    /// The refusal of a stage, or what the attempt met with.
    ///
    /// # Panics
    /// Outside a worker.
    pub async fn connect_to<P>(&self, address: SocketAddr, pipeline: P) -> Result<ChannelHandle, Error>
    where
        P: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        self.connect_to_target(Target::Address(address), pipeline).await
    }

    /// Keeps a connection up: [connects](Client::connect), and again whenever that fails or the connection ends, after a
    /// delay of the back-off. The delays begin anew when a connection has lasted for `reconnect.stable_ms`.
    ///
    /// A pipeline is made for each attempt, for its stages take part in it. The name is looked up each time.
    ///
    /// ```no_run
    /// # use perihelion_pipeline::{Raw, codec};
    /// # use perihelion_runtime::Config;
    /// # use perihelion_transports::{Backoff, Client, ReconnectState};
    /// # async fn example() -> Result<(), perihelion_transports::Error> {
    /// # let config = Config::default();
    /// let echo = || codec(Raw).service(async |bytes| Ok(bytes));
    /// let address = "tcp://localhost:7000".parse()?;
    /// let mut kept = Client::new(&config).keep_connected(&address, Backoff::from(&config.reconnect), echo);
    /// loop {
    ///     match kept.changed().await {
    ///         ReconnectState::Waiting { cause, .. } => eprintln!("not connected: {cause}"),
    ///         ReconnectState::GaveUp { cause } => break eprintln!("given up: {cause}"),
    ///         _ => {}
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    /// Outside a worker.
    pub fn keep_connected<P>(
        &self,
        address: &Address,
        backoff: Backoff,
        mut make: impl FnMut() -> P + 'static,
    ) -> Reconnect
    where
        P: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        let (client, address) = (self.clone(), address.clone());
        Reconnect::new(backoff, self.stable, async move || client.connect(&address, make()).await)
    }

    /// Connects, as [`connect`](Client::connect) does, and gives the connection with no protocol on it yet.
    ///
    /// # Errors
    /// As for [`connect`](Client::connect).
    ///
    /// # Panics
    /// Outside a worker.
    pub async fn connection(&self, address: &Address) -> Result<Connection, Error> {
        let connection =
            self.dial(address.into(), |group| Connection::new(group, Side::Connected, None)).await?;
        self.pass(address.clone(), connection, |connection| connection).await
    }

    /// Connects, as [`connect`](Client::connect) does, and makes a [`Peer`] of the connection, with these stages.
    ///
    /// ```no_run
    /// # use perihelion_pipeline::{Lines, codec};
    /// # use perihelion_transports::{Client, Peer};
    /// # async fn example() -> perihelion_pipeline::Result<()> {
    /// let client = Client::new(&Default::default());
    /// let peer: Peer<String, String> = client.peer(&"127.0.0.1:7000".parse()?, codec(Lines::lf(8192))).await?;
    /// peer.send("hello".into()).await?;
    /// println!("{:?}", peer.recv().await?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`connect`](Client::connect).
    ///
    /// # Panics
    /// Outside a worker.
    pub async fn peer<S>(&self, address: &Address, stages: Builder<S>) -> Result<Peer<S::Up, S::Down>, Error>
    where
        S: Stack<Up: 'static, Down: 'static> + FoldOnSwitch<TailStage<PeerTail<S::Up, S::Down>>> + 'static,
        S::Pipeline: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        if self.middleware.is_empty() {
            return self.dial(address.into(), |group| Peer::open(group, Side::Connected, None, stages)).await;
        }
        let connection =
            self.dial(address.into(), |group| Connection::new(group, Side::Connected, None)).await?;
        self.pass(address.clone(), connection, |connection| connection.peer(stages)).await
    }

    /// Wraps the life of each connection: the function runs as a task, and hands the connection on with `next`. What was
    /// registered first is outermost. The connection is closed when the outermost is done; one that ends before it has
    /// handed the connection on makes the connect fail.
    ///
    /// The stages of a pipeline don't see the operation of connecting then: there is no pipeline yet.
    pub fn with(
        mut self,
        call: impl AsyncFn(Connection, Next) -> pipeline::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.middleware = self.middleware.iter().cloned().chain([middleware::layer(call)]).collect();
        self
    }

    async fn connect_to_target<P>(&self, target: Target, pipeline: P) -> Result<ChannelHandle, Error>
    where
        P: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        if !self.middleware.is_empty() {
            let make = |group: &Group| Connection::new(group, Side::Connected, None);
            let address = target.clone().into();
            let connection = self.dial(target, make).await?;
            return self.pass(address, connection, |connection| connection.pipeline(pipeline)).await;
        }
        self.dial(target, |group| {
            let handle = ChannelHandle::new(Side::Connected, None);
            (handle.channel(group, pipeline), handle)
        })
        .await
    }

    /// Connects, and opens a channel.
    async fn dial<T: 'static>(
        &self,
        target: Target,
        make: impl FnOnce(&Group) -> (NewChannel, T) + 'static,
    ) -> Result<T, Error> {
        let deadline = now() + self.group.config.connect();
        let asked = Address::from(target.clone());
        let refused = |cause| Error::Refused { address: asked.clone(), cause };
        let (made, dial) = self.ask_stages(target, make).await;
        let kept = || pipeline::Error::msg("it has kept the operation to itself");
        let (local, target) = dial.and_then(|dial| dial.ok_or_else(kept)).map_err(refused)?;
        let addresses = match target {
            Target::Address(address) => vec![address],
            Target::Name { .. } => interleave(look_up(target.into(), deadline).await?),
        };
        // A family that this machine doesn't have is a failed attempt too.
        let start =
            |address| socket::for_connect(address, local, &self.tcp).map(|socket| connect(socket, address));
        let delay = self.group.config.connect_attempt_delay();
        let connected = race(addresses, delay, deadline, start)
            .await
            .map_err(|Failed { attempts, untried }| Error::Connect { address: asked, attempts, untried })?;
        let (new, result) = made;
        if let Some(watch) = &new.watch {
            watch.connected(connected.as_fd(), now());
        }
        new.open(connected, Rc::clone(&self.group), Place::uncounted());
        Ok(result)
    }

    /// Makes what the channel is opened with, and passes the operation through its stages.
    async fn ask_stages<T: 'static>(
        &self,
        target: Target,
        make: impl FnOnce(&Group) -> (NewChannel, T) + 'static,
    ) -> ((NewChannel, T), pipeline::Result<Option<Dial>>) {
        let (group, local) = (Rc::clone(&self.group), self.local);
        // Not at once: whoever connects may be a stage of a channel, and then the group's state is in use.
        on_loop(move |io| {
            let mut made = make(&group);
            let channel = &mut *group.channel.borrow_mut();
            channel.prepare(io.now(), Waker::noop().clone());
            let dial = made.0.runner.connect(channel, local, target);
            (made, dial)
        })
        .await
    }

    /// Lets a connection go through the middleware, and gives what is made of it inside.
    async fn pass<T: 'static>(
        &self,
        address: Address,
        connection: Connection,
        finish: impl FnOnce(Connection) -> T + 'static,
    ) -> Result<T, Error> {
        if self.middleware.is_empty() {
            return Ok(finish(connection));
        }
        let (tell, told) = oneshot::channel();
        let tell = Rc::new(Cell::new(Some((finish, tell))));
        let (inside, outside, handle) = (Rc::clone(&tell), tell, connection.handle());
        let protocol: Protocol = Rc::new(move |connection| {
            let handle = connection.handle();
            if let Some((finish, tell)) = inside.take() {
                drop(tell.send(Ok(finish(connection)))); // nobody may want it any more
            }
            Box::pin(async move { Ok(handle.ended().await?) })
        });
        let next = Next::new(&self.middleware, &protocol);
        drop(spawn_local(async move {
            let result = next.run(connection).await;
            let let_go = || pipeline::Error::msg("middleware has let the connection go");
            match outside.take() {
                Some((_, tell)) => drop(tell.send(Err(result.err().unwrap_or_else(let_go)))),
                None => middleware::conclude(&handle, &result),
            }
            drop(handle.close());
        }));
        let panicked = |_| Err(pipeline::Error::msg("middleware has panicked"));
        told.await.unwrap_or_else(panicked).map_err(|cause| Error::GivenUp { address, cause })
    }
}

/// A local address, and where to connect to.
type Dial = (Option<SocketAddr>, Target);

/// On another thread, which goes on when the time is up; what it finds then is dropped.
async fn look_up(name: Address, deadline: Instant) -> Result<Vec<SocketAddr>, Error> {
    let address = name.clone();
    let failed = |cause| Error::Resolve { address, cause };
    let limit = deadline.saturating_duration_since(now());
    match timeout(limit, run_blocking(move || name.resolve())).await {
        Ok(Ok(resolved)) => resolved,
        Ok(Err(busy)) => Err(failed(io::Error::other(busy))),
        Err(TimedOut) => Err(failed(too_late())),
    }
}
