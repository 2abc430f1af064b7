//! The io_uring driver.
//!
//! Rules, on which every `unsafe` block here relies:
//!
//! 1. Each submission carries a [`Token`]. `in_flight`, of the driver and of the socket, counts submissions whose last
//!    completion (the one without `MORE`) has not come.
//! 2. A socket's descriptor is open and its slot taken while its `in_flight` is not zero ([`Sockets::remove_if_done`]).
//! 3. What a submission points to is in a table of the driver until then: a send's memory in [`Sends`], a connect's
//!    address in `connects`, the counter's value in `wake_value`. A receive points to nothing: the kernel picks from
//!    the [`ReceivePool`].
//! 4. The tables are dropped with the driver, and that is dropped only by [`Uring::shut_down`], with nothing in flight.
//!    In every other case, a panic among them, it is leaked: its owner keeps it in a `ManuallyDrop`.

mod pool;
mod readiness;
mod ring;
mod sends;

use io_uring::{cqueue, opcode, squeue, types};
use slab::Slab;
use socket2::SockAddr;
use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::sockets::{Inbound, NONE, Sockets, State};
use super::{Accepts, Capabilities, Close, Completion, DriverCounts, Outgoing, PIECES_MAX, Wait};
use crate::config::{ReceiveConfig, RingConfig};
use crate::token::{Kind, Token};
use crate::{EndpointId, Error};
use pool::ReceivePool;
use ring::Ring;
use sends::{Progress, Sends};

pub(crate) struct Uring {
    ring: Ring,
    pool: ReceivePool,
    sockets: Sockets,
    sends: Sends,
    /// Boxed: the kernel reads the address where it is.
    connects: Slab<Box<SockAddr>>,
    /// Who waits for a receive buffer, in order.
    starved: VecDeque<EndpointId>,
    /// Completions that were collected and not handled yet.
    collected: VecDeque<cqueue::Entry>,
    in_flight: usize,
    stopping: bool,
    wake: OwnedFd,
    /// Boxed: the kernel writes the event counter's value here.
    wake_value: Box<u64>,
    counts: DriverCounts,
}

impl Uring {
    pub(super) fn new(ring: &RingConfig, receive: &ReceiveConfig, wake: OwnedFd) -> Result<Self, Error> {
        let mut ring = Ring::new(ring)?;
        let sends = Sends::new(&mut ring)?;
        let pool = ReceivePool::new(receive, ring.submitter())?;
        let mut driver = Uring {
            ring,
            pool,
            sockets: Sockets::default(),
            sends,
            connects: Slab::new(),
            starved: VecDeque::new(),
            collected: VecDeque::new(),
            in_flight: 0,
            stopping: false,
            wake,
            wake_value: Box::new(0),
            counts: DriverCounts::default(),
        };
        driver.read_wake();
        Ok(driver)
    }

    pub(super) fn capabilities(&self) -> &Capabilities {
        self.ring.capabilities()
    }

    pub(super) fn counts(&self) -> DriverCounts {
        DriverCounts { enters: self.ring.enters(), ..self.counts }
    }

    pub(super) fn open(&mut self, fd: OwnedFd) -> Result<EndpointId, OwnedFd> {
        self.sockets.insert(fd)
    }

    pub(super) fn ids(&self) -> Vec<EndpointId> {
        self.sockets.ids()
    }

    pub(super) fn fd(&self, id: EndpointId) -> Option<BorrowedFd<'_>> {
        self.sockets.fd(id)
    }

    pub(super) fn accept(&mut self, id: EndpointId, accepts: Accepts) {
        if let Some(socket) = self.sockets.open_mut(id) {
            socket.accepts = accepts;
            self.start_inbound(id, Kind::Accept);
        }
    }

    pub(super) fn receive(&mut self, id: EndpointId) {
        self.start_inbound(id, Kind::Receive);
    }

    pub(super) fn stop_accepting(&mut self, id: EndpointId) {
        self.stop_inbound(id, Kind::Accept);
    }

    pub(super) fn stop_receiving(&mut self, id: EndpointId) {
        self.stop_inbound(id, Kind::Receive);
    }

    fn stop_inbound(&mut self, id: EndpointId, kind: Kind) {
        let Some(socket) = self.sockets.open_mut(id) else { return };
        match socket.inbound {
            Inbound::Armed => {
                socket.inbound = Inbound::Stopping;
                let armed = Token { kind, id }.pack();
                // SAFETY: it points to nothing.
                unsafe {
                    self.submit(
                        opcode::AsyncCancel::new(armed).build(),
                        Token::without_endpoint(Kind::Cancel),
                    )
                };
            }
            Inbound::Restarting => socket.inbound = Inbound::Stopping,
            // Its turn will find that it is no longer wanted.
            Inbound::Starved => socket.inbound = Inbound::Off,
            Inbound::Off | Inbound::Stopping => {}
        }
    }

    pub(super) fn connect(&mut self, id: EndpointId, address: SockAddr) {
        let Some(socket) = self.sockets.open_mut(id) else { return };
        assert_eq!(socket.outbound, NONE, "an endpoint has one send or connect at a time");
        let entry = self.connects.vacant_entry();
        socket.outbound = entry.key() as u32;
        socket.in_flight += 1;
        let address = entry.insert(Box::new(address));
        let submission =
            opcode::Connect::new(types::Fd(socket.raw_fd()), address.as_ptr().cast(), address.len()).build();
        // SAFETY: the address is boxed in `connects` until the completion, and the socket counts it (rules 2 and 3).
        unsafe { self.submit(submission, Token { kind: Kind::Connect, id }) };
    }

    pub(super) fn send(&mut self, id: EndpointId, outgoing: Outgoing) {
        let Some(socket) = self.sockets.open_mut(id) else { return };
        assert_eq!(socket.outbound, NONE, "an endpoint has one send or connect at a time");
        assert!(outgoing.pieces().len() <= PIECES_MAX, "a send has at most {PIECES_MAX} pieces");
        socket.outbound = self.sends.insert(outgoing);
        socket.in_flight += 1;
        let submission = self.sends.submission(socket.outbound, types::Fd(socket.raw_fd()));
        // SAFETY: its memory stays in `sends` until the completion, and the socket counts it (rules 2 and 3).
        unsafe { self.submit(submission, Token { kind: Kind::Send, id }) };
    }

    pub(super) fn close(&mut self, id: EndpointId, how: Close) {
        let Some(socket) = self.sockets.open_mut(id) else { return };
        socket.state = State::Closing(how);
        if socket.in_flight > 0 {
            let everything = types::CancelBuilder::fd(types::Fd(socket.raw_fd())).all();
            let submission = opcode::AsyncCancel2::new(everything).build();
            // SAFETY: it points to nothing. No other socket can have the descriptor's number before the kernel has
            // seen this: the close of the descriptor is queued behind it, and nothing else closes it.
            unsafe { self.submit(submission, Token::without_endpoint(Kind::Cancel)) };
        }
        self.close_if_done(id);
    }

    pub(super) fn release(&mut self, id: EndpointId) -> Option<OwnedFd> {
        let socket = self.sockets.open_mut(id).filter(|socket| socket.in_flight == 0)?;
        socket.state = State::Closing(Close::Inline);
        self.sockets.remove_if_done(id).map(|(fd, _)| fd)
    }

    pub(super) fn turn(&mut self, wait: Wait, limit: usize) -> io::Result<()> {
        self.pool.reclaim_kept();
        self.feed_starved();
        let work_left = !self.collected.is_empty() || !self.starved.is_empty();
        let wait = if work_left { Wait::No } else { wait };
        if let Wait::Until(_) = wait {
            self.pool.rest();
        }
        self.ring.enter(wait)?;
        self.ring.drain(limit.saturating_sub(self.collected.len()), &mut self.collected);
        Ok(())
    }

    pub(super) fn is_ready(&mut self) -> bool {
        !self.collected.is_empty() || self.ring.is_ready()
    }

    pub(super) fn next(&mut self) -> Option<(EndpointId, Completion)> {
        self.pool.reclaim_newest();
        while let Some(entry) = self.collected.pop_front() {
            if let Some(event) = self.complete(&entry) {
                return Some(event);
            }
        }
        None
    }

    /// Closes everything, waits until nothing is in flight, and drops the driver; or leaks it when the time is up.
    pub(super) fn shut_down(mut driver: ManuallyDrop<Box<Self>>, limit: Duration) -> bool {
        let done = driver.drain(Instant::now() + limit);
        if done {
            drop(ManuallyDrop::into_inner(driver));
        } else {
            let in_flight = driver.in_flight;
            tracing::error!(
                in_flight,
                "the kernel did not give everything back in time: a receive pool is leaked"
            );
        }
        done
    }

    /// True when nothing is in flight any more.
    fn drain(&mut self, deadline: Instant) -> bool {
        self.stopping = true;
        for id in self.sockets.ids() {
            self.close(id, Close::Inline);
        }
        while let Some(entry) = self.collected.pop_front() {
            drop(self.complete(&entry));
        }
        let pending = Token::without_endpoint(Kind::Wake).pack();
        // SAFETY: it points to nothing.
        unsafe {
            self.submit(opcode::AsyncCancel::new(pending).build(), Token::without_endpoint(Kind::Cancel))
        };
        while self.in_flight > 0 && Instant::now() < deadline {
            if let Err(error) = self.ring.enter(Wait::Until(Some(deadline))) {
                tracing::error!(%error, "a stopping worker can't enter its ring");
                break;
            }
            while let Some(entry) = self.ring.pop() {
                drop(self.complete(&entry));
            }
        }
        self.in_flight == 0
    }

    /// # Safety
    /// What the submission points to must stay until its last completion.
    unsafe fn submit(&mut self, submission: squeue::Entry, token: Token) {
        self.in_flight += 1;
        // SAFETY: the caller's promise.
        unsafe { self.ring.push(submission.user_data(token.pack())) };
    }

    fn read_wake(&mut self) {
        let value = (&raw mut *self.wake_value).cast();
        let submission = opcode::Read::new(types::Fd(self.wake.as_raw_fd()), value, 8).build();
        // SAFETY: the value is boxed, and it and the descriptor live as long as the driver (rule 4). One read is in
        // flight at a time, and nothing else accesses the value.
        unsafe { self.submit(submission, Token::without_endpoint(Kind::Wake)) };
    }

    fn start_inbound(&mut self, id: EndpointId, kind: Kind) {
        let Some(socket) = self.sockets.open_mut(id) else { return };
        match socket.inbound {
            Inbound::Off => {
                socket.inbound = Inbound::Armed;
                socket.in_flight += 1;
                let fd = types::Fd(socket.raw_fd());
                let submission = match (kind, socket.accepts) {
                    (Kind::Accept, Accepts::All) => {
                        opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build()
                    }
                    (Kind::Accept, Accepts::One) => {
                        let (address, length) = (std::ptr::null_mut(), std::ptr::null_mut());
                        opcode::Accept::new(fd, address, length).flags(libc::SOCK_CLOEXEC).build()
                    }
                    _ => opcode::RecvMulti::new(fd, pool::GROUP).build(),
                };
                // SAFETY: it points to nothing; its buffers are the pool's, and the socket counts it (rule 2).
                unsafe { self.submit(submission, Token { kind, id }) };
            }
            Inbound::Stopping => socket.inbound = Inbound::Restarting,
            Inbound::Armed | Inbound::Restarting | Inbound::Starved => {}
        }
    }

    /// Arms those who wait for a buffer, if there is one. All of them: which has bytes that need it can't be seen
    /// from here, and those without would keep it from the others.
    fn feed_starved(&mut self) {
        if self.starved.is_empty() {
            return;
        }
        if self.pool.held() == 0 {
            self.pool.grow();
        }
        for _ in 0..self.starved.len() {
            let Some(id) = self.starved.pop_front() else { break };
            if let Some(socket) = self.sockets.open_mut(id)
                && socket.inbound == Inbound::Starved
            {
                socket.inbound = Inbound::Off;
                self.receive(id);
            }
        }
    }

    fn close_if_done(&mut self, id: EndpointId) {
        if let Some((fd, how)) = self.sockets.remove_if_done(id) {
            let mut submission = opcode::Close::new(types::Fd(fd.into_raw_fd())).build();
            if how == Close::Background {
                submission = submission.flags(squeue::Flags::ASYNC);
            }
            // SAFETY: it points to nothing, and the descriptor is its own from here on.
            unsafe { self.submit(submission, Token::without_endpoint(Kind::Close)) };
        }
    }

    /// Does what a completion means for the driver; gives what it means for its endpoint.
    #[inline]
    fn complete(&mut self, entry: &cqueue::Entry) -> Option<(EndpointId, Completion)> {
        self.counts.completions += 1;
        let more = cqueue::more(entry.flags());
        if !more {
            self.in_flight -= 1;
        }
        let Some(Token { kind, id }) = Token::unpack(entry.user_data()) else {
            self.counts.stale += 1;
            return None;
        };
        let result = match entry.result() {
            n if n >= 0 => Ok(n as u32),
            errno => Err(io::Error::from_raw_os_error(-errno)),
        };
        let completion = match kind {
            Kind::Receive => {
                // Whoever it was for, the buffer is taken out of the kernel's hands.
                let n = *result.as_ref().unwrap_or(&0) as usize;
                let bytes = cqueue::buffer_select(entry.flags()).map(|number| self.pool.take(number, n));
                self.received(id, result.map(|_| bytes), more)
            }
            Kind::Send => self.sent(id, result),
            Kind::Accept => {
                // SAFETY: the kernel made this descriptor for this completion, so nobody else owns it.
                let accepted = result.map(|fd| unsafe { OwnedFd::from_raw_fd(fd as i32) });
                self.accepted(id, accepted, more)
            }
            Kind::Connect => self.connected(id, result.map(drop)),
            Kind::Readable => self.readable(id, result),
            Kind::Watch => self.watched(id, result, more),
            Kind::Wake => {
                if !self.stopping {
                    self.read_wake();
                }
                None
            }
            // That there was nothing left to cancel is as good. A close that fails has closed all the same.
            Kind::Cancel | Kind::Close => None,
        };
        completion.map(|completion| (id, completion))
    }

    #[inline]
    fn received(
        &mut self,
        id: EndpointId,
        result: io::Result<Option<bytes::Bytes>>,
        more: bool,
    ) -> Option<Completion> {
        let wanted = self.inbound_completed(id, more)?;
        match result {
            Ok(Some(bytes)) if !bytes.is_empty() => {
                if wanted {
                    self.receive(id);
                }
                Some(Completion::Received(bytes))
            }
            Ok(_) => Some(Completion::Ended),
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOBUFS) => {
                    if wanted {
                        self.starve(id);
                    }
                    None
                }
                // It was stopped; or that raced with a new start.
                Some(libc::ECANCELED) => {
                    if wanted {
                        self.receive(id);
                    }
                    None
                }
                _ => Some(Completion::ReceiveFailed(error)),
            },
        }
    }

    #[cold]
    fn starve(&mut self, id: EndpointId) {
        self.counts.starved += 1;
        self.pool.grow();
        if let Some(socket) = self.sockets.open_mut(id) {
            socket.inbound = Inbound::Starved;
            self.starved.push_back(id);
        }
    }

    fn accepted(&mut self, id: EndpointId, result: io::Result<OwnedFd>, more: bool) -> Option<Completion> {
        // When nobody wants it, it is closed here.
        let wanted = self.inbound_completed(id, more)?;
        // It was stopped; or that raced with a new start.
        let stopped = matches!(&result, Err(error) if error.raw_os_error() == Some(libc::ECANCELED));
        let accepts = self.sockets.get_mut(id)?.accepts;
        if wanted && (stopped || result.is_ok() && accepts == Accepts::All) {
            self.accept(id, accepts);
        }
        (!stopped).then_some(Completion::Accepted(result))
    }

    /// Keeps the books of a receive or an accept. `None`: its endpoint is closing or gone. True: it has ended, though
    /// its endpoint still wants it.
    #[inline]
    fn inbound_completed(&mut self, id: EndpointId, more: bool) -> Option<bool> {
        let Some(socket) = self.sockets.get_mut(id) else {
            self.counts.stale += 1;
            return None;
        };
        let mut wanted = false;
        if !more {
            socket.in_flight -= 1;
            wanted = matches!(socket.inbound, Inbound::Armed | Inbound::Restarting);
            socket.inbound = Inbound::Off;
        }
        if socket.state != State::Open {
            self.close_if_done(id);
            return None;
        }
        Some(wanted)
    }

    #[inline]
    fn sent(&mut self, id: EndpointId, result: io::Result<u32>) -> Option<Completion> {
        let Some(socket) = self.sockets.get_mut(id) else {
            self.counts.stale += 1;
            return None;
        };
        let open = socket.state == State::Open;
        let n = *result.as_ref().unwrap_or(&0) as usize;
        match self.sends.completed(socket.outbound, n, open && result.is_ok()) {
            Progress::Short => {
                let submission = self.sends.submission(socket.outbound, types::Fd(socket.raw_fd()));
                // SAFETY: as in `send`; the socket counts it as the same operation.
                unsafe { self.submit(submission, Token { kind: Kind::Send, id }) };
                None
            }
            Progress::Over { outgoing, sent } => {
                socket.outbound = NONE;
                socket.in_flight -= 1;
                if !open {
                    self.close_if_done(id);
                    // What was shared may run code of its owner's.
                    if catch_unwind(AssertUnwindSafe(|| drop(outgoing))).is_err() {
                        tracing::error!("the owner of what was sent panicked");
                    }
                    return None;
                }
                Some(Completion::Sent { result: result.map(|_| sent), outgoing })
            }
        }
    }

    fn connected(&mut self, id: EndpointId, result: io::Result<()>) -> Option<Completion> {
        let Some(socket) = self.sockets.get_mut(id) else {
            self.counts.stale += 1;
            return None;
        };
        self.connects.remove(socket.outbound as usize);
        socket.outbound = NONE;
        socket.in_flight -= 1;
        if socket.state != State::Open {
            self.close_if_done(id);
            return None;
        }
        Some(Completion::Connected(result))
    }
}
