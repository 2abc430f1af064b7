//! The endpoints' descriptors: open until the last operation on them is done.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use crate::EndpointId;
use crate::driver::{Accepts, Close};
use crate::token::{SLOTS_MAX, next_generation};

/// No entry of another table.
pub(super) const NONE: u32 = u32::MAX;

#[derive(Default)]
pub(super) struct Sockets {
    slots: Vec<Socket>,
    free: Vec<u32>,
}

pub(super) struct Socket {
    /// `None`: the slot is free.
    fd: Option<OwnedFd>,
    generation: u32,
    pub(super) state: State,
    pub(super) inbound: Inbound,
    /// Of a listener: what was asked for last.
    pub(super) accepts: Accepts,
    /// Operations whose last completion has not come.
    pub(super) in_flight: u8,
    /// The send or connect in flight, in the table of its kind.
    pub(super) outbound: u32,
    /// Whether a watch for room and breaks is in flight.
    pub(super) watched: bool,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum State {
    Open,
    /// It takes no new operation, and is closed when the last one is done.
    Closing(Close),
}

/// Receiving, accepting, or waiting for bytes.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Inbound {
    /// The kernel posts a completion for whatever comes in.
    Armed,
    Off,
    /// Like `Stopping`, but wanted again since.
    Restarting,
    /// It waits for a buffer.
    Starved,
    /// The cancellation is on its way. What comes in until then is delivered.
    Stopping,
}

impl Sockets {
    pub(super) fn insert(&mut self, fd: OwnedFd) -> Result<EndpointId, OwnedFd> {
        let slot = match self.free.pop() {
            Some(slot) => slot as usize,
            None if self.slots.len() == SLOTS_MAX => return Err(fd),
            None => {
                self.slots.push(Socket {
                    fd: None,
                    generation: 0,
                    state: State::Closing(Close::Inline),
                    inbound: Inbound::Off,
                    accepts: Accepts::All,
                    in_flight: 0,
                    outbound: NONE,
                    watched: false,
                });
                self.slots.len() - 1
            }
        };
        let socket = &mut self.slots[slot];
        (socket.fd, socket.state) = (Some(fd), State::Open);
        Ok(EndpointId::new(slot, socket.generation))
    }

    /// Whoever has this name, open or closing.
    #[inline]
    pub(super) fn get_mut(&mut self, id: EndpointId) -> Option<&mut Socket> {
        let socket = self.slots.get_mut(id.slot())?;
        (socket.generation == id.generation() && socket.fd.is_some()).then_some(socket)
    }

    /// Whoever has this name and is open.
    #[inline]
    pub(super) fn open_mut(&mut self, id: EndpointId) -> Option<&mut Socket> {
        self.get_mut(id).filter(|socket| socket.state == State::Open)
    }

    pub(super) fn fd(&self, id: EndpointId) -> Option<BorrowedFd<'_>> {
        let socket = self.slots.get(id.slot())?;
        let open = socket.generation == id.generation() && socket.state == State::Open;
        socket.fd.as_ref().filter(|_| open).map(AsFd::as_fd)
    }

    /// Frees the slot of one that is closing and has nothing in flight, and gives its descriptor to be closed.
    pub(super) fn remove_if_done(&mut self, id: EndpointId) -> Option<(OwnedFd, Close)> {
        let socket = self.get_mut(id)?;
        let (State::Closing(how), 0) = (socket.state, socket.in_flight) else { return None };
        let fd = socket.fd.take()?;
        socket.generation = next_generation(socket.generation);
        socket.inbound = Inbound::Off;
        self.free.push(id.slot() as u32);
        Some((fd, how))
    }

    /// Those that have a descriptor.
    pub(super) fn ids(&self) -> Vec<EndpointId> {
        let taken = self.slots.iter().enumerate().filter(|(_, socket)| socket.fd.is_some());
        taken.map(|(slot, socket)| EndpointId::new(slot, socket.generation)).collect()
    }
}

impl Socket {
    #[inline]
    pub(super) fn raw_fd(&self) -> RawFd {
        self.fd.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }
}
