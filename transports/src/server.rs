//! A server: listeners on all workers, and a pipeline for each connection.

use bytes::Bytes;
use perihelion_pipeline::{Pipeline, Runner};
use perihelion_runtime::{ChannelConfig, Handle, Io, ServerConfig, Service, TcpConfig, defer, timeout};
use std::cell::RefCell;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::admission::{Admission, Filter};
use crate::connection::internet;
use crate::group::{Counters, Group, Notice, Order};
use crate::listener::{Listener, Serve};
use crate::{Address, Connection, Error, socket};

/// How long a worker may take to reset what was open when the time to drain is over.
const ABORT_LIMIT: Duration = Duration::from_secs(2);

/// A server that is being set up.
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
    filter: Option<Filter>,
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
    pub(crate) relays: bool,
}

/// What a server has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerReport {
    /// Connections that were accepted.
    pub connections: u64,
    /// Of these, those that are open.
    pub open: u64,
    /// Connections that were refused, by the filter or for want of a place.
    pub refused: u64,
    /// Messages that were handled: frames that codecs made.
    pub messages: u64,
    /// Connections that were reset when the time to drain was over.
    pub aborted: u64,
    /// What was relayed, if that is what it does.
    pub relayed: Option<Relayed>,
}

/// How many bytes relays have handed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relayed {
    /// From clients to the target.
    pub to_target: u64,
    /// From the target to clients.
    pub from_target: u64,
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
            filter: None,
        }
    }

    /// Each connection gets a pipeline from this function, which is called on the connection's worker.
    pub fn pipeline<P>(self, make: impl Fn(&Connection<'_>) -> P + Send + Sync + 'static) -> Server<PerCore>
    where
        P: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        let make = Arc::new(make);
        self.pipeline_per_core(move || {
            let make = Arc::clone(&make);
            move |connection: &Connection<'_>| make(connection)
        })
    }

    /// The outer function is called once on each worker; what it gives makes the pipelines of the connections there.
    /// So state that a worker's connections share needs no lock.
    pub fn pipeline_per_core<F, P>(self, make: impl Fn() -> F + Send + Sync + 'static) -> Server<PerCore>
    where
        F: Fn(&Connection<'_>) -> P + 'static,
        P: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        let make = PerCore(Arc::new(move || {
            let make = make();
            Serve::Channel(Box::new(move |connection, channel| Runner::new(make(connection), channel)))
        }));
        self.exchange(make).0
    }
}

impl<M> Server<M> {
    /// The same with something else to serve by. Gives what it was.
    pub(crate) fn exchange<N>(self, make: N) -> (Server<N>, M) {
        let Server { address, make: old, tcp, channel, limits, filter } = self;
        (Server { address, make, tcp, channel, limits, filter }, old)
    }

    /// Options of its sockets, instead of the runtime's.
    pub fn tcp(mut self, config: TcpConfig) -> Self {
        self.tcp = Some(config);
        self
    }

    /// How many connections it has at once, instead of what the runtime says.
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
    pub fn filter(mut self, wanted: impl Fn(&Connection<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.filter = Some(Arc::new(wanted));
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
    /// An address that is none or can't be had.
    pub fn start(self, runtime: &Handle) -> Result<RunningServer, Error> {
        let address = self.address?;
        let tcp = self.tcp.unwrap_or_else(|| runtime.config().tcp.clone());
        let channel = self.channel.unwrap_or_else(|| runtime.config().channel.clone());
        let admission =
            Admission::new(&self.limits.unwrap_or_else(|| runtime.config().server.clone()), self.filter);
        let resolved = address.resolve()?[0];
        let failed = |cause| Error::listen(Address::from(resolved), cause);
        let sockets = socket::listen(resolved, &tcp, runtime.workers()).map_err(failed)?;
        let bound = sockets[0].local_addr().and_then(internet).map_err(failed)?;
        let counters: Vec<Arc<Counters>> = sockets.iter().map(|_| Arc::default()).collect();
        let number = next_number();
        let server = RunningServer {
            address: bound,
            runtime: runtime.clone(),
            counters,
            admission,
            number,
            relays: false,
        };
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
        let mut report = ServerReport { refused: self.admission.refused(), ..ServerReport::default() };
        let mut relayed = Relayed::default();
        for counters in &self.counters {
            let closed = counters.closed();
            report.connections += counters.connections();
            report.open += counters.connections().saturating_sub(closed);
            report.messages += counters.messages();
            relayed.to_target += counters.relayed().to_target;
            relayed.from_target += counters.relayed().from_target;
        }
        ServerReport { relayed: self.relays.then_some(relayed), ..report }
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

impl fmt::Display for ServerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "served {} connections", self.connections)?;
        match self.relayed {
            None => write!(f, " and {} messages", self.messages)?,
            Some(Relayed { to_target, from_target }) => {
                write!(f, "; relayed {to_target} bytes to the target and {from_target} bytes from it")?;
            }
        }
        if self.refused > 0 {
            write!(f, "; {} connections were refused", self.refused)?;
        }
        if self.aborted > 0 {
            write!(f, "; {} connections were reset when the time to drain was over", self.aborted)?;
        }
        Ok(())
    }
}
