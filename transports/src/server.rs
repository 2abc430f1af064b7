//! A server: listeners on all workers, and a pipeline for each connection.

use bytes::Bytes;
use perihelion_pipeline::{
    self as pipeline, Builder, FoldOnSwitch, Pipeline, Runner, Stack, TailStage, Target, Work,
};
use perihelion_runtime::{
    ChannelConfig, Config, Handle, Io, ServerConfig, Service, TcpConfig, defer, timeout,
};
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::admission::Admission;
use crate::counters::Counters;
use crate::filter::Filters;
use crate::group::{Group, Notice, Order};
use crate::listener::{Listener, MakePipeline, Serve};
use crate::middleware::{self, Layer, Protocol};
use crate::new_channel::NewChannel;
use crate::new_connection::internet;
use crate::report::ServerReport;
use crate::{Acceptor, Address, Connection, Error, NewConnection, Next, Peer, PeerTail, Side, socket};

/// How long a worker may take to reset what was open when the time to drain is over.
const ABORT_LIMIT: Duration = Duration::from_secs(2);

/// A server that is being set up.
///
/// Whom it lets in, in this order: the [`filter`](Server::filter) must want the connection; its address must have less
/// than `server.connections_per_address_max`; the [asynchronous filter](Server::filter_async) must want it; and there
/// must be a place among `server.connections_max`, for which it may wait with `server.when_full = "wait"`. An address
/// counts what waits or is being decided on, too; only channels have places. What is refused is closed, and counted in
/// the [`ServerReport`].
///
/// ```
/// use perihelion_pipeline::{LengthPrefixed, codec};
/// use perihelion_runtime::{Config, Runtime, Service};
/// use perihelion_transports::Server;
/// use bytes::Bytes;
/// use std::time::Duration;
///
/// # let mut config = Config::default();
/// # config.runtime.workers = 1;
/// let runtime = Runtime::from_config(config)?;
/// let server = Server::bind("tcp://127.0.0.1:0")
///     .pipeline(|_conn| codec(LengthPrefixed::u32_be(1 << 20)).service(async |frame: Bytes| Ok(frame)))
///     .start(&runtime)?;
/// println!("listening on {}", server.address());
/// let report = server.stop(Duration::from_secs(1));
/// assert_eq!(report.connections, 0);
/// # Ok::<(), perihelion_transports::Error>(())
/// ```
#[must_use = "a server listens once it is started"]
pub struct Server<M = NoPipeline> {
    address: Result<Address, Error>,
    pub(crate) make: M,
    pub(crate) tcp: Option<TcpConfig>,
    channel: Option<ChannelConfig>,
    limits: Option<ServerConfig>,
    filters: Filters,
    pub(crate) middleware: Vec<Layer>,
}

/// A server that has no pipeline yet.
pub struct NoPipeline;

/// A server that serves by what a function makes on each worker.
pub struct PerCore(pub(crate) Arc<dyn Fn() -> Serve + Send + Sync>);

/// A server that listens. Dropped, it goes on for as long as the runtime does.
pub struct RunningServer {
    address: SocketAddr,
    runtime: Handle,
    counters: Vec<Arc<Counters>>,
    admission: Arc<Admission>,
    number: u64,
}

thread_local! {
    /// The servers that listen on this worker, by number.
    static GROUPS: RefCell<Vec<(u64, Rc<Group>)>> = const { RefCell::new(Vec::new()) };
}

impl Server {
    /// A server on `tcp://HOST:PORT`; port 0 picks a free one. The address is looked at by `start`.
    pub fn bind(address: impl AsRef<str>) -> Self {
        Server {
            address: address.as_ref().parse(),
            make: NoPipeline,
            tcp: None,
            channel: None,
            limits: None,
            filters: Filters::default(),
            middleware: Vec::new(),
        }
    }

    /// Listens on this worker alone, with the limits and socket options of this configuration unless they were given
    /// otherwise; connections are taken by a task. The address must be an IP address.
    ///
    /// ```no_run
    /// # use perihelion_runtime::Config;
    /// # use perihelion_transports::{Error, Server};
    /// # async fn example() -> Result<(), Error> {
    /// let acceptor = Server::bind("tcp://[::]:7000")
    ///     .filter(|connection| connection.peer_addr().is_ok_and(|peer| peer.ip().is_loopback()))
    ///     .acceptor(&Config::default())?;
    /// let accepted = acceptor.accept().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// An address that is none, is a name or can't be had; limits that can't be used; middleware.
    ///
    /// # Panics
    /// Outside a worker.
    pub fn acceptor(self, config: &Config) -> Result<Acceptor, Error> {
        let address = self.address?;
        let Target::Address(wanted) = Target::from(&address) else {
            let why = "an acceptor needs an IP address, for looking up a name would block its worker";
            return Err(Error::InvalidAddress { address: address.to_string(), why });
        };
        if !self.middleware.is_empty() {
            return Err(Error::Middleware { address });
        }
        let tcp = self.tcp.unwrap_or_else(|| config.tcp.clone());
        let limits = self.limits.unwrap_or_else(|| config.server.clone());
        limits.check()?;
        let group = Group::new(&self.channel.unwrap_or_else(|| config.channel.clone()), &tcp, Arc::default());
        let failed = |cause| Error::listen(address.clone(), cause);
        let socket = socket::listen(wanted, &tcp, 1).map_err(failed)?.remove(0);
        let bound = socket.local_addr().and_then(internet).map_err(failed)?;
        Acceptor::new(socket, bound, Admission::new(limits, self.filters), group).map_err(failed)
    }

    /// Each connection gets a pipeline from this function, which is called on the connection's worker.
    pub fn pipeline<P>(
        self,
        make: impl Fn(&NewConnection<'_>) -> P + Send + Sync + 'static,
    ) -> Server<PerCore>
    where
        P: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        let make = Arc::new(make);
        self.pipeline_per_core(move || {
            let make = Arc::clone(&make);
            move |connection: &NewConnection<'_>| make(connection)
        })
    }

    /// The outer function is called once on each worker; what it gives makes the pipelines of the connections there.
    /// So state that a worker's connections share needs no lock.
    pub fn pipeline_per_core<F, P>(self, make: impl Fn() -> F + Send + Sync + 'static) -> Server<PerCore>
    where
        F: Fn(&NewConnection<'_>) -> P + 'static,
        P: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        if self.middleware.is_empty() {
            return self.made_by(move |_| {
                let make = make();
                Box::new(move |new, group| {
                    let runner = Runner::new(make(new), &group.channel.borrow());
                    NewChannel { runner, watch: None, function: None }
                })
            });
        }
        self.made_by(move |layers| {
            let make = Rc::new(make());
            let protocol: Protocol = Rc::new(move |connection| {
                let make = Rc::clone(&make);
                Box::pin(async move {
                    let pipeline = make(&NewConnection::passed(&connection));
                    Ok(connection.pipeline_until_closed(pipeline).await?)
                })
            });
            connections(layers, protocol)
        })
    }

    /// Each connection is an asynchronous function's, which runs as a task on the connection's worker. When it is done
    /// the connection is closed in order; what it fails with is the reason of the close, which is logged.
    ///
    /// ```no_run
    /// # use perihelion_transports::{Connection, Server};
    /// let server = Server::bind("tcp://127.0.0.1:7000").connections(async |connection: Connection| {
    ///     while let Some(bytes) = connection.read().await? {
    ///         connection.write(bytes).await?;
    ///     }
    ///     Ok(())
    /// });
    /// ```
    pub fn connections(
        self,
        serve: impl AsyncFn(Connection) -> pipeline::Result<()> + Send + Sync + 'static,
    ) -> Server<PerCore> {
        let serve = Arc::new(serve);
        self.made_by(move |layers| {
            let serve = Arc::clone(&serve);
            let protocol: Protocol = Rc::new(move |connection| {
                let serve = Arc::clone(&serve);
                let handle = connection.handle();
                Box::pin(async move {
                    let result = serve(connection).await;
                    drop(handle.close()); // whoever else holds it
                    result
                })
            });
            connections(layers, protocol)
        })
    }

    /// Each connection is a [`Peer`], with stages from the first function, and an asynchronous function's, which runs as
    /// a task on the connection's worker. When that is done, and nothing else holds the peer, the connection is closed in
    /// order; what it fails with is the reason of the close, which is logged. No frame is read before it has begun.
    ///
    /// ```no_run
    /// # use perihelion_pipeline::{Lines, codec};
    /// # use perihelion_transports::{Peer, Server};
    /// let server = Server::bind("tcp://127.0.0.1:7000").peer(
    ///     |_conn| codec(Lines::lf(8192)),
    ///     async |peer: Peer<String, String>| {
    ///         while let Some(line) = peer.recv().await? {
    ///             peer.send(line).await?;
    ///         }
    ///         Ok(())
    ///     },
    /// );
    /// ```
    pub fn peer<S>(
        self,
        make: impl Fn(&NewConnection<'_>) -> Builder<S> + Send + Sync + 'static,
        serve: impl AsyncFn(Peer<S::Up, S::Down>) -> pipeline::Result<()> + Send + Sync + 'static,
    ) -> Server<PerCore>
    where
        S: Stack<Up: 'static, Down: 'static> + FoldOnSwitch<TailStage<PeerTail<S::Up, S::Down>>> + 'static,
        S::Pipeline: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        let (make, serve) = (Arc::new(make), Arc::new(serve));
        if self.middleware.is_empty() {
            return self.made_by(move |_| {
                let (make, serve) = (Arc::clone(&make), Arc::clone(&serve));
                Box::new(move |new, group| {
                    let addresses = new.addresses().ok();
                    let (channel, peer) = Peer::open(group, Side::Accepted, addresses, make(new));
                    let serve = Arc::clone(&serve);
                    let handle = crate::ChannelHandle::clone(&peer);
                    channel.run_by(async move { middleware::conclude(&handle, &serve(peer).await) })
                })
            });
        }
        self.made_by(move |layers| {
            let (make, serve) = (Arc::clone(&make), Arc::clone(&serve));
            let protocol: Protocol = Rc::new(move |connection| {
                let stages = make(&NewConnection::passed(&connection));
                let serve = Arc::clone(&serve);
                Box::pin(async move { serve(connection.peer(stages)).await })
            });
            connections(layers, protocol)
        })
    }

    fn made_by(self, make: impl Fn(&Rc<[Layer]>) -> MakePipeline + Send + Sync + 'static) -> Server<PerCore> {
        let layers: Vec<Layer> = self.middleware.clone();
        let make = PerCore(Arc::new(move || Serve::Channel(make(&layers.clone().into()))));
        self.exchange(make).0
    }

    /// Wraps the life of each connection: the function runs as a task on the connection's worker, and hands the
    /// connection on with `next`. What was registered first is outermost. The connection is closed when the outermost is
    /// done.
    ///
    /// ```no_run
    /// # use perihelion_pipeline::{LengthPrefixed, codec};
    /// # use perihelion_transports::{Connection, Next, Server};
    /// # use bytes::Bytes;
    /// Server::bind("tcp://127.0.0.1:7000")
    ///     .with(async |connection: Connection, next: Next| {
    ///         let handle = connection.handle();
    ///         let result = next.run(connection).await;
    ///         println!("{:?} was here for {:?}", handle.addresses(), handle.alive());
    ///         result
    ///     })
    ///     .pipeline(|_conn| codec(LengthPrefixed::u32_be(1 << 20)).service(async |frame: Bytes| Ok(frame)));
    /// ```
    pub fn with(
        mut self,
        call: impl AsyncFn(Connection, Next) -> pipeline::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.middleware.push(middleware::layer(call));
        self
    }
}

/// Makes connections that go through these layers to a protocol.
fn connections(layers: &Rc<[Layer]>, protocol: Protocol) -> MakePipeline {
    let layers = Rc::clone(layers);
    Box::new(move |new, group| {
        let (channel, connection) = Connection::new(group, Side::Accepted, new.addresses().ok());
        let (next, handle) = (Next::new(&layers, &protocol), connection.handle());
        channel.run_by(async move {
            middleware::conclude(&handle, &next.run(connection).await);
            drop(handle.close()); // whatever is inside
        })
    })
}

impl<M> Server<M> {
    /// The same with something else to serve by. Gives what it was.
    pub(crate) fn exchange<N>(self, make: N) -> (Server<N>, M) {
        let Server { address, make: before, tcp, channel, limits, filters, middleware } = self;
        (Server { address, make, tcp, channel, limits, filters, middleware }, before)
    }

    /// Options of its sockets, instead of the runtime's.
    pub fn tcp(mut self, config: TcpConfig) -> Self {
        self.tcp = Some(config);
        self
    }

    /// How many connections it has at once and who waits for how long, instead of what the runtime says.
    pub fn limits(mut self, config: ServerConfig) -> Self {
        self.limits = Some(config);
        self
    }

    /// Connections are taken only if this function says so. It is called on the connection's worker, before there is a
    /// channel; one that is not wanted is closed.
    ///
    /// ```
    /// # use perihelion_pipeline::handlers::IpRules;
    /// # use perihelion_transports::Server;
    /// let rules: IpRules = "allow 10.0.0.0/8\nallow 127.0.0.0/8".parse()?;
    /// let server = Server::bind("0.0.0.0:7000")
    ///     .filter(move |connection| connection.peer_addr().is_ok_and(|peer| rules.permits(peer.ip())));
    /// # Ok::<(), perihelion_pipeline::handlers::IpRuleError>(())
    /// ```
    pub fn filter(mut self, wanted: impl Fn(&NewConnection<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.filters.set(wanted);
        self
    }

    /// Connections are taken only if this function says so, which takes its time: it may look something up. It runs as
    /// a task of the connection's worker, before there is a channel; meanwhile others are accepted. It is asked only
    /// about connections that [`filter`](Server::filter) lets pass.
    ///
    /// It has `server.filter_ms` for each connection; up to `server.filtering_max` are under decision on each worker,
    /// then none is accepted. A connection on which it is late or panics is closed. A server that stops closes those
    /// under decision at once.
    ///
    /// ```
    /// # use perihelion_runtime::run_blocking;
    /// # use perihelion_transports::Server;
    /// # fn is_listed(address: std::net::IpAddr) -> bool { false }
    /// let server = Server::bind("0.0.0.0:7000").filter_async(async |connection| {
    ///     let Ok(peer) = connection.peer_addr() else { return false };
    ///     run_blocking(move || !is_listed(peer.ip())).await.unwrap_or(false)
    /// });
    /// ```
    pub fn filter_async(
        mut self,
        wanted: impl AsyncFn(&NewConnection<'_>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.filters.set_async(wanted);
        self
    }

    /// Limits of its channels, instead of the runtime's.
    pub fn channel(mut self, config: ChannelConfig) -> Self {
        self.channel = Some(config);
        self
    }
}

impl Server<PerCore> {
    /// Listens, on every worker of the runtime.
    ///
    /// # Errors
    /// An address that is none or can't be had; limits that can't be used.
    pub fn start(self, runtime: &Handle) -> Result<RunningServer, Error> {
        let address = self.address?;
        let tcp = self.tcp.unwrap_or_else(|| runtime.config().tcp.clone());
        let channel = self.channel.unwrap_or_else(|| runtime.config().channel.clone());
        let limits = self.limits.unwrap_or_else(|| runtime.config().server.clone());
        limits.check()?;
        let admission = Admission::new(limits, self.filters);
        let resolved = address.resolve()?[0];
        let failed = |cause| Error::listen(Address::from(resolved), cause);
        let sockets = socket::listen(resolved, &tcp, runtime.workers()).map_err(failed)?;
        let bound = sockets[0].local_addr().and_then(internet).map_err(failed)?;
        let counters: Vec<Arc<Counters>> = sockets.iter().map(|_| Arc::default()).collect();
        let number = next_number();
        let server = RunningServer { address: bound, runtime: runtime.clone(), counters, admission, number };
        for (worker, socket) in sockets.into_iter().enumerate() {
            let (make, channel, tcp) = (Arc::clone(&self.make.0), channel.clone(), tcp.clone());
            let (counters, admission) = (Arc::clone(&server.counters[worker]), Arc::clone(&server.admission));
            let told = runtime.send(worker, move |io| {
                // First the user's function: if it panics, the socket is closed, and takes no share of connections.
                let (serve, group) = (make(), Group::new(&channel, &tcp, counters));
                GROUPS.with_borrow_mut(|groups| groups.push((number, Rc::clone(&group))));
                if io.open(socket, |io, id| Listener::new(io, id, serve, group, admission)).is_err() {
                    tracing::error!("a worker can't listen: it can't hold more connections");
                }
            });
            if let Err(error) = told {
                server.stop(Duration::ZERO); // those that have been told
                return Err(error.into());
            }
        }
        Ok(server)
    }
}

impl RunningServer {
    /// Where it listens, with the port that was picked.
    pub fn address(&self) -> Address {
        self.address.into()
    }

    /// What it has done so far.
    pub fn report(&self) -> ServerReport {
        let refusals = self.admission.refusals();
        let mut report = ServerReport { refused: refusals.total(), refusals, ..ServerReport::default() };
        for worker in self.report_by_worker() {
            report.connections += worker.connections;
            report.open += worker.open;
            report.messages += worker.messages;
            report.messages_out += worker.messages_out;
            report.bytes_in += worker.bytes_in;
            report.bytes_out += worker.bytes_out;
        }
        report
    }

    /// What it has done so far on each worker. What was refused is counted for the server only.
    pub fn report_by_worker(&self) -> impl Iterator<Item = ServerReport> {
        self.counters.iter().map(|counters| {
            let ((connections, open), work) = (counters.connections(), counters.work());
            let Work { messages_in: messages, messages_out, bytes_in, bytes_out } = work;
            ServerReport {
                connections,
                open,
                messages,
                messages_out,
                bytes_in,
                bytes_out,
                ..ServerReport::default()
            }
        })
    }

    /// Asks a worker to end this server. `None`: the worker has stopped.
    fn drain_on(&self, worker: usize, start: Instant, limit: Duration) -> Option<mpsc::Receiver<u64>> {
        let number = self.number;
        loop {
            match self.runtime.spawn_on(worker, move || drain(number, start, limit)) {
                Ok(reply) => return Some(reply),
                Err(perihelion_runtime::Error::MailboxFull) => thread::yield_now(), // it empties
                Err(_) => return None,
            }
        }
    }
}

impl Service for RunningServer {
    type Report = ServerReport;

    /// Stops accepting, lets channels finish what they have received and send what they have written, and resets
    /// those that are not done within the limit.
    fn stop(self, limit: Duration) -> ServerReport {
        let start = Instant::now();
        let waiting: Vec<mpsc::Receiver<u64>> =
            (0..self.runtime.workers()).filter_map(|worker| self.drain_on(worker, start, limit)).collect();
        // A worker that has stopped has no channel left, and gives no answer.
        let aborted = waiting.into_iter().filter_map(|reply| reply.recv().ok()).sum();
        ServerReport { aborted, ..self.report() }
    }
}

/// Ends a server on this worker. Gives how many channels had to be reset.
async fn drain(number: u64, start: Instant, limit: Duration) -> u64 {
    let group = GROUPS.with_borrow_mut(|groups| {
        let at = groups.iter().position(|(other, _)| *other == number)?;
        Some(groups.swap_remove(at).1)
    });
    let Some(group) = group else { return 0 };
    let order = |order| {
        let group = Rc::clone(&group);
        defer(move |io: &mut Io| io.notify_all(Notice { group, order }));
    };
    order(Order::Close);
    if timeout(limit.saturating_sub(start.elapsed()), group.drained()).await.is_ok() {
        return 0;
    }
    let aborted = group.open() as u64;
    order(Order::Abort);
    if timeout(ABORT_LIMIT, group.drained()).await.is_err() {
        tracing::error!(open = group.open(), "channels that were reset are still there");
    }
    aborted
}

/// Numbers servers, over all runtimes of the process.
fn next_number() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
