//! What a pool promises, one by one.

use perihelion::prelude::*;
use perihelion::runtime::PoolConfig;
use perihelion::runtime::simulation::Simulation;
use perihelion::testing::Faults;
use perihelion::transports::{Connected, Pool, PoolError, Poolable};
use std::cell::Cell;
use std::future::pending;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::made_up::{Answer, MadeUp, Maker, Outcome, get, pool, take};

const SECOND: Duration = Duration::from_secs(1);

/// What a task has got instead of a connection.
fn error(outcome: &Outcome) -> String {
    outcome.take().expect("it is done").err().expect("there is none")
}

#[test]
fn those_who_wait_get_connections_in_the_order_in_which_they_came() {
    let (mut simulation, pool, maker) = pool("connections_max = 2");
    let mut held = vec![take(&mut simulation, &pool), take(&mut simulation, &pool)];
    let waiting: Vec<_> = (0..20).map(|_| get(&mut simulation, &pool).1).collect();
    for outcome in &waiting {
        assert!(outcome.borrow().is_none());
        drop(held.remove(0));
        simulation.run();
        held.push(outcome.take().expect("it is its turn").unwrap());
        let (_, late) = get(&mut simulation, &pool);
        assert!(late.borrow().is_none(), "nobody overtakes");
    }
    assert_eq!(maker.made.borrow().len(), 2);
}

#[test]
fn a_turn_that_is_given_up_when_it_has_come_goes_to_the_next() {
    let (mut simulation, pool, maker) = pool("connections_max = 1");
    let held = take(&mut simulation, &pool);
    let task = simulation.spawn(async move {
        let mut next = pin!(pool.get());
        {
            let mut first = pin!(pool.get());
            let mut context = Context::from_waker(Waker::noop());
            assert!(first.as_mut().poll(&mut context).is_pending());
            assert!(next.as_mut().poll(&mut context).is_pending());
            drop(held); // the place is the first one's now, who doesn't know it yet
            assert!(next.as_mut().poll(&mut context).is_pending());
        }
        let Poll::Ready(Ok(pooled)) = next.poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("it has not come to the next");
        };
        pooled.number
    });
    assert_eq!(simulation.finish(task), Some(0));
    assert_eq!(maker.made.borrow().len(), 1);
}

#[test]
fn errors_say_what_to_do() {
    let (mut simulation, pool, maker) = pool("connections_max = 1\nwaiting_max = 1\nwait_ms = 2000");
    maker.connects.set(Answer::No);
    let (_, outcome) = get(&mut simulation, &pool);
    assert_eq!(error(&outcome), "no connection could be made: nobody is there");

    maker.connects.set(Answer::Yes);
    let held = take(&mut simulation, &pool);
    let (_, late) = get(&mut simulation, &pool);
    let (_, refused) = get(&mut simulation, &pool);
    assert_eq!(error(&refused), "as many wait for a connection of the pool as may: pool.waiting_max = 1");
    simulation.advance(SECOND * 2);
    assert_eq!(
        error(&late),
        "none of the pool's connections (pool.connections_max = 1) came free within 2s (pool.wait_ms): use them for \
         a shorter time, or raise either"
    );

    let (_, waiting) = get(&mut simulation, &pool);
    let closing = pool.clone();
    simulation.spawn(async move { closing.close().await });
    simulation.run();
    let (_, after) = get(&mut simulation, &pool);
    assert_eq!([error(&waiting), error(&after)], ["the pool is closed", "the pool is closed"]);
    drop(held);
}

#[test]
fn the_error_of_a_connect_can_be_looked_at() {
    let mut simulation = Simulation::new(1, Faults::none());
    let task = simulation.spawn(async {
        let refuse = async || Err::<MadeUp, _>(io::Error::from(io::ErrorKind::ConnectionRefused));
        match Pool::new(&Config::default().pool, refuse).get().await.err() {
            Some(PoolError::Connect { cause }) => cause.downcast_ref().map(io::Error::kind),
            _ => None,
        }
    });
    assert_eq!(simulation.finish(task), Some(Some(io::ErrorKind::ConnectionRefused)));
}

#[test]
fn an_error_goes_to_one_and_the_place_to_the_next() {
    let (mut simulation, pool, maker) = pool("connections_max = 1");
    maker.connects.set(Answer::Later);
    let waiting: Vec<_> = (0..3).map(|_| get(&mut simulation, &pool).1).collect();
    assert_eq!((maker.connecting(), pool.statistics().waiting), (1, 2));
    for outcome in &waiting[..2] {
        maker.answer(false);
        simulation.run();
        assert_eq!(error(outcome), "no connection could be made: nobody is there");
    }
    maker.answer(true);
    simulation.run();
    assert!(matches!(*waiting[2].borrow(), Some(Ok(_))));
    assert_eq!(pool.statistics().failed, 2);
}

#[test]
fn a_pool_shrinks_to_what_is_needed() {
    let (mut simulation, pool, maker) = pool("connections_max = 8\nidle_ms = 10000");
    let held: Vec<_> = (0..8).map(|_| take(&mut simulation, &pool)).collect();
    let last = held[7].number;
    drop(held);
    for _ in 0..20 {
        simulation.advance(SECOND);
        assert_eq!(take(&mut simulation, &pool).number, last, "the others are left to expire");
    }
    let open: Vec<_> = maker.made.borrow().iter().filter(|made| !made.is_closed()).cloned().collect();
    assert_eq!(open.iter().map(|made| made.number).collect::<Vec<_>>(), [last]);
    simulation.advance(SECOND * 10);
    assert!(open[0].is_closed());
    let statistics = pool.statistics();
    assert_eq!((statistics.open, statistics.idle, statistics.expired), (0, 0, 8));
}

#[test]
fn connections_that_were_made_together_grow_old_one_by_one() {
    const COUNT: usize = 100;
    let (mut simulation, pool, maker) =
        pool(&format!("connections_max = {COUNT}\nlifetime_ms = 100000\nidle_ms = 1000000"));
    let mut held: Vec<_> = (0..COUNT).map(|_| take(&mut simulation, &pool)).collect();
    let idle = held.split_off(COUNT / 2);
    drop(idle);
    simulation.advance(SECOND * 90);
    assert_eq!(pool.statistics().expired, 0);
    let mut most_at_once = 0;
    for _ in 0..100 {
        let before = pool.statistics().expired;
        simulation.advance(SECOND / 10);
        most_at_once = most_at_once.max(pool.statistics().expired - before);
    }
    assert_eq!(pool.statistics().expired, COUNT as u64 / 2, "all that are idle");
    assert!(most_at_once < COUNT as u64 / 5, "{most_at_once} in a hundredth of the time");

    assert!(held.iter().all(|pooled| !pooled.is_closed()), "what is in use is left alone");
    drop(held);
    simulation.run();
    assert_eq!(pool.statistics().expired, COUNT as u64);
    assert!(maker.made.borrow().iter().all(MadeUp::is_closed));
}

#[test]
fn a_check_that_does_not_end_costs_its_time_and_its_connection() {
    let (mut simulation, pool, maker) = pool("check_after_ms = 1000\ncheck_ms = 500\nwait_ms = 1");
    let held = [take(&mut simulation, &pool), take(&mut simulation, &pool)];
    drop(held);
    simulation.advance(SECOND);
    maker.checks.set(Answer::Later);
    let (_, outcome) = get(&mut simulation, &pool);
    simulation.advance(SECOND * 9 / 10);
    assert!(outcome.borrow().is_none());
    assert_eq!((pool.statistics().open, pool.statistics().idle), (1, 0), "the second is being checked");
    simulation.advance(SECOND / 10);
    assert_eq!(outcome.take().unwrap().unwrap().number, 2, "a new one");
    assert!(maker.made.borrow()[..2].iter().all(MadeUp::is_closed));
}

#[test]
fn what_is_used_all_the_time_is_not_checked() {
    let (mut simulation, pool, maker) = pool("check_after_ms = 1000");
    maker.checks.set(Answer::No);
    for _ in 0..10 {
        assert_eq!(take(&mut simulation, &pool).number, 0);
        simulation.advance(SECOND * 9 / 10);
    }
    simulation.advance(SECOND / 10);
    assert_eq!(take(&mut simulation, &pool).number, 1);
}

#[test]
fn a_close_waits_for_what_is_in_use() {
    let (mut simulation, pool, maker) = pool("connections_max = 3");
    let held = take(&mut simulation, &pool);
    let idle = take(&mut simulation, &pool);
    drop(idle);
    let closing: Vec<_> = (0..2)
        .map(|_| {
            let pool = pool.clone();
            let done = Rc::new(());
            let witness = Rc::downgrade(&done);
            simulation.spawn(async move {
                pool.close().await;
                drop(done);
            });
            witness
        })
        .collect();
    simulation.advance(SECOND * 1000);
    let closed = |number: usize| maker.made.borrow()[number].is_closed();
    assert!(closed(1) && !closed(0) && closing.iter().all(|done| done.strong_count() == 1));
    drop(held);
    assert!(closed(0), "at once");
    simulation.run();
    assert!(closing.iter().all(|done| done.strong_count() == 0));
    let again = simulation.spawn(async move { pool.close().await });
    assert_eq!(simulation.finish(again), Some(()));
}

#[test]
fn a_connection_that_is_made_when_the_pool_is_closed_is_closed_too() {
    let (mut simulation, pool, maker) = pool("");
    maker.connects.set(Answer::Later);
    let (_, outcome) = get(&mut simulation, &pool);
    let closing = simulation.spawn(async move { pool.close().await });
    simulation.run();
    maker.answer(true);
    assert_eq!(simulation.finish(closing), Some(()));
    assert_eq!(error(&outcome), "the pool is closed");
    assert!(maker.made.borrow()[0].is_closed());
}

#[test]
fn what_fails_its_check_when_the_pool_is_closed_is_not_replaced() {
    let (mut simulation, pool, maker) = pool("check_after_ms = 0\ncheck_ms = 1000");
    drop(take(&mut simulation, &pool));
    maker.checks.set(Answer::Later);
    maker.connects.set(Answer::Later);
    let (_, outcome) = get(&mut simulation, &pool);
    let closing = simulation.spawn(async move { pool.close().await });
    simulation.advance(SECOND);
    assert_eq!((error(&outcome).as_str(), maker.connecting()), ("the pool is closed", 0));
    assert_eq!(simulation.finish(closing), Some(()));
}

#[test]
fn a_pool_that_is_dropped_closes_and_lets_go_of_everything() {
    let (mut simulation, pool, maker) = pool("connections_max = 3");
    let (held, idle) = (take(&mut simulation, &pool), take(&mut simulation, &pool));
    drop(idle);
    drop(pool.clone());
    simulation.run();
    assert!(!maker.made.borrow()[1].is_closed());
    drop(pool);
    simulation.run();
    assert!(maker.made.borrow()[1].is_closed() && !maker.made.borrow()[0].is_closed());
    drop(held);
    assert!(maker.made.borrow()[0].is_closed());
    simulation.run();
    assert_eq!(Rc::strong_count(&maker), 1);
}

#[test]
fn a_worker_that_stops_leaves_nothing_of_its_pools() {
    let (mut simulation, pool, maker) = pool("connections_max = 3\ncheck_after_ms = 0");
    let (held, idle) = (take(&mut simulation, &pool), take(&mut simulation, &pool));
    drop(idle);
    simulation.run();
    maker.checks.set(Answer::Later);
    maker.connects.set(Answer::Later);
    let under_way: Vec<_> = (0..4).map(|_| get(&mut simulation, &pool).1).collect();
    assert_eq!((maker.connecting(), pool.statistics().waiting), (1, 2));
    simulation.spawn(async move {
        let _held = held;
        pending::<()>().await;
    });
    drop(pool);
    drop(simulation);
    assert!(maker.made.borrow().iter().all(MadeUp::is_closed));
    assert!(under_way.iter().all(|outcome| outcome.borrow().is_none()));
    assert_eq!(Rc::strong_count(&maker), 1);
}

#[test]
fn a_panic_costs_its_connection_and_no_place() {
    let (mut simulation, pool, maker) = pool("connections_max = 1");
    for number in 0..5 {
        let pooled = take(&mut simulation, &pool);
        assert_eq!(pooled.number, number);
        simulation.spawn(async move {
            let _pooled = pooled;
            std::panic::resume_unwind(Box::new("on purpose"))
        });
        simulation.run();
    }
    assert!(maker.made.borrow().iter().all(MadeUp::is_closed));
}

#[test]
fn a_connect_that_panics_costs_no_place() {
    let (mut simulation, maker) = (Simulation::new(1, Faults::none()), Maker::new());
    let (theirs, panics) = (Rc::clone(&maker), Rc::new(Cell::new(5)));
    let pool = simulation.spawn(async move {
        let config = PoolConfig { connections_max: 1, ..Default::default() };
        Pool::new(&config, async move || {
            if panics.get() > 0 {
                panics.set(panics.get() - 1);
                std::panic::resume_unwind(Box::new("on purpose"));
            }
            theirs.connect().await
        })
    });
    let pool = simulation.finish(pool).unwrap();
    let outcomes: Vec<_> = (0..6).map(|_| get(&mut simulation, &pool).1).collect();
    assert!(outcomes[..5].iter().all(|outcome| outcome.borrow().is_none()));
    assert!(matches!(*outcomes[5].borrow(), Some(Ok(_))));
}

/// Somebody's connection, which panics when it is closed for the first time.
struct Fragile(Rc<Cell<u32>>);

impl Connected for Fragile {
    fn close(&self) {
        self.0.set(self.0.get() + 1);
        if self.0.get() == 1 {
            std::panic::resume_unwind(Box::new("on purpose"));
        }
    }
    async fn closed(&self) -> Option<String> {
        None
    }
}

impl Poolable for Fragile {
    fn is_usable(&self) -> bool {
        true
    }
}

#[test]
fn a_pool_that_is_not_kept_any_more_is_closed() {
    let (mut simulation, closes) = (Simulation::new(1, Faults::none()), Rc::new(Cell::new(0)));
    let theirs = Rc::clone(&closes);
    let task = simulation.spawn(async move {
        let config = PoolConfig { idle_ms: 1000, ..Default::default() };
        let pool = Pool::new(&config, async move || Ok::<_, Error>(Fragile(Rc::clone(&theirs))));
        let (first, second) = (pool.get().await?, pool.get().await?);
        drop(first);
        sleep(SECOND / 2).await;
        drop(second);
        sleep(SECOND / 2).await;
        assert_eq!(closes.get(), 2, "the second goes with the first, though its time has not come");
        pool.close().await;
        assert!(matches!(pool.get().await, Err(PoolError::Closed)));
        Ok::<_, Error>(())
    });
    simulation.advance(SECOND);
    assert!(matches!(simulation.finish(task), Some(Ok(()))));
}
