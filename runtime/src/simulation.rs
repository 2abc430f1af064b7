//! A worker in a made-up world, for tests: the real event loop and everything on it, on this thread, in virtual time.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::blocking::BlockingPool;
use crate::counters::Counters;
use crate::driver::Driver;
use crate::driver::sim::{Answer, Line, Sim, World};
use crate::local::Local;
use crate::mailbox::{self, Mailbox};
use crate::runtime::{Registered, Remote};
use crate::worker::Worker;
use crate::{Config, Handle, Io, JoinHandle, WorkerStats, spawn_local};

pub use crate::driver::sim::{Ending, Faults};

/// After so many turns without rest a simulation panics: something wakes itself for ever.
const TURNS_MAX: usize = 1_000_000;

/// One worker in a made-up world. Peers are played by the test; time passes only when it says so, or when a delayed
/// completion needs it. Equal seeds give equal runs.
///
/// Blocking calls ([`run_blocking`](crate::run_blocking)) run at once, on this thread.
///
/// ```
/// use perihelion_runtime::simulation::{Faults, Simulation};
/// use perihelion_runtime::sleep;
/// use std::time::Duration;
///
/// let mut simulation = Simulation::new(7, Faults::none());
/// let start = simulation.now();
/// let sleeper = simulation.spawn(async {
///     sleep(Duration::from_secs(3600)).await;
///     "an hour later"
/// });
/// simulation.advance(Duration::from_secs(3600));
/// assert_eq!(simulation.finish(sleeper), Some("an hour later"));
/// assert!(simulation.now() - start < Duration::from_secs(3601));
/// ```
pub struct Simulation {
    /// `None` while it is dropped.
    worker: Option<Worker>,
    local: Rc<Local>,
    world: Rc<RefCell<World>>,
    handle: Handle,
    _number: Registered,
}

/// The other side of a connection, played by a test.
#[derive(Clone)]
pub struct Far(Rc<RefCell<Line>>);

/// Runs a test with each of these seeds. A seed that fails is named, and `PERIHELION_SEED` repeats it alone.
///
/// # Panics
/// With the first test that does.
pub fn each_seed(seeds: std::ops::Range<u64>, mut test: impl FnMut(u64)) {
    let chosen = std::env::var("PERIHELION_SEED").ok().map(|seed| {
        seed.parse::<u64>().unwrap_or_else(|_| panic!("PERIHELION_SEED={seed}: it must be a whole number"))
    });
    for seed in chosen.map_or(seeds, |seed| seed..seed + 1) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(seed))) {
            eprintln!("failed with seed {seed}; PERIHELION_SEED={seed} repeats it");
            resume_unwind(panic);
        }
    }
}

impl Simulation {
    /// A world by this seed, with these faults, and the default configuration.
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self::with_config(seed, faults, Config::default())
    }

    /// A world with this configuration.
    ///
    /// # Panics
    /// If the configuration can't be used.
    pub fn with_config(seed: u64, faults: Faults, config: Config) -> Self {
        config.check().unwrap_or_else(|error| panic!("{error}"));
        let start = Instant::now();
        let world = World::new(seed, faults, start);
        let mailbox = Mailbox::new(config.runtime.mailbox_messages);
        let (mailbox, inbox) = mailbox.unwrap_or_else(|error| panic!("{error}"));
        let (mailbox, counters) = (Arc::new(mailbox), Arc::new(Counters::default()));
        let number = Registered(mailbox::register(Arc::clone(&mailbox)));
        let blocking = Arc::new(BlockingPool::inline());
        let local = Rc::new(Local::simulated(number.0, Arc::clone(&mailbox), blocking, start));
        let driver = Driver::Sim(Box::new(Sim::new(Rc::clone(&world), config.runtime.receive.buffer_bytes)));
        let capabilities = driver.capabilities().clone();
        let worker =
            Worker::with_driver(driver, config.clone(), Rc::clone(&local), inbox, Arc::clone(&counters));
        let remote = Remote { cpu: 0, mailbox, counters, capabilities };
        let handle = Handle::of(vec![remote], config);
        Simulation { worker: Some(worker), local, world, handle, _number: number }
    }

    /// Reaches the simulated worker as threads reach a real one. Whoever waits for its answer on this thread waits for
    /// ever.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The virtual time.
    pub fn now(&self) -> Instant {
        self.world.borrow().now()
    }

    /// What the worker has done so far.
    pub fn stats(&self) -> WorkerStats {
        self.handle.stats()[0]
    }

    /// Goes on until nothing happens any more but by time. Of that as much passes as delayed completions need.
    ///
    /// # Panics
    /// If the worker doesn't come to rest.
    pub fn run(&mut self) {
        self.inside(|worker, world, local| run(worker, world, local, None));
    }

    /// Lets this much time pass, and goes on at each timer and completion on the way.
    ///
    /// # Panics
    /// If the worker doesn't come to rest.
    pub fn advance(&mut self, by: Duration) {
        let end = self.now() + by;
        self.inside(|worker, world, local| {
            run(worker, world, local, Some(end));
            set_now(world, local, end);
            run(worker, world, local, Some(end));
        });
    }

    /// Does something with the event loop, as a message to the worker does.
    pub fn io<R>(&mut self, call: impl FnOnce(&mut Io) -> R) -> R {
        self.inside(|worker, _, _| call(worker.io_mut()))
    }

    /// Starts a task on the worker.
    pub fn spawn<T: 'static>(&mut self, future: impl Future<Output = T> + 'static) -> JoinHandle<T> {
        self.inside(|_, _, _| spawn_local(future))
    }

    /// What a task has given, if it is done when nothing else happens any more.
    pub fn finish<T: 'static>(&mut self, task: JoinHandle<T>) -> Option<T> {
        let result = Rc::new(RefCell::new(None));
        let theirs = Rc::clone(&result);
        drop(self.spawn(async move { *theirs.borrow_mut() = task.await.ok() }));
        self.run();
        result.take()
    }

    /// A connected socket, for [`Io::open`], and its peer.
    pub fn connected(&mut self) -> (OwnedFd, Far) {
        let (fd, line) = self.world.borrow_mut().connected();
        (fd, Far(line))
    }

    /// A peer that connects to a listener of this worker.
    pub fn knock(&mut self) -> Far {
        Far(self.world.borrow_mut().knock())
    }

    /// From now on connects to this address are answered. At first all are refused.
    pub fn answer_at(&mut self, address: SocketAddr) {
        self.world.borrow_mut().answer_at(address, Answer::Accepted);
    }

    /// From now on connects to this address are refused.
    pub fn refuse_at(&mut self, address: SocketAddr) {
        self.world.borrow_mut().answer_at(address, Answer::Refused);
    }

    /// From now on connects to this address get no answer.
    pub fn ignore_at(&mut self, address: SocketAddr) {
        self.world.borrow_mut().answer_at(address, Answer::Nothing);
    }

    /// The next connect that was answered.
    pub fn answered(&mut self) -> Option<Far> {
        self.world.borrow_mut().answered().map(Far)
    }

    fn inside<R>(&mut self, call: impl FnOnce(&mut Worker, &RefCell<World>, &Local) -> R) -> R {
        let outer = Local::enter(Some(Rc::clone(&self.local)));
        let worker = self.worker.as_mut().expect("it is there until the simulation is dropped");
        let result = catch_unwind(AssertUnwindSafe(|| call(worker, &self.world, &self.local)));
        Local::enter(outer);
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }
}

/// Turns until nothing happens any more before `end`; without an end, until nothing is on its way.
fn run(worker: &mut Worker, world: &RefCell<World>, local: &Local, end: Option<Instant>) {
    for _ in 0..TURNS_MAX {
        if let Err(error) = worker.turn() {
            panic!("a simulated driver never fails: {error}");
        }
        let Driver::Sim(driver) = &mut worker.io_mut().driver else { unreachable!("it was made with one") };
        let due = driver.next_due();
        if world.borrow_mut().has_stirred() || worker.has_work() || !worker.io().finishing.is_empty() {
            continue;
        }
        let now = world.borrow().now();
        let timer = local.timers.borrow().next();
        let next = match end {
            Some(_) => due.into_iter().chain(timer).min(),
            None => due.map(|due| timer.map_or(due, |timer| timer.min(due))),
        };
        // A timer that has come is handled in the next turn.
        match next.filter(|next| end.is_none_or(|end| *next <= end)) {
            Some(next) => set_now(world, local, next.max(now)),
            None if timer.is_some_and(|timer| timer <= now) => {}
            None => return,
        }
    }
    panic!("the worker does not come to rest in {TURNS_MAX} turns");
}

fn set_now(world: &RefCell<World>, local: &Local, now: Instant) {
    world.borrow_mut().set_now(now);
    local.now.set(now);
}

impl Drop for Simulation {
    fn drop(&mut self) {
        let outer = Local::enter(Some(Rc::clone(&self.local)));
        // What was posted to stop is nobody's but this thread's.
        let worker = self.worker.take();
        let stopped = catch_unwind(AssertUnwindSafe(|| worker.map(Worker::stop)));
        Local::enter(outer);
        if let Err(panic) = stopped
            && !std::thread::panicking()
        {
            resume_unwind(panic);
        }
    }
}

impl Far {
    /// Sends bytes to the endpoint.
    pub fn send(&self, bytes: impl AsRef<[u8]>) {
        self.0.borrow_mut().inbound.extend(bytes.as_ref());
    }

    /// Sends no more. What the endpoint sends is taken on.
    pub fn end(&self) {
        self.0.borrow_mut().peer = Ending::Ended;
    }

    /// Resets the connection.
    pub fn reset(&self) {
        self.0.borrow_mut().peer = Ending::Reset;
    }

    /// Takes so many bytes more and no others, or any number.
    pub fn set_window(&self, bytes: Option<usize>) {
        self.0.borrow_mut().window = bytes;
    }

    /// What the endpoint has sent since the last call.
    pub fn received(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.borrow_mut().outbound)
    }

    /// How far the endpoint has ended the connection.
    pub fn sees(&self) -> Ending {
        self.0.borrow().own
    }
}
