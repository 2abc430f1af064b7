//! Two connections that are joined for life.

use perihelion_pipeline::Work;
use perihelion_runtime::{Completion, Endpoint, EndpointId, Io, JoinHandle, TimerId, defer, spawn_local};
use socket2::SockRef;
use std::any::Any;
use std::cell::RefCell;
use std::io;
use std::mem::replace;
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Forward;
use super::way::Way;
use crate::Error;
use crate::admission::Place;
use crate::channel::How;
use crate::group::{Group, Notice, Order};

/// How long a way that got no pipe waits before it asks again.
const NO_PIPE_PAUSE: Duration = Duration::from_millis(20);

/// Keys of timers: of the client's end, for both; and of the end whose bytes wait for a pipe.
const IDLE: u32 = 0;
const PIPE: u32 = 1;

/// Connects to the target for this client, and joins the two.
pub(crate) fn begin(io: &mut Io, client: OwnedFd, forward: &Arc<Forward>, group: &Rc<Group>, place: Place) {
    let opened = io.open(client, |io, id| {
        let relay = Rc::new_cyclic(|relay: &Weak<RefCell<Relay>>| {
            group.channel_opened();
            let connecting = spawn_local(connect(Arc::clone(forward), Rc::clone(group), Weak::clone(relay)));
            RefCell::new(Relay {
                forward: Arc::clone(forward),
                group: Rc::clone(group),
                client: id,
                target: None,
                state: State::Connecting(connecting),
                ways: [Way::Source, Way::Source],
                moved_at: io.now(),
                idle_timer: None,
                _place: place,
            })
        });
        relay.borrow_mut().prepare(io, id);
        End { id, party: Party::Client, relay }
    });
    if opened.is_err() {
        tracing::error!("a connection is dropped: the worker can't hold more");
    }
}

async fn connect(forward: Arc<Forward>, group: Rc<Group>, relay: Weak<RefCell<Relay>>) {
    let connected = forward.connect(&group.config).await;
    defer(move |io| {
        if let Some(relay) = relay.upgrade() {
            join(io, &relay, connected);
        }
    });
}

/// The target has been connected to, or can't be.
fn join(io: &mut Io, relay: &Rc<RefCell<Relay>>, connected: Result<OwnedFd, Error>) {
    let end = |_: &mut Io, id| End { id, party: Party::Target, relay: Rc::clone(relay) };
    let opened = connected.ok().map(|connected| io.open(connected, end));
    match opened {
        Some(Ok(target)) => return relay.borrow_mut().open(io, target),
        Some(Err(_)) => tracing::error!("a connection is dropped: the worker can't hold more"),
        None => {}
    }
    relay.borrow_mut().end(io, How::Reset);
}

/// Both connections, and what goes on between them.
///
/// Its life: `Connecting` → `Open` → `Over`. Both of the first go to `Over` when a connection breaks or a deadline passes;
/// [`Relay::end`] is the only way there.
struct Relay {
    forward: Arc<Forward>,
    group: Rc<Group>,
    client: EndpointId,
    /// `None` before it is open.
    target: Option<EndpointId>,
    state: State,
    /// By their source.
    ways: [Way; 2],
    /// When a byte was moved last.
    moved_at: Instant,
    /// Put off when it comes and something has moved since.
    idle_timer: Option<TimerId>,
    /// Given back when both ends are closed.
    _place: Place,
}

enum State {
    /// To the target, by this task.
    Connecting(JoinHandle<()>),
    Open,
    /// Each end closes itself in this way.
    Over(How),
}

#[derive(Clone, Copy, PartialEq)]
enum Party {
    Client,
    Target,
}

/// One of the two connections, as the event loop sees it.
///
/// An end closes only itself, in a call of its own: the loop drops an endpoint at once that has done so, but one that
/// others have closed only when its slot is needed again.
struct End {
    id: EndpointId,
    party: Party,
    relay: Rc<RefCell<Relay>>,
}

impl End {
    /// Closes itself if the relay is over.
    fn close_if_over(&self, io: &mut Io) {
        let relay = self.relay.borrow();
        match relay.state {
            State::Over(How::InOrder) if relay.group.lingers => io.close_in_background(self.id),
            State::Over(How::InOrder) => io.close(self.id),
            State::Over(How::Reset) => io.abort(self.id),
            State::Connecting(_) | State::Open => {}
        }
    }
}

impl Relay {
    fn id(&self, party: Party) -> Option<EndpointId> {
        match party {
            Party::Client => Some(self.client),
            Party::Target => self.target,
        }
    }

    /// Both connections are there.
    fn open(&mut self, io: &mut Io, target: EndpointId) {
        self.target = Some(target);
        if let State::Over(_) = self.state {
            return io.next_turn(target); // where it closes itself
        }
        self.state = State::Open;
        self.moved_at = io.now();
        self.limit_idleness(io);
        self.prepare(io, target);
        io.wait_readable(self.client);
        io.wait_readable(target);
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
    fn advance(&mut self, io: &mut Io, source: Party) {
        let (Some(from), Some(to)) = (self.id(source), self.id(source.other())) else { return };
        let way = &mut self.ways[source as usize];
        let mut moved = 0;
        let advanced = way.advance(io, from, to, &mut moved);
        if let Way::Pipe = way {
            io.set_timer(from, PIPE, io.now() + NO_PIPE_PAUSE);
        }
        if moved > 0 {
            self.moved_at = io.now();
            self.group.counters.add(match source {
                Party::Client => Work { bytes_in: moved, ..Work::default() },
                Party::Target => Work { bytes_out: moved, ..Work::default() },
            });
        }
        match advanced {
            Err(error) => self.fail(io, &error),
            Ok(()) if self.ways.iter().all(|way| matches!(way, Way::Ended)) => self.end(io, How::InOrder),
            Ok(()) => {}
        }
    }

    /// This party takes more of what the other has sent.
    fn writable(&mut self, io: &mut Io, party: Party) {
        let source = party.other();
        if let Way::Sink(_) = self.ways[source as usize] {
            self.advance(io, source);
        }
    }

    /// Ends a relay that is idle, and looks again at others when they could be.
    fn limit_idleness(&mut self, io: &mut Io) {
        let Some(limit) = self.forward.relay.idle() else { return };
        let at = self.moved_at + limit;
        if io.now() < at {
            self.idle_timer = Some(io.set_timer(self.client, IDLE, at));
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
        match replace(&mut self.state, State::Over(how)) {
            State::Over(first) => return self.state = State::Over(first),
            State::Connecting(task) => task.abort(),
            State::Open => {}
        }
        self.ways = [Way::Ended, Way::Ended];
        if let Some(timer) = self.idle_timer.take() {
            io.cancel_timer(timer);
        }
        io.next_turn(self.client);
        if let Some(target) = self.target {
            io.next_turn(target);
        }
    }
}

impl Party {
    fn other(self) -> Party {
        match self {
            Party::Client => Party::Target,
            Party::Target => Party::Client,
        }
    }
}

impl Endpoint for End {
    fn complete(&mut self, io: &mut Io, completion: Completion) {
        match completion {
            Completion::Readable => self.relay.borrow_mut().advance(io, self.party),
            Completion::Writable => self.relay.borrow_mut().writable(io, self.party),
            Completion::Broken(error) => self.relay.borrow_mut().fail(io, &error),
            _ => unreachable!("a relay only waits"),
        }
        self.close_if_over(io);
    }

    fn finish_turn(&mut self, _io: &mut Io) {}

    /// The relay is over.
    fn wake(&mut self, io: &mut Io) {
        self.close_if_over(io);
    }

    fn timer(&mut self, io: &mut Io, key: u32) {
        match key {
            IDLE => self.relay.borrow_mut().limit_idleness(io),
            _ => self.relay.borrow_mut().advance(io, self.party),
        }
        self.close_if_over(io);
    }

    fn notify(&mut self, io: &mut Io, notice: &dyn Any) {
        let Some(Notice { group, order: Order::Abort }) = notice.downcast_ref() else { return };
        if Rc::ptr_eq(group, &self.relay.borrow().group) {
            self.relay.borrow_mut().end(io, How::Reset);
        }
        self.close_if_over(io);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.group.channel_closed();
    }
}
