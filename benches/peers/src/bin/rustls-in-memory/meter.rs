//! What the server's half uses.

use std::io;
use std::time::Duration;

/// Adds up the CPU time of some calls.
#[derive(Default)]
pub struct Stopwatch {
    pub total: Duration,
}

impl Stopwatch {
    pub fn time<R>(&mut self, call: impl FnOnce() -> R) -> R {
        let start = cpu_time();
        let result = call();
        self.total += cpu_time() - start;
        result
    }
}

/// What this thread has run for: whatever else runs on this CPU is not in it.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to `time` only.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// How much of glibc's heap is in use, with what the allocator needs for itself.
pub fn heap_bytes() -> usize {
    // SAFETY: the call has no argument.
    let info = unsafe { libc::mallinfo2() };
    info.uordblks + info.hblkhd
}
