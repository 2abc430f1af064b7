//! A pool of connections: made when they are needed, lent to one task after the other, closed when nobody needs them.

mod places;

use perihelion_pipeline as pipeline;
use perihelion_runtime::{PoolConfig, now, sleep_until, spawn_local, timeout};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::ops::Deref;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::{ChannelHandle, Connected, Connection, Peer};
use places::{Place, Places};

/// Connections to one place, lent to the tasks of one worker. Clones are the same pool.
///
/// There are never more than `pool.connections_max`, in use, idle or being made; those that are closing don't count, for
/// which they have `channel.close_ms`. When all are in use, whoever wants one waits, in the order of asking, for up to
/// `pool.wait_ms`.
///
/// The connection that came back last is given out first. So those that are not needed stay idle, and are closed after
/// `pool.idle_ms`. One that has ended, or is [not usable](Poolable::is_usable) for another reason, is never given out; and
/// a [check](Pool::check) can ask the other side.
///
/// ```no_run
/// # use perihelion_pipeline::{Lines, codec};
/// # use perihelion_runtime::Config;
/// # use perihelion_transports::{Address, Client, Peer, Pool};
/// # async fn example(config: &Config, address: Address) -> perihelion_pipeline::Result<()> {
/// let client = Client::new(config);
/// let pool = Pool::new(&config.pool, async move || client.peer(&address, codec(Lines::lf(8192))).await)
///     .check(async |peer: &Peer<String, String>| {
///         matches!(peer.request_in_order("ping".into()).await.as_deref(), Ok("pong"))
///     });
/// let peer = pool.get().await?;
/// println!("{}", peer.request_in_order("what time is it?".into()).await?);
/// # Ok(())
/// # }
/// ```
///
/// When the last clone is dropped the pool is closed, as by [`close`](Pool::close).
pub struct Pool<C: Poolable>(Rc<Owner<C>>);

/// A connection of a [`Pool`], to which it goes back when it is dropped: if it is [usable](Poolable::is_usable), and the
/// task that drops it does not panic. Otherwise it is closed, and its place is free.
///
/// Whoever gets it next finds it as it was left. When a conversation was given up halfway, by a time limit around it for
/// example, an answer may be yet to come. The [requests](Peer::request) of a peer cope with that. Otherwise such a
/// connection is to be [discarded](Pooled::discard), or is of a [type of one's own](Poolable) that knows of it.
pub struct Pooled<C: Poolable> {
    /// `None` when it is being dropped.
    member: Option<Member<C>>,
    discarded: bool,
    shared: Rc<Shared<C>>,
    /// Released last, so that whoever gets it finds the connection.
    _place: Place,
}

/// A connection that can be lent to one task after the other.
///
/// Beside those of this crate it may be a type of one's own that wraps one, and knows more: that a conversation was left
/// halfway, for example.
pub trait Poolable: Connected + 'static {
    /// Whether a task that knows nothing of the one before can use it. Asked when it comes back, and before it is
    /// given out.
    fn is_usable(&self) -> bool;
}

/// Why a [`Pool`] has no connection to give.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// It could not be made.
    #[error("no connection could be made: {cause}")]
    Connect {
        /// What making it ended with.
        cause: pipeline::Error,
    },
    /// None came back in time.
    #[error(
        "none of the pool's connections (pool.connections_max = {connections_max}) came free within {waited:?} \
         (pool.wait_ms): use them for a shorter time, or raise either"
    )]
    TimedOut {
        /// How many there are: `pool.connections_max`.
        connections_max: usize,
        /// How long it was waited: `pool.wait_ms`.
        waited: Duration,
    },
    /// As many wait as may.
    #[error("as many wait for a connection of the pool as may: pool.waiting_max = {waiting_max}")]
    TooManyWaiting {
        /// How many may wait: `pool.waiting_max`.
        waiting_max: usize,
    },
    /// The pool is closed.
    #[error("the pool is closed")]
    Closed,
}

/// What a [`Pool`] holds, and has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStatistics {
    /// Connections that there are: idle, being checked or in use.
    pub open: usize,
    /// Connections that nobody uses. One that the other side has closed is among them until its time is up, or it would
    /// have been given out.
    pub idle: usize,
    /// Tasks that wait for one.
    pub waiting: usize,
    /// Connections that were made.
    pub made: u64,
    /// Connections that could not be made.
    pub failed: u64,
    /// Connections that were closed because they were idle for too long, or too old.
    pub expired: u64,
}

impl<C: Poolable> Pool<C> {
    /// A pool of what `connect` makes, which is called whenever one more is needed, by several tasks at once. What limits
    /// the time that this takes is its own: for a [`Client`](crate::Client), `channel.connect_ms`.
    ///
    /// # Panics
    /// Outside a worker.
    pub fn new<E>(config: &PoolConfig, connect: impl AsyncFn() -> Result<C, E> + 'static) -> Self
    where
        E: Into<pipeline::Error>,
    {
        let connect = Rc::new(connect);
        let shared = Rc::new(Shared {
            config: config.clone(),
            places: Places::new(config),
            connect: Box::new(move || {
                let connect = Rc::clone(&connect);
                Box::pin(async move { connect().await.map_err(Into::into) })
            }),
            check: RefCell::default(),
            idle: RefCell::default(),
            open: Rc::default(),
            made: Cell::default(),
            failed: Cell::default(),
            expired: Cell::default(),
            keeper: Cell::default(),
            closers: RefCell::new(Some(Vec::new())),
        });
        drop(spawn_local(Keeper(Rc::clone(&shared)).run()));
        Pool(Rc::new(Owner(shared)))
    }

    /// Asks this function before a connection is given out that has been idle for `pool.check_after_ms`. If it says no,
    /// or nothing within `pool.check_ms`, the connection is closed, and another is tried or made.
    pub fn check(self, check: impl AsyncFn(&C) -> bool + 'static) -> Self {
        let check = Rc::new(check);
        let check: Check<C> = Rc::new(move |connection| {
            let check = Rc::clone(&check);
            Box::pin(async move { check(connection).await })
        });
        self.shared().check.replace(Some(check));
        self
    }

    /// A connection: one that is idle, or otherwise a new one.
    ///
    /// Dropped, the future gives up its turn and loses nothing that others could use; what it is checking is closed.
    ///
    /// # Errors
    /// What making a connection ended with; that all were in use for too long, or too many wait for one already; or that
    /// the pool is closed.
    ///
    /// # Panics
    /// Outside a worker.
    pub async fn get(&self) -> Result<Pooled<C>, PoolError> {
        let shared = self.shared();
        let place = shared.places.take().await?;
        let member = match shared.reuse().await {
            Some(member) => member,
            None if shared.places.is_closed() => return Err(PoolError::Closed),
            None => shared.make().await?,
        };
        let pooled =
            Pooled { member: Some(member), discarded: false, shared: Rc::clone(shared), _place: place };
        if shared.places.is_closed() { Err(PoolError::Closed) } else { Ok(pooled) }
    }

    /// Closes the connections that are idle, at once, and those in use when they come back; refuses those who wait, and
    /// whoever asks from now on. Waits until all are closed.
    pub async fn close(&self) {
        self.shared().close();
        poll_fn(|task| self.shared().poll_closed(task)).await;
    }

    /// What it holds, and has done so far.
    pub fn statistics(&self) -> PoolStatistics {
        let shared = self.shared();
        PoolStatistics {
            open: shared.open.get(),
            idle: shared.idle.borrow().len(),
            waiting: shared.places.waiting(),
            made: shared.made.get(),
            failed: shared.failed.get(),
            expired: shared.expired.get(),
        }
    }

    fn shared(&self) -> &Rc<Shared<C>> {
        &self.0.0
    }
}

impl<C: Poolable> Clone for Pool<C> {
    fn clone(&self) -> Self {
        Pool(Rc::clone(&self.0))
    }
}

impl<C: Poolable> Pooled<C> {
    /// Closes it, rather than give it back.
    pub fn discard(mut self) {
        self.discarded = true;
    }
}

impl<C: Poolable> Deref for Pooled<C> {
    type Target = C;
    fn deref(&self) -> &C {
        &self.member.as_ref().expect("it is there until it is dropped").connection
    }
}

impl<C: Poolable> Drop for Pooled<C> {
    fn drop(&mut self) {
        if let Some(member) = self.member.take() {
            let wanted = !self.discarded && !std::thread::panicking() && member.connection.is_usable();
            self.shared.take_back(member, wanted);
        }
    }
}

/// Usable as long as neither side has ended it or wants to.
impl Poolable for ChannelHandle {
    fn is_usable(&self) -> bool {
        self.is_open()
    }
}

/// Usable as long as neither side has ended it or wants to, and no frame is left in its queue: the next task would take
/// it for its own. A peer in passive mode reads nothing by itself, and so learns of no end.
impl<In, Out> Poolable for Peer<In, Out> {
    fn is_usable(&self) -> bool {
        self.is_fresh()
    }
}

/// Usable as long as neither side has ended it or wants to, and no byte is left unread: the next task would take it for
/// its own.
impl Poolable for Connection {
    fn is_usable(&self) -> bool {
        self.is_fresh()
    }
}

/// The clones of a pool. Closes it.
struct Owner<C: Poolable>(Rc<Shared<C>>);

impl<C: Poolable> Drop for Owner<C> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// What a pool, its connections in use and its keeper share. No borrow lasts across a call of a connection, which is user
/// code.
///
/// Whoever uses, checks or makes a connection has a place. A connection is made only when none is idle, and comes back
/// before its place is free: so there are never more connections than places.
struct Shared<C: Poolable> {
    config: PoolConfig,
    places: Rc<Places>,
    connect: Connect<C>,
    check: RefCell<Option<Check<C>>>,
    /// The one that came back last is last.
    idle: RefCell<VecDeque<Idle<C>>>,
    /// How many members there are.
    open: Rc<Cell<usize>>,
    made: Cell<u64>,
    failed: Cell<u64>,
    expired: Cell<u64>,
    /// Of the keeper, while it waits.
    keeper: Cell<Option<Waker>>,
    /// Those who wait for the end of the keeper. `None`: it has ended.
    closers: RefCell<Option<Vec<Waker>>>,
}

type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;
type Connect<C> = Box<dyn Fn() -> LocalFuture<'static, pipeline::Result<C>>>;
type Check<C> = Rc<dyn for<'a> Fn(&'a C) -> LocalFuture<'a, bool>>;

/// An open connection. Dropped, it is closed.
struct Member<C: Poolable> {
    connection: C,
    /// When it is too old.
    ends: Option<Instant>,
    open: Rc<Cell<usize>>,
}

impl<C: Poolable> Drop for Member<C> {
    fn drop(&mut self) {
        self.open.set(self.open.get() - 1);
        self.connection.close();
    }
}

struct Idle<C: Poolable> {
    member: Member<C>,
    /// Since when. `None`: the keeper has not seen it yet.
    since: Option<Instant>,
}

impl<C: Poolable> Idle<C> {
    /// When its time is up.
    fn until(&self, limit: Duration) -> Option<Instant> {
        let idle = self.since.and_then(|since| since.checked_add(limit));
        idle.into_iter().chain(self.member.ends).min()
    }
}

/// For whoever wants a connection.
impl<C: Poolable> Shared<C> {
    /// An idle connection that is good. Those that are not are closed.
    async fn reuse(&self) -> Option<Member<C>> {
        loop {
            let idle = self.idle.borrow_mut().pop_back()?;
            if idle.until(self.config.idle()).is_some_and(|until| until <= now()) {
                self.expired.set(self.expired.get() + 1);
                continue;
            }
            let Idle { member, since } = idle;
            let idle_for = since.map_or(Duration::ZERO, |since| now() - since);
            if member.connection.is_usable()
                && (idle_for < self.config.check_after() || self.passes_check(&member.connection).await)
            {
                return Some(member);
            }
        }
    }

    async fn passes_check(&self, connection: &C) -> bool {
        let check = self.check.borrow().clone();
        match check {
            Some(check) => timeout(self.config.check(), check(connection)).await.unwrap_or(false),
            None => true,
        }
    }

    async fn make(&self) -> Result<Member<C>, PoolError> {
        let connection = (self.connect)().await.map_err(|cause| {
            self.failed.set(self.failed.get() + 1);
            PoolError::Connect { cause }
        })?;
        self.made.set(self.made.get() + 1);
        self.open.set(self.open.get() + 1);
        let age = |most: Duration| now().checked_add(most.mul_f64(1.0 - 0.1 * fastrand::f64()));
        let ends = self.config.lifetime().and_then(age);
        Ok(Member { connection, ends, open: Rc::clone(&self.open) })
    }

    fn take_back(&self, member: Member<C>, wanted: bool) {
        if self.places.is_closed() {
            member.connection.close(); // and the keeper waits for its end
        } else if !wanted {
            return;
        }
        self.idle.borrow_mut().push_back(Idle { member, since: None });
        self.wake_keeper();
    }

    fn close(&self) {
        self.places.close();
        self.wake_keeper();
    }

    fn poll_closed(&self, task: &Context<'_>) -> Poll<()> {
        match &mut *self.closers.borrow_mut() {
            None => return Poll::Ready(()),
            Some(closers) if closers.iter().any(|waker| waker.will_wake(task.waker())) => {}
            Some(closers) => closers.push(task.waker().clone()),
        }
        Poll::Pending
    }

    fn wake_keeper(&self) {
        if let Some(keeper) = self.keeper.take() {
            keeper.wake();
        }
    }
}

/// The task that closes what nobody needs, or all there is. However it ends, nobody waits in vain.
struct Keeper<C: Poolable>(Rc<Shared<C>>);

impl<C: Poolable> Drop for Keeper<C> {
    fn drop(&mut self) {
        self.0.places.close();
        drop(self.0.idle.take());
        let closers = self.0.closers.take();
        closers.into_iter().flatten().for_each(Waker::wake);
    }
}

impl<C: Poolable> Keeper<C> {
    async fn run(self) {
        let shared = &*self.0;
        while !shared.places.is_closed() {
            let next = self.expire();
            self.woken(next).await;
        }
        // Those that come back now are closed already.
        let idle = shared.idle.take();
        idle.iter().for_each(|idle| idle.member.connection.close());
        shared.places.drained().await;
        for idle in idle.into_iter().chain(shared.idle.take()) {
            idle.member.connection.closed().await;
        }
    }

    /// Closes what has been idle for too long or is too old. Gives when to look again.
    fn expire(&self) -> Option<Instant> {
        let (shared, now) = (&*self.0, now());
        let limit = shared.config.idle();
        let mut over = Vec::new();
        let next = {
            let idle = &mut *shared.idle.borrow_mut();
            for idle in idle.iter_mut() {
                idle.since.get_or_insert(now);
            }
            let is_over = |idle: &Idle<C>| idle.until(limit).is_some_and(|until| until <= now);
            while let Some(at) = idle.iter().position(is_over) {
                over.extend(idle.remove(at));
            }
            idle.iter().filter_map(|idle| idle.until(limit)).min()
        };
        shared.expired.set(shared.expired.get() + over.len() as u64);
        next
    }

    /// Waits until something has changed, or for this time.
    async fn woken(&self, until: Option<Instant>) {
        let mut sleep = until.map(sleep_until);
        let mut woken = false;
        poll_fn(|task| {
            if std::mem::replace(&mut woken, true) {
                return Poll::Ready(());
            }
            self.0.keeper.set(Some(task.waker().clone()));
            sleep.as_mut().map_or(Poll::Pending, |sleep| Pin::new(sleep).poll(task))
        })
        .await;
    }
}
