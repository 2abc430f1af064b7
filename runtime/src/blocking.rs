//! A small pool of threads for calls that block, such as name resolution.

use crossbeam_channel::{Receiver, Sender};
use futures_channel::oneshot;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::local::Local;

type Job = Box<dyn FnOnce() + Send>;

/// Threads are started when there are more calls than threads, up to the limit, and end with the pool.
pub(crate) struct BlockingPool {
    jobs: Sender<Job>,
    waiting: Receiver<Job>,
    threads: AtomicUsize,
    threads_max: usize,
    /// Calls that run or wait for a thread.
    calls: Arc<AtomicUsize>,
    calls_max: usize,
    /// Whether calls run at once where they are asked for, as in a simulation.
    inline: bool,
}

/// A call that runs or waits.
struct Call(Arc<AtomicUsize>);

impl Drop for Call {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
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
        let (jobs, waiting) = crossbeam_channel::unbounded();
        let (threads, calls) = (AtomicUsize::new(0), Arc::default());
        let calls_max = threads_max.saturating_add(queue);
        BlockingPool { jobs, waiting, threads, threads_max, calls, calls_max, inline: false }
    }

    /// One without threads, whose calls run where they are asked for.
    pub(crate) fn inline() -> Self {
        BlockingPool { inline: true, ..Self::new(1, 0) }
    }

    fn call(&self) -> Result<Call, BlockingError> {
        let one_more = |calls| (calls < self.calls_max).then_some(calls + 1);
        let counted = self.calls.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more);
        counted.map(|_| Call(Arc::clone(&self.calls))).map_err(|_| BlockingError::QueueFull)
    }

    fn run(&self, job: Job) {
        if self.inline {
            return job();
        }
        // It can't fail: the pool has a receiver too.
        let _ = self.jobs.send(job);
        let threads_max = self.threads_max.min(self.calls.load(Ordering::SeqCst));
        let one_more = |threads| (threads < threads_max).then_some(threads + 1);
        if self.threads.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).is_ok() {
            self.start_thread();
        }
    }

    fn start_thread(&self) {
        let jobs = self.waiting.clone();
        // Until the pool is gone.
        let work = move || {
            for job in jobs {
                // The call's own panic is its result. This is one of dropping a result that nobody wants.
                if catch_unwind(AssertUnwindSafe(job)).is_err() {
                    tracing::error!("the unwanted result of a blocking call panicked");
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
    let counted = Local::with(|local| local.blocking.call())?;
    let (reply, answer) = oneshot::channel();
    let job = Box::new(move || {
        let result = catch_unwind(AssertUnwindSafe(call));
        drop(counted); // before anybody hears of the result, and asks for more
        let _ = reply.send(result.map_err(|_| BlockingError::Panicked)); // nobody may want it any more
    });
    Local::with(|local| local.blocking.run(job));
    // The pool outlives its calls.
    answer.await.unwrap_or(Err(BlockingError::Panicked))
}
