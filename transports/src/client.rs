//! A client: one connection with a pipeline, made from a task of its worker.

use bytes::Bytes;
use perihelion_pipeline::{self as pipeline, Pipeline, Runner, Target};
use perihelion_runtime::{Config, TcpConfig, TimedOut, defer, now, run_blocking, timeout};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::admission::Place;
use crate::channel::{Channel, NewChannel};
use crate::connector::{connect, on_loop};
use crate::group::Group;
use crate::happy_eyeballs::{Failed, interleave, race, too_late};
use crate::watch::{ChannelHandle, Side, Watch};
use crate::{Address, Backoff, Error, NewConnection, Reconnect, socket};

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
}

impl Client {
    /// A client with these limits and socket options.
    pub fn new(config: &Config) -> Self {
        let (group, tcp) = (Group::new(&config.channel, &config.tcp, Arc::default()), config.tcp.clone());
        Client { group, tcp, local: None, stable: config.reconnect.stable() }
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

    async fn connect_to_target<P>(&self, target: Target, pipeline: P) -> Result<ChannelHandle, Error>
    where
        P: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        let deadline = now() + self.group.config.connect();
        let asked = Address::from(target.clone());
        let refused = |cause| Error::Refused { address: asked.clone(), cause };
        let (runner, dial) = self.ask_stages(target, pipeline).await;
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
        Ok(self.channel(connected, runner))
    }

    /// Makes the channel's runner, and passes the operation through its stages.
    async fn ask_stages<P>(&self, target: Target, pipeline: P) -> (Runner, pipeline::Result<Option<Dial>>)
    where
        P: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        let (group, local) = (Rc::clone(&self.group), self.local);
        // Not at once: whoever connects may be a stage of a channel, and then the group's state is in use.
        on_loop(move |io| {
            let channel = &mut *group.channel.borrow_mut();
            channel.prepare(io.now(), Waker::noop().clone());
            let mut runner = Runner::new(pipeline, channel);
            let dial = runner.connect(channel, local, target);
            (runner, dial)
        })
        .await
    }

    fn channel(&self, connected: OwnedFd, mut runner: Runner) -> ChannelHandle {
        let addresses = NewConnection::accepted(connected.as_fd()).addresses().ok();
        let watch = Watch::new(&mut runner, Rc::default(), Side::Connected, addresses, now());
        let new = NewChannel { runner, watch: Some(Rc::clone(&watch)), function: None };
        let (group, unopened) = (Rc::clone(&self.group), Rc::clone(&watch));
        defer(move |io| {
            let opened = io.open(connected, |io, id| Channel::new(io, id, new, group, Place::uncounted()));
            if opened.is_err() {
                unopened.closed(io.now(), Some("the worker can't hold more connections".into()));
            }
        });
        ChannelHandle(watch)
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
