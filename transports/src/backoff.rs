//! How long to wait before something that failed is tried again.

use fastrand::Rng;
use perihelion_runtime::ReconnectConfig;
use std::time::Duration;

/// The delays before one attempt after the other: each is a random time up to a ceiling, which doubles up to a maximum.
/// So those who failed together come back apart. This is the "full jitter" of "Exponential Backoff And Jitter" (AWS
/// Architecture Blog, 2015), which makes the fewest attempts of the variants that are compared there.
///
/// ```
/// # use perihelion_transports::Backoff;
/// # use std::time::Duration;
/// let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(300)).attempts_max(4);
/// for ceiling in [100, 200, 300, 300] {
///     assert!(backoff.next().unwrap() <= Duration::from_millis(ceiling));
/// }
/// assert_eq!(backoff.next(), None);
/// backoff.reset();
/// assert!(backoff.next().unwrap() <= Duration::from_millis(100));
/// ```
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    attempts_max: u32,
    attempts: u32,
    ceiling: Duration,
    random: Rng,
}

impl Backoff {
    /// Delays up to `first`, then up to twice as long each time, and never longer than `max`; without end, and by a
    /// seed of their own. If `first` is zero, so are all.
    pub fn new(first: Duration, max: Duration) -> Self {
        let ceiling = first.min(max);
        Backoff { first, max, attempts_max: 0, attempts: 0, ceiling, random: Rng::new() }
    }

    /// Gives so many delays and no more until it is reset; 0 is without limit.
    pub fn attempts_max(mut self, attempts: u32) -> Self {
        self.attempts_max = attempts;
        self
    }

    /// Equal seeds give equal delays, for tests.
    pub fn seed(mut self, seed: u64) -> Self {
        self.random = Rng::with_seed(seed);
        self
    }

    /// Begins anew: the next delay is a first one.
    pub fn reset(&mut self) {
        self.attempts = 0;
        self.ceiling = self.first.min(self.max);
    }
}

impl From<&ReconnectConfig> for Backoff {
    fn from(config: &ReconnectConfig) -> Self {
        Backoff::new(config.first(), config.max()).attempts_max(config.attempts_max)
    }
}

impl Iterator for Backoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if self.attempts_max > 0 && self.attempts == self.attempts_max {
            return None;
        }
        self.attempts = self.attempts.saturating_add(1);
        let delay = self.ceiling.mul_f64(self.random.f64());
        self.ceiling = self.ceiling.saturating_mul(2).min(self.max);
        Some(delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The most that the delay behind so many others can be.
    fn ceiling(first: Duration, max: Duration, before: u32) -> Duration {
        first.saturating_mul(2u32.saturating_pow(before)).min(max)
    }

    prop_compose! {
        fn backoff()(first in 0..10_000u64, max in 0..1_000_000u64, seed: u64)
            -> (Duration, Duration, u64, Backoff)
        {
            let (first, max) = (Duration::from_millis(first), Duration::from_millis(max));
            (first, max, seed, Backoff::new(first, max).seed(seed))
        }
    }

    proptest! {
        #[test]
        fn a_delay_is_never_above_its_ceiling((first, max, _, backoff) in backoff()) {
            for (before, delay) in backoff.take(100).enumerate() {
                prop_assert!(delay <= ceiling(first, max, before as u32), "{delay:?} behind {before} others");
            }
        }

        #[test]
        fn equal_seeds_give_equal_delays((first, max, seed, backoff) in backoff()) {
            let same = Backoff::new(first, max).seed(seed);
            prop_assert!(backoff.take(50).eq(same.take(50)));
        }

        #[test]
        fn it_ends_behind_its_last_attempt_and_begins_anew_when_it_is_reset(
            (first, max, _, backoff) in backoff(), attempts in 1..50u32, rounds in 1..5,
        ) {
            let mut backoff = backoff.attempts_max(attempts);
            for _ in 0..rounds {
                for before in 0..attempts {
                    let delay = backoff.next();
                    prop_assert!(delay.is_some_and(|delay| delay <= ceiling(first, max, before)), "{delay:?}");
                }
                prop_assert_eq!(backoff.next(), None);
                prop_assert_eq!(backoff.next(), None);
                backoff.reset();
            }
        }

        /// Of the whole range up to the ceiling: the jitter is a full one.
        #[test]
        fn delays_are_spread_and_grow(first in 1..1000u64, seed: u64) {
            let first = Duration::from_millis(first);
            let max = first * 100;
            let runs: Vec<Vec<Duration>> = (0..200)
                .map(|run| Backoff::new(first, max).seed(seed ^ run).take(12).collect())
                .collect();
            for before in 0..12 {
                let ceiling = ceiling(first, max, before);
                let below = |part: f64| {
                    runs.iter().filter(|run| run[before as usize] < ceiling.mul_f64(part)).count()
                };
                let parts = [below(0.25), below(0.5) - below(0.25), below(0.75) - below(0.5), 200 - below(0.75)];
                prop_assert!(parts.iter().all(|part| (10..=100).contains(part)), "behind {before}: {parts:?}");
            }
        }
    }

    #[test]
    fn without_a_seed_no_two_are_alike() {
        let delays =
            || Backoff::new(Duration::from_secs(1), Duration::from_secs(60)).take(10).collect::<Vec<_>>();
        assert_ne!(delays(), delays());
    }

    #[test]
    fn the_configuration_sets_all_of_it() {
        let config = ReconnectConfig { first_ms: 5, max_ms: 6, attempts_max: 3, ..Default::default() };
        let delays: Vec<_> = Backoff::from(&config).collect();
        assert_eq!(delays.len(), 3);
        assert!(delays[0] <= Duration::from_millis(5) && delays[2] <= Duration::from_millis(6));
    }
}
