//! Connections as asynchronous functions see them, over the simulated world and over sockets: messages, and middleware.

#[path = "../common/mod.rs"]
mod common;
mod limits;
mod middleware;
mod reading;
mod sockets;
mod telling;
mod timeouts;
mod writing;

use perihelion::prelude::*;
use perihelion::runtime::simulation::Simulation;
use perihelion::testing::{Faults, TestChannel};
use perihelion::transports::PerCore;

/// The greatest message of these tests, without its length.
const MAX: usize = 30_000;
/// The same on the wire.
const WIRE_MAX: usize = 4 + MAX;

/// Frames behind a length, which may be much longer than a reader allows.
fn lengths() -> LengthPrefixed {
    LengthPrefixed::u32_be(1 << 24)
}

fn open(seed: u64, faults: Faults) -> (TestChannel, Connection) {
    TestChannel::connection(Simulation::new(seed, faults), &Config::default())
}

/// Runs a task of the channel's worker to its end.
fn run<T: 'static>(channel: &mut TestChannel, task: impl Future<Output = T> + 'static) -> T {
    let task = channel.simulation().spawn(task);
    channel.simulation().finish(task).expect("it is done")
}

/// Messages of many sizes, from none to several receive buffers.
fn messages(seed: u64) -> Vec<Vec<u8>> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut message = || {
        let size = if random.u8(0..10) == 0 { random.usize(0..=MAX) } else { random.usize(0..200) };
        common::text(random.u64(..), size)
    };
    (0..seed % 30).map(|_| message()).collect()
}

fn on_the_wire(messages: &[Vec<u8>]) -> Vec<u8> {
    messages.iter().flat_map(common::frame).collect()
}

/// A server in a made-up world.
fn serve(
    mut simulation: Simulation,
    set_up: impl FnOnce(Server) -> Server<PerCore>,
) -> (Simulation, RunningServer) {
    let server = set_up(Server::bind(common::V4)).start(simulation.handle()).unwrap();
    simulation.run();
    (simulation, server)
}
