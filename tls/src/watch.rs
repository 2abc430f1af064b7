//! Reads certificates again while the server runs: when their files have changed, and at a signal.

use signal_hook::consts::SIGHUP;
use signal_hook::iterator::{Handle, Signals};
use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crate::ServerTls;

/// A thread that [reloads](ServerTls::reload) certificates. It ends when this is dropped.
///
/// What can't be used is logged as an error, once for each change, and what was in force stays so.
#[must_use = "nothing is watched any more when it is dropped"]
pub struct Watch {
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

enum Stop {
    Files(Option<Sender<()>>),
    Signal(Handle),
}

impl ServerTls {
    /// Looks this often whether a file has changed, and reads them all again when one has. A certificate and its key
    /// are mostly not written at the same moment: in between they don't fit, so what is in force stays until they do.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn watch(&self, every: Duration) -> io::Result<Watch> {
        let tls = self.clone();
        let (stop, stopped) = channel::<()>();
        let thread = spawn(move || {
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                if tls.has_changed() {
                    reload(&tls);
                }
            }
        })?;
        Ok(Watch { stop: Stop::Files(Some(stop)), thread: Some(thread) })
    }

    /// Reads all files again whenever the process gets a SIGHUP, which then no longer ends it.
    ///
    /// # Errors
    /// When signals can't be waited for, or no thread can be started.
    pub fn reload_at_hangup(&self) -> io::Result<Watch> {
        let tls = self.clone();
        let mut signals = Signals::new([SIGHUP])?;
        let stop = signals.handle();
        let thread = spawn(move || signals.forever().for_each(|_| reload(&tls)))?;
        Ok(Watch { stop: Stop::Signal(stop), thread: Some(thread) })
    }
}

fn spawn(run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    Builder::new().name("perihelion-tls".into()).spawn(run)
}

fn reload(tls: &ServerTls) {
    if let Err(error) = tls.reload() {
        tracing::error!(%error, "certificates were not reloaded; those in force stay");
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        match &mut self.stop {
            Stop::Files(sender) => drop(sender.take()),
            Stop::Signal(handle) => handle.close(),
        }
        // A thread that panicked has said so.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
