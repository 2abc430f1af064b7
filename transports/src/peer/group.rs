//! Many peers as one, on all cores: the members of a room, or all peers of a server.

use perihelion_runtime::{self as runtime, Handle, JoinHandle, sleep, spawn_local};
use slab::Slab;
use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::iter::Sum;
use std::marker::PhantomData;
use std::ops::Add;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::PeerSender;

/// After so long a core whose mailbox is full is told again.
const MAILBOX_PAUSE: Duration = Duration::from_millis(1);

/// Peers that hear the same: each on its own core, whichever core speaks. It is one group wherever it is cloned to, and
/// a peer may be in many.
///
/// ```no_run
/// # use perihelion_pipeline::{Lines, codec};
/// # use perihelion_runtime::Runtime;
/// # use perihelion_transports::{Peer, PeerGroup, Server, Slow};
/// # let runtime = Runtime::new()?;
/// let everybody = PeerGroup::new(&runtime);
/// Server::bind("tcp://127.0.0.1:7000").peer(
///     |_conn| codec(Lines::lf(8192)),
///     move |peer: Peer<String, String>| {
///         let everybody = everybody.clone();
///         async move {
///             let _member = everybody.join(&peer);
///             while let Some(line) = peer.recv().await? {
///                 everybody.send(line, Slow::Close).await;
///             }
///             Ok(())
///         }
///     },
/// );
/// # Ok::<(), perihelion_runtime::Error>(())
/// ```
pub struct PeerGroup<Out> {
    number: u64,
    cores: Handle,
    out: PhantomData<fn(Out)>,
}

/// What becomes of a member whose queue is full (`channel.unsent_frames_max`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slow {
    /// It does not get this frame, which is counted as dropped in its statistics.
    Skip,
    /// Its connection is reset.
    Close,
}

/// What became of a frame that was sent to a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Members that get it.
    pub sent: usize,
    /// Members that were too slow, and don't get it.
    pub skipped: usize,
    /// Members that were too slow, and are closed for it.
    pub closed: usize,
}

/// A peer's place in a group, until it is dropped.
pub struct Membership(#[expect(dead_code, reason = "it is held")] Box<dyn Any>);

struct Place<Out: 'static> {
    group: u64,
    members: Members<Out>,
    key: usize,
}

type Members<Out> = Rc<RefCell<Slab<PeerSender<Out>>>>;

thread_local! {
    /// The members of each group on this core.
    static GROUPS: RefCell<HashMap<u64, Box<dyn Any>>> = RefCell::default();
}

impl<Out: 'static> PeerGroup<Out> {
    /// A group of peers on the workers of this runtime.
    pub fn new(runtime: &Handle) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        PeerGroup { number, cores: runtime.clone(), out: PhantomData }
    }

    /// Adds a peer, until the membership is dropped. It does not keep the peer's connection open.
    pub fn join(&self, peer: &PeerSender<Out>) -> Membership {
        let members = GROUPS.with_borrow_mut(|groups| {
            let members = groups.entry(self.number).or_insert_with(|| Box::new(Members::<Out>::default()));
            Rc::clone(members.downcast_ref::<Members<Out>>().expect("a group has members of one type"))
        });
        let key = members.borrow_mut().insert(peer.clone());
        Membership(Box::new(Place { group: self.number, members, key }))
    }

    /// Queues a frame at all members, wherever they are, and sends it. Done when every core has done so: frames of one
    /// task keep their order. While a core's mailbox is full this waits.
    ///
    /// # Panics
    /// Outside a worker.
    pub async fn send(&self, frame: Out, slow: Slow) -> Heard
    where
        Out: Clone + Send + Sync,
    {
        self.send_to(frame, slow, |_| true).await
    }

    /// Like [`send`](PeerGroup::send), to those of the members that are wanted. The predicate is called on each member's
    /// core, where it may ask for the member's [features](crate::ChannelHandle::features).
    ///
    /// # Panics
    /// Outside a worker.
    pub async fn send_to(
        &self,
        frame: Out,
        slow: Slow,
        wanted: impl Fn(&PeerSender<Out>) -> bool + Send + Sync + 'static,
    ) -> Heard
    where
        Out: Clone + Send + Sync,
    {
        self.on_each(
            move |member| if wanted(member) { offer(member, &frame, slow) } else { Heard::default() },
        )
        .await
    }

    /// How many members it has.
    ///
    /// # Panics
    /// Outside a worker.
    pub async fn count(&self) -> usize {
        self.on_each(|_| 1).await
    }

    /// Calls a function for each member, on the member's core, and adds up what it gives.
    ///
    /// # Panics
    /// Outside a worker.
    pub async fn on_each<T>(&self, call: impl Fn(&PeerSender<Out>) -> T + Send + Sync + 'static) -> T
    where
        T: Sum + Send + 'static,
    {
        let call = Arc::new(call);
        let on_core = |core| {
            let (cores, number, call) = (self.cores.clone(), self.number, Arc::clone(&call));
            spawn_local(async move {
                loop {
                    let call = Arc::clone(&call);
                    match cores.ask(core, move |_io| on_members(number, &*call)).await {
                        Err(runtime::Error::MailboxFull) => sleep(MAILBOX_PAUSE).await,
                        result => return result.ok(), // a core that has stopped has no members
                    }
                }
            })
        };
        let asked: Vec<JoinHandle<Option<T>>> = (0..self.cores.workers()).map(on_core).collect();
        let mut given = Vec::with_capacity(asked.len());
        for core in asked {
            given.extend(core.await.ok().flatten());
        }
        given.into_iter().sum()
    }
}

/// Calls a function for each member on this core.
fn on_members<Out: 'static, T: Sum>(group: u64, call: impl Fn(&PeerSender<Out>) -> T) -> T {
    let members = GROUPS.with_borrow(|groups| {
        let members = groups.get(&group)?.downcast_ref::<Members<Out>>()?;
        // It is user code that is called now, and may let members come and go.
        Some(members.borrow().iter().map(|(_, member)| member.clone()).collect::<Vec<_>>())
    });
    members.unwrap_or_default().iter().map(call).sum()
}

fn offer<Out: Clone>(member: &PeerSender<Out>, frame: &Out, slow: Slow) -> Heard {
    if member.try_send(frame.clone()) {
        return Heard { sent: 1, ..Heard::default() };
    }
    match slow {
        _ if !member.writer().is_open() => Heard::default(), // it is going
        Slow::Skip => {
            member.count_skipped();
            Heard { skipped: 1, ..Heard::default() }
        }
        Slow::Close => {
            tracing::info!(peer = ?member.addresses(), "a peer is reset, for it reads too slowly");
            drop(member.abort());
            Heard { closed: 1, ..Heard::default() }
        }
    }
}

impl<Out> Clone for PeerGroup<Out> {
    fn clone(&self) -> Self {
        PeerGroup { number: self.number, cores: self.cores.clone(), out: PhantomData }
    }
}

impl<Out: 'static> Drop for Place<Out> {
    fn drop(&mut self) {
        let member = self.members.borrow_mut().try_remove(self.key);
        drop(member);
        if self.members.borrow().is_empty() {
            let _ = GROUPS.try_with(|groups| groups.borrow_mut().remove(&self.group));
        }
    }
}

impl Add for Heard {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Heard {
            sent: self.sent + other.sent,
            skipped: self.skipped + other.skipped,
            closed: self.closed + other.closed,
        }
    }
}

impl Sum for Heard {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Heard::default(), Add::add)
    }
}
