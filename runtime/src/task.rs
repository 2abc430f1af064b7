//! Tasks of one worker: futures that never leave their thread, and so need no `Send`.

use async_task::{FallibleTask, Runnable};
use slab::Slab;
use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::local::Local;
use crate::mailbox::Woken;

/// The wakers of all tasks that are not done: a worker that stops wakes them, to drop them.
#[derive(Default)]
pub(crate) struct Tasks(RefCell<Slab<Waker>>);

/// A task that was spawned. Awaited, it gives the task's result; dropped, it leaves the task alone.
pub struct JoinHandle<T>(Option<FallibleTask<T>>);

/// The task was aborted, or its worker stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted;

impl fmt::Display for Aborted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the task was aborted")
    }
}

impl std::error::Error for Aborted {}

/// Runs a future on this worker. A panic in it goes on in whoever awaits the handle; the worker goes on. A panic
/// while the future is dropped ends the process.
///
/// # Panics
/// Outside a worker.
pub fn spawn_local<T: 'static>(future: impl Future<Output = T> + 'static) -> JoinHandle<T> {
    Local::with(|local| {
        let key = local.tasks.0.borrow_mut().insert(Waker::noop().clone());
        // Made here: a task that is dropped before it is polled has never run what is inside.
        let registered = Registered(key);
        let future = async move {
            let _registered = registered;
            let mut future = pin!(future);
            poll_fn(|task| future.as_mut().poll(task)).await
        };
        let (mailbox, worker) = (Arc::clone(&local.mailbox), local.worker);
        let schedule = move |runnable: Runnable| {
            let mut runnable = Some(runnable);
            Local::try_with(|local| {
                if local.worker == worker {
                    local.ready.borrow_mut().extend(runnable.take());
                }
            });
            if let Some(runnable) = runnable
                && let Err(Woken::Task(unwanted)) = mailbox.wake(Woken::Task(runnable))
            {
                // The worker is gone, and it dropped every future before it went: only the header is left, which
                // is to be forgotten rather than dropped on a foreign thread.
                std::mem::forget(unwanted);
            }
        };
        let (runnable, task) =
            async_task::Builder::new().propagate_panic(true).spawn_local(|()| future, schedule);
        local.tasks.0.borrow_mut()[key] = runnable.waker();
        runnable.schedule();
        JoinHandle(Some(task.fallible()))
    })
}

/// Takes a task's waker from the list when its future is dropped.
struct Registered(usize);

impl Drop for Registered {
    fn drop(&mut self) {
        let waker = Local::try_with(|local| local.tasks.0.borrow_mut().try_remove(self.0));
        drop(waker);
    }
}

impl Tasks {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Makes every task ready, so that it can be dropped.
    pub(crate) fn wake_all(&self) {
        let wakers: Vec<Waker> = self.0.borrow().iter().map(|(_, waker)| waker.clone()).collect();
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl<T> JoinHandle<T> {
    /// Drops the task, soon.
    pub fn abort(mut self) {
        drop(self.0.take());
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, Aborted>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Result<T, Aborted>> {
        match &mut self.0 {
            Some(inner) => Pin::new(inner).poll(task).map(|result| result.ok_or(Aborted)),
            None => Poll::Ready(Err(Aborted)),
        }
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.detach();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, Runtime};

    #[test]
    fn a_task_that_is_aborted_before_it_was_polled_leaves_nothing_behind() {
        let mut config = Config::default();
        config.runtime.workers = 1;
        let runtime = Runtime::from_config(config).unwrap();
        let left = runtime.block_on(|| async {
            (0..100).for_each(|_| spawn_local(std::future::pending::<()>()).abort());
            spawn_local(async {}).await.unwrap(); // behind the others in the queue
            Local::with(|local| local.tasks.0.borrow().len())
        });
        assert_eq!(left.unwrap(), 1, "the one that asks");
    }
}
