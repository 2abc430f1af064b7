//! A driver for a world that is made up: a virtual clock, peers that a test plays, and faults by a seed.
//!
//! It keeps the same books as the real one. What is in flight when an endpoint closes completes later, and its slot and
//! descriptor are free only then. Nothing here is random but by the seed, so a run can be repeated.

mod world;

use socket2::SockAddr;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Instant;

use super::sockets::{Inbound, NONE, Sockets, State};
use super::{Accepts, Capabilities, Close, Completion, DriverCounts, Outgoing, Wait};
use crate::EndpointId;
use world::error;
pub(crate) use world::{Answer, Line, World};
pub use world::{Ending, Faults};

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
        self.world.borrow().now()
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

    pub(super) fn accept(&mut self, id: EndpointId, accepts: Accepts) {
        self.receive(id);
        if let Some(socket) = self.sockets.open_mut(id) {
            socket.accepts = accepts;
        }
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

    pub(super) fn wait_readable(&mut self, id: EndpointId) {
        self.watch(id);
    }

    /// There is no kernel that could tell, and none that could move bytes then.
    pub(super) fn watch(&mut self, id: EndpointId) {
        if self.sockets.open_mut(id).is_some() {
            let unsupported = "a simulated world has no kernel that tells when a connection is ready";
            let error = io::Error::new(io::ErrorKind::Unsupported, unsupported);
            self.collected.push_back((id, Completion::Broken(error)));
        }
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
            Inbound::Armed if under_way.accepts => world.is_knocked_at(),
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
        // What was on its way when it was stopped may still come.
        let comes_late = stopped && world.random.bool() && under_way.has_more(world);
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
        let goes_on = match completion {
            Completion::Received(_) => true,
            Completion::Accepted(Ok(_)) => socket.accepts == Accepts::All,
            _ => false,
        };
        if !goes_on {
            socket.inbound = Inbound::Off;
            socket.in_flight -= 1;
        }
        self.collected.push_back((id, completion));
    }

    fn outbound_goes_on(&mut self, id: EndpointId) {
        let Some(socket) = self.sockets.get_mut(id) else { return };
        let (under_way, world) = (&mut self.under_way[id.slot()], &mut *self.world.borrow_mut());
        let Some(outbound) = &mut under_way.outbound else { return };
        let closing = socket.state != State::Open;
        let possible = match (&*outbound, &under_way.line) {
            _ if closing => true,
            (Outbound::Connect(address), _) => world.answer(address) != Answer::Nothing,
            (Outbound::Send { .. }, Some(line)) => line.borrow().takes() > 0 || line.borrow().is_broken(),
            (Outbound::Send { .. }, None) => true,
        };
        if !possible {
            under_way.outbound_due = None; // what was on its way is no longer
            return;
        }
        if !world.is_due(&mut under_way.outbound_due) {
            return;
        }
        let result = match outbound {
            Outbound::Connect(address) => match world.connect(address, closing) {
                Ok(line) => {
                    if closing {
                        line.borrow_mut().own = Ending::Closed;
                    }
                    under_way.line = Some(line);
                    Ok(0)
                }
                Err(error) => Err(error),
            },
            Outbound::Send { .. } if closing => Err(error(libc::ECANCELED)),
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

impl UnderWay {
    /// Whether there is a connection to be accepted, or bytes to be received.
    fn has_more(&self, world: &World) -> bool {
        match &self.line {
            Some(line) => !line.borrow().inbound.is_empty(),
            None => self.accepts && world.is_knocked_at(),
        }
    }

    fn receive(&self, world: &mut World, most: usize) -> Option<Completion> {
        self.line.as_ref()?.borrow_mut().receive(world, most)
    }
}
