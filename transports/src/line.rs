//! Tasks that wait in line: for a place, or for something to happen.

use std::collections::{BTreeMap, BTreeSet};
use std::task::{Context, Waker};

/// Those who wait, the oldest first. Whoever gives up leaves: so no line grows for ever, and nobody is woken in vain while
/// another waits.
#[derive(Default)]
pub(crate) struct Line {
    waiting: BTreeMap<u64, Waker>,
    /// Those who were let through and have not left. For each a place is kept, or whoever makes one free could take it
    /// again before they run.
    admitted: BTreeSet<u64>,
    last: u64,
}

/// Somebody's place in a line; at first, none.
#[derive(Default)]
pub(crate) struct Number(Option<u64>);

impl Line {
    /// Waits, or goes on waiting where it did.
    pub(crate) fn wait(&mut self, number: &mut Number, task: &Context<'_>) {
        let number = *number.0.get_or_insert_with(|| {
            self.last += 1;
            self.last
        });
        self.waiting.insert(number, task.waker().clone());
    }

    /// Lets the first through, who is to be woken.
    pub(crate) fn admit(&mut self) -> Option<Waker> {
        let (number, waker) = self.waiting.pop_first()?;
        self.admitted.insert(number);
        Some(waker)
    }

    pub(crate) fn has_admitted(&self, number: &Number) -> bool {
        number.0.is_some_and(|number| self.admitted.contains(&number))
    }

    /// How many were let through and have not left.
    pub(crate) fn admitted(&self) -> usize {
        self.admitted.len()
    }

    /// Leaves the line. True for one that was let through.
    pub(crate) fn leave(&mut self, number: &Number) -> bool {
        let Some(number) = number.0 else { return false };
        self.waiting.remove(&number);
        self.admitted.remove(&number)
    }

    /// All who wait, to be woken: what they wait for has happened.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = Waker> + use<> {
        std::mem::take(&mut self.waiting).into_values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_first_also_after_it_was_woken_for_nothing() {
        let mut line = Line::default();
        let (mut first, mut second) = (Number::default(), Number::default());
        let task = Context::from_waker(Waker::noop());
        line.wait(&mut first, &task);
        line.wait(&mut second, &task);
        assert_eq!(line.take().count(), 2);
        line.wait(&mut second, &task);
        line.wait(&mut first, &task);
        assert!(line.admit().is_some());
        assert!(line.has_admitted(&first) && !line.has_admitted(&second));
        assert!(line.leave(&first));
        assert!(!line.leave(&first) && !line.leave(&second));
        assert!(line.admit().is_none() && line.admitted() == 0);
    }
}
