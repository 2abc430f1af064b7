//! The world of a simulation: its clock, its faults, and the connections between endpoints and the peers of a test.

use bytes::Bytes;
use socket2::{Domain, SockAddr, Socket, Type};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::driver::{Completion, Outgoing};

/// What can go wrong in a simulated world. [`none`](Faults::none) by default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Every completion comes up to this much later than it could.
    pub delay_max: Duration,
    /// Receives and sends get any part of what they could have.
    pub partial: bool,
    /// In so many of a hundred cases a receive finds no buffer, and waits.
    pub starved_percent: u8,
    /// In so many of a hundred cases an accept fails for want of a descriptor.
    pub accept_fails_percent: u8,
    /// At so many of a hundred completions the connection breaks instead.
    pub breaks_percent: u8,
}

impl Faults {
    /// A perfect world.
    pub fn none() -> Self {
        Faults::default()
    }

    /// Everything that a connection may meet with and still work: delays, parts, want of buffers and descriptors.
    pub fn survivable() -> Self {
        Faults {
            delay_max: Duration::from_millis(20),
            partial: true,
            starved_percent: 10,
            accept_fails_percent: 10,
            breaks_percent: 0,
        }
    }

    /// All of that, and connections that break.
    pub fn all() -> Self {
        Faults { breaks_percent: 2, ..Self::survivable() }
    }
}

/// What the driver and the test see of the world.
pub(crate) struct World {
    now: Instant,
    pub(super) random: fastrand::Rng,
    faults: Faults,
    /// Whether something has happened since it was asked last.
    stirred: bool,
    /// Connected sockets that no endpoint has, by descriptor.
    pub(super) unclaimed: BTreeMap<RawFd, Rc<RefCell<Line>>>,
    /// Connections that listeners have not accepted.
    knocking: VecDeque<Rc<RefCell<Line>>>,
    /// What connects meet with. Those to other addresses are refused.
    answers: BTreeMap<SocketAddr, Answer>,
    /// Connects that were answered, and that the test has not looked at.
    answered: VecDeque<Rc<RefCell<Line>>>,
}

/// What a connect to an address meets with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    Accepted,
    Refused,
    /// It waits until it is given up.
    Nothing,
}

/// One connection, between an endpoint and the peer that a test plays.
#[derive(Default)]
pub(crate) struct Line {
    /// Sent by the peer and not received.
    pub(crate) inbound: VecDeque<u8>,
    pub(crate) peer: Ending,
    /// Sent by the endpoint, and not looked at by the test.
    pub(crate) outbound: Vec<u8>,
    /// How many more bytes the peer takes; `None`: any.
    pub(crate) window: Option<usize>,
    pub(crate) own: Ending,
}

/// How far a side has ended a connection.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum Ending {
    /// It still sends.
    #[default]
    Open,
    /// It sends no more.
    Ended,
    /// The connection is closed in order.
    Closed,
    /// The connection is reset.
    Reset,
}

impl World {
    pub(crate) fn new(seed: u64, faults: Faults, now: Instant) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(World {
            now,
            random: fastrand::Rng::with_seed(seed),
            faults,
            stirred: false,
            unclaimed: BTreeMap::new(),
            knocking: VecDeque::new(),
            answers: BTreeMap::new(),
            answered: VecDeque::new(),
        }))
    }

    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// Whether something has happened since the last call.
    pub(crate) fn has_stirred(&mut self) -> bool {
        std::mem::take(&mut self.stirred)
    }

    pub(crate) fn set_now(&mut self, now: Instant) {
        self.now = now;
    }

    /// A connected socket, to be opened on the worker, and its line.
    pub(crate) fn connected(&mut self) -> (OwnedFd, Rc<RefCell<Line>>) {
        let line = Rc::default();
        (self.socket_of(&line), line)
    }

    pub(crate) fn knock(&mut self) -> Rc<RefCell<Line>> {
        let line = Rc::default();
        self.knocking.push_back(Rc::clone(&line));
        line
    }

    pub(crate) fn answer_at(&mut self, address: SocketAddr, answer: Answer) {
        self.answers.insert(address, answer);
    }

    pub(crate) fn answered(&mut self) -> Option<Rc<RefCell<Line>>> {
        self.answered.pop_front()
    }

    /// A descriptor that stands for the line. It is a real one, so that options can be set on it.
    fn socket_of(&mut self, line: &Rc<RefCell<Line>>) -> OwnedFd {
        let socket =
            Socket::new(Domain::IPV4, Type::STREAM, None).expect("the process has a descriptor left");
        self.unclaimed.insert(socket.as_raw_fd(), Rc::clone(line));
        socket.into()
    }

    fn happens(&mut self, percent: u8) -> bool {
        percent > 0 && self.random.u8(0..100) < percent
    }

    /// Up to so many, at least one.
    fn part_of(&mut self, most: usize) -> usize {
        if self.faults.partial && most > 1 { self.random.usize(1..=most) } else { most }
    }

    /// Whether what is possible happens now. If it doesn't, it is on its way.
    pub(super) fn is_due(&mut self, due: &mut Option<Instant>) -> bool {
        let (now, delay_max) = (self.now, self.faults.delay_max);
        let at = *due.get_or_insert_with(|| now + delay_max.mul_f64(self.random.f64()));
        let is_due = at <= now;
        if is_due {
            *due = None;
            self.stirred = true;
        }
        is_due
    }
}

impl World {
    /// Whether there is a connection to be accepted.
    pub(super) fn is_knocked_at(&self) -> bool {
        !self.knocking.is_empty()
    }

    pub(super) fn accept(&mut self) -> Option<Completion> {
        if self.happens(self.faults.accept_fails_percent) {
            return Some(Completion::Accepted(Err(error(libc::EMFILE))));
        }
        let line = self.knocking.pop_front()?;
        Some(Completion::Accepted(Ok(self.socket_of(&line))))
    }

    pub(super) fn answer(&self, address: &SockAddr) -> Answer {
        let known = address.as_socket().and_then(|address| self.answers.get(&address));
        known.copied().unwrap_or(Answer::Refused)
    }

    /// How a connect ends. One that is given up may have been answered at that moment.
    pub(super) fn connect(&mut self, address: &SockAddr, given_up: bool) -> io::Result<Rc<RefCell<Line>>> {
        match self.answer(address) {
            Answer::Refused => return Err(error(libc::ECONNREFUSED)),
            Answer::Nothing => return Err(error(libc::ECANCELED)),
            Answer::Accepted if given_up && self.random.bool() => return Err(error(libc::ECANCELED)),
            Answer::Accepted => {}
        }
        let line = Rc::default();
        self.answered.push_back(Rc::clone(&line));
        Ok(line)
    }
}

impl Line {
    pub(super) fn has_news(&self) -> bool {
        !self.inbound.is_empty() || self.peer != Ending::Open
    }

    /// What a receive of up to so many bytes brings. `None`: it has to wait for a buffer.
    pub(super) fn receive(&mut self, world: &mut World, most: usize) -> Option<Completion> {
        if world.happens(world.faults.starved_percent) {
            return None;
        }
        if world.happens(world.faults.breaks_percent) {
            self.peer = Ending::Reset;
        }
        if self.peer == Ending::Reset {
            return Some(Completion::ReceiveFailed(error(libc::ECONNRESET)));
        }
        let n = self.inbound.len().min(most);
        if n == 0 {
            return Some(Completion::Ended);
        }
        let chunk: Bytes = self.inbound.drain(..world.part_of(n)).collect();
        Some(Completion::Received(chunk))
    }

    /// How many bytes the peer takes.
    pub(super) fn takes(&self) -> usize {
        self.window.unwrap_or(usize::MAX)
    }

    pub(super) fn is_broken(&self) -> bool {
        matches!(self.peer, Ending::Reset | Ending::Closed)
    }

    /// Takes what it may of a send. True when that was all.
    pub(super) fn take(
        &mut self,
        world: &mut World,
        outgoing: &Outgoing,
        taken: &mut usize,
    ) -> io::Result<bool> {
        if world.happens(world.faults.breaks_percent) {
            self.peer = Ending::Reset;
        }
        if self.is_broken() {
            return Err(error(libc::EPIPE));
        }
        let all = outgoing.pieces().iter().map(|piece| piece.as_ref()).collect::<Vec<_>>().concat();
        let rest = &all[*taken..];
        let n = world.part_of(rest.len().min(self.takes()));
        self.outbound.extend_from_slice(&rest[..n]);
        self.window = self.window.map(|window| window - n);
        *taken += n;
        Ok(*taken == all.len())
    }
}

pub(super) fn error(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}
