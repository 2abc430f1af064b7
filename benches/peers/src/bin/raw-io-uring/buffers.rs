//! A ring of provided buffers: the kernel takes one when data has come, so that an idle connection
//! holds none.
//!
//! The kernel takes buffers in turn, the one given back longest ago first, which is also the coldest.
//! So the ring is kept short, and refilled with what was given back last; it grows when it runs dry.
//!
//! 1. A buffer is the kernel's while its entry is in the ring, and ours from `take` to `give_back`.
//! 2. Entries past the published tail are ours; `publish` hands them over.
//! 3. The mappings live as long as the process, so no request can outlive them.

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

/// The one buffer group of this server.
pub const GROUP: u16 = 0;

/// How many buffers are in the ring at first: few enough to stay in a cache.
const INITIAL_WINDOW: usize = 16;

pub struct BufferRing {
    entries: *mut BufRingEntry,
    memory: *mut u8,
    count: u16,
    size: u32,
    tail: u16,
    /// Buffers that are neither in the ring nor in use, the hottest last.
    spare: Vec<u16>,
    /// Buffers in the ring, as far as completions tell.
    available: usize,
    /// How many there should be.
    window: usize,
}

impl BufferRing {
    /// Maps and registers `count` buffers, a power of two.
    pub fn new(submitter: &Submitter<'_>, count: u16, size: u32) -> io::Result<Self> {
        let entries = map(usize::from(count) * size_of::<BufRingEntry>())?.cast::<BufRingEntry>();
        let memory = map(usize::from(count) * size as usize)?;
        // SAFETY: the mapping holds `count` entries, page-aligned, and is never unmapped.
        unsafe {
            submitter.register_buf_ring_with_flags(entries as u64, count, GROUP, 0)?;
        }
        let spare = (0..count).rev().collect();
        let window = INITIAL_WINDOW;
        let mut ring = Self { entries, memory, count, size, tail: 0, spare, available: 0, window };
        ring.publish();
        Ok(ring)
    }

    /// The memory of a buffer that a completion has named.
    pub fn take(&mut self, id: u16) -> *mut u8 {
        self.available -= 1;
        self.address(id)
    }

    /// Takes back the buffer that `address` points into.
    pub fn give_back(&mut self, address: *const u8) {
        let offset = address as usize - self.memory as usize;
        self.spare.push((offset / self.size as usize) as u16);
    }

    /// To be told when the ring has run dry: it will hold more from now on.
    pub fn widen(&mut self) {
        self.window = (2 * self.window).min(usize::from(self.count));
    }

    /// Refills the ring, and says whether there was anything to add.
    pub fn publish(&mut self) -> bool {
        let before = self.tail;
        while self.available < self.window
            && let Some(id) = self.spare.pop()
        {
            self.put(id);
        }
        if self.tail == before {
            return false;
        }
        // SAFETY: `entries` points to the first entry of the ring, where the tail lies; the kernel
        // reads it concurrently, hence the atomic, and the mapping is never unmapped.
        let tail = unsafe { &*BufRingEntry::tail(self.entries).cast::<AtomicU16>() };
        // Release: the kernel must see the entries before the tail that covers them.
        tail.store(self.tail, Ordering::Release);
        true
    }

    fn put(&mut self, id: u16) {
        let address = self.address(id);
        let index = usize::from(self.tail & (self.count - 1));
        // SAFETY: the index is in bounds, and an entry at the unpublished tail is ours (rule 2):
        // there are as many entries as buffers, so the ring can't overflow. The fields are set
        // one by one because the published tail lies in the padding of the first entry.
        let entry = unsafe { &mut *self.entries.add(index) };
        entry.set_addr(address as u64);
        entry.set_len(self.size);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        self.available += 1;
    }

    fn address(&self, id: u16) -> *mut u8 {
        debug_assert!(id < self.count);
        // SAFETY: the kernel names only ids that it was given, so the result lies inside `memory`.
        unsafe { self.memory.add(usize::from(id) * self.size as usize) }
    }
}

fn map(length: usize) -> io::Result<*mut u8> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a fresh anonymous mapping touches no memory that exists.
    let address = unsafe { libc::mmap(ptr::null_mut(), length, protection, flags, -1, 0) };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(address.cast())
}
