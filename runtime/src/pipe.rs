//! Pipes, through which the kernel moves bytes from one socket to another without a copy: splice(2).

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use socket2::SockRef;
use std::io::{self, Read};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;

use crate::config::PipesConfig;

/// The most that one call moves. The kernel takes what there is, up to the room in the pipe.
const CALL_BYTES_MAX: usize = 1 << 30;
const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);
/// Pipes that are kept for the next who needs one. Most are given back in the call in which they were taken.
const SPARE_MAX: usize = 64;

/// Bytes on their way from one socket to another, as far as a pipe holds them. Both sockets must be non-blocking, and
/// the source should treat urgent bytes like others (SO_OOBINLINE, as RFC 6093 recommends) lest they be lost.
///
/// It is lent by [`Io::take_pipe`](crate::Io::take_pipe), and given back empty. Dropped, it is closed, with what it
/// holds.
///
/// A socket whose other side is gone answers with `EPIPE`, and with SIGPIPE, which a Rust program ignores from its start.
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    bytes: usize,
    _counted: Rc<()>,
}

impl Pipe {
    /// Whether there is no byte in it.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Takes bytes from a socket, into the empty pipe: as many as there are and the pipe has room for; 0 if the other side
    /// has ended.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing at present; otherwise why the connection is broken.
    ///
    /// # Panics
    /// If there are bytes in the pipe.
    #[inline]
    pub fn fill(&mut self, from: BorrowedFd<'_>) -> io::Result<usize> {
        assert!(self.is_empty(), "a pipe is emptied before it is filled");
        self.bytes = match splice(from, None, &self.write, None, CALL_BYTES_MAX, FLAGS) {
            Ok(0) | Err(Errno::WOULDBLOCK) => self.fill_urgent(from)?,
            filled => filled?,
        };
        Ok(self.bytes)
    }

    /// splice(2) does not pass a byte that is marked as urgent: what it says there sounds like the end, or like nothing
    /// at present. Reading does, so this byte alone goes through the process.
    #[cold]
    fn fill_urgent(&self, from: BorrowedFd<'_>) -> io::Result<usize> {
        let mut byte = [0];
        let read = (&*SockRef::from(&from)).read(&mut byte)?;
        Ok(rustix::io::write(&self.write, &byte[..read])?)
    }

    /// Gives bytes to a socket: as many as it has room for.
    ///
    /// # Errors
    /// `WouldBlock` when it has no room at present; otherwise why the connection is broken.
    #[inline]
    pub fn drain(&mut self, to: BorrowedFd<'_>) -> io::Result<usize> {
        let n = splice(&self.read, None, to, None, self.bytes, FLAGS)?;
        self.bytes -= n;
        Ok(n)
    }
}

/// The pipes of a worker, of which there are no more than the configuration says.
pub(crate) struct Pipes {
    spare: Vec<Pipe>,
    /// Every pipe that there is has a share in it.
    counter: Rc<()>,
    config: PipesConfig,
    /// Whether it has been said that there are too few.
    complained: bool,
}

impl Pipes {
    pub(crate) fn new(config: &PipesConfig) -> Self {
        Pipes { spare: Vec::new(), counter: Rc::new(()), config: config.clone(), complained: false }
    }

    /// `None`: there is none at present.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<Pipe> {
        self.spare.pop().or_else(|| self.another())
    }

    /// Keeps it for the next, unless there is something in it that is not the next one's.
    #[inline]
    pub(crate) fn give_back(&mut self, pipe: Pipe) {
        if pipe.is_empty() && self.spare.len() < SPARE_MAX {
            self.spare.push(pipe);
        }
    }

    #[cold]
    fn another(&mut self) -> Option<Pipe> {
        let most = self.config.pipes_max;
        if Rc::strong_count(&self.counter) > most {
            self.complain(|| {
                tracing::warn!(most, "relays wait for pipes; runtime.pipes.pipes_max sets how many there are")
            });
            return None;
        }
        match pipe_with(PipeFlags::CLOEXEC) {
            Ok((read, write)) => {
                // Refused beyond /proc/sys/fs/pipe-max-size and pipe-user-pages-soft: then it has the kernel's own size,
                // and more calls are needed.
                let _ = fcntl_setpipe_size(&write, self.config.pipe_bytes);
                Some(Pipe { read, write, bytes: 0, _counted: Rc::clone(&self.counter) })
            }
            Err(error) => {
                self.complain(|| tracing::warn!(%error, "relays wait for pipes; raise the limit of open files (ulimit -n, LimitNOFILE=)"));
                None
            }
        }
    }

    fn complain(&mut self, complaint: impl FnOnce()) {
        if !std::mem::replace(&mut self.complained, true) {
            complaint();
        }
    }
}
