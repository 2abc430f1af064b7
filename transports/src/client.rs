//! A client: one connection with a pipeline, made from a task of its worker.

use bytes::Bytes;
use perihelion_pipeline::{self as pipeline, Pipeline, Runner, Target};
use perihelion_runtime::{ChannelConfig, Config, TcpConfig, run_blocking};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use crate::admission::Place;
use crate::connector::{connect, on_loop};
use crate::group::Group;
use crate::watch::ChannelHandle;
use crate::{Address, Error, socket};

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
}

impl Client {
    /// A client with these limits and socket options.
    pub fn new(config: &Config) -> Self {
        Self::with(&config.channel, config.tcp.clone())
    }

    fn with(channel: &ChannelConfig, tcp: TcpConfig) -> Self {
        Client { group: Group::new(channel, &tcp, Arc::default()), tcp, local: None }
    }

    /// Binds sockets to this address before they connect; port 0 is any.
    pub fn bind(mut self, local: SocketAddr) -> Self {
        self.local = Some(local);
        self
    }

    /// Connects to the first of the host's addresses that answers. A name is looked up on another thread.
    ///
    /// The stages of the pipeline see the operation before ([`Operation::Connect`](perihelion_pipeline::Operation)):
    /// they may lead it to another target, or refuse it.
    ///
    /// # Errors
    /// A name that doesn't resolve, the refusal of a stage, or what the last attempt met with; `channel.connect_ms`
    /// limits each.
    ///
    /// # Panics
    /// Outside a worker.
    pub async fn connect<P>(&self, address: &Address, pipeline: P) -> Result<ChannelHandle, Error>
    where
        P: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        self.connect_to_target(address.into(), pipeline).await
    }

    /// Connects to an address that needs no looking up.
    ///
    /// # Errors
    /// The refusal of a stage, or what the attempt met with; `channel.connect_ms` limits it.
    ///
    /// # Panics
    /// Outside a worker.
    pub async fn connect_to<P>(&self, address: SocketAddr, pipeline: P) -> Result<ChannelHandle, Error>
    where
        P: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        self.connect_to_target(Target::Address(address), pipeline).await
    }

    async fn connect_to_target<P>(&self, target: Target, pipeline: P) -> Result<ChannelHandle, Error>
    where
        P: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        let asked = Address::from(target.clone());
        let refused = |cause| Error::Refused { address: asked.clone(), cause };
        let (runner, dial) = self.ask_stages(target, pipeline).await;
        let kept = || pipeline::Error::msg("it has kept the operation to itself");
        let (local, target) = dial.and_then(|dial| dial.ok_or_else(kept)).map_err(refused)?;
        let addresses = match target {
            Target::Address(address) => vec![address],
            Target::Name { .. } => look_up(target.into()).await?,
        };
        let failed = |cause| Error::Connect { address: asked.clone(), cause };
        let connected = self.connect_to_any(&addresses, local).await.map_err(failed)?;
        Ok(ChannelHandle::open(connected, Rc::clone(&self.group), Place::uncounted(), |_| runner))
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

    async fn connect_to_any(
        &self,
        addresses: &[SocketAddr],
        local: Option<SocketAddr>,
    ) -> io::Result<OwnedFd> {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in addresses {
            // A family that this machine doesn't have is a failed attempt too.
            let attempt = match socket::for_connect(*address, local, &self.tcp) {
                Ok(socket) => connect(socket, *address, self.group.config.connect()).await,
                Err(error) => Err(error),
            };
            match attempt {
                Ok(connected) => return Ok(connected),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// A local address, and where to connect to.
type Dial = (Option<SocketAddr>, Target);

async fn look_up(name: Address) -> Result<Vec<SocketAddr>, Error> {
    let address = name.clone();
    let busy = |busy| Error::Resolve { address, cause: io::Error::other(busy) };
    run_blocking(move || name.resolve()).await.map_err(busy)?
}
