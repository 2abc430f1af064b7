//! A hierarchical timer wheel: arming and cancelling cost the same however many timers there are.
//!
//! Time is counted in ticks. Level 0 has a slot for each of the next 64 ticks, level 1 for each of the next 64 times
//! 64 ticks, and so on. A timer stands in the level of the highest six bits in which its deadline differs from the
//! present, so that it moves down a level when the wheel gets there, at most once a level. (G. Varghese, T. Lauck,
//! "Hashed and hierarchical timing wheels", 1987; the choice of the level by the differing bits is Linux's and tokio's.)

use slab::Slab;
use std::num::NonZeroU32;

const LEVELS: usize = 7;
const SLOTS: usize = 64;
const SLOT_BITS: u32 = 6;
const NONE: u32 = u32::MAX;
/// No timer is further away: with ticks of a millisecond, 34 years.
const TICKS_MAX: u64 = 1 << 40;

/// Timers that carry a `T` each.
pub(crate) struct Wheel<T> {
    /// All timers up to this tick have been taken.
    now: u64,
    levels: [Level; LEVELS],
    timers: Slab<Timer<T>>,
    /// Timers that are due and not taken yet.
    due: u32,
    generation: NonZeroU32,
}

#[derive(Clone)]
struct Level {
    /// A bit for each slot that has timers.
    occupied: u64,
    /// The first timer of each slot.
    slots: [u32; SLOTS],
}

struct Timer<T> {
    deadline: u64,
    place: Place,
    previous: u32,
    next: u32,
    generation: NonZeroU32,
    value: T,
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Due,
    Slot { level: u8, slot: u8 },
}

/// Names a timer that may have fired already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimerKey {
    index: u32,
    generation: NonZeroU32,
}

impl<T> Wheel<T> {
    pub(crate) fn new() -> Self {
        let level = Level { occupied: 0, slots: [NONE; SLOTS] };
        Wheel {
            now: 0,
            levels: [const { None::<Level> }; LEVELS].map(|_| level.clone()),
            timers: Slab::new(),
            due: NONE,
            generation: NonZeroU32::MIN,
        }
    }

    /// Arms a timer. One whose deadline has passed is due at once.
    pub(crate) fn insert(&mut self, deadline: u64, value: T) -> TimerKey {
        let deadline = deadline.min(self.now + TICKS_MAX);
        self.generation = self.generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
        let generation = self.generation;
        let timer = Timer { deadline, place: Place::Due, previous: NONE, next: NONE, generation, value };
        let index = self.timers.insert(timer) as u32;
        self.link(index);
        TimerKey { index, generation }
    }

    /// Cancels a timer, unless it has been taken already.
    pub(crate) fn remove(&mut self, key: TimerKey) -> Option<T> {
        let timer = self.timers.get(key.index as usize)?;
        if timer.generation != key.generation {
            return None;
        }
        self.unlink(key.index);
        Some(self.timers.remove(key.index as usize).value)
    }

    /// The value of a timer that has not been taken.
    pub(crate) fn get_mut(&mut self, key: TimerKey) -> Option<&mut T> {
        let timer = self.timers.get_mut(key.index as usize)?;
        (timer.generation == key.generation).then_some(&mut timer.value)
    }

    /// The tick at which the wheel needs to be turned: never later than the first deadline.
    pub(crate) fn next_tick(&self) -> Option<u64> {
        if self.due != NONE {
            return Some(self.now);
        }
        self.next_slot().map(|(_, _, tick)| tick)
    }

    /// Takes the next timer that is due at `now`.
    pub(crate) fn pop(&mut self, now: u64) -> Option<T> {
        while self.due == NONE {
            let Some((level, slot, tick)) = self.next_slot().filter(|(_, _, tick)| *tick <= now) else {
                self.now = self.now.max(now);
                return None;
            };
            self.now = self.now.max(tick);
            let mut index = std::mem::replace(&mut self.levels[level].slots[slot], NONE);
            self.levels[level].occupied &= !(1 << slot);
            while index != NONE {
                let next = self.timers[index as usize].next;
                self.link(index);
                index = next;
            }
        }
        let index = self.due;
        self.unlink(index);
        Some(self.timers.remove(index as usize).value)
    }

    /// Takes all timers.
    pub(crate) fn drain(&mut self) -> Vec<T> {
        let timers = std::mem::take(&mut self.timers);
        *self = Wheel { now: self.now, generation: self.generation, ..Wheel::new() };
        timers.into_iter().map(|(_, timer)| timer.value).collect()
    }

    /// The slot that comes first, and the tick at which it does.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        self.levels.iter().enumerate().find_map(|(level, at)| {
            let shift = SLOT_BITS * level as u32;
            let present = (self.now >> shift) as u32 % SLOTS as u32;
            // The slot of the present itself is empty but on level 0: what is in it would stand on a lower level.
            let distance = at.occupied.rotate_right(present).trailing_zeros();
            (at.occupied != 0).then(|| {
                let slot = (present + distance) as usize % SLOTS;
                let tick = ((self.now >> shift) + u64::from(distance)) << shift;
                (level, slot, tick)
            })
        })
    }

    /// Puts a timer in the place that its deadline has at the present.
    fn link(&mut self, index: u32) {
        let deadline = self.timers[index as usize].deadline;
        let place = if deadline <= self.now {
            Place::Due
        } else {
            let differing = (self.now ^ deadline) | (SLOTS as u64 - 1);
            let level = ((63 - differing.leading_zeros()) / SLOT_BITS).min(LEVELS as u32 - 1);
            let slot = (deadline >> (SLOT_BITS * level)) % SLOTS as u64;
            self.levels[level as usize].occupied |= 1 << slot;
            Place::Slot { level: level as u8, slot: slot as u8 }
        };
        let head = std::mem::replace(self.head(place), index);
        let timer = &mut self.timers[index as usize];
        (timer.place, timer.previous, timer.next) = (place, NONE, head);
        if head != NONE {
            self.timers[head as usize].previous = index;
        }
    }

    fn unlink(&mut self, index: u32) {
        let Timer { place, previous, next, .. } = self.timers[index as usize];
        if previous != NONE {
            self.timers[previous as usize].next = next;
        } else {
            *self.head(place) = next;
            if let (Place::Slot { level, slot }, NONE) = (place, next) {
                self.levels[level as usize].occupied &= !(1 << slot);
            }
        }
        if next != NONE {
            self.timers[next as usize].previous = previous;
        }
    }

    fn head(&mut self, place: Place) -> &mut u32 {
        match place {
            Place::Due => &mut self.due,
            Place::Slot { level, slot } => &mut self.levels[level as usize].slots[slot as usize],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u64),
        Remove(usize),
        Advance(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let delay = prop_oneof![0u64..70, 0u64..5_000, 0u64..300_000, 0u64..TICKS_MAX];
        let step = prop_oneof![
            delay.clone().prop_map(Step::Insert),
            (0usize..50).prop_map(Step::Remove),
            delay.prop_map(Step::Advance),
        ];
        prop::collection::vec(step, 1..200)
    }

    proptest! {
        #[test]
        fn timers_fire_exactly_when_an_ordered_map_says(steps in steps()) {
            let (mut wheel, mut model, mut keys) = (Wheel::new(), BTreeMap::new(), Vec::new());
            let mut now = 0;
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Insert(delay) => {
                        keys.push((wheel.insert(now + delay, number), now + delay, number));
                        model.insert((now + delay, number), ());
                    }
                    Step::Remove(at) => {
                        if let Some((key, deadline, number)) = keys.get(at) {
                            let there = model.remove(&(*deadline, *number)).is_some();
                            prop_assert_eq!(wheel.remove(*key), there.then_some(*number));
                        }
                    }
                    Step::Advance(by) => {
                        now += by;
                        let mut fired: Vec<_> = std::iter::from_fn(|| wheel.pop(now)).collect();
                        let later = model.split_off(&(now + 1, 0));
                        let mut due: Vec<_> = std::mem::replace(&mut model, later).into_keys().map(|key| key.1).collect();
                        fired.sort_unstable();
                        due.sort_unstable();
                        prop_assert_eq!(fired, due);
                    }
                }
                // The wheel may want to be turned early, to move timers down, but never late.
                let first = model.keys().next().map(|key| key.0);
                prop_assert_eq!(wheel.next_tick().is_some(), first.is_some());
                prop_assert!(wheel.next_tick() <= first.map(|tick| tick.max(now)));
            }
            prop_assert_eq!(wheel.drain().len(), model.len());
        }
    }
}
