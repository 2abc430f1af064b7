//! The conversation on one connection: what is sent, and the proof that it came back.

use perihelion::prelude::*;
use perihelion::tls::{Established, Session, TlsError};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;
use std::time::Instant;

use crate::arguments::{Framing, Plan};
use crate::phase::Phase;
use crate::worker::Tally;

/// Requests are numbered: in each, the number stands first, as far as there is room. So replies that are missing,
/// doubled or out of order are found, not only damaged ones.
const NUMBER_BYTES: usize = 8;

/// The bytes of a request but for its number.
pub(crate) struct Template {
    /// The length prefix, if there is one.
    prefix: Vec<u8>,
    body: Vec<u8>,
}

impl Template {
    pub(crate) fn new(plan: &Plan) -> Self {
        let prefix = match plan.framing {
            Framing::Raw => Vec::new(),
            Framing::Length => (plan.size as u32).to_be_bytes().to_vec(),
        };
        // Not all alike, and with a long period.
        let body = (0..plan.size as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        Template { prefix, body }
    }

    fn len(&self) -> usize {
        self.prefix.len() + self.body.len()
    }

    /// The request's bytes in three parts: prefix, number, rest.
    fn parts<'a>(&'a self, number: &'a [u8; NUMBER_BYTES]) -> [&'a [u8]; 3] {
        let cut = self.body.len().min(NUMBER_BYTES);
        [&self.prefix, &number[..cut], &self.body[cut..]]
    }
}

/// Writes requests by their number, and gives the number of each that has come back whole.
pub(crate) struct Compare {
    template: Rc<Template>,
    /// The number of the reply that is coming in, and how many bytes of it have come.
    number: u64,
    at: usize,
}

/// What came back is not what was sent.
#[derive(Debug)]
pub(crate) struct WrongReply {
    number: u64,
    at: usize,
}

impl fmt::Display for WrongReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the reply to request {} of a connection differs at byte {} or behind it",
            self.number, self.at
        )
    }
}

impl std::error::Error for WrongReply {}

impl Compare {
    pub(crate) fn new(template: Rc<Template>) -> Self {
        Compare { template, number: 0, at: 0 }
    }
}

impl Codec for Compare {
    type Frame = u64;
    type Item = u64;

    fn decode(&mut self, input: &mut Input) -> Result<Option<u64>> {
        let number = self.number.to_le_bytes();
        let mut received = &input.as_slice()[..input.len().min(self.template.len() - self.at)];
        let taken = received.len();
        let mut skip = self.at;
        for part in self.template.parts(&number) {
            let expected = &part[skip.min(part.len())..];
            skip = skip.saturating_sub(part.len());
            let compared = expected.len().min(received.len());
            if expected[..compared] != received[..compared] {
                return Err(WrongReply { number: self.number, at: self.at }.into());
            }
            received = &received[compared..];
        }
        input.advance(taken);
        self.at += taken;
        if self.at < self.template.len() {
            return Ok(None);
        }
        self.at = 0;
        self.number += 1;
        Ok(Some(self.number - 1))
    }

    fn encode(&mut self, number: u64, output: &mut Output) -> Result<()> {
        for part in self.template.parts(&number.to_le_bytes()) {
            output.put_slice(part);
        }
        Ok(())
    }
}

/// Keeps requests on their way.
pub(crate) struct Asker {
    tally: Rc<Tally>,
    role: Role,
    depth: usize,
    /// Requests that this connection may still send.
    left: u64,
    next: u64,
    /// When those that are on their way were sent.
    sent: VecDeque<Instant>,
    /// Whether requests have to wait for a handshake of TLS. Written before, they would be kept back; and above the
    /// high-water mark a channel reads nothing, so not the handshake either.
    secured: bool,
    /// When the connection was opened.
    opened: Instant,
    /// How the connection ended.
    end: Rc<RefCell<End>>,
}

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Measured,
    /// It keeps the server busy.
    Flooder,
}

/// How a connection ended, as its pipeline saw it.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum End {
    /// All requests were answered.
    Complete,
    /// The server closed it, or it broke.
    #[default]
    Early,
    WrongReply,
    /// One side didn't accept the other's TLS.
    Tls,
}

impl Asker {
    pub(crate) fn new(tally: Rc<Tally>, plan: &Plan, role: Role, end: Rc<RefCell<End>>) -> Self {
        let (depth, requests) = match role {
            Role::Measured => (plan.depth, plan.requests_per_connection),
            Role::Flooder => (plan.flood_depth, None),
        };
        let left = requests.unwrap_or(u64::MAX);
        let (secured, sent) = (plan.security.is_some(), VecDeque::with_capacity(depth));
        Asker { tally, role, depth, left, next: 0, sent, secured, opened: Instant::now(), end }
    }

    /// Sends the first requests.
    fn begin(&mut self, cx: &mut Context<'_, u64>) -> Result<()> {
        for _ in 0..(self.depth as u64).min(self.left) {
            self.ask(cx, self.opened)?; // so that their time has a handshake in it
        }
        Ok(())
    }

    #[inline]
    fn ask(&mut self, cx: &mut Context<'_, u64>, now: Instant) -> Result<()> {
        self.left -= 1;
        self.sent.push_back(now);
        cx.write(self.next)?;
        self.next += 1;
        Ok(())
    }

    fn finish(&mut self, cx: &mut Context<'_, u64>) -> Result<()> {
        *self.end.borrow_mut() = End::Complete;
        cx.close()
    }
}

impl Tail for Asker {
    type In = u64;
    type Out = u64;

    fn open(&mut self, cx: &mut Context<'_, u64>) -> Result<()> {
        self.opened = Instant::now();
        if self.secured { Ok(()) } else { self.begin(cx) }
    }

    #[inline]
    fn read(&mut self, cx: &mut Context<'_, u64>, _number: u64) -> Result<()> {
        let now = Instant::now();
        let Some(sent) = self.sent.pop_front() else { return Err(Error::msg("a reply to no request")) };
        let phase = self.tally.reply(self.role, now - sent);
        if phase != Phase::Stop && self.left > 0 {
            self.ask(cx, now)?;
        } else if self.sent.is_empty() {
            self.finish(cx)?;
        }
        Ok(())
    }

    fn event(&mut self, cx: &mut Context<'_, u64>, event: &mut Event) -> Result<()> {
        if event.take::<Established>().is_some()
            && let Some(session) = cx.get::<Session>()
        {
            self.tally.handshake(session.is_resumed());
            return self.begin(cx);
        }
        Ok(())
    }

    fn error(&mut self, _cx: &mut Context<'_, u64>, error: Error) -> Result<()> {
        if error.downcast_ref::<WrongReply>().is_some() {
            *self.end.borrow_mut() = End::WrongReply;
        } else if let Some(error) = error.downcast_ref::<TlsError>()
            && !matches!(error, TlsError::Truncated)
        {
            *self.end.borrow_mut() = End::Tls;
        }
        Err(error)
    }
}
