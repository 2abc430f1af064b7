//! What an endpoint can ask of its event loop.

use socket2::SockAddr;
use std::any::Any;
use std::collections::VecDeque;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::task::Waker;
use std::time::Instant;

use crate::config::Config;
use crate::driver::{Accepts, Close, Driver, Outgoing};
use crate::endpoint::Endpoint;
use crate::local::Local;
use crate::pipe::Pipes;
use crate::timer::Target;
use crate::waker::endpoint_waker;
use crate::{Capabilities, EndpointId, Pipe, TimerId};

/// An event loop, as its endpoints see it: operations to start, timers, and turns to ask for.
///
/// Operations on an endpoint that is closing or gone do nothing.
pub struct Io {
    pub(crate) driver: Driver,
    pub(crate) local: Rc<Local>,
    config: Rc<Config>,
    pipes: Pipes,
    /// Opened in this turn, and not in the loop's table yet.
    pub(crate) opened: Vec<(EndpointId, Box<dyn Endpoint>)>,
    /// Who asked for the end of the turn.
    pub(crate) finishing: Vec<EndpointId>,
    pub(crate) notices: VecDeque<Box<dyn Any>>,
    /// Bytes that endpoints have unpacked in this turn.
    pub(crate) unpacked: usize,
    pub(crate) stopping: bool,
}

impl Io {
    pub(crate) fn new(driver: Driver, local: Rc<Local>, config: Rc<Config>) -> Self {
        Io {
            driver,
            local,
            pipes: Pipes::new(&config.runtime.pipes),
            config,
            opened: Vec::new(),
            finishing: Vec::new(),
            notices: VecDeque::new(),
            unpacked: 0,
            stopping: false,
        }
    }

    /// The configuration of the runtime.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The time at which this turn began.
    #[inline]
    pub fn now(&self) -> Instant {
        self.local.now.get()
    }

    /// An endpoint has decrypted or decompressed so many bytes of what it has received. When they are
    /// [many](crate::RuntimeConfig::unpacked_bytes_per_turn), the turn ends.
    #[inline]
    pub fn unpacked(&mut self, bytes: usize) {
        self.unpacked += bytes;
    }

    /// What the event loop has found of the kernel, and uses.
    pub fn capabilities(&self) -> &Capabilities {
        self.driver.capabilities()
    }

    /// Puts a descriptor and what is made for it onto this loop.
    ///
    /// # Errors
    /// The descriptor, when the worker has as many endpoints as it can name (16 million).
    pub fn open<E: Endpoint + 'static>(
        &mut self,
        fd: impl Into<OwnedFd>,
        make: impl FnOnce(&mut Io, EndpointId) -> E,
    ) -> Result<EndpointId, OwnedFd> {
        let id = self.driver.open(fd.into())?;
        match catch_unwind(AssertUnwindSafe(|| make(self, id))) {
            Ok(endpoint) => self.opened.push((id, Box::new(endpoint))),
            Err(panic) => {
                self.driver.close(id, Close::Inline);
                resume_unwind(panic);
            }
        }
        Ok(id)
    }

    /// The descriptor, for socket options and addresses.
    pub fn fd(&self, id: EndpointId) -> Option<BorrowedFd<'_>> {
        self.driver.fd(id)
    }

    /// Accepts connections until an accept fails.
    pub fn accept(&mut self, id: EndpointId) {
        self.driver.accept(id, Accepts::All);
    }

    /// Accepts one connection.
    pub fn accept_one(&mut self, id: EndpointId) {
        self.driver.accept(id, Accepts::One);
    }

    /// Stops accepting, soon: those that are on their way still come.
    pub fn stop_accepting(&mut self, id: EndpointId) {
        self.driver.stop_accepting(id);
    }

    /// Connects.
    ///
    /// # Panics
    /// While another connect or send of this endpoint is in flight.
    pub fn connect(&mut self, id: EndpointId, address: impl Into<SockAddr>) {
        self.driver.connect(id, address.into());
    }

    /// Receives until the other side ends, or it is stopped.
    #[inline]
    pub fn receive(&mut self, id: EndpointId) {
        self.driver.receive(id);
    }

    /// Stops receiving, soon: what is on its way is still delivered.
    pub fn stop_receiving(&mut self, id: EndpointId) {
        self.driver.stop_receiving(id);
    }

    /// Says once that there are bytes to receive, or the other side's end: as soon as that is so, or at once. For whoever
    /// reads the descriptor without the loop, and so instead of [`receive`](Io::receive).
    #[inline]
    pub fn wait_readable(&mut self, id: EndpointId) {
        self.driver.wait_readable(id);
    }

    /// Says, until it is closed, whenever there is room to send after a send has been refused for want of it, and when the
    /// connection breaks. It may say that there is room without such a refusal too. For whoever writes to the descriptor
    /// without the loop.
    pub fn watch(&mut self, id: EndpointId) {
        self.driver.watch(id);
    }

    /// A pipe of this worker's, for bytes that are to be moved now. `None`: there is none at present, for as many are
    /// in use as [may be](crate::PipesConfig), or the process has no descriptor left.
    #[inline]
    pub fn take_pipe(&mut self) -> Option<Pipe> {
        self.pipes.take()
    }

    /// Gives a pipe back. If there are bytes in it, they are lost.
    #[inline]
    pub fn give_pipe_back(&mut self, pipe: Pipe) {
        self.pipes.give_back(pipe);
    }

    /// Sends. The memory comes back with the completion.
    ///
    /// # Panics
    /// While another connect or send of this endpoint is in flight, and with more than [`PIECES_MAX`](crate::PIECES_MAX)
    /// pieces.
    #[inline]
    pub fn send(&mut self, id: EndpointId, outgoing: Outgoing) {
        self.driver.send(id, outgoing);
    }

    /// Tells the other side that no more will be sent.
    pub fn shut_down_write(&mut self, id: EndpointId) {
        self.driver.shut_down_write(id);
    }

    /// Cancels what is in flight and closes the descriptor. The endpoint is not called any more.
    pub fn close(&mut self, id: EndpointId) {
        self.driver.close(id, Close::Inline);
    }

    /// Like [`close`](Io::close), for a descriptor whose closing can block (SO_LINGER): a thread of the kernel's does it.
    pub fn close_in_background(&mut self, id: EndpointId) {
        self.driver.close(id, Close::Background);
    }

    /// Like [`close`](Io::close); the other side of a TCP connection sees a reset.
    pub fn abort(&mut self, id: EndpointId) {
        self.driver.abort(id);
    }

    /// Takes an endpoint's descriptor from the loop, when no operation on it is in flight. The endpoint is not called
    /// any more.
    pub fn release(&mut self, id: EndpointId) -> Option<OwnedFd> {
        self.driver.release(id)
    }

    /// Whether the endpoint takes operations.
    pub fn is_open(&self, id: EndpointId) -> bool {
        self.driver.is_open(id)
    }

    /// Asks for a call of [`Endpoint::finish_turn`] before this turn's operations are submitted. To be asked once.
    #[inline]
    pub fn finish_turn(&mut self, id: EndpointId) {
        self.finishing.push(id);
    }

    /// Asks for a call of [`Endpoint::wake`] in the next turn.
    pub fn next_turn(&mut self, id: EndpointId) {
        self.local.wake_endpoint(id);
    }

    /// A waker that calls [`Endpoint::wake`], from any thread.
    #[inline]
    pub fn waker(&self, id: EndpointId) -> Waker {
        endpoint_waker(self.local.worker, id)
    }

    /// Calls [`Endpoint::timer`] with the key, at this time or up to a millisecond later.
    pub fn set_timer(&mut self, id: EndpointId, key: u32, at: Instant) -> TimerId {
        self.local.timers.borrow_mut().insert(at, Target::Endpoint { id, key })
    }

    /// Cancels a timer, unless it has come already.
    pub fn cancel_timer(&mut self, timer: TimerId) {
        self.local.timers.borrow_mut().remove(timer);
    }

    /// Calls [`Endpoint::notify`] of all endpoints of this worker, soon.
    pub fn notify_all(&mut self, notice: impl Any) {
        self.notices.push_back(Box::new(notice));
    }
}
