//! Tasks, timers, mailboxes and blocking calls on a real runtime: one that sleeps when it is idle, and one that spins
//! before it does.

use perihelion_runtime::{
    Aborted, BlockingError, Config, Error, Runtime, TimedOut, defer, run_blocking, sleep, sleep_until,
    spawn_local, timeout,
};
use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::panic::resume_unwind;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

/// How long something may take that must come.
const PATIENCE: Duration = Duration::from_secs(30);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn runtime_with(change: impl FnOnce(&mut Config)) -> Runtime {
    let mut config = Config::default();
    config.runtime.workers = 1;
    change(&mut config);
    Runtime::from_config(config).unwrap()
}

/// Runs a test on a runtime that sleeps and on one that spins, within a limit of time.
fn on_both(test: impl Fn(&Runtime) + Send + 'static) {
    within_limit(move || {
        for spin_us in [0, 200] {
            let runtime = runtime_with(|config| config.runtime.spin_us = spin_us);
            test(&runtime);
            assert!(runtime.stop(), "the kernel kept something");
        }
    });
}

/// A test that is stuck fails.
fn within_limit(test: impl FnOnce() + Send + 'static) {
    let (done, is_done) = mpsc::channel::<()>();
    let test = thread::spawn(move || {
        let _done = done; // dropped with the thread, also when it panics
        test();
    });
    let stuck = is_done.recv_timeout(Duration::from_secs(100)) == Err(mpsc::RecvTimeoutError::Timeout);
    assert!(!stuck, "the test is stuck");
    if let Err(panic) = test.join() {
        resume_unwind(panic);
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "this has not come: {what}");
        thread::sleep(ms(1));
    }
}

/// A panic without its message.
fn panic_on_purpose() -> ! {
    resume_unwind(Box::new("on purpose"))
}

/// Sets the flag when it is dropped.
struct Dropped(Arc<AtomicBool>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn a_future_runs_and_gives_its_result() {
    on_both(|runtime| assert_eq!(runtime.block_on(|| async { 1 + 1 }).unwrap(), 2));
}

#[test]
fn a_task_gives_its_result_to_whoever_awaits_it() {
    on_both(|runtime| {
        let sum = runtime.block_on(|| async {
            // Neither needs `Send`.
            let shared = Rc::new(Cell::new(0));
            let tasks: Vec<_> = (1..=100)
                .map(|n| {
                    let shared = Rc::clone(&shared);
                    spawn_local(async move {
                        shared.set(shared.get() + n);
                        Rc::new(n)
                    })
                })
                .collect();
            let mut sum = 0;
            for task in tasks {
                sum += *task.await.unwrap();
            }
            (sum, shared.get())
        });
        assert_eq!(sum.unwrap(), (5050, 5050));
    });
}

#[test]
fn a_task_whose_handle_is_dropped_goes_on() {
    on_both(|runtime| {
        let (say, said) = mpsc::channel();
        runtime
            .block_on(|| async {
                drop(spawn_local(async move {
                    sleep(ms(1)).await;
                    say.send("done").unwrap();
                }));
            })
            .unwrap();
        assert_eq!(said.recv_timeout(PATIENCE), Ok("done"));
    });
}

#[test]
fn a_task_that_is_aborted_is_dropped() {
    on_both(|runtime| {
        let dropped = Arc::new(AtomicBool::new(false));
        let guard = Dropped(Arc::clone(&dropped));
        runtime
            .block_on(|| async {
                let task = spawn_local(async move {
                    let _guard = guard;
                    pending::<()>().await;
                });
                sleep(ms(1)).await; // it has begun
                task.abort();
            })
            .unwrap();
        eventually("the task is dropped", || dropped.load(SeqCst));
        let done = runtime.block_on(|| async {
            let task = spawn_local(async { 7 });
            sleep(ms(1)).await;
            task.abort(); // of one that is done
            8
        });
        assert_eq!(done.unwrap(), 8);
    });
}

#[test]
fn a_panic_of_a_task_reaches_whoever_awaits_it_and_nobody_else() {
    on_both(|runtime| {
        let awaiting = runtime.block_on(|| async { spawn_local(async { panic_on_purpose() }).await });
        assert!(matches!(awaiting, Err(Error::Stopped)), "who awaits a task that panics, panics");
        let other = runtime.block_on(|| async {
            drop(spawn_local(async { panic_on_purpose() }));
            sleep(ms(1)).await;
            "unharmed"
        });
        assert_eq!(other.unwrap(), "unharmed");
        runtime.send(0, |_| panic_on_purpose()).unwrap();
        runtime.block_on(|| async { defer(|_| panic_on_purpose()) }).unwrap();
        assert_eq!(runtime.block_on(|| async { "still here" }).unwrap(), "still here");
    });
}

#[test]
fn a_time_limit_ends_what_takes_too_long() {
    on_both(|runtime| {
        runtime
            .block_on(|| async {
                assert_eq!(timeout(ms(2), pending::<()>()).await, Err(TimedOut));
                assert_eq!(timeout(PATIENCE, async { 1 }).await, Ok(1));
                let slow = async {
                    sleep(ms(2)).await;
                    2
                };
                assert_eq!(timeout(PATIENCE, slow).await, Ok(2));
                assert_eq!(timeout(Duration::ZERO, async { 3 }).await, Ok(3), "what is ready is in time");
            })
            .unwrap();
    });
}

#[test]
fn a_time_limit_may_be_endless() {
    on_both(|runtime| {
        runtime
            .block_on(|| async {
                for long in [Duration::MAX, Duration::from_secs(u64::MAX / 4), Duration::from_secs(1 << 40)] {
                    assert_eq!(timeout(long, sleep(ms(1))).await, Ok(()));
                    assert_eq!(timeout(ms(2), sleep(long)).await, Err(TimedOut));
                }
            })
            .unwrap();
    });
}

#[test]
fn sleepers_wake_in_the_order_of_their_deadlines_and_none_early() {
    on_both(|runtime| {
        let woken = runtime.block_on(|| async {
            // All of them are asleep before the first is due, also on a machine that is busy with something else.
            let start = Instant::now() + ms(300);
            let woken = Rc::new(RefCell::new(Vec::new()));
            let tasks: Vec<_> = (0..100u64)
                .map(|n| {
                    let (woken, after) = (Rc::clone(&woken), ms(n * 37 % 101));
                    spawn_local(async move {
                        sleep_until(start + after).await;
                        assert!(Instant::now() >= start + after);
                        woken.borrow_mut().push(after);
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
            woken.take()
        });
        let woken = woken.unwrap();
        assert_eq!(woken.len(), 100);
        assert!(woken.is_sorted(), "{woken:?}");
    });
}

#[test]
fn a_task_that_never_rests_leaves_the_others_their_turn() {
    on_both(|runtime| {
        let restless = || async {
            poll_fn(|task| {
                task.waker().wake_by_ref();
                Poll::<()>::Pending
            })
            .await;
        };
        let result = runtime.block_on(move || async move {
            let task = spawn_local(restless());
            sleep(ms(5)).await;
            task.abort();
            "slept"
        });
        assert_eq!(result.unwrap(), "slept");
    });
}

/// Completed by a thread, while the worker is awake, falls asleep, or sleeps.
#[test]
fn no_wake_up_from_another_thread_is_lost() {
    const ROUNDS: u64 = 10_000;
    on_both(|runtime| {
        let (say, said) = mpsc::channel::<(u64, Waker)>();
        let done = Arc::new(AtomicU64::new(0));
        let (theirs, ours) = (Arc::clone(&done), Arc::clone(&done));
        let completer = thread::spawn(move || {
            for (round, waker) in said {
                // Between nothing and some microseconds, so that every moment of the way to sleep is met.
                (0..round * 7 % 1_000).for_each(|_| std::hint::spin_loop());
                theirs.store(round, SeqCst);
                waker.wake();
            }
        });
        runtime
            .block_on(move || async move {
                for round in 1..=ROUNDS {
                    let mut asked = false;
                    poll_fn(|task| {
                        if !std::mem::replace(&mut asked, true) {
                            say.send((round, task.waker().clone())).unwrap();
                        }
                        if ours.load(SeqCst) == round { Poll::Ready(()) } else { Poll::Pending }
                    })
                    .await;
                }
            })
            .unwrap();
        completer.join().unwrap();
        assert_eq!(done.load(SeqCst), ROUNDS);
    });
}

#[test]
fn messages_from_many_threads_all_arrive() {
    const THREADS: u64 = 4;
    const MESSAGES: u64 = 5_000;
    on_both(|runtime| {
        let arrived = Arc::new(Mutex::new(vec![Vec::new(); THREADS as usize]));
        thread::scope(|scope| {
            for thread in 0..THREADS as usize {
                let arrived = &arrived;
                scope.spawn(move || {
                    for number in 0..MESSAGES {
                        let arrived = Arc::clone(arrived);
                        let send = || {
                            let arrived = Arc::clone(&arrived);
                            runtime.send(0, move |_| arrived.lock().unwrap()[thread].push(number))
                        };
                        while let Err(error) = send() {
                            assert!(matches!(error, Error::MailboxFull));
                            thread::yield_now();
                        }
                    }
                });
            }
        });
        eventually("all messages", || arrived.lock().unwrap().iter().flatten().count() == 20_000);
        let arrived = arrived.lock().unwrap();
        assert!(arrived.iter().all(|numbers| numbers.is_sorted()), "each thread's stay in order");
    });
}

#[test]
fn a_mailbox_that_is_full_refuses_and_empties_again() {
    within_limit(|| {
        let runtime = runtime_with(|config| config.runtime.mailbox_messages = 3);
        let ((open, gate), (held, is_held)) = (mpsc::channel::<()>(), mpsc::channel());
        runtime
            .send(0, move |_| {
                held.send(()).unwrap();
                let _ = gate.recv();
            })
            .unwrap();
        is_held.recv().unwrap();
        let results: Vec<_> = (0..5).map(|_| runtime.send(0, |_| ()).is_ok()).collect();
        assert_eq!(results, [true, true, true, false, false]);
        let error = runtime.block_on(|| async {}).unwrap_err().to_string();
        assert_eq!(error, "the mailbox of a worker is full; runtime.mailbox_messages sets how many it holds");
        drop(open);
        eventually("there is room again", || runtime.block_on(|| async {}).is_ok());
        assert!(runtime.stop());
    });
}

#[test]
fn each_worker_is_reached_by_its_number() {
    within_limit(|| {
        let runtime = runtime_with(|config| config.runtime.workers = 0);
        let workers = runtime.workers();
        let names = runtime.on_each(|_, number| (number, thread::current().name().map(String::from)));
        let expected: Vec<_> = (0..workers).map(|n| (n, Some(format!("perihelion-{n}")))).collect();
        assert_eq!(names.unwrap(), expected);
        for worker in 0..workers {
            let name =
                runtime.block_on_worker(worker, || async { thread::current().name().map(String::from) });
            assert_eq!(name.unwrap().unwrap(), format!("perihelion-{worker}"));
        }
        assert!(runtime.stop());
    });
}

#[test]
fn a_blocking_call_gives_its_result_or_says_that_it_panicked() {
    on_both(|runtime| {
        runtime
            .block_on(|| async {
                let name = run_blocking(|| thread::current().name().map(String::from)).await;
                assert_eq!(name, Ok(Some("perihelion-blocking".into())));
                assert_eq!(run_blocking(|| panic_on_purpose()).await, Err::<(), _>(BlockingError::Panicked));
                assert_eq!(run_blocking(|| 1 + 1).await, Ok(2));
                drop(run_blocking(|| ())); // without having been polled
            })
            .unwrap();
    });
}

#[test]
fn blocking_calls_run_side_by_side_up_to_the_limit() {
    within_limit(|| {
        const THREADS: usize = 4;
        let runtime = runtime_with(|config| config.runtime.blocking_threads = THREADS);
        for _ in 0..500 {
            let rendezvous = Arc::new(Barrier::new(THREADS));
            runtime
                .block_on(move || async move {
                    // Each of them waits for all.
                    let calls: Vec<_> = (0..THREADS)
                        .map(|_| {
                            let rendezvous = Arc::clone(&rendezvous);
                            spawn_local(run_blocking(move || rendezvous.wait().is_leader()))
                        })
                        .collect();
                    for call in calls {
                        call.await.unwrap().unwrap();
                    }
                })
                .unwrap();
        }
        assert!(runtime.stop());
    });
}

#[test]
fn blocking_calls_wait_for_a_thread_up_to_the_limit_and_are_refused_beyond() {
    within_limit(|| {
        let runtime = runtime_with(|config| {
            (config.runtime.blocking_threads, config.runtime.blocking_queue) = (2, 3);
        });
        let (open, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let (say, said) = mpsc::channel();
        let results = runtime.spawn_on(0, move || async move {
            let calls: Vec<_> = (0..7)
                .map(|_| {
                    let gate = Arc::clone(&gate);
                    spawn_local(run_blocking(move || gate.lock().unwrap().recv().is_ok()))
                })
                .collect();
            sleep(ms(1)).await; // all have been asked for
            say.send(()).unwrap();
            let mut results = Vec::new();
            for call in calls {
                results.push(call.await.unwrap().is_ok());
            }
            results
        });
        said.recv().unwrap();
        drop(open);
        assert_eq!(results.unwrap().recv().unwrap(), [true, true, true, true, true, false, false]);
        assert!(runtime.stop());
    });
}

#[test]
fn a_runtime_that_stops_drops_its_tasks_on_their_worker() {
    on_both(|_| {
        struct OnWorker(Arc<AtomicU64>);
        impl Drop for OnWorker {
            fn drop(&mut self) {
                if thread::current().name() == Some("perihelion-0") {
                    self.0.fetch_add(1, SeqCst);
                }
            }
        }
        let runtime = runtime_with(|_| ());
        let dropped = Arc::new(AtomicU64::new(0));
        let guards: Vec<_> = (0..4).map(|_| OnWorker(Arc::clone(&dropped))).collect();
        runtime
            .block_on(|| async {
                for (number, guard) in guards.into_iter().enumerate() {
                    drop(spawn_local(async move {
                        let _guard = guard;
                        match number {
                            0 => pending().await,
                            1 => sleep(Duration::from_secs(1_000)).await,
                            2 => drop(run_blocking(|| thread::sleep(ms(20))).await),
                            // Waits for another task, which is dropped too.
                            _ => drop(spawn_local(pending::<()>()).await == Err(Aborted)),
                        }
                    }));
                }
                sleep(ms(1)).await; // they have begun
            })
            .unwrap();
        assert!(runtime.stop());
        assert_eq!(dropped.load(SeqCst), 4);
    });
}

#[test]
fn a_runtime_that_has_stopped_says_so() {
    within_limit(|| {
        let runtime = runtime_with(|_| ());
        let (handle, kept) = (runtime.handle(), Arc::new(Mutex::new(None)));
        let theirs = Arc::clone(&kept);
        let waiting = runtime.spawn_on(0, move || async move {
            poll_fn(|task| {
                *theirs.lock().unwrap() = Some(task.waker().clone());
                Poll::<()>::Pending
            })
            .await;
        });
        eventually("the task waits", || kept.lock().unwrap().is_some());
        assert!(runtime.stop());
        assert!(waiting.unwrap().recv().is_err());
        kept.lock().unwrap().take().unwrap().wake(); // of a task that is gone
        assert!(matches!(handle.send(0, |_| ()), Err(Error::Stopped)));
        assert!(matches!(handle.block_on(|| async {}), Err(Error::Stopped)));
        assert!(matches!(handle.on_each(|_, _| ()), Err(Error::Stopped)));
    });
}

/// Whoever asks a runtime that is about to stop is refused or gets no answer, but always one of the two; and nothing
/// that comes in at the last moment keeps it from stopping.
#[test]
fn a_runtime_that_is_asked_while_it_stops_neither_hangs_nor_leaks() {
    within_limit(|| {
        for spin_us in [0, 200] {
            for _ in 0..300 {
                let runtime = runtime_with(|config| config.runtime.spin_us = spin_us);
                let started = Arc::new(Barrier::new(3));
                let askers = [(); 2].map(|()| {
                    let (handle, started) = (runtime.handle(), Arc::clone(&started));
                    thread::spawn(move || {
                        started.wait();
                        loop {
                            match handle.block_on(|| async { 1 }) {
                                Ok(one) => assert_eq!(one, 1),
                                Err(Error::Stopped) => break,
                                Err(error) => panic!("{error}"),
                            }
                        }
                    })
                });
                started.wait();
                assert!(runtime.stop(), "the kernel kept something");
                askers.into_iter().for_each(|asker| asker.join().unwrap());
            }
        }
    });
}

#[test]
fn a_task_asks_another_worker_and_the_answer_comes_back_to_its_own() {
    let runtime = runtime_with(|config| config.runtime.workers = 2);
    let handle = runtime.handle();
    let thread = || std::thread::current().name().unwrap_or_default().to_string();
    let (there, here) = runtime
        .block_on_worker(
            0,
            move || async move { (handle.ask(1, move |_io| thread()).await.unwrap(), thread()) },
        )
        .unwrap();
    assert_eq!((&*there, &*here), ("perihelion-1", "perihelion-0"));
    let handle = runtime.handle();
    let panics =
        |_io: &mut perihelion_runtime::Io| -> u8 { std::panic::resume_unwind(Box::new("on purpose")) };
    let panicked =
        runtime.block_on(move || async move { handle.ask(0, panics).await.map_err(|e| e.to_string()) });
    assert!(panicked.unwrap().is_err(), "a call that panics is an error, and no hang");
}
