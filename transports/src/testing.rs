//! Tests of handlers and pipelines without sockets: the real channel in a made-up world.

use bytes::Bytes;
use perihelion_pipeline::{Builder, FoldOnSwitch, Pipeline, Stack, TailStage};
use perihelion_runtime::Config;
use perihelion_runtime::simulation::Simulation;
use std::sync::Arc;
use std::time::Duration;

use crate::admission::Place;
use crate::channel::Channel;
use crate::group::Group;
use crate::new_channel::NewChannel;
use crate::watch::{ChannelHandle, Side};
use crate::{Connection, Peer, PeerTail};

pub use perihelion_runtime::simulation::{Ending, Far, Faults, each_seed};

/// A channel with its pipeline, and the peer that a test plays: the same channel that serves sockets, on the same event
/// loop, in virtual time.
///
/// ```
/// use perihelion_pipeline::{Lines, codec};
/// use perihelion_transports::testing::TestChannel;
///
/// let shout = || codec(Lines::lf(99)).service(async |line: String| Ok(line.to_uppercase()));
/// let mut channel = TestChannel::open(shout());
/// channel.send("hello\nwor");
/// assert_eq!(channel.received(), b"HELLO\n");
/// channel.send("ld\n");
/// channel.end();
/// assert_eq!(channel.received(), b"WORLD\n");
/// assert_eq!(channel.closed(), Some(None), "in order");
/// ```
///
/// With [`Faults`] and a seed everything comes in parts, late and in another order; [`each_seed`] tries many seeds, and
/// says how to repeat the one that fails:
///
/// ```
/// # use perihelion_pipeline::{Lines, codec};
/// # use perihelion_transports::testing::{Faults, TestChannel, each_seed};
/// # let shout = || codec(Lines::lf(99)).service(async |line: String| Ok(line.to_uppercase()));
/// each_seed(0..50, |seed| {
///     let mut channel = TestChannel::with_faults(seed, Faults::survivable(), shout());
///     channel.send("hello\nworld\n");
///     assert_eq!(channel.received(), b"HELLO\nWORLD\n");
/// });
/// ```
pub struct TestChannel {
    simulation: Simulation,
    far: Far,
    handle: ChannelHandle,
}

impl TestChannel {
    /// An open channel in a perfect world.
    pub fn open<P>(pipeline: P) -> Self
    where
        P: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        Self::with_faults(0, Faults::none(), pipeline)
    }

    /// An open channel in a world with these faults, by this seed.
    pub fn with_faults<P>(seed: u64, faults: Faults, pipeline: P) -> Self
    where
        P: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        Self::on(Simulation::new(seed, faults), &Config::default(), pipeline)
    }

    /// An open channel with this configuration, in a given world.
    ///
    /// # Panics
    /// If the worker can't take the channel.
    pub fn on<P>(simulation: Simulation, config: &Config, pipeline: P) -> Self
    where
        P: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        let make = |group: &Group| {
            let handle = ChannelHandle::new(Side::Accepted, None);
            (handle.channel(group, pipeline), handle)
        };
        Self::with(simulation, config, make, |handle| handle.clone()).0
    }

    /// A [`Peer`] with these stages, which reads from now on; and its channel.
    ///
    /// # Panics
    /// If the worker can't take the channel.
    pub fn peer<S>(
        simulation: Simulation,
        config: &Config,
        stages: Builder<S>,
    ) -> (Self, Peer<S::Up, S::Down>)
    where
        S: Stack<Up: 'static, Down: 'static> + FoldOnSwitch<TailStage<PeerTail<S::Up, S::Down>>>,
        S::Pipeline: Pipeline<In = Bytes, Out = Bytes> + 'static,
    {
        let make = |group: &Group| Peer::open(group, Side::Accepted, None, stages);
        let (channel, peer) = Self::with(simulation, config, make, |peer| (***peer).clone());
        (channel, peer)
    }

    /// A [`Connection`], and its channel.
    ///
    /// # Panics
    /// If the worker can't take the channel.
    pub fn connection(simulation: Simulation, config: &Config) -> (Self, Connection) {
        let make = |group: &Group| Connection::new(group, Side::Accepted, None);
        Self::with(simulation, config, make, Connection::handle)
    }

    fn with<T>(
        mut simulation: Simulation,
        config: &Config,
        make: impl FnOnce(&Group) -> (NewChannel, T),
        handle: impl FnOnce(&T) -> ChannelHandle,
    ) -> (Self, T) {
        let group = Group::new(&config.channel, &config.tcp, Arc::default());
        let (fd, far) = simulation.connected();
        let (opened, made) = simulation.io(|io| {
            let (new, made) = make(&group);
            (io.open(fd, |io, id| Channel::new(io, id, new, group, Place::uncounted())), made)
        });
        assert!(opened.is_ok(), "the worker can't hold more connections");
        simulation.run();
        let handle = handle(&made);
        (TestChannel { simulation, far, handle }, made)
    }

    /// The peer sends these bytes, and the channel does what it does then.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.far.send(bytes);
        self.simulation.run();
    }

    /// The peer sends no more.
    pub fn end(&mut self) {
        self.far.end();
        self.simulation.run();
    }

    /// The peer resets the connection.
    pub fn reset(&mut self) {
        self.far.reset();
        self.simulation.run();
    }

    /// The peer takes so many bytes more and no others, or any number.
    pub fn set_window(&mut self, bytes: Option<usize>) {
        self.far.set_window(bytes);
        self.simulation.run();
    }

    /// Lets time pass.
    pub fn advance(&mut self, by: Duration) {
        self.simulation.advance(by);
    }

    /// Closes the channel from this side, behind what was written.
    pub fn close(&mut self) {
        drop(self.handle.close());
        self.simulation.run();
    }

    /// What the peer has received since the last call.
    pub fn received(&mut self) -> Vec<u8> {
        self.simulation.run();
        self.far.received()
    }

    /// `None` while the channel is open; then the reason, unless it was closed in order.
    pub fn closed(&self) -> Option<Option<String>> {
        self.handle.0.end()
    }

    /// How far the peer sees the connection ended.
    pub fn peer_sees(&self) -> Ending {
        self.far.sees()
    }

    /// The world that it is in: for tasks, timers and other connections.
    pub fn simulation(&mut self) -> &mut Simulation {
        &mut self.simulation
    }
}
