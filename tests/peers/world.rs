//! What the tests over the simulated world share.

use perihelion::prelude::*;
use perihelion::runtime::simulation::Simulation;
use perihelion::testing::{Faults, TestChannel};
use perihelion::transports::PeerStatistics;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MILLISECOND: Duration = Duration::from_millis(1);

pub(crate) type Lined = Peer<String, String>;

pub(crate) fn lines() -> Lines {
    Lines::lf(100)
}

/// A peer that exchanges lines.
pub(crate) fn open(seed: u64, faults: Faults) -> (TestChannel, Lined) {
    open_with(seed, faults, "")
}

/// With these keys of the channel's configuration.
pub(crate) fn open_with(seed: u64, faults: Faults, keys: &str) -> (TestChannel, Lined) {
    TestChannel::peer(Simulation::new(seed, faults), &configured(keys), codec(lines()))
}

pub(crate) fn configured(keys: &str) -> Config {
    Config::parse(&format!("[channel]\n{keys}")).unwrap()
}

/// Runs a task of the channel's worker to its end.
pub(crate) fn run<T: 'static>(channel: &mut TestChannel, task: impl Future<Output = T> + 'static) -> T {
    let task = channel.simulation().spawn(task);
    channel.simulation().finish(task).expect("it is done")
}

/// What a task has given, if it is done.
pub(crate) struct Outcome<T>(Rc<RefCell<Option<T>>>);

impl<T> Outcome<T> {
    pub(crate) fn is_there(&self) -> bool {
        self.0.borrow().is_some()
    }

    pub(crate) fn take(&self) -> Option<T> {
        self.0.take()
    }
}

/// Starts a task on the channel's worker, and lets it come as far as it can.
pub(crate) fn start<T: 'static>(
    channel: &mut TestChannel,
    task: impl Future<Output = T> + 'static,
) -> Outcome<T> {
    let outcome = Rc::new(RefCell::new(None));
    let theirs = Rc::clone(&outcome);
    channel.simulation().spawn(async move { *theirs.borrow_mut() = Some(task.await) });
    channel.simulation().run();
    Outcome(outcome)
}

pub(crate) fn statistics<In, Out>(channel: &mut TestChannel, peer: &Peer<In, Out>) -> PeerStatistics {
    let peer = peer.clone();
    run(channel, async move { peer.statistics() })
}
