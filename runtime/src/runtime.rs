//! A runtime: workers on threads of their own, started together and stopped together.

use futures_channel::oneshot;
use std::any::Any;
use std::fmt;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use crate::blocking::BlockingPool;
use crate::config::Config;
use crate::counters::{Counters, WorkerStats};
use crate::local::Local;
use crate::mailbox::{self, Mailbox};
use crate::worker::Worker;
use crate::{Capabilities, Error, Io, Signals, cpus, spawn_local};

/// Workers, each on a thread and a CPU of its own. Dropped, it stops them: what stands on them is reset.
///
/// ```
/// use perihelion_runtime::{Config, Runtime, sleep};
/// use std::time::Duration;
///
/// let mut config = Config::default();
/// config.runtime.workers = 1;
/// let runtime = Runtime::from_config(config)?;
/// let sum = runtime.block_on(|| async {
///     sleep(Duration::from_millis(1)).await;
///     1 + 1
/// })?;
/// assert_eq!(sum, 2);
/// # Ok::<(), perihelion_runtime::Error>(())
/// ```
pub struct Runtime {
    handle: Handle,
    threads: Vec<thread::JoinHandle<bool>>,
}

/// Reaches the workers of a runtime, from any thread, as long as they run. A [`Runtime`] dereferences to its own.
#[derive(Clone)]
pub struct Handle {
    workers: Arc<[Remote]>,
    config: Arc<Config>,
}

/// A worker, as other threads see it.
pub(crate) struct Remote {
    pub(crate) cpu: usize,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) capabilities: Capabilities,
}

/// Something that is stopped in order when the process is told to end.
pub trait Service {
    /// What there is to say about its life.
    type Report: fmt::Display;

    /// Takes no more work, and ends what there is, within this time.
    fn stop(self, limit: Duration) -> Self::Report;
}

impl Runtime {
    /// A runtime as the environment configures it, otherwise with the defaults.
    ///
    /// # Errors
    /// As for [`from_config`](Runtime::from_config).
    pub fn new() -> Result<Self, Error> {
        Self::from_config(Config::from_env()?)
    }

    /// Starts the workers.
    ///
    /// # Errors
    /// A configuration that can't be used, CPUs that the process may not use, or what the kernel refuses: the error
    /// names cause and remedy. No worker is left running then.
    pub fn from_config(config: Config) -> Result<Self, Error> {
        config.check()?;
        let cpus = cpus::place(&config.runtime)?;
        let blocking =
            Arc::new(BlockingPool::new(config.runtime.blocking_threads, config.runtime.blocking_queue));
        let (mut workers, mut threads) = (Vec::new(), Vec::new());
        for (number, cpu) in cpus.into_iter().enumerate() {
            match start(number, cpu, config.clone(), Arc::clone(&blocking)) {
                Ok((worker, thread)) => {
                    workers.push(worker);
                    threads.push(thread);
                }
                Err(error) => {
                    stop(&workers, threads);
                    return Err(error);
                }
            }
        }
        Ok(Runtime { handle: Handle::of(workers, config), threads })
    }

    /// Waits for SIGINT or SIGTERM, then stops the service in order within `channel.drain_ms`, logs its report, and
    /// stops the workers. A second signal ends the process at once.
    ///
    /// # Errors
    /// When signals can't be waited for.
    pub fn run_until_signal<E: From<Error>>(self, service: impl Service) -> Result<(), E> {
        let signals = Signals::new()?;
        let signal = signals.wait();
        let limit = self.config().channel.drain();
        tracing::info!(signal, ?limit, "stopping");
        let report = service.stop(limit);
        tracing::info!(%report, "stopped");
        Ok(())
    }

    /// Stops the workers and waits for them. What stands on them is reset. False when the kernel did not give back
    /// everything in `runtime.teardown_ms`: then memory was leaked on purpose.
    pub fn stop(mut self) -> bool {
        stop(&self.handle.workers, std::mem::take(&mut self.threads))
    }

    /// The CPUs that this process may use, by affinity and cgroup quota.
    pub fn usable_cpus() -> Vec<usize> {
        cpus::usable()
    }

    /// A handle to the workers.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl Handle {
    pub(crate) fn of(workers: Vec<Remote>, config: Config) -> Self {
        Handle { workers: workers.into(), config: Arc::new(config) }
    }

    /// What it was configured with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// The CPU of each worker.
    pub fn cpus(&self) -> Vec<usize> {
        self.workers.iter().map(|worker| worker.cpu).collect()
    }

    /// What the event loops have found of the kernel, and use.
    pub fn capabilities(&self) -> &Capabilities {
        &self.workers[0].capabilities
    }

    /// What each worker has done so far.
    pub fn stats(&self) -> Vec<WorkerStats> {
        self.workers.iter().map(|worker| worker.counters.read()).collect()
    }

    /// Calls a function on a worker, with its event loop, between two turns.
    ///
    /// # Errors
    /// [`Error::MailboxFull`] or [`Error::Stopped`]: then it is not called.
    ///
    /// # Panics
    /// If there is no such worker.
    pub fn send(&self, worker: usize, call: impl FnOnce(&mut Io) + Send + 'static) -> Result<(), Error> {
        self.workers[worker].mailbox.send(Box::new(call))
    }

    /// Calls a function on a worker, with its event loop, and gives its result back to the task that awaits it, on the
    /// task's own worker. Dropped, the future leaves the call alone.
    ///
    /// ```
    /// # use perihelion_runtime::{Config, Runtime};
    /// # let mut config = Config::default();
    /// # config.runtime.workers = 2;
    /// let runtime = Runtime::from_config(config)?;
    /// let handle = runtime.handle();
    /// let name = runtime.block_on_worker(0, || async move {
    ///     handle.ask(1, |_io| std::thread::current().name().map(String::from)).await
    /// })??;
    /// assert_eq!(name.as_deref(), Some("perihelion-1"));
    /// # Ok::<(), perihelion_runtime::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::MailboxFull`], or [`Error::Stopped`] also when the call panicked.
    ///
    /// # Panics
    /// If there is no such worker.
    pub async fn ask<T: Send + 'static>(
        &self,
        worker: usize,
        call: impl FnOnce(&mut Io) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        // Nobody may want the result any more.
        self.send(worker, move |io| drop(reply.send(call(io))))?;
        answer.await.map_err(|_| Error::Stopped)
    }

    /// Calls a function on each worker, with the worker's number, and waits for what it gives.
    ///
    /// # Errors
    /// [`Error::MailboxFull`] or [`Error::Stopped`].
    pub fn on_each<T: Send + 'static>(
        &self,
        call: impl Fn(&mut Io, usize) -> T + Send + Sync + 'static,
    ) -> Result<Vec<T>, Error> {
        let call = Arc::new(call);
        let replies: Vec<mpsc::Receiver<T>> = (0..self.workers.len())
            .map(|number| {
                let (call, (reply, receiver)) = (Arc::clone(&call), mpsc::channel());
                self.send(number, move |io| drop(reply.send(call(io, number))))?;
                Ok(receiver)
            })
            .collect::<Result<_, Error>>()?;
        replies.into_iter().map(|reply| reply.recv().map_err(|_| Error::Stopped)).collect()
    }

    /// Runs a future on the first worker, and waits for what it gives.
    ///
    /// # Errors
    /// As for [`block_on_worker`](Handle::block_on_worker).
    pub fn block_on<F, T>(&self, future: impl FnOnce() -> F + Send + 'static) -> Result<T, Error>
    where
        F: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        self.block_on_worker(0, future)
    }

    /// Runs a future on a worker, and waits for what it gives.
    ///
    /// # Errors
    /// [`Error::MailboxFull`], or [`Error::Stopped`] also when the future panicked.
    ///
    /// # Panics
    /// If there is no such worker.
    pub fn block_on_worker<F, T>(
        &self,
        worker: usize,
        future: impl FnOnce() -> F + Send + 'static,
    ) -> Result<T, Error>
    where
        F: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        self.spawn_on(worker, future)?.recv().map_err(|_| Error::Stopped)
    }

    /// Runs a future on a worker. Its result comes through the channel, unless it panics.
    ///
    /// # Errors
    /// [`Error::MailboxFull`] or [`Error::Stopped`].
    ///
    /// # Panics
    /// If there is no such worker.
    pub fn spawn_on<F, T>(
        &self,
        worker: usize,
        future: impl FnOnce() -> F + Send + 'static,
    ) -> Result<mpsc::Receiver<T>, Error>
    where
        F: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        let (reply, receiver) = mpsc::channel();
        self.send(worker, move |_io| {
            drop(spawn_local(async move {
                let _ = reply.send(future().await);
            }));
        })?;
        Ok(receiver)
    }
}

impl Deref for Runtime {
    type Target = Handle;
    fn deref(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        stop(&self.handle.workers, std::mem::take(&mut self.threads));
    }
}

/// Stops workers and waits for them. False when the kernel kept something of one.
fn stop(workers: &[Remote], threads: Vec<thread::JoinHandle<bool>>) -> bool {
    for worker in workers {
        // A full mailbox empties; a worker that has stopped needs no message.
        while let Err(Error::MailboxFull) = worker.mailbox.send(Box::new(|io: &mut Io| io.stopping = true)) {
            thread::yield_now();
        }
    }
    let mut clean = true;
    for thread in threads {
        clean &= thread.join().unwrap_or(false);
    }
    clean
}

/// Starts a worker's thread, and waits until it is ready.
fn start(
    number: usize,
    cpu: usize,
    config: Config,
    blocking: Arc<BlockingPool>,
) -> Result<(Remote, thread::JoinHandle<bool>), Error> {
    let (mailbox, inbox) = Mailbox::new(config.runtime.mailbox_messages)?;
    let (mailbox, counters) = (Arc::new(mailbox), Arc::new(Counters::default()));
    let (ready, is_ready) = mpsc::channel();
    let (theirs, their_counters) = (Arc::clone(&mailbox), Arc::clone(&counters));
    let body = move || {
        if let Err(error) = cpus::pin(number, cpu) {
            let _ = ready.send(Err(error));
            return true;
        }
        let registered = Registered(mailbox::register(Arc::clone(&theirs)));
        let local = Rc::new(Local::new(registered.0, theirs, blocking));
        let worker = match Worker::new(config, Rc::clone(&local), inbox, their_counters) {
            Ok(worker) => worker,
            Err(error) => {
                let _ = ready.send(Err(error));
                return true;
            }
        };
        let _ = ready.send(Ok(worker.io().capabilities().clone()));
        Local::enter(Some(local));
        let clean = worker.run();
        Local::enter(None);
        clean
    };
    let thread = thread::Builder::new()
        .name(format!("perihelion-{number}"))
        .spawn(body)
        .map_err(Error::os("starting a worker's thread"))?;
    match is_ready.recv() {
        Ok(Ok(capabilities)) => Ok((Remote { cpu, mailbox, counters, capabilities }, thread)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(panic_of(thread)),
    }
}

/// A mailbox's number, while its worker runs.
pub(crate) struct Registered(pub(crate) u16);

impl Drop for Registered {
    fn drop(&mut self) {
        mailbox::unregister(self.0);
    }
}

fn panic_of(thread: thread::JoinHandle<bool>) -> Error {
    let text = |panic: Box<dyn Any + Send>| panic.downcast_ref::<String>().cloned().unwrap_or_default();
    let cause = thread.join().err().map(text).unwrap_or_default();
    Error::os("a worker's thread panicked while it started")(std::io::Error::other(cause))
}
