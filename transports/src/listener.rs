//! Takes connections, and puts a channel on each, or relays it.

use perihelion_runtime::{Completion, Endpoint, EndpointId, Io};
use socket2::SockRef;
use std::any::Any;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use crate::NewConnection;
use crate::admission::{Admission, Place};
use crate::channel::Channel;
use crate::entrance::Entrance;
use crate::group::{Group, Listening, Notice};
use crate::new_channel::NewChannel;
use crate::relay::{self, Forward};

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
    entrance: Entrance,
    /// Ends after the entrance.
    _listening: Listening,
}

impl Listener {
    pub(crate) fn new(
        io: &mut Io,
        id: EndpointId,
        serve: Serve,
        group: Rc<Group>,
        admission: Arc<Admission>,
    ) -> Self {
        let mut entrance = Entrance::new(id, admission, Io::accept);
        entrance.accept(io, true);
        let listening = group.listen();
        Listener { id, serve, group, entrance, _listening: listening }
    }

    fn end(&self, io: &mut Io) {
        // So that the address is free at once: the descriptor is closed only when the accept has been cancelled.
        if let Some(fd) = io.fd(self.id) {
            let _ = SockRef::from(&fd).shutdown(Shutdown::Read);
        }
        io.close(self.id);
    }

    fn let_in(&mut self, io: &mut Io) {
        while let Some((fd, place)) = self.entrance.next(io) {
            self.open(io, fd, place);
        }
        self.entrance.accept(io, true);
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
}

impl Endpoint for Listener {
    fn complete(&mut self, io: &mut Io, completion: Completion) {
        let Completion::Accepted(result) = completion else { unreachable!("a listener only accepts") };
        self.entrance.accepted(io, result);
        self.let_in(io);
    }

    fn finish_turn(&mut self, _io: &mut Io) {}

    /// A place has come free, or a filter has decided.
    fn wake(&mut self, io: &mut Io) {
        self.let_in(io);
    }

    fn timer(&mut self, io: &mut Io, key: u32) {
        self.entrance.timer(io, key);
        self.let_in(io);
    }

    fn notify(&mut self, io: &mut Io, notice: &dyn Any) {
        if notice.downcast_ref::<Notice>().is_some_and(|notice| Rc::ptr_eq(&notice.group, &self.group)) {
            self.end(io);
        }
    }
}
