//! A client: one connection with a pipeline, made from a task of its worker.

use bytes::Bytes;
use perihelion_pipeline::{Pipeline, Runner};
use perihelion_runtime::{ChannelConfig, Config, TcpConfig, defer, run_blocking};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use crate::channel::Channel;
use crate::connector::connect;
use crate::group::Group;
use crate::watch::{ChannelHandle, Watch};
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
}

impl Client {
    /// A client with these limits and socket options.
    pub fn new(config: &Config) -> Self {
        Self::with(&config.channel, config.tcp.clone())
    }

    fn with(channel: &ChannelConfig, tcp: TcpConfig) -> Self {
        Client { group: Group::new(channel, &tcp, Arc::default()), tcp }
    }

    /// Connects to the first of the host's addresses that answers. A name is looked up on another thread.
    ///
    /// # Errors
    /// A name that doesn't resolve, or what the last attempt met with; `channel.connect_ms` limits each.
    ///
    /// # Panics
    /// Outside a worker.
    pub async fn connect<P>(&self, address: &Address, pipeline: P) -> Result<ChannelHandle, Error>
    where
        P: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        let name = address.clone();
        let failed = |cause| Error::Connect { address: address.clone(), cause };
        let resolved =
            run_blocking(move || name.resolve()).await.map_err(|busy| failed(io::Error::other(busy)))??;
        self.connect_to_any(&resolved, pipeline).await.map_err(failed)
    }

    /// Connects to an address that needs no looking up.
    ///
    /// # Errors
    /// What the attempt met with; `channel.connect_ms` limits it.
    ///
    /// # Panics
    /// Outside a worker.
    pub async fn connect_to<P>(&self, address: SocketAddr, pipeline: P) -> Result<ChannelHandle, Error>
    where
        P: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        let failed = |cause| Error::Connect { address: address.into(), cause };
        self.connect_to_any(&[address], pipeline).await.map_err(failed)
    }

    async fn connect_to_any<P>(&self, addresses: &[SocketAddr], pipeline: P) -> io::Result<ChannelHandle>
    where
        P: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in addresses {
            // A family that this machine doesn't have is a failed attempt too.
            let attempt = match socket::for_connect(*address, &self.tcp) {
                Ok(socket) => connect(socket, *address, self.group.config.connect()).await,
                Err(error) => Err(error),
            };
            match attempt {
                Ok(connected) => return Ok(self.channel(connected, pipeline)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn channel<P>(&self, connected: OwnedFd, pipeline: P) -> ChannelHandle
    where
        P: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        let watch = Rc::new(Watch::default());
        let (group, theirs) = (Rc::clone(&self.group), Rc::clone(&watch));
        defer(move |io| {
            // Not before: whoever connects may be a stage, and then the group's state is in use.
            let runner = Runner::new(pipeline, &group.channel.borrow());
            let unopened = Rc::clone(&theirs);
            if io.open(connected, |io, id| Channel::new(io, id, runner, group, Some(theirs))).is_err() {
                unopened.closed(Some("the worker can't hold more connections".into()));
            }
        });
        ChannelHandle(watch)
    }
}
