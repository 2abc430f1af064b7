//! What the tests over the simulated world share.

use futures_io::AsyncRead;
use perihelion::prelude::*;
use perihelion::runtime::simulation::Simulation;
use perihelion::testing::{Ending, Faults, TestChannel};
use perihelion::transports::PeerStatistics;
use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
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

/// Two channels, each the other's other side.
pub(crate) struct Pair {
    pub(crate) left: TestChannel,
    pub(crate) right: TestChannel,
    /// What went from left to right, and back.
    pub(crate) there: Vec<u8>,
    pub(crate) back: Vec<u8>,
    ended: (Ending, Ending),
}

impl Pair {
    pub(crate) fn new(left: TestChannel, right: TestChannel) -> Self {
        Pair { left, right, there: Vec::new(), back: Vec::new(), ended: (Ending::Open, Ending::Open) }
    }

    /// Goes on until nothing moves.
    pub(crate) fn talk(&mut self) {
        loop {
            let there = carry(&mut self.left, &mut self.right, &mut self.ended.0);
            let back = carry(&mut self.right, &mut self.left, &mut self.ended.1);
            if there.is_none() && back.is_none() {
                return;
            }
            self.there.extend(there.into_iter().flatten());
            self.back.extend(back.into_iter().flatten());
        }
    }
}

/// Carries what one side has sent, and how it has ended. Gives what was sent; `None`: nothing has happened.
fn carry(from: &mut TestChannel, to: &mut TestChannel, ended: &mut Ending) -> Option<Vec<u8>> {
    let bytes = from.received();
    to.send(&bytes);
    let (before, sees) = (*ended, from.peer_sees());
    *ended = sees;
    match sees {
        Ending::Ended | Ending::Closed if before == Ending::Open => to.end(),
        Ending::Reset if before != Ending::Reset => to.reset(),
        _ if bytes.is_empty() => return None,
        _ => {}
    }
    Some(bytes)
}

/// Reads no more than so many bytes. `None`: no more follow.
pub(crate) async fn read_up_to(connection: &mut Connection, limit: usize) -> Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; limit];
    let count = poll_fn(|task| Pin::new(&mut *connection).poll_read(task, &mut bytes)).await?;
    bytes.truncate(count);
    Ok((count > 0).then_some(bytes))
}
