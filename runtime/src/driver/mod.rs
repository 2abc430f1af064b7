//! The one seam between the event loop and the world: the loop asks for operations, and gets completions back.
//!
//! A driver keeps every endpoint's descriptor, and the memory of every operation in flight, until the last completion
//! of it has come, whatever the endpoint does meanwhile. So nothing that stands above it can free what the kernel
//! still uses, and nothing above it needs `unsafe`.

mod outgoing;
pub(crate) mod sim;
mod sockets;
mod uring;

use bytes::Bytes;
use socket2::{SockAddr, SockRef};
use std::fmt;
use std::io;
use std::mem::ManuallyDrop;
use std::net::Shutdown;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

pub use outgoing::{Outgoing, PIECES_MAX, Piece};

use crate::config::RuntimeConfig;
use crate::{DriverChoice, EndpointId, Error};
use sim::Sim;
use uring::Uring;

/// What has become of an operation of an endpoint.
pub enum Completion {
    /// A connection came in, or none can be taken at present; then the listener accepts no more until it is told to.
    Accepted(io::Result<OwnedFd>),
    /// A connect is done.
    Connected(io::Result<()>),
    /// Bytes arrived. Receiving goes on.
    Received(Bytes),
    /// The other side sends no more. Receiving is over.
    Ended,
    /// Receiving failed, and is over.
    ReceiveFailed(io::Error),
    /// A send is done: the kernel has taken this many bytes, which are all of them, or refused.
    Sent {
        /// How many bytes, or why not all.
        result: io::Result<usize>,
        /// What was sent.
        outgoing: Outgoing,
    },
    /// There are bytes to receive, or the other side's end.
    Readable,
    /// There is room to send again.
    Writable,
    /// The connection is broken, or can't be waited for.
    Broken(io::Error),
}

/// How long to wait in the kernel for the first completion.
#[derive(Clone, Copy)]
pub(crate) enum Wait {
    /// There is other work.
    No,
    /// As long as it takes, or until this time.
    Until(Option<Instant>),
}

/// How many connections an accept takes.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Accepts {
    /// It is over when one has come.
    One,
    /// It goes on until it fails.
    All,
}

/// Where a descriptor is closed.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Close {
    /// On a thread of the kernel's, since it may block.
    Background,
    /// By the worker.
    Inline,
}

/// What the event loop has found of the kernel, and uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The driver's name.
    pub driver: &'static str,
    /// What it uses beyond the least.
    pub features: Vec<&'static str>,
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.driver, self.features.join(", "))
    }
}

/// What a driver has counted since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DriverCounts {
    pub(crate) enters: u64,
    pub(crate) completions: u64,
    /// Completions of operations whose endpoint is gone.
    pub(crate) stale: u64,
    /// How often an endpoint had to wait for a receive buffer.
    pub(crate) starved: u64,
}

/// One way to do I/O.
pub(crate) enum Driver {
    /// Leaked unless it is shut down: a panic must not free what the kernel still uses.
    IoUring(ManuallyDrop<Box<Uring>>),
    /// A world that is made up, for tests.
    Sim(Box<Sim>),
}

/// Calls the driver that there is.
macro_rules! each {
    ($self:ident, $driver:ident => $call:expr) => {
        match $self {
            Driver::IoUring($driver) => $call,
            Driver::Sim($driver) => $call,
        }
    };
}

impl Driver {
    /// Made on the worker's own thread: a ring belongs to the thread that makes it.
    pub(crate) fn new(config: &RuntimeConfig, wake: OwnedFd) -> Result<Self, Error> {
        match config.driver {
            DriverChoice::Auto | DriverChoice::IoUring => {
                let driver = Uring::new(&config.ring, &config.receive, wake)?;
                Ok(Driver::IoUring(ManuallyDrop::new(Box::new(driver))))
            }
        }
    }

    pub(crate) fn capabilities(&self) -> &Capabilities {
        each!(self, driver => driver.capabilities())
    }

    /// Takes a descriptor in; gives it back when there is no slot left.
    pub(crate) fn open(&mut self, fd: OwnedFd) -> Result<EndpointId, OwnedFd> {
        each!(self, driver => driver.open(fd))
    }

    pub(crate) fn is_open(&self, id: EndpointId) -> bool {
        self.fd(id).is_some()
    }

    /// All endpoints, those that are closing among them.
    pub(crate) fn ids(&self) -> Vec<EndpointId> {
        each!(self, driver => driver.ids())
    }

    /// `None` when the endpoint is closing or gone.
    pub(crate) fn fd(&self, id: EndpointId) -> Option<BorrowedFd<'_>> {
        each!(self, driver => driver.fd(id))
    }

    pub(crate) fn accept(&mut self, id: EndpointId, accepts: Accepts) {
        each!(self, driver => driver.accept(id, accepts));
    }

    pub(crate) fn connect(&mut self, id: EndpointId, address: SockAddr) {
        each!(self, driver => driver.connect(id, address));
    }

    pub(crate) fn stop_accepting(&mut self, id: EndpointId) {
        each!(self, driver => driver.stop_accepting(id));
    }

    pub(crate) fn receive(&mut self, id: EndpointId) {
        each!(self, driver => driver.receive(id));
    }

    pub(crate) fn stop_receiving(&mut self, id: EndpointId) {
        each!(self, driver => driver.stop_receiving(id));
    }

    pub(crate) fn wait_readable(&mut self, id: EndpointId) {
        each!(self, driver => driver.wait_readable(id));
    }

    pub(crate) fn watch(&mut self, id: EndpointId) {
        each!(self, driver => driver.watch(id));
    }

    pub(crate) fn send(&mut self, id: EndpointId, outgoing: Outgoing) {
        each!(self, driver => driver.send(id, outgoing));
    }

    /// Tells the other side that no more will be sent.
    pub(crate) fn shut_down_write(&mut self, id: EndpointId) {
        match self {
            Driver::IoUring(driver) => {
                if let Some(fd) = driver.fd(id) {
                    // It fails only if the connection is gone, which receiving says too.
                    let _ = SockRef::from(&fd).shutdown(Shutdown::Write);
                }
            }
            Driver::Sim(driver) => driver.shut_down_write(id),
        }
    }

    /// Like `close`; the other side of a TCP connection sees a reset.
    pub(crate) fn abort(&mut self, id: EndpointId) {
        match self {
            Driver::IoUring(driver) => {
                if let Some(fd) = driver.fd(id) {
                    // Where it isn't a TCP socket there is nothing to reset.
                    let _ = SockRef::from(&fd).set_linger(Some(Duration::ZERO));
                }
                driver.close(id, Close::Inline);
            }
            Driver::Sim(driver) => driver.abort(id),
        }
    }

    /// The time, which is a made-up one in a made-up world.
    pub(crate) fn now(&self) -> Instant {
        match self {
            Driver::IoUring(_) => Instant::now(),
            Driver::Sim(driver) => driver.now(),
        }
    }

    /// Cancels what is in flight, and closes the descriptor when the last of it is done.
    pub(crate) fn close(&mut self, id: EndpointId, how: Close) {
        each!(self, driver => driver.close(id, how));
    }

    /// Gives the descriptor, if nothing is in flight on it.
    pub(crate) fn release(&mut self, id: EndpointId) -> Option<OwnedFd> {
        each!(self, driver => driver.release(id))
    }

    /// Submits everything, and collects up to `limit` completions.
    pub(crate) fn turn(&mut self, wait: Wait, limit: usize) -> io::Result<()> {
        each!(self, driver => driver.turn(wait, limit))
    }

    /// Whether a turn would find something, as far as that can be seen without a system call.
    pub(crate) fn is_ready(&mut self) -> bool {
        each!(self, driver => driver.is_ready())
    }

    /// The next of the collected completions that concerns an endpoint.
    pub(crate) fn next(&mut self) -> Option<(EndpointId, Completion)> {
        each!(self, driver => driver.next())
    }

    pub(crate) fn counts(&self) -> DriverCounts {
        each!(self, driver => driver.counts())
    }

    /// Closes all endpoints and waits until the kernel has given everything back. Past the limit what it holds is
    /// leaked on purpose: memory that it may still write to must not be used again. False when that was so.
    pub(crate) fn shut_down(self, limit: Duration) -> bool {
        match self {
            Driver::IoUring(driver) => Uring::shut_down(driver, limit),
            Driver::Sim(_) => true, // nothing of it is the kernel's
        }
    }
}
