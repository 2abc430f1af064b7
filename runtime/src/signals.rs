//! SIGINT and SIGTERM.

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals as Iterator;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::Error;

/// Waits for SIGINT or SIGTERM. From its creation on the first of them no longer ends the process; the second does.
pub struct Signals(Iterator);

impl Signals {
    /// Takes the signals over.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn new() -> Result<Self, Error> {
        let os = Error::os("waiting for signals");
        let install = || {
            let stopping = Arc::new(AtomicBool::new(false));
            for signal in [SIGINT, SIGTERM] {
                // In this order: the first signal sets the flag, the second finds it set.
                flag::register_conditional_default(signal, Arc::clone(&stopping))?;
                flag::register(signal, Arc::clone(&stopping))?;
            }
            Iterator::new([SIGINT, SIGTERM])
        };
        install().map(Signals).map_err(os)
    }

    /// Waits, and gives the signal's name.
    pub fn wait(mut self) -> &'static str {
        match self.0.forever().next() {
            Some(SIGINT) => "SIGINT",
            _ => "SIGTERM",
        }
    }
}
