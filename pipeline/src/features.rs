//! What is known about a connection: values by their type.

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

/// What is known about a connection, by type: who the other side is, what was agreed on with it, what a program wants
/// to remember. Whatever finds something out puts it in, and everything above reads it.
///
/// There is one value of each type, so a type of its own says what a value means. Clones are the same collection. There
/// are few values, so that looking one up costs no more than a few comparisons.
///
/// ```
/// # use perihelion_pipeline::Features;
/// struct Tenant(String);
///
/// let features = Features::default();
/// features.insert(Tenant("blue".into()));
/// assert_eq!(features.get::<Tenant>().unwrap().0, "blue");
/// assert!(features.get::<String>().is_none());
/// ```
#[derive(Clone, Default)]
pub struct Features(Rc<RefCell<Vec<Rc<dyn Any>>>>);

impl Features {
    /// Puts a value in. Gives the one of this type that was there before.
    pub fn insert<T: 'static>(&self, value: T) -> Option<Rc<T>> {
        let before = self.remove();
        self.0.borrow_mut().push(Rc::new(value));
        before
    }

    /// The value of this type.
    pub fn get<T: 'static>(&self) -> Option<Rc<T>> {
        let values = self.0.borrow();
        let value = values.iter().find(|value| value.is::<T>())?;
        Rc::clone(value).downcast().ok()
    }

    /// Takes the value of this type out.
    pub fn remove<T: 'static>(&self) -> Option<Rc<T>> {
        let mut values = self.0.borrow_mut();
        let at = values.iter().position(|value| value.is::<T>())?;
        values.swap_remove(at).downcast().ok()
    }
}

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Features").field("values", &self.0.borrow().len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_value_of_each_type() {
        let features = Features::default();
        assert!(features.insert(1u8).is_none());
        assert!(features.insert("one").is_none());
        assert_eq!(features.insert(2u8).as_deref(), Some(&1));
        let same = features.clone();
        assert_eq!(same.get::<u8>().as_deref(), Some(&2));
        assert_eq!(same.remove::<&str>().as_deref(), Some(&"one"));
        assert!(features.get::<&str>().is_none());
    }

    #[test]
    fn a_value_that_is_dropped_may_look_at_the_others() {
        struct Curious(Features);
        impl Drop for Curious {
            fn drop(&mut self) {
                assert!(self.0.get::<u8>().is_some());
            }
        }
        let features = Features::default();
        features.insert(1u8);
        features.insert(Curious(features.clone()));
        drop(features.insert(Curious(features.clone())));
        drop(features.remove::<Curious>());
    }
}
