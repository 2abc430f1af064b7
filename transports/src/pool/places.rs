//! The places of a pool, each for one connection. Whoever finds none free waits, in the order of coming.

use perihelion_runtime::{PoolConfig, TimedOut, timeout};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::PoolError;

pub(super) struct Places {
    max: usize,
    waiting_max: usize,
    wait: Duration,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    taken: usize,
    /// Those who wait, by the order in which they came. Only while all places are taken.
    waiting: BTreeMap<u64, Waker>,
    /// The number of the next who waits.
    next: u64,
    closed: bool,
    /// Who waits until all are free.
    drained: Option<Waker>,
}

/// A place that somebody has, or waits for. Dropped, it goes to the next who waits.
pub(super) struct Place {
    places: Rc<Places>,
    number: u64,
}

impl Places {
    pub(super) fn new(config: &PoolConfig) -> Rc<Self> {
        let PoolConfig { connections_max: max, waiting_max, .. } = *config;
        Rc::new(Places { max, waiting_max, wait: config.wait(), state: RefCell::default() })
    }

    /// A place, when it is one's turn.
    pub(super) async fn take(self: &Rc<Self>) -> Result<Place, PoolError> {
        let place = self.line_up()?;
        match timeout(self.wait, poll_fn(|task| place.poll(task))).await {
            Ok(result) => result.map(|()| place),
            Err(TimedOut) => Err(PoolError::TimedOut { connections_max: self.max, waited: self.wait }),
        }
    }

    fn line_up(self: &Rc<Self>) -> Result<Place, PoolError> {
        let state = &mut *self.state.borrow_mut();
        let number = state.next;
        if state.closed {
            return Err(PoolError::Closed);
        } else if state.taken < self.max {
            state.taken += 1;
        } else if state.waiting.len() < self.waiting_max {
            state.waiting.insert(number, Waker::noop().clone());
        } else {
            return Err(PoolError::TooManyWaiting { waiting_max: self.waiting_max });
        }
        state.next += 1;
        Ok(Place { places: Rc::clone(self), number })
    }

    /// Gives no more. Those who wait are refused.
    pub(super) fn close(&self) {
        let mut state = self.state.borrow_mut();
        state.closed = true;
        let waiting: Vec<Waker> = state.waiting.values().cloned().collect();
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state.borrow().closed
    }

    /// Waits until all are free.
    pub(super) async fn drained(&self) {
        poll_fn(|task| {
            let mut state = self.state.borrow_mut();
            if state.taken == 0 {
                return Poll::Ready(());
            }
            state.drained = Some(task.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.state.borrow().waiting.len()
    }
}

impl Place {
    /// Ready when it is one's own: whoever gives a place up takes the next off the list.
    fn poll(&self, task: &Context<'_>) -> Poll<Result<(), PoolError>> {
        let state = &mut *self.places.state.borrow_mut();
        match state.waiting.get_mut(&self.number) {
            _ if state.closed => Poll::Ready(Err(PoolError::Closed)),
            Some(waker) => {
                waker.clone_from(task.waker());
                Poll::Pending
            }
            None => Poll::Ready(Ok(())),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.places.state.borrow_mut();
        if state.waiting.remove(&self.number).is_some() {
            return;
        }
        let next = state.waiting.pop_first().map(|(_, next)| next);
        if next.is_none() {
            state.taken -= 1;
        }
        let drained = if state.taken == 0 { state.drained.take() } else { None };
        drop(state);
        next.into_iter().chain(drained).for_each(Waker::wake);
    }
}
