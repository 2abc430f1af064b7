//! One error type for every stage: a boxed cause that may cross cores, since the reason of a close does.

use std::fmt;

/// Why a stage failed, and so, unless a stage handles it, why a channel closed.
///
/// Any `std::error::Error` that is `Send + Sync` becomes one through `?`. `Display` prints the whole chain of
/// causes, separated by colons; [`downcast_ref`](Error::downcast_ref) finds the cause that was put in.
///
/// ```
/// # use perihelion_pipeline::{Error, Result};
/// fn parse(text: &str) -> Result<u16> {
///     Ok(text.parse()?)
/// }
/// assert!(parse("no number").unwrap_err().downcast_ref::<std::num::ParseIntError>().is_some());
/// ```
pub struct Error(Box<dyn std::error::Error + Send + Sync>);

/// A result whose error is [`Error`] unless it says otherwise.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error that is only a text.
    #[cold]
    pub fn msg(text: impl Into<String>) -> Self {
        Error(text.into().into())
    }

    /// The cause, if it is an `E`.
    pub fn downcast_ref<E: std::error::Error + 'static>(&self) -> Option<&E> {
        self.0.downcast_ref()
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Error {
    #[cold]
    fn from(error: E) -> Self {
        Error(Box::new(error))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
