//! A small pool of threads for calls that block, such as name resolution.

use crossbeam_channel::{Receiver, Sender};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::thread;

use crate::local::Local;

type Job = Box<dyn FnOnce() + Send>;

/// Threads are started when all that are there have work, up to the limit, and end with the pool.
pub(crate) struct BlockingPool {
    jobs: Sender<Job>,
    waiting: Receiver<Job>,
    threads: AtomicUsize,
    threads_max: usize,
    idle: Arc<AtomicUsize>,
}

/// A blocking call that gave no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockingError {
    /// As many calls wait for a thread as may; `runtime.blocking_queue` sets how many.
    QueueFull,
    /// The call panicked.
    Panicked,
}

impl fmt::Display for BlockingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BlockingError::QueueFull => {
                "too many blocking calls are waiting; runtime.blocking_queue sets how many may"
            }
            BlockingError::Panicked => "a blocking call panicked",
        })
    }
}

impl std::error::Error for BlockingError {}

impl BlockingPool {
    pub(crate) fn new(threads_max: usize, queue: usize) -> Self {
        let (jobs, waiting) = crossbeam_channel::bounded(queue);
        BlockingPool { jobs, waiting, threads: AtomicUsize::new(0), threads_max, idle: Arc::default() }
    }

    fn run(&self, job: Job) -> Result<(), BlockingError> {
        self.jobs.try_send(job).map_err(|_| BlockingError::QueueFull)?;
        if self.idle.load(Ordering::SeqCst) <= self.waiting.len() {
            self.start_thread();
        }
        Ok(())
    }

    fn start_thread(&self) {
        let below = |threads| (threads < self.threads_max).then_some(threads + 1);
        if self.threads.fetch_update(Ordering::SeqCst, Ordering::SeqCst, below).is_err() {
            return;
        }
        let (jobs, idle) = (self.waiting.clone(), Arc::clone(&self.idle));
        let work = move || {
            loop {
                idle.fetch_add(1, Ordering::SeqCst);
                let job = jobs.recv();
                idle.fetch_sub(1, Ordering::SeqCst);
                match job {
                    Ok(job) => job(),
                    Err(_) => break, // the pool is gone
                }
            }
        };
        if let Err(error) = thread::Builder::new().name("perihelion-blocking".into()).spawn(work) {
            self.threads.fetch_sub(1, Ordering::SeqCst);
            tracing::error!(%error, "a thread for blocking calls can't be started");
        }
    }
}

/// Runs a call that blocks on another thread; its result comes back to this task. Dropped, the future leaves the
/// call alone.
///
/// # Errors
/// [`BlockingError`].
///
/// # Panics
/// Outside a worker.
pub async fn run_blocking<T: Send + 'static>(
    call: impl FnOnce() -> T + Send + 'static,
) -> Result<T, BlockingError> {
    let slot = Arc::new(Mutex::new(Slot { result: None, waiter: None }));
    let theirs = Arc::clone(&slot);
    let job = Box::new(move || {
        let result = catch_unwind(AssertUnwindSafe(call)).map_err(|_| BlockingError::Panicked);
        let waiter = {
            let mut slot = theirs.lock().expect("no thread panics while it holds the lock");
            slot.result = Some(result);
            slot.waiter.take()
        };
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    });
    Local::with(|local| local.blocking.run(job))?;
    std::future::poll_fn(|task| {
        let mut slot = slot.lock().expect("no thread panics while it holds the lock");
        match slot.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                slot.waiter = Some(task.waker().clone());
                Poll::Pending
            }
        }
    })
    .await
}

struct Slot<T> {
    result: Option<Result<T, BlockingError>>,
    waiter: Option<Waker>,
}
