//! Readiness: when a descriptor that is read and written without the ring has bytes, or room for them.
//!
//! Rule for this module: both submissions point to nothing, and the socket counts them (rule 2 of the driver).
//!
//! No wake-up is lost. Waiting for bytes is one-shot, and the kernel looks for bytes once more when it has taken the
//! wait: so it makes no difference whether they came before or after, and whoever reads need not read until there is
//! nothing left. (A multishot wait is edge-triggered, with or without `IORING_POLL_ADD_LEVEL`. It saves an entry in the
//! next submission, but then a system call must find that there is nothing left.)
//!
//! Room is not waited for in this way, since such a wait also ends when the other side has ended (`IO_POLL_UNMASK` in
//! the kernel's `io_uring/poll.c`), and so at once for the rest of a half-closed connection's life. The watch is
//! multishot: a completion comes for each change. That is enough for room, because a socket that has refused bytes marks
//! itself under its lock (`SOCK_NOSPACE`), and whoever makes room afterwards finds the mark and wakes the watch.

use io_uring::{opcode, types};
use libc::{POLLERR, POLLIN, POLLOUT};
use socket2::SockRef;
use std::io;

use super::Uring;
use crate::EndpointId;
use crate::driver::Completion;
use crate::driver::sockets::{Inbound, State};
use crate::token::{Kind, Token};

impl Uring {
    pub(in crate::driver) fn wait_readable(&mut self, id: EndpointId) {
        let Some(socket) = self.sockets.open_mut(id).filter(|socket| socket.inbound == Inbound::Off) else {
            return;
        };
        socket.inbound = Inbound::Armed;
        socket.in_flight += 1;
        let submission = opcode::PollAdd::new(types::Fd(socket.raw_fd()), POLLIN as u32).build();
        // SAFETY: the rule of this module.
        unsafe { self.submit(submission, Token { kind: Kind::Readable, id }) };
    }

    pub(in crate::driver) fn watch(&mut self, id: EndpointId) {
        let Some(socket) = self.sockets.open_mut(id).filter(|socket| !socket.watched) else { return };
        socket.watched = true;
        socket.in_flight += 1;
        let submission = opcode::PollAdd::new(types::Fd(socket.raw_fd()), POLLOUT as u32).multi(true).build();
        // SAFETY: the rule of this module.
        unsafe { self.submit(submission, Token { kind: Kind::Watch, id }) };
    }

    pub(super) fn readable(&mut self, id: EndpointId, result: io::Result<u32>) -> Option<Completion> {
        self.inbound_completed(id, false)?;
        Some(result.map_or_else(Completion::Broken, |_| Completion::Readable))
    }

    pub(super) fn watched(
        &mut self,
        id: EndpointId,
        result: io::Result<u32>,
        more: bool,
    ) -> Option<Completion> {
        let Some(socket) = self.sockets.get_mut(id) else {
            self.counts.stale += 1;
            return None;
        };
        if !more {
            socket.in_flight -= 1;
            socket.watched = false;
        }
        if socket.state != State::Open {
            self.close_if_done(id);
            return None;
        }
        let events = match result {
            Ok(events) => events as i16,
            Err(error) => return Some(Completion::Broken(error)),
        };
        if !more {
            // The completion queue was full. A new watch begins with what it finds.
            self.watch(id);
        }
        if events & POLLERR != 0
            && let Some(error) = self.fd(id).and_then(|fd| SockRef::from(&fd).take_error().ok().flatten())
        {
            return Some(Completion::Broken(error));
        }
        (events & POLLOUT != 0).then_some(Completion::Writable)
    }
}
