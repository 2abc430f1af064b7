//! How much may pass in a time.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// A bucket of tokens that fills at a rate and holds no more than a burst: in any time `t` at most
/// `burst + rate * t` tokens can be had from it. Full at first. It has no clock: it is told the time.
///
/// Counts in tokens per nanosecond without rounding, so that it is exact at any rate and however often it is asked.
///
/// ```
/// # use std::time::{Duration, Instant};
/// # use perihelion_pipeline::handlers::TokenBucket;
/// let start = Instant::now();
/// let mut bucket = TokenBucket::new(100, 5);
/// assert!(bucket.take(start, 5));
/// assert!(!bucket.take(start, 1));
/// assert!(bucket.take(start + Duration::from_millis(20), 2));
/// assert_eq!(bucket.reserve(start + Duration::from_millis(20), 3), start + Duration::from_millis(50));
/// ```
#[derive(Clone, Debug)]
pub struct TokenBucket {
    rate_per_second: u64,
    burst: u64,
    /// How many tokens it is from being full, times [`NANOS_PER_SECOND`]. More than a burst: they are reserved.
    missing: u128,
    /// When `missing` was right. `None`: before the first use.
    at: Option<Instant>,
}

/// A bucket that several handlers take from: those of one channel, or of all channels of a worker.
pub type SharedBucket = Rc<RefCell<TokenBucket>>;

impl TokenBucket {
    /// Fills with so many tokens a second, and holds at most `burst`.
    ///
    /// # Panics
    /// If either is zero: nothing could ever pass.
    pub fn new(rate_per_second: u64, burst: u64) -> Self {
        assert!(rate_per_second > 0, "a bucket that never fills");
        assert!(burst > 0, "a bucket that holds nothing");
        TokenBucket { rate_per_second, burst, missing: 0, at: None }
    }

    /// A bucket to be given to several handlers.
    pub fn shared(rate_per_second: u64, burst: u64) -> SharedBucket {
        Rc::new(RefCell::new(TokenBucket::new(rate_per_second, burst)))
    }

    /// Takes so many tokens, if they are there: all or none.
    pub fn take(&mut self, now: Instant, tokens: u64) -> bool {
        self.fill(now);
        let missing = self.missing + cost(tokens);
        let are_there = missing <= cost(self.burst);
        if are_there {
            self.missing = missing;
        }
        are_there
    }

    /// Takes so many tokens that need not be there yet, and says when they will be. Whoever reserves first has them
    /// first, so that nobody who shares the bucket waits for ever. Tokens that are used later than that, because a
    /// timer was late, come on top of what passes then.
    pub fn reserve(&mut self, now: Instant, tokens: u64) -> Instant {
        self.fill(now);
        self.missing += cost(tokens);
        let nanos = self.missing.saturating_sub(cost(self.burst)).div_ceil(self.rate_per_second.into());
        now.max(self.at.unwrap_or(now)) + Duration::from_nanos(nanos.try_into().unwrap_or(u64::MAX))
    }

    /// Gives tokens back that were taken and not used.
    pub fn give_back(&mut self, tokens: u64) {
        self.missing = self.missing.saturating_sub(cost(tokens));
    }

    /// The most that can be taken at once.
    pub fn burst(&self) -> u64 {
        self.burst
    }

    fn fill(&mut self, now: Instant) {
        // A time before the last one is the last one: the clocks of two channels' turns.
        let passed = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.at = self.at.max(Some(now));
        self.missing =
            self.missing.saturating_sub(passed.as_nanos().saturating_mul(self.rate_per_second.into()));
    }
}

fn cost(tokens: u64) -> u128 {
    u128::from(tokens) * NANOS_PER_SECOND
}
