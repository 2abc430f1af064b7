//! Spare buffers of this thread: what [`Input`](crate::Input) and [`Output`](crate::Output) borrow while they hold
//! bytes. A pipeline never leaves its thread, so the pool needs no lock, and an idle channel keeps no buffer.

use bytes::BytesMut;
use std::cell::RefCell;
use std::collections::VecDeque;

use crate::output::Segments;

/// The size of a fresh buffer, in bytes.
const BUFFER_BYTES: usize = 4 * 1024;
/// A buffer that has grown beyond this is not kept.
pub(crate) const KEPT_BYTES_MAX: usize = 64 * 1024;
/// A list of segments that has grown beyond this many is not kept.
const KEPT_SEGMENTS_MAX: usize = 64;
/// How many buffers of a kind are kept.
const KEPT_MAX: usize = 256;
/// How many gather buffers are looked at before a fresh one is made: the newest may still be shared by frames.
const LOOKED_AT_MAX: usize = 8;

struct Spare {
    outputs: Vec<Vec<u8>>,
    segments: Vec<Segments>,
    gathers: VecDeque<BytesMut>,
}

impl Spare {
    const fn new() -> Self {
        Spare { outputs: Vec::new(), segments: Vec::new(), gathers: VecDeque::new() }
    }
}

thread_local! {
    static SPARE: RefCell<Spare> = const { RefCell::new(Spare::new()) };
}

/// `None` while the thread ends.
fn with<R>(call: impl FnOnce(&mut Spare) -> R) -> Option<R> {
    SPARE.try_with(|spare| call(&mut spare.borrow_mut())).ok()
}

/// An empty buffer with room for so many bytes, for a stage that puts bytes together. Given back with
/// [`recycle_buffer`], it costs no allocation the next time.
#[must_use]
pub fn spare_buffer(capacity: usize) -> BytesMut {
    gather(capacity)
}

/// Takes back a buffer of [`spare_buffer`]; what is in it is lost. What was split off it may still live: it is used
/// again when all of that is gone.
pub fn recycle_buffer(buffer: BytesMut) {
    if buffer.capacity() <= KEPT_BYTES_MAX {
        give_gather(buffer);
    }
}

/// Puts an empty buffer with capacity where there is none.
pub(crate) fn lend_output(place: &mut Vec<u8>) {
    lend_used_output(place);
    place.clear();
}

/// Puts a buffer with capacity where there is none. It still has the length and the bytes of its last use: whoever
/// writes over them anyway need not fill it first.
pub(crate) fn lend_used_output(place: &mut Vec<u8>) {
    with(|spare| {
        if let Some(buffer) = spare.outputs.pop() {
            *place = buffer;
        }
    });
    if place.capacity() == 0 {
        place.reserve_exact(BUFFER_BYTES);
    }
}

/// Takes a buffer back that was lent: its bytes have been taken.
pub(crate) fn give_output(buffer: Vec<u8>) {
    if (1..=KEPT_BYTES_MAX).contains(&buffer.capacity()) {
        with(|spare| {
            if spare.outputs.len() < KEPT_MAX {
                spare.outputs.push(buffer);
            }
        });
    }
}

/// An empty list of segments.
pub(crate) fn segments() -> Segments {
    with(|spare| spare.segments.pop()).flatten().unwrap_or_default()
}

/// Takes an empty list of segments back.
pub(crate) fn give_segments(segments: Segments) {
    if segments.capacity() <= KEPT_SEGMENTS_MAX {
        with(|spare| {
            if spare.segments.len() < KEPT_MAX {
                spare.segments.push(segments);
            }
        });
    }
}

/// An empty buffer with room for `capacity` bytes, to put the parts of a frame together.
pub(crate) fn gather(capacity: usize) -> BytesMut {
    with(|spare| {
        for _ in 0..spare.gathers.len().min(LOOKED_AT_MAX) {
            // The newest is in the processor's cache, if anything is.
            let mut buffer = spare.gathers.pop_back()?;
            if buffer.try_reclaim(capacity) {
                return Some(buffer);
            }
            spare.gathers.push_front(buffer);
        }
        None
    })
    .flatten()
    .unwrap_or_else(|| BytesMut::with_capacity(capacity.max(BUFFER_BYTES)))
}

/// Takes a gather buffer back. Frames cut from it may still live: it is used again when the last of them is gone.
pub(crate) fn give_gather(mut buffer: BytesMut) {
    buffer.clear();
    with(|spare| {
        if spare.gathers.len() < KEPT_MAX {
            spare.gathers.push_back(buffer);
        }
    });
}

/// Frees every spare buffer of this thread, as a worker does when it has been idle for a while.
pub fn release_spare_buffers() {
    with(|spare| *spare = Spare::new());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BY_REFERENCE_BYTES, Input, Output, Segment};

    #[test]
    fn a_gather_buffer_is_used_again_only_when_no_frame_shares_it() {
        release_spare_buffers();
        let mut buffer = gather(BUFFER_BYTES);
        let address = buffer.as_ptr();
        buffer.extend_from_slice(b"frame and rest");
        let frame = buffer.split_to(5).freeze();
        give_gather(buffer);
        let other = gather(BUFFER_BYTES);
        assert_eq!(frame, "frame", "it lives on in its buffer");
        assert!(other.as_ptr() != address);
        drop(frame);
        assert_eq!(gather(BUFFER_BYTES).as_ptr(), address);
    }

    #[test]
    fn memory_that_has_grown_is_not_kept() {
        release_spare_buffers();
        let mut input = Input::default();
        input.push("start of a frame".into());
        input.settle();
        input.push(vec![0; 2 * KEPT_BYTES_MAX].into());
        drop(input.take_all());
        input.settle();

        let mut output = Output::default();
        for _ in 0..KEPT_SEGMENTS_MAX {
            output.put_bytes(vec![0; BY_REFERENCE_BYTES].into());
        }
        output.put_slice(&vec![0; 2 * KEPT_BYTES_MAX]);
        std::iter::from_fn(|| output.pop()).for_each(Segment::recycle);

        let kept = with(|spare| (spare.gathers.len(), spare.segments.len(), spare.outputs.len()));
        assert_eq!(kept, Some((0, 1, 0)), "a list of this many segments is just kept");
        for _ in 0..2 * KEPT_SEGMENTS_MAX {
            output.put_bytes(vec![0; BY_REFERENCE_BYTES].into());
        }
        std::iter::from_fn(|| output.pop()).for_each(Segment::recycle);
        assert_eq!(with(|spare| spare.segments.len()), Some(0));
    }

    #[test]
    fn an_empty_output_holds_no_memory() {
        release_spare_buffers();
        let mut output = Output::default();
        output.put_buf();
        assert!(output.pop().is_none());
        output.put_buf();
        output.put_bytes(vec![0; BY_REFERENCE_BYTES].into());
        output.pop().unwrap().recycle();
        assert_eq!(with(|spare| spare.outputs.len()), Some(1));
    }
}
