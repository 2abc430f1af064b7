//! A queue that mostly holds nothing or one thing.

use std::collections::VecDeque;

/// When it is empty again, memory for so many is kept for the next burst, and more is given back.
const KEPT_MAX: usize = 64;

/// A queue that mostly holds nothing or one thing, which then stands beside its owner's other state, rather than in memory
/// of its own.
pub struct Queue<T> {
    /// `None` only if the queue is empty.
    first: Option<T>,
    #[expect(clippy::box_collection, reason = "a queue that never holds two is the smaller for it")]
    rest: Option<Box<VecDeque<T>>>,
}

impl<T> Queue<T> {
    /// Adds to the end.
    #[inline]
    pub fn push_back(&mut self, item: T) {
        match &mut self.first {
            None => self.first = Some(item),
            Some(_) => self.rest.get_or_insert_default().push_back(item),
        }
    }

    /// Takes what is oldest.
    #[inline]
    pub fn pop_front(&mut self) -> Option<T> {
        let item = self.first.take();
        if let Some(rest) = &mut self.rest {
            self.first = rest.pop_front();
            if self.first.is_none() && rest.capacity() > KEPT_MAX {
                self.rest = None;
            }
        }
        item
    }

    /// How many there are.
    #[inline]
    pub fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.as_ref().map_or(0, |rest| rest.len())
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Queue { first: None, rest: None }
    }
}

impl<T> IntoIterator for Queue<T> {
    type Item = T;
    type IntoIter = std::iter::Chain<std::option::IntoIter<T>, std::collections::vec_deque::IntoIter<T>>;

    /// All, the oldest first.
    fn into_iter(self) -> Self::IntoIter {
        self.first.into_iter().chain(*self.rest.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::{KEPT_MAX, Queue};
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[test]
    fn an_empty_one_keeps_little_memory() {
        let mut queue = Queue::default();
        for (burst, keeps) in [(1, false), (KEPT_MAX, true), (1000, false), (2, true)] {
            (0..burst).for_each(|number| queue.push_back(number));
            while queue.pop_front().is_some() {}
            assert_eq!(queue.rest.is_some(), keeps, "after {burst}");
        }
    }

    proptest! {
        #[test]
        fn it_is_a_queue(pushes: Vec<bool>) {
            let (mut queue, mut model) = (Queue::default(), VecDeque::new());
            for (number, push) in pushes.into_iter().enumerate() {
                if push {
                    queue.push_back(number);
                    model.push_back(number);
                } else {
                    prop_assert_eq!(queue.pop_front(), model.pop_front());
                }
                prop_assert_eq!(queue.len(), model.len());
                prop_assert_eq!(queue.is_empty(), model.is_empty());
            }
            prop_assert!(queue.into_iter().eq(model));
        }
    }
}
