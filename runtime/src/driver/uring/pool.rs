//! The receive pool: buffers that are lent to the kernel, which picks one when bytes arrive.
//!
//! Rules for this module:
//!
//! 1. A buffer is in one place: `held` by the kernel, from its publication until a completion names it; or `kept`,
//!    while frames cut from it live; or with nobody.
//! 2. While the kernel holds a buffer nobody touches its memory, and nothing frees it: the pool is dropped only when
//!    the driver has no operation in flight, otherwise it is leaked.
//! 3. The memory of a buffer is on the heap and stays where it is when its `BytesMut` is moved.
//! 4. The ring of entries is written by this side only, the tail last, and read by the kernel.

use bytes::{Bytes, BytesMut};
use io_uring::{Submitter, types::BufRingEntry};
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use crate::Error;
use crate::config::ReceiveConfig;

/// The buffer group's number in its ring.
pub(super) const GROUP: u16 = 0;
/// Kept buffers that are looked at in a turn, to see whether they are free again.
const LOOKED_AT_MAX: usize = 64;
/// How long a pool must have been large enough before it gets smaller by half.
const SHRINK_AFTER: Duration = Duration::from_secs(1);

pub(super) struct ReceivePool {
    entries: NonNull<BufRingEntry>,
    layout: Layout,
    mask: u16,
    tail: u16,
    /// What the kernel holds, by the number it knows a buffer by.
    held: Vec<Option<BytesMut>>,
    free_numbers: Vec<u16>,
    /// Buffers whose bytes live on in frames.
    kept: VecDeque<BytesMut>,
    kept_max: usize,
    buffer_bytes: usize,
    /// How many buffers there are to be: at first, now, and at most.
    target_min: usize,
    target: usize,
    target_max: usize,
    /// No change before this.
    shrink_at: Instant,
}

impl ReceivePool {
    pub(super) fn new(config: &ReceiveConfig, ring: Submitter<'_>) -> Result<Self, Error> {
        let capacity = config.buffers_max.next_power_of_two();
        let layout = Layout::array::<BufRingEntry>(capacity)
            .and_then(|layout| layout.align_to(4096))
            .expect("the configuration bounds the number of buffers");
        // SAFETY: the layout has a size: there are at least two buffers.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(entries) = NonNull::new(memory.cast::<BufRingEntry>()) else { handle_alloc_error(layout) };
        let numbers = u16::try_from(capacity).expect("the configuration bounds the number of buffers");
        let mut pool = ReceivePool {
            entries,
            layout,
            mask: numbers - 1,
            tail: 0,
            held: (0..config.buffers_max).map(|_| None).collect(),
            free_numbers: (0..config.buffers_max as u16).rev().collect(),
            kept: VecDeque::new(),
            kept_max: config.buffers_kept_max,
            buffer_bytes: config.buffer_bytes,
            target_min: config.buffers,
            target: config.buffers,
            target_max: config.buffers_max,
            shrink_at: Instant::now(),
        };
        // SAFETY: the memory is page-aligned, has room for `numbers` entries, and lives until the pool is dropped,
        // which by rule 2 is after the kernel's last use.
        unsafe { ring.register_buf_ring_with_flags(entries.as_ptr() as u64, numbers, GROUP, 0) }
            .map_err(Error::io_uring)?;
        pool.fill();
        Ok(pool)
    }

    /// Takes the `n` bytes that the kernel has put into a buffer.
    #[inline]
    pub(super) fn take(&mut self, number: u16, n: usize) -> Bytes {
        let mut buffer =
            self.held[usize::from(number)].take().expect("the kernel holds the buffer that it names");
        self.free_numbers.push(number);
        debug_assert!(n <= buffer.capacity());
        // SAFETY: the kernel has written `n` bytes from the start of the buffer, which has room for them.
        unsafe { buffer.set_len(n) };
        if self.kept.len() >= self.kept_max {
            // Handlers keep their share already. What they get now is a copy, and the buffer goes back at once.
            let copy = Bytes::copy_from_slice(&buffer);
            buffer.clear();
            self.give(buffer);
            return copy;
        }
        let bytes = buffer.split_to(n).freeze();
        self.kept.push_back(buffer);
        bytes
    }

    /// Takes the newest buffer back if nobody kept anything of it: the usual case, right after it was handled.
    #[inline]
    pub(super) fn reclaim_newest(&mut self) {
        if let Some(mut buffer) = self.kept.pop_back() {
            if buffer.try_reclaim(self.buffer_bytes) {
                self.give(buffer);
            } else {
                self.kept.push_back(buffer);
            }
        }
    }

    /// Takes back some of those buffers that were kept and are free by now.
    pub(super) fn reclaim_kept(&mut self) {
        for _ in 0..self.kept.len().min(LOOKED_AT_MAX) {
            let Some(mut buffer) = self.kept.pop_front() else { break };
            if buffer.try_reclaim(self.buffer_bytes) {
                self.give(buffer);
            } else {
                self.kept.push_back(buffer);
            }
        }
    }

    /// There were too few buffers.
    pub(super) fn grow(&mut self) {
        // More than there are: those that handlers keep are of no use to the kernel.
        let there_are = self.held() + self.kept.len();
        self.target = (self.target.max(there_are) * 2).min(self.target_max);
        self.shrink_at = Instant::now() + SHRINK_AFTER;
        self.fill();
    }

    /// The worker is about to sleep. A pool that has grown gets smaller if it has been large enough for a while:
    /// buffers beyond the target are freed as they come back from the kernel.
    #[inline]
    pub(super) fn rest(&mut self) {
        if self.target > self.target_min {
            let now = Instant::now();
            if now >= self.shrink_at {
                self.target = (self.target / 2).max(self.target_min).max(self.kept.len() + 1);
                self.shrink_at = now + SHRINK_AFTER;
            }
        }
    }

    /// How many buffers the kernel holds: those that it can still pick, and those that it has filled.
    #[inline]
    pub(super) fn held(&self) -> usize {
        self.held.len() - self.free_numbers.len()
    }

    fn fill(&mut self) {
        while self.held() + self.kept.len() < self.target {
            self.publish(BytesMut::with_capacity(self.buffer_bytes));
        }
    }

    /// Lends a buffer that has been used to the kernel again.
    #[inline]
    fn give(&mut self, buffer: BytesMut) {
        debug_assert!(buffer.is_empty() && buffer.capacity() >= self.buffer_bytes);
        if self.held() + self.kept.len() < self.target {
            self.publish(buffer);
        }
    }

    #[inline]
    fn publish(&mut self, mut buffer: BytesMut) {
        let number = self.free_numbers.pop().expect("there are as many numbers as there may be buffers");
        // SAFETY: the index is masked to the ring's size. The kernel does not read this entry before the tail below
        // says that it may, and has read the one that stood here before: there are no more buffers than entries.
        let entry = unsafe { self.entries.add(usize::from(self.tail & self.mask)).as_mut() };
        entry.set_addr(buffer.as_mut_ptr() as u64);
        entry.set_len(self.buffer_bytes as u32);
        entry.set_bid(number);
        self.held[usize::from(number)] = Some(buffer);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail lies in the first entry of the ring, aligned for its type, where no other field of an
        // entry is (`io_uring_buf_ring` in `linux/io_uring.h`); both sides access it as an atomic.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries.as_ptr()).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for ReceivePool {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and by rule 2 the kernel no longer uses it.
        unsafe { dealloc(self.entries.as_ptr().cast(), self.layout) };
    }
}
