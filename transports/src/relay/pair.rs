//! Two connections that are joined for life.

use perihelion_runtime::{Completion, Endpoint, EndpointId, Io, TimerId};
use socket2::SockRef;
use std::any::Any;
use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Forward;
use super::way::Way;
use crate::admission::Place;
use crate::channel::How;
use crate::connector::no_answer;
use crate::group::{Group, Notice, Order};
use crate::socket;

/// How long a way that got no pipe waits before it asks again.
const NO_PIPE_PAUSE: Duration = Duration::from_millis(20);

/// Keys of timers: of the target's end, for its connect; of the client's, for both; and of the end whose bytes wait for
/// a pipe.
const CONNECT: u32 = 0;
const IDLE: u32 = 1;
const PIPE: u32 = 2;

/// Connects to the target for this client, and joins the two.
pub(crate) fn begin(io: &mut Io, client: OwnedFd, forward: &Arc<Forward>, group: &Rc<Group>, place: Place) {
    let opened = io.open(client, |io, id| {
        group.channel_opened();
        io.finish_turn(id);
        let relay = Relay {
            forward: Arc::clone(forward),
            group: Rc::clone(group),
            client: id,
            target: None,
            state: State::Connecting { addresses_tried: 0 },
            ways: [Way::Source, Way::Source],
            moved_at: io.now(),
            timer: None,
            _place: place,
        };
        End { id, side: Side::Client, relay: Rc::new(RefCell::new(relay)) }
    });
    if opened.is_err() {
        tracing::error!("a connection is dropped: the worker can't hold more");
    }
}

/// Both connections, and what goes on between them.
///
/// Its life: `Connecting` → `Open` → `Over`. Any state goes to `Over` when a connection breaks or a deadline passes;
/// [`Relay::end`] is the only way there.
struct Relay {
    forward: Arc<Forward>,
    group: Rc<Group>,
    client: EndpointId,
    /// `None` between two attempts to connect.
    target: Option<EndpointId>,
    state: State,
    /// By the side that is their source.
    ways: [Way; 2],
    /// When a byte was moved last.
    moved_at: Instant,
    /// The deadline of the connect; then of idleness, which is put off when it comes and something has moved since.
    timer: Option<TimerId>,
    /// Given back when both ends are closed.
    _place: Place,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// To the last of these of the target's addresses.
    Connecting {
        addresses_tried: usize,
    },
    Open,
    /// Each end closes itself in this way.
    Over(How),
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Client,
    Target,
}

/// One of the two connections, as the event loop sees it.
///
/// An end closes only itself, in a call of its own: the loop drops an endpoint at once that has done so, but one that
/// others have closed only when its slot is needed again.
struct End {
    id: EndpointId,
    side: Side,
    relay: Rc<RefCell<Relay>>,
}

impl End {
    /// Tries the next of the target's addresses. `last`: why the one before has failed.
    fn connect(&self, io: &mut Io, mut last: io::Error) {
        let relay = &mut *self.relay.borrow_mut();
        relay.target = None;
        let State::Connecting { addresses_tried } = &mut relay.state else { return };
        while let Some(address) = relay.forward.addresses.get(*addresses_tried) {
            *addresses_tried += 1;
            let attempt = socket::for_connect(*address, None, &relay.forward.tcp).and_then(|socket| {
                let end = |_: &mut Io, id| End { id, side: Side::Target, relay: Rc::clone(&self.relay) };
                io.open(socket, end).map_err(|_| io::Error::other("the worker can't hold more connections"))
            });
            match attempt {
                Ok(id) => {
                    io.connect(id, *address);
                    relay.target = Some(id);
                    let at = io.now() + relay.group.config.connect();
                    return relay.set_timer(io, id, CONNECT, at);
                }
                Err(error) => last = error,
            }
        }
        relay.forward.unanswered(&last);
        relay.end(io, How::Reset);
    }

    /// Closes itself if the relay is over, or goes on without it.
    fn close_if_done(&self, io: &mut Io) {
        let relay = self.relay.borrow();
        match relay.state {
            State::Over(How::InOrder) if relay.group.lingers => io.close_in_background(self.id),
            State::Over(How::InOrder) => io.close(self.id),
            State::Over(How::Reset) => io.abort(self.id),
            State::Connecting { .. } if relay.id(self.side) != Some(self.id) => io.close(self.id),
            State::Connecting { .. } | State::Open => {}
        }
    }
}

impl Relay {
    fn id(&self, side: Side) -> Option<EndpointId> {
        match side {
            Side::Client => Some(self.client),
            Side::Target => self.target,
        }
    }

    fn set_timer(&mut self, io: &mut Io, id: EndpointId, key: u32, at: Instant) {
        self.clear_timer(io);
        self.timer = Some(io.set_timer(id, key, at));
    }

    fn clear_timer(&mut self, io: &mut Io) {
        if let Some(timer) = self.timer.take() {
            io.cancel_timer(timer);
        }
    }

    /// Both connections are there.
    fn open(&mut self, io: &mut Io) {
        self.forward.answered();
        self.state = State::Open;
        self.clear_timer(io);
        self.moved_at = io.now();
        self.limit_idleness(io);
        if let Some(target) = self.target {
            self.prepare(io, target);
            io.wait_readable(self.client);
            io.wait_readable(target);
        }
    }

    /// Makes a connection that is there ready to be spliced.
    fn prepare(&mut self, io: &mut Io, id: EndpointId) {
        let prepared = io.fd(id).map_or(Ok(()), |fd| {
            let socket = SockRef::from(&fd);
            socket.set_nonblocking(true)?;
            // Urgent bytes stay where they are among the others (RFC 6093, section 6).
            socket.set_out_of_band_inline(true)
        });
        match prepared {
            Ok(()) => io.watch(id),
            Err(error) => self.fail(io, &error),
        }
    }

    /// Moves what can be moved of what the source has sent.
    fn advance(&mut self, io: &mut Io, source: Side) {
        let (Some(from), Some(to)) = (self.id(source), self.id(source.other())) else { return };
        let way = &mut self.ways[source as usize];
        let mut moved = 0;
        let advanced = way.advance(io, from, to, &mut moved);
        if let Way::Pipe = way {
            io.set_timer(from, PIPE, io.now() + NO_PIPE_PAUSE);
        }
        if moved > 0 {
            self.moved_at = io.now();
            self.group.counters.count_relayed(source == Side::Client, moved);
        }
        match advanced {
            Err(error) => self.fail(io, &error),
            Ok(()) if self.ways.iter().all(|way| matches!(way, Way::Ended)) => self.end(io, How::InOrder),
            Ok(()) => {}
        }
    }

    /// There is room in this side, for what the other has sent.
    fn writable(&mut self, io: &mut Io, side: Side) {
        let source = side.other();
        if let Way::Sink(_) = self.ways[source as usize] {
            self.advance(io, source);
        }
    }

    /// Ends a relay that is idle, and looks again at others when they could be.
    fn limit_idleness(&mut self, io: &mut Io) {
        let Some(limit) = self.forward.relay.idle() else { return };
        let at = self.moved_at + limit;
        if io.now() < at {
            self.set_timer(io, self.client, IDLE, at);
        } else {
            tracing::debug!("a relay is reset: nothing has moved for relay.idle_ms");
            self.end(io, How::Reset);
        }
    }

    fn fail(&mut self, io: &mut Io, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::Unsupported => tracing::error!(%error, "a relay can't work here"),
            _ => tracing::debug!(%error, "a connection of a relay broke"),
        }
        self.end(io, How::Reset);
    }

    fn end(&mut self, io: &mut Io, how: How) {
        if let State::Over(_) = self.state {
            return;
        }
        self.state = State::Over(how);
        self.ways = [Way::Ended, Way::Ended];
        self.clear_timer(io);
        io.next_turn(self.client);
        if let Some(target) = self.target {
            io.next_turn(target);
        }
    }
}

impl Side {
    fn other(self) -> Side {
        match self {
            Side::Client => Side::Target,
            Side::Target => Side::Client,
        }
    }
}

impl Endpoint for End {
    fn complete(&mut self, io: &mut Io, completion: Completion) {
        match completion {
            Completion::Readable => self.relay.borrow_mut().advance(io, self.side),
            Completion::Writable => self.relay.borrow_mut().writable(io, self.side),
            Completion::Broken(error) => self.relay.borrow_mut().fail(io, &error),
            Completion::Connected(Ok(())) => self.relay.borrow_mut().open(io),
            Completion::Connected(Err(error)) => self.connect(io, error),
            _ => unreachable!("a relay neither accepts nor receives nor sends"),
        }
        self.close_if_done(io);
    }

    /// The first call of the client's end: from here on a panic is its own, and not the listener's.
    fn finish_turn(&mut self, io: &mut Io) {
        self.relay.borrow_mut().prepare(io, self.id);
        self.connect(io, io::ErrorKind::AddrNotAvailable.into());
        self.close_if_done(io);
    }

    /// The relay is over.
    fn wake(&mut self, io: &mut Io) {
        self.close_if_done(io);
    }

    fn timer(&mut self, io: &mut Io, key: u32) {
        match key {
            CONNECT => self.connect(io, no_answer()),
            IDLE => self.relay.borrow_mut().limit_idleness(io),
            _ => self.relay.borrow_mut().advance(io, self.side),
        }
        self.close_if_done(io);
    }

    fn notify(&mut self, io: &mut Io, notice: &dyn Any) {
        let Some(Notice { group, order: Order::Abort }) = notice.downcast_ref() else { return };
        if Rc::ptr_eq(group, &self.relay.borrow().group) {
            self.relay.borrow_mut().end(io, How::Reset);
        }
        self.close_if_done(io);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.group.channel_closed();
    }
}
