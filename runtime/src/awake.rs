//! Whether a worker sleeps: only the one who finds it asleep has to wake it, and that takes a system call.
//!
//! The protocol, between a worker and any number of senders:
//!
//! 1. A sender first puts its message into the mailbox, then calls [`Awake::is_to_be_woken`].
//! 2. The worker first calls [`Awake::fall_asleep`], then looks into the mailbox, and sleeps only if it is empty.
//!
//! Both sides write before they read, and all four accesses are in one total order (`SeqCst`): so either the sender
//! sees that the worker sleeps, or the worker sees the message. Of several senders one alone wakes.

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, Ordering, fence};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// The flag of one worker.
pub(crate) struct Awake(AtomicBool);

impl Awake {
    pub(crate) fn new() -> Self {
        Awake(AtomicBool::new(true))
    }

    /// For senders, after the message is in the mailbox: whether the worker sleeps and nobody else is waking it.
    pub(crate) fn is_to_be_woken(&self) -> bool {
        fence(Ordering::SeqCst);
        // The load alone is enough while the worker is awake, and leaves the cache line where it is.
        !self.0.load(Ordering::SeqCst) && !self.0.swap(true, Ordering::SeqCst)
    }

    /// For the worker, before its last look into the mailbox.
    pub(crate) fn fall_asleep(&self) {
        self.0.store(false, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// For the worker, when it doesn't sleep, or no longer.
    pub(crate) fn wake_up(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Run with `RUSTFLAGS="--cfg loom" cargo test -p perihelion-runtime --lib awake`.
#[cfg(all(test, loom))]
mod tests {
    use super::*;
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicUsize;
    use loom::thread;

    /// The mailbox and the event counter, as far as the protocol needs them.
    #[derive(Default)]
    struct World {
        messages: AtomicUsize,
        events: AtomicUsize,
    }

    fn send(awake: &Awake, world: &World) {
        world.messages.fetch_add(1, Ordering::Release);
        if awake.is_to_be_woken() {
            world.events.fetch_add(1, Ordering::Release);
        }
    }

    #[test]
    fn no_wake_up_is_lost() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3); // more take minutes
        model.check(|| {
            let (awake, world) = (Arc::new(Awake::new()), Arc::new(World::default()));
            let senders: Vec<_> = (0..2)
                .map(|_| {
                    let (awake, world) = (Arc::clone(&awake), Arc::clone(&world));
                    thread::spawn(move || send(&awake, &world))
                })
                .collect();
            awake.fall_asleep();
            let sleeps = world.messages.load(Ordering::Acquire) == 0;
            if !sleeps {
                awake.wake_up();
            }
            senders.into_iter().for_each(|sender| sender.join().unwrap());
            // Asleep with a message in the mailbox: then exactly one sender has woken it.
            if sleeps {
                assert_eq!(world.events.load(Ordering::Acquire), 1);
            }
        });
    }
}
