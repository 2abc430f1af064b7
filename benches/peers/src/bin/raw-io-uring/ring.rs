//! The ring: set-up, and one `io_uring_enter` per turn.

use std::hint::spin_loop;
use std::io;
use std::time::{Duration, Instant};

use io_uring::squeue::{Entry, SubmissionQueue};
use io_uring::{CompletionQueue, EnterFlags, IoUring, Submitter};

const SUBMISSIONS: u32 = 4096;
/// A multishot request completes many times for one submission.
const COMPLETIONS: u32 = 4 * SUBMISSIONS;

pub fn build() -> io::Result<IoUring> {
    // NO_SQARRAY is of Linux 6.6, the rest of 6.1.
    builder().setup_no_sqarray().build(SUBMISSIONS).or_else(|_| builder().build(SUBMISSIONS))
}

fn builder() -> io_uring::Builder {
    let mut builder = IoUring::builder();
    builder
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(COMPLETIONS)
        .setup_clamp();
    builder
}

/// The submitting half of a ring.
///
/// It keeps one `Submitter` for life: the registered ring descriptor is known to that value alone,
/// and `IoUring::submit` makes a new one at each call.
pub struct Ring<'r> {
    submitter: Submitter<'r>,
    submissions: SubmissionQueue<'r>,
}

impl<'r> Ring<'r> {
    pub fn new(mut submitter: Submitter<'r>, submissions: SubmissionQueue<'r>) -> io::Result<Self> {
        submitter.register_ring_fd()?;
        Ok(Self { submitter, submissions })
    }

    pub fn submitter(&self) -> &Submitter<'r> {
        &self.submitter
    }

    /// Queues a request for the next `enter`.
    ///
    /// # Safety
    ///
    /// What the request points to must stay valid until its last completion, or until the next
    /// `enter` if the kernel copies it at submission (message headers, time specifications).
    pub unsafe fn push(&mut self, request: &Entry) -> io::Result<()> {
        // SAFETY: the caller's promise is the one that the queue asks for.
        while unsafe { self.submissions.push(request) }.is_err() {
            self.enter(0)?;
        }
        Ok(())
    }

    /// Waits for completions: by watching shared memory for up to `spin`, then asleep.
    pub fn wait(
        &mut self,
        completions: &mut CompletionQueue<'_>,
        spin: Duration,
    ) -> io::Result<()> {
        if spin.is_zero() {
            self.enter(1)?;
            completions.sync();
            return Ok(());
        }
        if !self.submissions.is_empty() {
            self.enter(0)?;
        }
        completions.sync();
        let started = Instant::now();
        while CompletionQueue::is_empty(completions) {
            if self.submissions.taskrun() {
                self.enter(0)?;
            } else if started.elapsed() >= spin {
                self.enter(1)?;
            } else {
                spin_loop();
            }
            completions.sync();
        }
        Ok(())
    }

    /// Submits all that is queued, runs deferred work and waits for `want` completions. On return
    /// the submission queue is empty.
    fn enter(&mut self, want: u32) -> io::Result<()> {
        loop {
            self.submissions.sync();
            let pending = self.submissions.len() as u32;
            // GETEVENTS even when nothing is awaited: DEFER_TASKRUN posts completions only then.
            let flags = EnterFlags::GETEVENTS.bits();
            // SAFETY: no argument is passed, and `push` has vouched for what is submitted.
            match unsafe { self.submitter.enter::<()>(pending, want, flags, None) } {
                Ok(_) => {}
                // A signal, or the kernel is short of memory: the rest is submitted next time round.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) => {}
                Err(error) => return Err(error),
            }
            self.submissions.sync();
            if self.submissions.is_empty() {
                return Ok(());
            }
        }
    }
}
