//! The way into a server on one worker: from an accepted connection to one that is let in.

use perihelion_runtime::{EndpointId, Io};
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::admission::{Admission, Candidate, Place, Refusal};
use crate::filter::Decisions;

/// How long no connection is taken when the process has no descriptor or memory left for it.
const PAUSE: Duration = Duration::from_millis(100);

/// The timer that ends a pause.
const PAUSED: u32 = 0;
/// The timer that ends the waiting of the first.
const WAITED: u32 = 1;

/// What a listener does with the connections that it accepts. Each of its calls is followed by [`Entrance::next`], until
/// there is none, and by [`Entrance::accept`].
///
/// A connection's way: `arrived` → the filter → the address's share → the asynchronous filter (`decisions`) → a place,
/// for which it may wait (`waiting`). Where there is no room, nothing goes further, and nothing is accepted.
pub(crate) struct Entrance {
    id: EndpointId,
    admission: Arc<Admission>,
    /// Starts accepting, or does nothing if that goes on.
    start: fn(&mut Io, EndpointId),
    /// Accepted, and without room further in.
    arrived: VecDeque<OwnedFd>,
    decisions: Rc<Decisions>,
    waiting: VecDeque<Waiting>,
    /// Whether the timer of the first that waits is set.
    waiting_timed: bool,
    /// Accepting failed, and rests.
    paused: bool,
}

struct Waiting {
    candidate: Candidate,
    until: Instant,
}

impl Entrance {
    pub(crate) fn new(id: EndpointId, admission: Arc<Admission>, start: fn(&mut Io, EndpointId)) -> Self {
        Entrance {
            id,
            admission,
            start,
            arrived: VecDeque::new(),
            decisions: Rc::default(),
            waiting: VecDeque::new(),
            waiting_timed: false,
            paused: false,
        }
    }

    /// An accept is done.
    pub(crate) fn accepted(&mut self, io: &mut Io, result: io::Result<OwnedFd>) {
        match result {
            Ok(fd) => self.arrived.push_back(fd),
            // The other side gave up before it was accepted.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                tracing::warn!(%error, pause = ?PAUSE, "no connection can be accepted for now");
                self.paused = true;
                io.set_timer(self.id, PAUSED, io.now() + PAUSE);
            }
        }
    }

    pub(crate) fn timer(&mut self, io: &mut Io, key: u32) {
        if key == PAUSED {
            self.paused = false;
            return;
        }
        self.waiting_timed = false;
        while let Some(_late) = self.waiting.pop_front_if(|first| first.until <= io.now()) {
            self.admission.refuse(Refusal::Late);
        }
    }

    /// The next connection that is let in.
    pub(crate) fn next(&mut self, io: &mut Io) -> Option<(OwnedFd, Place)> {
        loop {
            let admitted = self.admit_first(io);
            if admitted.is_some() {
                return admitted;
            }
            let config = self.admission.config();
            if self.waiting.len() >= config.waiting_max {
                break;
            }
            let until = io.now() + config.wait();
            let Some(candidate) = self.candidate(io) else { break };
            self.waiting.push_back(Waiting { candidate, until });
        }
        if !self.waiting_timed
            && let Some(first) = self.waiting.front()
        {
            self.waiting_timed = true;
            io.set_timer(self.id, WAITED, first.until);
        }
        None
    }

    /// Accepts, as long as connections are wanted and there is room for those that have arrived.
    pub(crate) fn accept(&mut self, io: &mut Io, wanted: bool) {
        if !wanted || !self.arrived.is_empty() {
            io.stop_accepting(self.id);
        } else if !self.paused {
            (self.start)(io, self.id);
        }
    }

    /// Lets in the first of those that wait, if there is a place.
    fn admit_first(&mut self, io: &mut Io) -> Option<(OwnedFd, Place)> {
        let Waiting { candidate, until } = self.waiting.pop_front()?;
        let candidate = match self.admission.admit(candidate) {
            Ok(admitted) => return Some(admitted),
            Err(candidate) => candidate,
        };
        if !self.admission.waits_when_full() {
            self.admission.refuse(Refusal::Full);
            return None;
        }
        self.admission.wake_when_free(io.waker(self.id));
        match self.admission.admit(candidate) {
            Ok(admitted) => Some(admitted),
            Err(candidate) => {
                self.waiting.push_front(Waiting { candidate, until });
                None
            }
        }
    }

    /// The next that has passed the filters and has its share. No decision begins while one has passed and is not taken:
    /// so no more than may be under decision are kept there.
    fn candidate(&mut self, io: &mut Io) -> Option<Candidate> {
        if let Some(candidate) = self.decisions.take_passed() {
            return Some(candidate);
        }
        while self.decisions.len() < self.admission.config().filtering_max
            && let Some(fd) = self.arrived.pop_front()
        {
            let share = match self.admission.examine(&fd) {
                Ok(share) => share,
                Err(refusal) => {
                    self.admission.refuse(refusal);
                    continue;
                }
            };
            let candidate = Candidate { share, fd };
            if !self.admission.filters().is_async() {
                return Some(candidate);
            }
            self.decisions.begin(&self.admission, candidate, io.waker(self.id));
        }
        None
    }
}

impl Drop for Entrance {
    fn drop(&mut self) {
        self.decisions.abort();
    }
}
