//! A driver for a world that is made up: a virtual clock, peers that a test plays, and faults by a seed.
//!
//! It keeps the same books as the real one. What is in flight when an endpoint closes completes later, and its slot and
//! descriptor are free only then. Nothing here is random but by the seed, so a run can be repeated.

use bytes::Bytes;
use socket2::{Domain, SockAddr, Socket, Type};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::sockets::{Inbound, NONE, Sockets, State};
use super::{Capabilities, Close, Completion, DriverCounts, Outgoing, Wait};
use crate::EndpointId;

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
    random: fastrand::Rng,
    faults: Faults,
    /// Whether something has happened since it was asked last.
    stirred: bool,
    /// Connected sockets that no endpoint has, by descriptor.
    unclaimed: BTreeMap<RawFd, Rc<RefCell<Line>>>,
    /// Connections that listeners have not accepted.
    knocking: VecDeque<Rc<RefCell<Line>>>,
    /// Where connects are answered.
    answering: Vec<SocketAddr>,
    /// Connects that were answered, and that the test has not looked at.
    answered: VecDeque<Rc<RefCell<Line>>>,
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

pub(crate) struct Sim {
    world: Rc<RefCell<World>>,
    sockets: Sockets,
    /// By slot.
    under_way: Vec<UnderWay>,
    collected: VecDeque<(EndpointId, Completion)>,
    receive_bytes: usize,
    counts: DriverCounts,
    capabilities: Capabilities,
}

/// What an endpoint has in flight.
#[derive(Default)]
struct UnderWay {
    line: Option<Rc<RefCell<Line>>>,
    accepts: bool,
    inbound_due: Option<Instant>,
    outbound: Option<Outbound>,
    outbound_due: Option<Instant>,
}

enum Outbound {
    Connect(SockAddr),
    Send { outgoing: Outgoing, taken: usize },
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
            answering: Vec::new(),
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

    pub(crate) fn answer_at(&mut self, address: SocketAddr) {
        self.answering.push(address);
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
    fn is_due(&mut self, due: &mut Option<Instant>) -> bool {
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

impl Sim {
    pub(crate) fn new(world: Rc<RefCell<World>>, receive_bytes: usize) -> Self {
        Sim {
            world,
            sockets: Sockets::default(),
            under_way: Vec::new(),
            collected: VecDeque::new(),
            receive_bytes,
            counts: DriverCounts::default(),
            capabilities: Capabilities { driver: "simulation", features: Vec::new() },
        }
    }

    /// When the next of what is on its way arrives.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.under_way
            .iter()
            .flat_map(|under_way| [under_way.inbound_due, under_way.outbound_due])
            .flatten()
            .min()
    }

    pub(super) fn now(&self) -> Instant {
        self.world.borrow().now
    }

    pub(super) fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    pub(super) fn counts(&self) -> DriverCounts {
        self.counts
    }

    pub(super) fn open(&mut self, fd: OwnedFd) -> Result<EndpointId, OwnedFd> {
        let line = self.world.borrow_mut().unclaimed.remove(&fd.as_raw_fd());
        let id = self.sockets.insert(fd)?;
        if self.under_way.len() <= id.slot() {
            self.under_way.resize_with(id.slot() + 1, UnderWay::default);
        }
        self.under_way[id.slot()] = UnderWay { line, ..UnderWay::default() };
        Ok(id)
    }

    pub(super) fn ids(&self) -> Vec<EndpointId> {
        self.sockets.ids()
    }

    pub(super) fn fd(&self, id: EndpointId) -> Option<BorrowedFd<'_>> {
        self.sockets.fd(id)
    }

    pub(super) fn accept(&mut self, id: EndpointId) {
        self.receive(id);
        if let Some(under_way) = self.under_way.get_mut(id.slot()) {
            under_way.accepts = true;
        }
    }

    pub(super) fn receive(&mut self, id: EndpointId) {
        let Some(socket) = self.sockets.open_mut(id) else { return };
        match socket.inbound {
            Inbound::Off => {
                socket.inbound = Inbound::Armed;
                socket.in_flight += 1;
            }
            Inbound::Stopping => socket.inbound = Inbound::Restarting,
            Inbound::Armed | Inbound::Restarting | Inbound::Starved => {}
        }
    }

    pub(super) fn stop_accepting(&mut self, id: EndpointId) {
        self.stop_receiving(id);
    }

    pub(super) fn stop_receiving(&mut self, id: EndpointId) {
        let Some(socket) = self.sockets.open_mut(id) else { return };
        if let Inbound::Armed | Inbound::Restarting = socket.inbound {
            socket.inbound = Inbound::Stopping;
        }
    }

    pub(super) fn connect(&mut self, id: EndpointId, address: SockAddr) {
        self.start_outbound(id, Outbound::Connect(address));
    }

    pub(super) fn send(&mut self, id: EndpointId, outgoing: Outgoing) {
        self.start_outbound(id, Outbound::Send { outgoing, taken: 0 });
    }

    fn start_outbound(&mut self, id: EndpointId, outbound: Outbound) {
        let Some(socket) = self.sockets.open_mut(id) else { return };
        assert_eq!(socket.outbound, NONE, "an endpoint has one send or connect at a time");
        socket.outbound = 0;
        socket.in_flight += 1;
        self.under_way[id.slot()].outbound = Some(outbound);
    }

    pub(super) fn shut_down_write(&mut self, id: EndpointId) {
        self.end_line(id, Ending::Ended);
    }

    pub(super) fn abort(&mut self, id: EndpointId) {
        self.end_line(id, Ending::Reset);
        self.close(id, Close::Inline);
    }

    pub(super) fn close(&mut self, id: EndpointId, how: Close) {
        let Some(socket) = self.sockets.open_mut(id) else { return };
        socket.state = State::Closing(how);
        self.end_line(id, Ending::Closed);
        self.close_if_done(id);
    }

    /// As a kernel does, it resets a connection that is closed before all that came was received.
    fn end_line(&mut self, id: EndpointId, ending: Ending) {
        let Some(line) = self.under_way.get(id.slot()).and_then(|under_way| under_way.line.clone()) else {
            return;
        };
        let line = &mut *line.borrow_mut();
        let unread = ending == Ending::Closed && !line.inbound.is_empty();
        match line.own {
            Ending::Open | Ending::Ended => line.own = if unread { Ending::Reset } else { ending },
            Ending::Closed | Ending::Reset => {}
        }
    }

    pub(super) fn release(&mut self, id: EndpointId) -> Option<OwnedFd> {
        let socket = self.sockets.open_mut(id).filter(|socket| socket.in_flight == 0)?;
        socket.state = State::Closing(Close::Inline);
        let (fd, _) = self.sockets.remove_if_done(id)?;
        if let Some(line) = self.under_way[id.slot()].line.take() {
            self.world.borrow_mut().unclaimed.insert(fd.as_raw_fd(), line);
        }
        Some(fd)
    }

    /// Never waits: time passes only when the simulation says so.
    pub(super) fn turn(&mut self, _wait: Wait, limit: usize) -> io::Result<()> {
        self.counts.enters += 1;
        let mut ids = self.sockets.ids();
        self.world.borrow_mut().random.shuffle(&mut ids);
        for id in ids {
            if self.collected.len() >= limit {
                break;
            }
            self.inbound_goes_on(id);
            self.outbound_goes_on(id);
            self.close_if_done(id);
        }
        Ok(())
    }

    pub(super) fn is_ready(&mut self) -> bool {
        !self.collected.is_empty()
    }

    pub(super) fn next(&mut self) -> Option<(EndpointId, Completion)> {
        loop {
            let (id, completion) = self.collected.pop_front()?;
            self.counts.completions += 1;
            if self.sockets.open_mut(id).is_some() {
                return Some((id, completion));
            }
            self.counts.stale += 1;
        }
    }

    fn close_if_done(&mut self, id: EndpointId) {
        drop(self.sockets.remove_if_done(id));
    }

    fn inbound_goes_on(&mut self, id: EndpointId) {
        let Some(socket) = self.sockets.get_mut(id) else { return };
        let (under_way, world) = (&mut self.under_way[id.slot()], &mut *self.world.borrow_mut());
        let stopped = socket.state != State::Open || socket.inbound == Inbound::Stopping;
        let possible = match socket.inbound {
            Inbound::Off | Inbound::Starved => return,
            Inbound::Armed if stopped => true,
            Inbound::Armed if under_way.accepts => !world.knocking.is_empty(),
            Inbound::Armed => under_way.line.as_ref().is_some_and(|line| line.borrow().has_news()),
            Inbound::Stopping | Inbound::Restarting => true,
        };
        if !possible || !world.is_due(&mut under_way.inbound_due) {
            return;
        }
        if socket.inbound == Inbound::Restarting && !stopped {
            socket.inbound = Inbound::Armed;
            return;
        }
        // What was on its way when receiving was stopped may still come.
        let comes_late = stopped && world.random.bool() && under_way.has_bytes();
        if stopped && !comes_late {
            socket.inbound = Inbound::Off;
            socket.in_flight -= 1;
            if socket.state != State::Open {
                self.counts.stale += 1;
            }
            return;
        }
        let completion =
            if under_way.accepts { world.accept() } else { under_way.receive(world, self.receive_bytes) };
        let Some(completion) = completion else {
            self.counts.starved += 1;
            return;
        };
        if !matches!(completion, Completion::Received(_) | Completion::Accepted(Ok(_))) {
            socket.inbound = Inbound::Off;
            socket.in_flight -= 1;
        }
        self.collected.push_back((id, completion));
    }

    fn outbound_goes_on(&mut self, id: EndpointId) {
        let Some(socket) = self.sockets.get_mut(id) else { return };
        let (under_way, world) = (&mut self.under_way[id.slot()], &mut *self.world.borrow_mut());
        let Some(outbound) = &mut under_way.outbound else { return };
        let possible = match (&*outbound, &under_way.line) {
            (Outbound::Connect(_), _) => true,
            _ if socket.state != State::Open => true,
            (Outbound::Send { .. }, Some(line)) => line.borrow().takes() > 0 || line.borrow().is_broken(),
            (Outbound::Send { .. }, None) => true,
        };
        if !possible || !world.is_due(&mut under_way.outbound_due) {
            return;
        }
        let result = match outbound {
            Outbound::Connect(address) => match world.connect(address) {
                Ok(line) => {
                    under_way.line = Some(line);
                    Ok(0)
                }
                Err(error) => Err(error),
            },
            Outbound::Send { .. } if socket.state != State::Open => Err(error(libc::ECANCELED)),
            Outbound::Send { outgoing, taken } => {
                let Some(line) = &under_way.line else { return };
                match line.borrow_mut().take(world, outgoing, taken) {
                    Ok(true) => Ok(*taken),
                    Ok(false) => return,
                    Err(error) => Err(error),
                }
            }
        };
        socket.outbound = NONE;
        socket.in_flight -= 1;
        let completion = match under_way.outbound.take() {
            Some(Outbound::Send { outgoing, .. }) => Completion::Sent { result, outgoing },
            _ => Completion::Connected(result.map(drop)),
        };
        self.collected.push_back((id, completion));
    }
}

impl World {
    fn accept(&mut self) -> Option<Completion> {
        if self.happens(self.faults.accept_fails_percent) {
            return Some(Completion::Accepted(Err(error(libc::EMFILE))));
        }
        let line = self.knocking.pop_front()?;
        Some(Completion::Accepted(Ok(self.socket_of(&line))))
    }

    fn connect(&mut self, address: &SockAddr) -> io::Result<Rc<RefCell<Line>>> {
        if !address.as_socket().is_some_and(|address| self.answering.contains(&address)) {
            return Err(error(libc::ECONNREFUSED));
        }
        let line = Rc::default();
        self.answered.push_back(Rc::clone(&line));
        Ok(line)
    }
}

impl UnderWay {
    fn has_bytes(&self) -> bool {
        self.line.as_ref().is_some_and(|line| !line.borrow().inbound.is_empty())
    }

    /// What a receive brings. `None`: it has to wait for a buffer.
    fn receive(&self, world: &mut World, most: usize) -> Option<Completion> {
        if world.happens(world.faults.starved_percent) {
            return None;
        }
        let line = &mut *self.line.as_ref()?.borrow_mut();
        if world.happens(world.faults.breaks_percent) {
            line.peer = Ending::Reset;
        }
        if line.peer == Ending::Reset {
            return Some(Completion::ReceiveFailed(error(libc::ECONNRESET)));
        }
        let n = line.inbound.len().min(most);
        if n == 0 {
            return Some(Completion::Ended);
        }
        let chunk: Bytes = line.inbound.drain(..world.part_of(n)).collect();
        Some(Completion::Received(chunk))
    }
}

impl Line {
    fn has_news(&self) -> bool {
        !self.inbound.is_empty() || self.peer != Ending::Open
    }

    /// How many bytes the peer takes.
    fn takes(&self) -> usize {
        self.window.unwrap_or(usize::MAX)
    }

    fn is_broken(&self) -> bool {
        matches!(self.peer, Ending::Reset | Ending::Closed)
    }

    /// Takes what it may of a send. True when that was all.
    fn take(&mut self, world: &mut World, outgoing: &Outgoing, taken: &mut usize) -> io::Result<bool> {
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

fn error(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}
