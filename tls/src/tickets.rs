//! Tickets with which a client resumes a session, without the server remembering it.
//!
//! A resumed session is not verified again: the ticket holds the name that the client asked for and the certificate
//! that it showed, if any, and rustls compares the name only. So two rules keep a ticket from being worth more than
//! what it was given for:
//!
//! 1. A ticket can be read only under the very rules for client certificates under which it was made: the same demand,
//!    authorities and revocation lists, byte by byte. Hosts with other rules, and a reload that finds other files,
//!    have other keys.
//! 2. Where client certificates are asked for, keys are thrown away from time to time and all tickets with them. A
//!    resumed session gets new tickets, so there would be no end otherwise to what an expired certificate is good for.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rustls::Error;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::ProducesTickets;

use crate::client_certificates::ClientRules;

/// How long a client certificate is good for without being looked at.
const UNVERIFIED_TIME_MAX: Duration = Duration::from_secs(60 * 60);

/// The keys of tickets by the rules under which they are made.
#[derive(Default)]
pub(crate) struct TicketKeys {
    by_rules: HashMap<[u8; 32], Arc<dyn ProducesTickets>>,
}

impl TicketKeys {
    /// The keys for these rules: those that are here or were before, or new ones.
    pub(crate) fn get(
        &mut self,
        rules: &ClientRules,
        before: Option<&TicketKeys>,
    ) -> Result<Arc<dyn ProducesTickets>, Error> {
        let known =
            [Some(&*self), before].into_iter().flatten().find_map(|keys| keys.by_rules.get(&rules.digest));
        let keys = match known {
            Some(keys) => keys.clone(),
            None if rules.verifier.offer_client_auth() => Arc::new(ShortLived::new(UNVERIFIED_TIME_MAX)?),
            None => Ticketer::new()?,
        };
        self.by_rules.insert(rules.digest, keys.clone());
        Ok(keys)
    }
}

/// Tickets that are all worth nothing at the end of their time, whenever they were made.
struct ShortLived {
    time: Duration,
    keys: RwLock<(Instant, Arc<dyn ProducesTickets>)>,
}

impl ShortLived {
    fn new(time: Duration) -> Result<Self, Error> {
        Ok(ShortLived { time, keys: RwLock::new((Instant::now(), Ticketer::new()?)) })
    }

    /// The present keys, or new ones. None if there is no randomness for these.
    fn keys(&self) -> Option<Arc<dyn ProducesTickets>> {
        let is_good = |made: Instant| made.elapsed() < self.time;
        {
            let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
            if is_good(keys.0) {
                return Some(keys.1.clone());
            }
        }
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if !is_good(keys.0) {
            *keys = (Instant::now(), Ticketer::new().ok()?);
        }
        Some(keys.1.clone())
    }
}

impl ProducesTickets for ShortLived {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.time.as_secs() as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.keys()?.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.keys()?.decrypt(cipher)
    }
}

impl fmt::Debug for ShortLived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShortLived").field("time", &self.time).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_read_until_the_end_of_the_time() {
        let tickets = ShortLived::new(Duration::from_secs(3600)).unwrap();
        let ticket = tickets.encrypt(b"session").unwrap();
        assert_eq!(tickets.decrypt(&ticket).unwrap(), b"session");
    }

    #[test]
    fn all_tickets_are_void_when_the_time_is_over() {
        let tickets = ShortLived::new(Duration::from_nanos(1)).unwrap();
        let early = tickets.encrypt(b"early").unwrap();
        assert_eq!(tickets.decrypt(&early), None);
        let late = tickets.encrypt(b"late").unwrap();
        assert_ne!(late, early);
    }
}
