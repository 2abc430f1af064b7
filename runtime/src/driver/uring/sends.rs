//! Sends in flight, with the memory that the kernel reads.
//!
//! Rules for this module:
//!
//! 1. The pieces of a send are not touched, and not dropped, between its submission and its last completion.
//! 2. They lie where a `Vec` or `Bytes` points, and stay there when the entry of the table moves. The list of vectors and the message
//!    header, which the kernel reads too, are boxed for the same reason.

use io_uring::{opcode, squeue, types};
use slab::Slab;
use std::ptr;

use super::ring::Ring;
use crate::Error;
use crate::driver::{Outgoing, PIECES_MAX};

/// In `ioprio`: the address and length of a send are those of a list of vectors. From `linux/io_uring.h`, since
/// Linux 6.17; the crate has no name for it.
const SEND_VECTORIZED: u16 = 1 << 5;
/// Waits inside the kernel until everything has gone; a peer that is gone is no signal.
const FLAGS: i32 = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;

/// All sends of a driver.
pub(super) struct Sends {
    table: Slab<Sending>,
    /// Lists for sends of several pieces, to be used again.
    spare: Vec<Vectors>,
    /// The kernel takes several pieces without a message header, which costs it less.
    vectored: bool,
}

struct Sending {
    outgoing: Outgoing,
    len: usize,
    /// How many bytes earlier attempts have sent.
    sent: usize,
    vectors: Option<Vectors>,
}

#[derive(Default)]
struct Vectors(Box<Message>);

struct Message {
    list: [libc::iovec; PIECES_MAX],
    header: libc::msghdr,
}

/// What a send's completion means.
pub(super) enum Progress {
    /// The kernel took a part: submit the rest.
    Short,
    /// The send is over, and the memory free.
    Over { outgoing: Outgoing, sent: usize },
}

impl Sends {
    /// Asks the kernel what it can do. Nothing may be in flight in the ring yet.
    pub(super) fn new(ring: &mut Ring) -> Result<Self, Error> {
        let nothing = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }];
        // SAFETY: the list outlives the call, which returns after the last completion. There is no descriptor.
        let vectored = unsafe { ring.probe("vectored send", vectored_send(types::Fd(-1), &nothing))? };
        Ok(Sends { table: Slab::new(), spare: Vec::new(), vectored })
    }

    /// The table's key fits 32 bits: there are fewer sends than endpoints.
    pub(super) fn insert(&mut self, outgoing: Outgoing) -> u32 {
        let len = outgoing.len();
        self.table.insert(Sending { outgoing, len, sent: 0, vectors: None }) as u32
    }

    /// The submission for what is not sent yet. It points into the entry's memory (rule 1).
    pub(super) fn submission(&mut self, key: u32, fd: types::Fd) -> squeue::Entry {
        let sending = &mut self.table[key as usize];
        if let Outgoing::One(piece) = &sending.outgoing {
            let rest = &piece.as_ref()[sending.sent..];
            // A longer piece goes in several sends: the length has 32 bits.
            let len = rest.len().min(1 << 30) as u32;
            return opcode::Send::new(fd, rest.as_ptr(), len).flags(FLAGS).build();
        }
        let message = &mut *sending.vectors.get_or_insert_with(|| self.spare.pop().unwrap_or_default()).0;
        let mut skip = sending.sent;
        let mut count = 0;
        for piece in sending.outgoing.pieces() {
            let bytes = piece.as_ref();
            let skipped = skip.min(bytes.len());
            skip -= skipped;
            let rest = &bytes[skipped..];
            if !rest.is_empty() {
                message.list[count] =
                    libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: rest.len() };
                count += 1;
            }
        }
        if self.vectored {
            return vectored_send(fd, &message.list[..count]);
        }
        message.header.msg_iov = message.list.as_mut_ptr();
        message.header.msg_iovlen = count;
        opcode::SendMsg::new(fd, &raw const message.header).flags(FLAGS as u32).build()
    }

    /// The kernel took `n` bytes. `proceed`: a short send is worth going on with.
    pub(super) fn completed(&mut self, key: u32, n: usize, proceed: bool) -> Progress {
        let sending = &mut self.table[key as usize];
        sending.sent += n;
        if proceed && n > 0 && sending.sent < sending.len {
            return Progress::Short;
        }
        let Sending { outgoing, sent, vectors, .. } = self.table.remove(key as usize);
        self.spare.extend(vectors);
        Progress::Over { outgoing, sent }
    }
}

fn vectored_send(fd: types::Fd, list: &[libc::iovec]) -> squeue::Entry {
    const { assert!(size_of::<squeue::Entry>() == 64) };
    let mut entry = opcode::Send::new(fd, list.as_ptr().cast(), list.len() as u32).flags(FLAGS).build();
    // SAFETY: an entry is an `io_uring_sqe` (`repr(C)`, around nothing else), whose second pair of bytes is `ioprio`.
    unsafe { (&raw mut entry).cast::<u16>().add(1).write(SEND_VECTORIZED) };
    entry
}

impl Default for Message {
    fn default() -> Self {
        let empty = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        let header = libc::msghdr {
            msg_name: ptr::null_mut(),
            msg_namelen: 0,
            msg_iov: ptr::null_mut(),
            msg_iovlen: 0,
            msg_control: ptr::null_mut(),
            msg_controllen: 0,
            msg_flags: 0,
        };
        Message { list: [empty; PIECES_MAX], header }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RingConfig;
    use crate::driver::{Piece, Wait};
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    /// Both ways into the kernel, though it has only one of them to choose from: older kernels have no other.
    #[test]
    fn several_pieces_go_with_and_without_a_message_header_also_after_a_part_has_gone() {
        let mut ring = Ring::new(&RingConfig::default()).unwrap();
        let mut sends = Sends::new(&mut ring).unwrap();
        for vectored in [false, sends.vectored] {
            sends.vectored = vectored;
            let (from, mut to) = UnixStream::pair().unwrap();
            for gone in 0..9 {
                let pieces = ["abc", "", "de", "fghi"].map(|piece| Piece::Owned(piece.into()));
                let key = sends.insert(Outgoing::Many(pieces.into()));
                if gone > 0 {
                    assert!(matches!(sends.completed(key, gone, true), Progress::Short));
                }
                let submission = sends.submission(key, types::Fd(from.as_raw_fd()));
                // SAFETY: the pieces and their list stay in `sends` until the completion, which is awaited here.
                unsafe { ring.push(submission) };
                let completion = loop {
                    ring.enter(Wait::Until(None)).unwrap();
                    if let Some(completion) = ring.pop() {
                        break completion;
                    }
                };
                assert_eq!(completion.result(), 9 - gone as i32);
                let over = sends.completed(key, 9 - gone, true);
                assert!(matches!(over, Progress::Over { sent: 9, .. }));
                let mut received = vec![0; 9 - gone];
                to.read_exact(&mut received).unwrap();
                assert_eq!(received, b"abcdefghi"[gone..]);
            }
        }
        assert!(sends.table.is_empty());
    }
}
