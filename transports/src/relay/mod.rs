//! Relays: a server that joins each of its connections to one of its own to a target. The kernel moves the bytes
//! (splice(2)): none of them is copied into this process.
//!
//! - `mod.rs`: setting one up, and the connection to its target.
//! - `pair.rs`: two connections that are joined for life.
//! - `way.rs`: one of the two directions.

mod pair;
mod way;

use perihelion_runtime::{ChannelConfig, Handle, RelayConfig, TcpConfig, now};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::connector::connect;
use crate::happy_eyeballs::{Failed, interleave, race};
use crate::listener::Serve;
use crate::server::{NoPipeline, PerCore};
use crate::{Address, Error, RunningServer, Server, socket};

pub(crate) use pair::begin;

/// A server that relays its connections to a target.
pub struct RelayTo {
    target: Result<Address, Error>,
    relay: Option<RelayConfig>,
}

/// Where a server relays its connections to.
pub(crate) struct Forward {
    target: Address,
    /// All that the target's host has.
    addresses: Vec<SocketAddr>,
    tcp: TcpConfig,
    relay: RelayConfig,
    /// Whether the last connect was answered. Changes are logged, not each connection that fails.
    reachable: AtomicBool,
}

impl Server<NoPipeline> {
    /// Each connection is joined to one to `tcp://HOST:PORT`: what either side sends, the other receives.
    ///
    /// While the connection to the target is being made, which happens as in [`Client::connect`](crate::Client::connect)
    /// and is limited by `channel.connect_ms`, nothing is read from the client; if it can't be made, the client is reset.
    /// From then on the kernel moves the bytes, in either direction as far as the receiver takes them. A side that ends is
    /// passed on as such when the other has been sent everything; a side that breaks resets the other. When the server
    /// stops, relays go on until both sides have ended or the time to drain is over.
    ///
    /// ```
    /// # use perihelion_runtime::{Config, Runtime, Service};
    /// # use perihelion_transports::Server;
    /// # use std::time::Duration;
    /// # let mut config = Config::default();
    /// # config.runtime.workers = 1;
    /// let runtime = Runtime::from_config(config)?;
    /// let server = Server::bind("tcp://127.0.0.1:0").relay_to("tcp://localhost:7000").start(&runtime)?;
    /// println!("{}", server.stop(Duration::from_secs(1)));
    /// # Ok::<(), perihelion_transports::Error>(())
    /// ```
    ///
    /// # Panics
    /// With [middleware](Server::with), which takes connections whose bytes come into this process.
    pub fn relay_to(self, target: impl AsRef<str>) -> Server<RelayTo> {
        assert!(self.middleware.is_empty(), "relays have no middleware");
        self.exchange(RelayTo { target: target.as_ref().parse(), relay: None }).0
    }
}

impl Server<RelayTo> {
    /// Limits of its relays, instead of the runtime's.
    pub fn relay(mut self, config: RelayConfig) -> Self {
        self.make.relay = Some(config);
        self
    }

    /// Listens, on every worker of the runtime. Blocks while the target's name is looked up, which is done once.
    ///
    /// # Errors
    /// An address that is none or can't be had, or a target that doesn't resolve.
    pub fn start(self, runtime: &Handle) -> Result<RunningServer, Error> {
        let (server, RelayTo { target, relay }) = self.exchange(NoPipeline);
        let target = target?;
        let forward = Arc::new(Forward {
            addresses: interleave(target.resolve()?),
            target,
            tcp: server.tcp.clone().unwrap_or_else(|| runtime.config().tcp.clone()),
            relay: relay.unwrap_or_else(|| runtime.config().relay.clone()),
            reachable: AtomicBool::new(true),
        });
        let serve = PerCore(Arc::new(move || Serve::Relay(Arc::clone(&forward))));
        server.exchange(serve).0.start(runtime)
    }
}

impl Forward {
    /// Connects to one of the target's addresses.
    async fn connect(&self, config: &ChannelConfig) -> Result<OwnedFd, Error> {
        let start =
            |address| socket::for_connect(address, None, &self.tcp).map(|socket| connect(socket, address));
        let deadline = now() + config.connect();
        let connected = race(self.addresses.clone(), config.connect_attempt_delay(), deadline, start).await;
        let failed =
            |Failed { attempts, untried }| Error::Connect { address: self.target.clone(), attempts, untried };
        self.note(connected.map_err(failed))
    }

    fn note<T>(&self, connected: Result<T, Error>) -> Result<T, Error> {
        let was_reachable = self.reachable.load(Relaxed);
        if connected.is_ok() != was_reachable
            && self.reachable.swap(connected.is_ok(), Relaxed) == was_reachable
        {
            match &connected {
                Ok(_) => tracing::info!(target = %self.target, "a relay's target can be reached again"),
                Err(error) => {
                    tracing::warn!(%error, "a relay's target can't be reached: its clients are reset")
                }
            }
        }
        connected
    }
}
