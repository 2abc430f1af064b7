//! Takes connections, and puts a channel on each, or relays it.

use perihelion_runtime::{Completion, Endpoint, EndpointId, Io};
use socket2::SockRef;
use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::NewConnection;
use crate::admission::{Admission, Place, Verdict};
use crate::channel::{Channel, NewChannel};
use crate::group::{Group, Notice};
use crate::relay::{self, Forward};

/// How long no connection is taken when the process has no descriptor or memory left for it.
const PAUSE: Duration = Duration::from_millis(100);

/// What becomes of connections.
pub(crate) enum Serve {
    /// Each gets a channel.
    Channel(MakePipeline),
    /// Each is relayed.
    Relay(Arc<Forward>),
}

/// Makes a connection's pipeline.
pub(crate) type MakePipeline = Box<dyn Fn(&NewConnection<'_>, &Group) -> NewChannel>;

pub(crate) struct Listener {
    id: EndpointId,
    serve: Serve,
    group: Rc<Group>,
    admission: Arc<Admission>,
    /// Accepted when there was no place any more. While one waits, none is accepted.
    waiting: VecDeque<OwnedFd>,
}

impl Listener {
    pub(crate) fn new(
        io: &mut Io,
        id: EndpointId,
        serve: Serve,
        group: Rc<Group>,
        admission: Arc<Admission>,
    ) -> Self {
        io.accept(id);
        group.set_listening(true);
        Listener { id, serve, group, admission, waiting: VecDeque::new() }
    }

    fn end(&self, io: &mut Io) {
        // So that the address is free at once: the descriptor is closed only when the accept has been cancelled.
        if let Some(fd) = io.fd(self.id) {
            let _ = SockRef::from(&fd).shutdown(Shutdown::Read);
        }
        io.close(self.id);
    }

    fn accepted(&mut self, io: &mut Io, fd: OwnedFd) {
        // A panic in the filter is the user's, and must not end the listener.
        let Ok(verdict) = catch_unwind(AssertUnwindSafe(|| self.admission.judge(fd))) else {
            tracing::error!("the filter of connections panicked: a connection is dropped");
            return;
        };
        match verdict {
            Verdict::Admitted(fd, place) => self.open(io, fd, place),
            Verdict::Refused => tracing::debug!("a connection is refused"),
            Verdict::Waits(fd) => {
                self.waiting.push_back(fd);
                if self.waiting.len() == 1 {
                    io.stop_accepting(self.id);
                    self.admit_waiting(io);
                }
            }
        }
    }

    /// Lets in those that wait, as far as there are places.
    fn admit_waiting(&mut self, io: &mut Io) {
        while let Some(fd) = self.waiting.pop_front() {
            self.admission.wake_when_free(io.waker(self.id));
            match self.admission.admit(fd) {
                Verdict::Admitted(fd, place) => self.open(io, fd, place),
                Verdict::Waits(fd) => return self.waiting.push_front(fd),
                Verdict::Refused => {}
            }
        }
        io.accept(self.id);
    }

    fn open(&mut self, io: &mut Io, fd: OwnedFd, place: Place) {
        let make = match &self.serve {
            Serve::Channel(make) => make,
            Serve::Relay(forward) => return relay::begin(io, fd, forward, &self.group, place),
        };
        // A panic in here is the user's, and must not end the listener.
        let make = || make(&NewConnection::accepted(fd.as_fd()), &self.group);
        let Ok(new) = catch_unwind(AssertUnwindSafe(make)) else {
            tracing::error!("the function that makes pipelines panicked: a connection is dropped");
            return;
        };
        let group = Rc::clone(&self.group);
        if io.open(fd, |io, id| Channel::new(io, id, new, group, place)).is_err() {
            tracing::error!("a connection is dropped: the worker can't hold more");
        }
    }

    fn failed(&mut self, io: &mut Io, error: &io::Error) {
        match error.kind() {
            // The other side gave up before it was accepted.
            io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted => io.accept(self.id),
            _ => {
                tracing::warn!(%error, pause = ?PAUSE, "no connection can be accepted for now");
                let at = io.now() + PAUSE;
                io.set_timer(self.id, 0, at);
            }
        }
    }
}

impl Endpoint for Listener {
    fn complete(&mut self, io: &mut Io, completion: Completion) {
        match completion {
            Completion::Accepted(Ok(fd)) => self.accepted(io, fd),
            Completion::Accepted(Err(error)) => self.failed(io, &error),
            _ => unreachable!("a listener only accepts"),
        }
    }

    fn finish_turn(&mut self, _io: &mut Io) {}

    /// A place has come free.
    fn wake(&mut self, io: &mut Io) {
        self.admit_waiting(io);
    }

    fn timer(&mut self, io: &mut Io, _key: u32) {
        self.admit_waiting(io);
    }

    fn notify(&mut self, io: &mut Io, notice: &dyn Any) {
        if notice.downcast_ref::<Notice>().is_some_and(|notice| Rc::ptr_eq(&notice.group, &self.group)) {
            self.end(io);
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.group.set_listening(false);
    }
}
