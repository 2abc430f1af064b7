//! One worker's share of the load.

use hdrhistogram::Histogram;
use perihelion::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::arguments::Plan;
use crate::echo::{Asker, Compare, End, Role, Template};
use crate::phase::{Phase, Shared};
use crate::security::Security;

/// After a failed attempt to connect.
const RETRY_AFTER: Duration = Duration::from_millis(50);
/// How long a connection may take to end after the measurement.
const END_LIMIT: Duration = Duration::from_secs(3);

/// What a worker has counted.
pub(crate) struct Results {
    /// Of the measured part, in nanoseconds.
    pub(crate) latencies: Histogram<u64>,
    /// Of the measured part.
    pub(crate) connections: u64,
    /// Of the whole run.
    pub(crate) replies_total: u64,
    /// Of the measured part; with TLS.
    pub(crate) handshakes: Handshakes,
    /// By kind, of the whole run.
    pub(crate) errors: Errors,
}

/// How many handshakes of TLS have been done.
#[derive(Clone, Copy, Default)]
pub(crate) struct Handshakes {
    pub(crate) full: u64,
    pub(crate) resumed: u64,
}

/// By kind.
pub(crate) type Errors = BTreeMap<&'static str, Failures>;

/// Errors of one kind.
#[derive(Clone)]
pub(crate) struct Failures {
    pub(crate) count: u64,
    /// The text of the first.
    pub(crate) first: String,
}

/// What a worker counts.
pub(crate) struct Tally {
    worker: usize,
    shared: Arc<Shared>,
    latencies: RefCell<Histogram<u64>>,
    replies: Cell<u64>,
    connections: Cell<u64>,
    handshakes: Cell<Handshakes>,
    errors: RefCell<Errors>,
}

/// One that records up to a minute, to three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    let mut histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are valid");
    histogram.auto(false);
    histogram
}

/// Opens connections, loads the server through them, and gives what was counted when the last of them has ended.
pub(crate) async fn load(
    worker: usize,
    address: SocketAddr,
    roles: Vec<Role>,
    plan: Plan,
    shared: Arc<Shared>,
    config: Config,
) -> Results {
    let tally = Rc::new(Tally {
        worker,
        shared,
        latencies: RefCell::new(histogram()),
        replies: Cell::new(0),
        connections: Cell::new(0),
        handshakes: Cell::default(),
        errors: RefCell::default(),
    });
    let template = Rc::new(Template::new(&plan));
    let client = Client::new(&config);
    let tasks: Vec<JoinHandle<()>> = roles
        .into_iter()
        .map(|role| {
            spawn_local(keep_connected(
                client.clone(),
                address,
                plan.clone(),
                role,
                template.clone(),
                tally.clone(),
            ))
        })
        .collect();
    for task in tasks {
        let _ = task.await;
    }
    tally.results()
}

/// Keeps one connection open, or one after the other.
async fn keep_connected(
    client: Client,
    address: SocketAddr,
    plan: Plan,
    role: Role,
    template: Rc<Template>,
    tally: Rc<Tally>,
) {
    let security = plan.security.as_ref().map(Security::with_own_sessions);
    while tally.shared.phase() != Phase::Stop {
        let end = Rc::default();
        let asker = Asker::new(Rc::clone(&tally), &plan, role, Rc::clone(&end));
        let compare = Compare::new(Rc::clone(&template));
        let connected = match &security {
            None => client.connect_to(address, codec(compare).tail(asker)).await,
            Some(security) => {
                client.connect_to(address, codec(security.stage()).codec(compare).tail(asker)).await
            }
        };
        let channel = match connected {
            Ok(channel) => channel,
            Err(error) => {
                tally.error("connect", &error.to_string());
                sleep(RETRY_AFTER).await;
                continue;
            }
        };
        let Some(reason) = closed(&channel, &tally).await else {
            tally.error("unanswered", "requests were still unanswered when the measurement was over");
            return;
        };
        let reason = reason.unwrap_or_else(|| "the server closed it".into());
        let end: End = *end.borrow();
        match end {
            End::Complete => tally.connection(),
            End::Early => tally.error("closed_early", &reason),
            End::WrongReply => tally.error("wrong_reply", &reason),
            End::Tls => tally.error("tls", &reason),
        }
        if end != End::Complete {
            sleep(RETRY_AFTER).await;
        }
    }
}

/// Waits for the channel's end; `None` if it doesn't come some time after the measurement.
async fn closed(channel: &ChannelHandle, tally: &Tally) -> Option<Option<String>> {
    let mut stopped = None;
    loop {
        if let Ok(reason) = timeout(Duration::from_millis(500), channel.closed()).await {
            return Some(reason);
        }
        if tally.shared.phase() == Phase::Stop
            && stopped.get_or_insert_with(Instant::now).elapsed() > END_LIMIT
        {
            return None;
        }
    }
}

impl Tally {
    /// Counts a reply, and says where the run is.
    #[inline]
    pub(crate) fn reply(&self, role: Role, latency: Duration) -> Phase {
        self.replies.set(self.replies.get() + 1);
        self.shared.publish(self.worker, self.replies.get());
        let phase = self.shared.phase();
        if phase == Phase::Measure && role == Role::Measured {
            // Saturates at the histogram's upper bound.
            self.latencies.borrow_mut().saturating_record(latency.as_nanos() as u64);
        }
        phase
    }

    fn connection(&self) {
        if self.shared.phase() == Phase::Measure {
            self.connections.set(self.connections.get() + 1);
        }
    }

    pub(crate) fn handshake(&self, resumed: bool) {
        if self.shared.phase() == Phase::Measure {
            let Handshakes { full, resumed: others } = self.handshakes.get();
            self.handshakes.set(match resumed {
                false => Handshakes { full: full + 1, resumed: others },
                true => Handshakes { full, resumed: others + 1 },
            });
        }
    }

    fn error(&self, kind: &'static str, text: &str) {
        let mut errors = self.errors.borrow_mut();
        errors.entry(kind).or_insert_with(|| Failures { count: 0, first: text.into() }).count += 1;
    }

    fn results(&self) -> Results {
        Results {
            latencies: self.latencies.borrow().clone(),
            connections: self.connections.get(),
            replies_total: self.replies.get(),
            handshakes: self.handshakes.get(),
            errors: self.errors.borrow().clone(),
        }
    }
}
