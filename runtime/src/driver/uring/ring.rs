//! One ring: its set-up, and the one way into the kernel.
//!
//! Rules for this module:
//!
//! 1. The ring belongs to the thread that made it. `Ring` is not `Send`, so it stays there.
//! 2. A submission that is pushed belongs to the kernel, whatever `enter` returns. Whoever pushes one keeps what it
//!    points to, and its descriptor, until its last completion.
//! 3. `SUBMIT_ALL` is set: an invalid submission gets a completion of its own and does not stop those behind it.

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, squeue};
use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::os::fd::AsRawFd;
use std::time::Instant;

use crate::config::RingConfig;
use crate::driver::Wait;
use crate::{Capabilities, Error};

// From `linux/io_uring.h`. The crate registers a ring only for a short-lived value of its own, and so to no effect.
const REGISTER_RING_FDS: u32 = 20;
const UNREGISTER_RING_FDS: u32 = 21;
/// The descriptor passed to `io_uring_enter` is an index of the thread's registered rings.
const ENTER_REGISTERED_RING: u32 = 1 << 4;

/// `struct io_uring_rsrc_update`.
#[repr(C)]
struct RingFd {
    index: u32,
    reserved: u32,
    fd: u64,
}

pub(super) struct Ring {
    ring: IoUring,
    /// What to call the ring by in `io_uring_enter`.
    name: RingName,
    /// Submissions that had no room in the queue, in order.
    waiting: VecDeque<squeue::Entry>,
    capabilities: Capabilities,
    enters: u64,
    _this_thread: PhantomData<*const ()>,
}

enum RingName {
    Descriptor(i32),
    /// Saves the kernel a look-up of the descriptor, which costs an atomic in a process of several threads.
    Registered(u32),
}

impl Ring {
    pub(super) fn new(config: &RingConfig) -> Result<Self, Error> {
        let mut features = vec!["multishot receive", "provided buffers", "deferred task run"];
        // Newer features first; kernels answer EINVAL for a flag that they don't know.
        let ring = match build(config, true) {
            Err(cause) if cause.raw_os_error() == Some(libc::EINVAL) => build(config, false),
            ring => ring.inspect(|_| features.push("no submission array")),
        };
        let ring = ring.map_err(Error::io_uring)?;
        // A seccomp profile may allow the set-up and refuse this.
        // SAFETY: it submits nothing and waits for nothing.
        unsafe { ring.submitter().enter::<()>(0, 0, 0, None) }.map_err(Error::io_uring)?;
        let name = match register(&ring) {
            Ok(index) => RingName::Registered(index),
            Err(_) => RingName::Descriptor(ring.as_raw_fd()),
        };
        if let RingName::Registered(_) = name {
            features.push("registered ring");
        }
        let capabilities = Capabilities { driver: "io_uring", features };
        Ok(Ring { ring, name, waiting: VecDeque::new(), capabilities, enters: 0, _this_thread: PhantomData })
    }

    pub(super) fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    pub(super) fn submitter(&self) -> io_uring::Submitter<'_> {
        self.ring.submitter()
    }

    pub(super) fn enters(&self) -> u64 {
        self.enters
    }

    /// Queues an operation, to be submitted in the next turn.
    ///
    /// # Safety
    /// Everything that the operation points to, and its descriptor, must stay until its last completion (rule 2).
    #[inline]
    pub(super) unsafe fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: the caller's promise, for this entry.
        let pushed = self.waiting.is_empty() && unsafe { self.ring.submission().push(&entry) }.is_ok();
        if !pushed {
            self.waiting.push_back(entry);
        }
    }

    /// Whether the kernel knows `operation`, which is for no descriptor: if it does, the answer is `EBADF`. Call it a
    /// feature then. Nothing else may be in flight.
    ///
    /// # Safety
    /// What the operation points to must outlive the call.
    pub(super) unsafe fn probe(
        &mut self,
        feature: &'static str,
        operation: squeue::Entry,
    ) -> Result<bool, Error> {
        // SAFETY: the caller's promise; its only completion is awaited.
        unsafe { self.push(operation) };
        let answer = loop {
            self.enter(Wait::Until(None)).map_err(Error::io_uring)?;
            if let Some(completion) = self.pop() {
                break completion.result();
            }
        };
        let known = answer == -libc::EBADF;
        if known {
            self.capabilities.features.push(feature);
        }
        Ok(known)
    }

    /// Takes a completion, if there is one.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<cqueue::Entry> {
        self.ring.completion().next()
    }

    /// Takes up to `limit` completions.
    pub(super) fn drain(&mut self, limit: usize, into: &mut VecDeque<cqueue::Entry>) {
        into.extend(self.ring.completion().take(limit));
    }

    /// Whether there are completions, or work of the kernel's that will make some: seen in shared memory.
    pub(super) fn is_ready(&mut self) -> bool {
        let (_, submission, completion) = self.ring.split();
        submission.taskrun() || submission.cq_overflow() || !completion.is_empty()
    }

    /// Submits what is queued and, if told to, waits for a completion.
    pub(super) fn enter(&mut self, wait: Wait) -> io::Result<()> {
        while !self.waiting.is_empty() {
            self.fill();
            if !self.waiting.is_empty() {
                self.enter_once(Wait::No)?;
            }
        }
        self.enter_once(wait)
    }

    /// Moves waiting submissions into the queue while there is room.
    fn fill(&mut self) {
        let mut submission = self.ring.submission();
        while let Some(entry) = self.waiting.front() {
            // SAFETY: whoever pushed it made the promise.
            if unsafe { submission.push(entry) }.is_err() {
                break;
            }
            self.waiting.pop_front();
        }
    }

    fn enter_once(&mut self, wait: Wait) -> io::Result<()> {
        let submission = self.ring.submission();
        let (to_submit, kernel_has_work) =
            (submission.len(), submission.taskrun() || submission.cq_overflow());
        drop(submission);
        let wanted = match wait {
            Wait::Until(_) if self.ring.completion().is_empty() => 1,
            _ if to_submit == 0 && !kernel_has_work => return Ok(()),
            _ => 0,
        };
        let timespec;
        let mut arguments = SubmitArgs::new();
        if let (1, Wait::Until(Some(deadline))) = (wanted, wait) {
            timespec = Timespec::from(deadline.saturating_duration_since(Instant::now()));
            arguments = arguments.timespec(&timespec);
        }
        let (fd, mut flags) = match self.name {
            RingName::Descriptor(fd) => (fd as u32, 0),
            RingName::Registered(index) => (index, ENTER_REGISTERED_RING),
        };
        flags |= (EnterFlags::GETEVENTS | EnterFlags::EXT_ARG).bits();
        self.enters += 1;
        // SAFETY: the arguments live until the call returns, and have the layout of `io_uring_getevents_arg`, which
        // `EXT_ARG` announces. What the submissions point to is kept by those who pushed them (rule 2).
        let entered = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                fd,
                to_submit as u32,
                wanted as u32,
                flags,
                &raw const arguments,
                size_of_val(&arguments),
            )
        };
        if entered >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // A signal or the deadline ended the wait; or completions must be taken before more can be submitted.
            // Nothing is lost: what was not submitted stays in the queue.
            Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN) => Ok(()),
            _ => Err(error),
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if let RingName::Registered(index) = self.name {
            // The registration would keep the ring until the thread ends. If the call fails, it does.
            let _ = register_call(&self.ring, UNREGISTER_RING_FDS, RingFd { index, reserved: 0, fd: 0 });
        }
    }
}

/// Gives the ring an index among the rings of this thread.
fn register(ring: &IoUring) -> io::Result<u32> {
    let any = RingFd { index: u32::MAX, reserved: 0, fd: ring.as_raw_fd() as u64 };
    register_call(ring, REGISTER_RING_FDS, any).map(|ring| ring.index)
}

fn register_call(ring: &IoUring, operation: u32, mut argument: RingFd) -> io::Result<RingFd> {
    let argument_ptr = &raw mut argument;
    // SAFETY: both operations take an array of `RingFd`, here of one, and use it only during the call.
    let done = unsafe {
        libc::syscall(libc::SYS_io_uring_register, ring.as_raw_fd(), operation, argument_ptr, 1u32)
    };
    if done == 1 { Ok(argument) } else { Err(io::Error::last_os_error()) }
}

fn build(config: &RingConfig, no_submission_array: bool) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(config.completions)
        .setup_clamp();
    if no_submission_array {
        builder.setup_no_sqarray();
    }
    builder.build(config.submissions)
}
