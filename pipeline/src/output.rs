//! Encoded bytes that the transport has not taken yet.

use bytes::{BufMut, Bytes};
use std::collections::VecDeque;

use crate::spare;

/// `Bytes` from this size on are sent from where they lie instead of being copied.
pub const BY_REFERENCE_BYTES: usize = 4 * 1024;
/// Large `Bytes` are taken from an output in parts of up to this many, so that their progress is seen.
pub const PART_BYTES_MAX: usize = 256 * 1024;

/// Small things are copied into contiguous memory, large `Bytes` are kept by reference. The memory is borrowed from
/// the worker's spare buffers at the first write and goes back when it has been sent: an empty output holds none.
///
/// Multi-byte numbers are written through [`put_buf`](Output::put_buf), which gives the `BufMut` methods of `bytes`.
///
/// ```
/// # use perihelion_pipeline::{Output, Segment};
/// use bytes::{BufMut, Bytes};
/// let mut output = Output::default();
/// output.put_buf().put_u16(5);
/// output.put_slice(b"hello");
/// output.put_bytes(Bytes::from(vec![7; 100_000]));
/// assert_eq!(output.len(), 7 + 100_000);
/// assert_eq!(output.pop().unwrap().as_ref(), b"\0\x05hello");
/// assert!(matches!(output.pop(), Some(Segment::Shared(large)) if large.len() == 100_000));
/// assert!(output.pop().is_none());
/// ```
#[derive(Default)]
pub struct Output {
    /// What is being written to. Without capacity while the output is empty.
    open: Vec<u8>,
    /// Everything before it, in order; there only when something large was written.
    sealed: Option<Segments>,
    /// How many bytes have been popped since the beginning.
    popped: u64,
}

/// Pieces of an output, in order. Behind a pointer, since few outputs have any.
#[derive(Default)]
pub(crate) struct Segments(Box<Pieces>);

#[derive(Default)]
struct Pieces {
    queue: VecDeque<Segment>,
    /// How many bytes they are.
    len: usize,
}

/// A piece of an output, in memory that does not move.
pub enum Segment {
    /// Small things copied together, in a buffer that [`Segment::recycle`] gives back.
    Copied(Vec<u8>),
    /// A large thing, where it lay.
    Shared(Bytes),
}

impl Output {
    /// How many bytes have been written and not popped.
    #[inline]
    pub fn len(&self) -> usize {
        self.open.len() + self.sealed.as_ref().map_or(0, Segments::len)
    }

    /// Whether all that was written has been popped.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty() && self.sealed.is_none()
    }

    /// Copies the bytes.
    #[inline]
    pub fn put_slice(&mut self, bytes: &[u8]) {
        self.put_buf().extend_from_slice(bytes);
    }

    /// Copies the bytes if they are few, otherwise keeps a reference to them.
    #[inline]
    pub fn put_bytes(&mut self, bytes: Bytes) {
        if bytes.len() < BY_REFERENCE_BYTES { self.put_slice(&bytes) } else { self.put_large(bytes) }
    }

    /// The contiguous memory at the end, to append to.
    #[inline]
    pub fn put_buf(&mut self) -> &mut Vec<u8> {
        if self.open.capacity() == 0 {
            spare::lend_output(&mut self.open);
        }
        &mut self.open
    }

    /// Appends what `fill` writes into a slice of `room` bytes: it says how many bytes of it are to be kept. What stands
    /// in the slice before is of other connections, and must not be kept: this is for stages that encrypt or compress,
    /// and not for a codec.
    ///
    /// # Errors
    /// That of `fill`; nothing is appended then.
    ///
    /// # Panics
    /// If more is to be kept than there is room for.
    #[doc(hidden)]
    pub fn put_with<E>(
        &mut self,
        room: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<(), E> {
        let end = self.open.len();
        if self.open.capacity() == 0 {
            spare::lend_used_output(&mut self.open);
        }
        self.open.resize(end + room, 0);
        let filled = fill(&mut self.open[end..]);
        let kept = *filled.as_ref().unwrap_or(&0);
        assert!(kept <= room, "{kept} bytes can't be kept of {room}");
        self.open.truncate(end + kept);
        filled.map(drop)
    }

    /// How many bytes have been popped since the beginning.
    pub(crate) fn popped(&self) -> u64 {
        self.popped
    }

    /// How many bytes have been written since the beginning.
    pub(crate) fn end(&self) -> u64 {
        self.popped + self.len() as u64
    }

    /// Takes the next piece.
    #[inline]
    pub fn pop(&mut self) -> Option<Segment> {
        let segment = self.pop_any()?;
        self.popped += segment.len() as u64;
        Some(segment)
    }

    #[inline]
    fn pop_any(&mut self) -> Option<Segment> {
        if self.sealed.is_some() {
            return self.pop_sealed();
        }
        if self.open.capacity() == 0 {
            return None;
        }
        let open = Segment::Copied(std::mem::take(&mut self.open));
        if open.is_empty() {
            open.recycle();
            return None;
        }
        Some(open)
    }

    #[cold]
    fn put_large(&mut self, bytes: Bytes) {
        let open = std::mem::take(&mut self.open);
        let sealed = self.sealed.get_or_insert_with(spare::segments);
        sealed.push(Segment::Copied(open));
        sealed.push(Segment::Shared(bytes));
    }

    #[cold]
    fn pop_sealed(&mut self) -> Option<Segment> {
        let mut sealed = self.sealed.take()?;
        let segment = sealed.pop();
        if sealed.len() == 0 {
            spare::give_segments(sealed);
        } else {
            self.sealed = Some(sealed);
        }
        segment
    }
}

impl Segments {
    fn len(&self) -> usize {
        self.0.len
    }

    fn push(&mut self, segment: Segment) {
        if segment.is_empty() {
            return segment.recycle();
        }
        self.0.len += segment.len();
        self.0.queue.push_back(segment);
    }

    fn pop(&mut self) -> Option<Segment> {
        let segment = match self.0.queue.front_mut()? {
            Segment::Shared(bytes) if bytes.len() > PART_BYTES_MAX => {
                Some(Segment::Shared(bytes.split_to(PART_BYTES_MAX)))
            }
            _ => self.0.queue.pop_front(),
        }?;
        self.0.len -= segment.len();
        Some(segment)
    }

    /// How many pieces it has memory for.
    pub(crate) fn capacity(&self) -> usize {
        self.0.queue.capacity()
    }
}

impl Segment {
    /// How many bytes it is; never zero in an [`Output`].
    #[inline]
    pub fn len(&self) -> usize {
        self.as_ref().len()
    }

    /// Whether it has no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives its memory back once the bytes have been sent.
    #[inline]
    pub fn recycle(self) {
        if let Segment::Copied(buffer) = self {
            spare::give_output(buffer);
        }
    }
}

impl AsRef<[u8]> for Segment {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        match self {
            Segment::Copied(bytes) => bytes,
            Segment::Shared(bytes) => bytes,
        }
    }
}

/// `write!` into an output.
impl std::io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.put_buf().put_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
