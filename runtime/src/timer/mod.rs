//! Timers: sleeping and time limits for tasks, deadlines for endpoints.

mod wheel;

use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::EndpointId;
use crate::local::Local;
use wheel::{TimerKey, Wheel};

/// The timers of a worker, with a resolution of a millisecond. None fires early.
pub(crate) struct Timers {
    start: Instant,
    wheel: Wheel<Target>,
}

/// Whom a timer calls.
pub(crate) enum Target {
    Endpoint { id: EndpointId, key: u32 },
    Task(Waker),
}

/// Names a timer of an endpoint, to cancel it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerId(TimerKey);

impl Timers {
    pub(crate) fn new(start: Instant) -> Self {
        Timers { start, wheel: Wheel::new() }
    }

    pub(crate) fn insert(&mut self, deadline: Instant, target: Target) -> TimerId {
        let since = deadline.saturating_duration_since(self.start);
        let tick = u64::try_from(since.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        TimerId(self.wheel.insert(tick, target))
    }

    pub(crate) fn remove(&mut self, id: TimerId) {
        self.wheel.remove(id.0);
    }

    /// When the wheel needs to be turned next.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.wheel.next_tick().map(|tick| self.start + Duration::from_millis(tick))
    }

    pub(crate) fn pop(&mut self, now: Instant) -> Option<Target> {
        self.wheel.pop(now.saturating_duration_since(self.start).as_millis() as u64)
    }

    pub(crate) fn drain(&mut self) -> Vec<Target> {
        self.wheel.drain()
    }

    /// False when the timer has fired.
    fn set_waker(&mut self, id: TimerId, waker: &Waker) -> bool {
        match self.wheel.get_mut(id.0) {
            Some(Target::Task(old)) => {
                old.clone_from(waker);
                true
            }
            _ => false,
        }
    }
}

/// Stands for a time that is too long to be added to the present: a century.
const FOREVER: Duration = Duration::from_secs(100 * 366 * 24 * 60 * 60);

/// Waits for a while. See [`sleep`]. It stays on the worker that has its timer:
///
/// ```compile_fail,E0277
/// fn move_to_another_worker(_: impl Send) {}
/// move_to_another_worker(perihelion_runtime::sleep(std::time::Duration::ZERO));
/// ```
#[must_use = "futures do nothing unless they are awaited"]
pub struct Sleep {
    deadline: Instant,
    timer: Option<TimerId>,
    _this_worker: PhantomData<*const ()>,
}

/// Waits for at least this long, to the millisecond.
///
/// # Panics
/// When polled outside a worker.
pub fn sleep(duration: Duration) -> Sleep {
    let now = Local::clock();
    sleep_until(now.checked_add(duration).unwrap_or(now + FOREVER))
}

/// Waits until this point in time, or a little longer.
///
/// # Panics
/// When polled outside a worker.
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep { deadline, timer: None, _this_worker: PhantomData }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        Local::with(|local| {
            let mut timers = local.timers.borrow_mut();
            match this.timer {
                Some(timer) if timers.set_waker(timer, task.waker()) => Poll::Pending,
                Some(_) => {
                    this.timer = None;
                    Poll::Ready(())
                }
                None if this.deadline <= Local::clock() => Poll::Ready(()),
                None => {
                    this.timer = Some(timers.insert(this.deadline, Target::Task(task.waker().clone())));
                    Poll::Pending
                }
            }
        })
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            Local::try_with(|local| local.timers.borrow_mut().remove(timer));
        }
    }
}

/// The time was up before the future was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOut;

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("timed out")
    }
}

impl std::error::Error for TimedOut {}

/// What the future gives, if it does within this time; then the future is dropped.
///
/// # Errors
/// [`TimedOut`].
///
/// # Panics
/// When polled outside a worker.
pub async fn timeout<T>(duration: Duration, future: impl Future<Output = T>) -> Result<T, TimedOut> {
    let (mut future, mut sleep) = (pin!(future), pin!(sleep(duration)));
    poll_fn(|task| match future.as_mut().poll(task) {
        Poll::Ready(value) => Poll::Ready(Ok(value)),
        Poll::Pending => sleep.as_mut().poll(task).map(|()| Err(TimedOut)),
    })
    .await
}
