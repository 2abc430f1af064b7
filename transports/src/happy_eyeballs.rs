//! Which of a host's addresses are tried, in which order, and beside which others: "Happy Eyeballs", RFC 8305. A host
//! that can't be reached over one family of addresses is reached over the other, after a fraction of a second.

use perihelion_runtime::{Sleep, sleep, sleep_until};
use std::collections::HashSet;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::FailedAttempt;

/// The most addresses of a host that are tried for one connection.
pub(crate) const ATTEMPTS_MAX: usize = 16;

/// Why none was connected to.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) attempts: Vec<FailedAttempt>,
    /// How many addresses were not tried.
    pub(crate) untried: usize,
}

/// What ends a wait.
enum Event<T> {
    Connected(T),
    /// It is time for the next one.
    Next,
    /// The time for all of them is up.
    Late,
}

/// Lets the families of addresses take turns, each in the resolver's order (RFC 8305, section 4; First Address Family
/// Count 1). The resolver's first address stays the first: it sorts by RFC 6724, which prefers IPv6 where there is a
/// route. An address that it gives twice is tried once.
pub(crate) fn interleave(mut resolved: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let mut seen = HashSet::new();
    resolved.retain(|address| seen.insert(*address));
    let first_is_v6 = resolved.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        resolved.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let mut second = second.into_iter();
    let mut order = Vec::new();
    for address in first {
        order.push(address);
        order.extend(second.next());
    }
    order.extend(second);
    order
}

/// Starts attempts at these addresses one after the other, each when those before it have had this delay to themselves
/// or one of them has failed, and gives what the first that succeeds does (RFC 8305, section 5). The others are dropped.
///
/// # Errors
/// What each attempt met with. At the deadline, those that are under way have failed too.
pub(crate) async fn race<T, F>(
    addresses: Vec<SocketAddr>,
    delay: Duration,
    deadline: Instant,
    mut start: impl FnMut(SocketAddr) -> io::Result<F>,
) -> Result<T, Failed>
where
    F: Future<Output = io::Result<T>> + Unpin,
{
    let beyond = addresses.len().saturating_sub(ATTEMPTS_MAX);
    let mut waiting = addresses.into_iter().take(ATTEMPTS_MAX);
    let (mut running, mut failed) = (Vec::new(), Vec::new());
    let mut deadline = pin!(sleep_until(deadline));
    loop {
        if let Some(address) = waiting.next() {
            match start(address) {
                Ok(attempt) => running.push((address, attempt)),
                Err(cause) => {
                    failed.push(FailedAttempt { address, cause });
                    continue;
                }
            }
        }
        if running.is_empty() {
            break;
        }
        let delay = (waiting.len() > 0).then_some(delay);
        match event(&mut running, &mut failed, delay, deadline.as_mut()).await {
            Event::Connected(connected) => return Ok(connected),
            Event::Next => {}
            Event::Late => {
                failed.extend(
                    running.drain(..).map(|(address, _)| FailedAttempt { address, cause: too_late() }),
                );
                break;
            }
        }
    }
    Err(Failed { attempts: failed, untried: waiting.len() + beyond })
}

/// Waits for what comes first. Attempts that fail are moved.
async fn event<T, F>(
    running: &mut Vec<(SocketAddr, F)>,
    failed: &mut Vec<FailedAttempt>,
    delay: Option<Duration>,
    mut deadline: Pin<&mut Sleep>,
) -> Event<T>
where
    F: Future<Output = io::Result<T>> + Unpin,
{
    let mut delay = delay.map(sleep);
    poll_fn(|task| {
        let failed_before = failed.len();
        let mut at = 0;
        while let Some((_, attempt)) = running.get_mut(at) {
            match Pin::new(attempt).poll(task) {
                Poll::Ready(Ok(connected)) => return Poll::Ready(Event::Connected(connected)),
                Poll::Ready(Err(cause)) => {
                    let (address, _) = running.remove(at);
                    failed.push(FailedAttempt { address, cause });
                }
                Poll::Pending => at += 1,
            }
        }
        let over = delay.as_mut().is_some_and(|delay| Pin::new(delay).poll(task).is_ready());
        if over || failed.len() > failed_before {
            return Poll::Ready(Event::Next);
        }
        deadline.as_mut().poll(task).map(|()| Event::Late)
    })
    .await
}

/// What attempts are told that have no more time.
pub(crate) fn too_late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer within channel.connect_ms")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connector::connect;
    use crate::socket;
    use perihelion_runtime::simulation::{Ending, Faults, Simulation, each_seed};
    use perihelion_runtime::{JoinHandle, now};
    use proptest::prelude::*;
    use std::cell::RefCell;
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::path::PathBuf;
    use std::rc::Rc;

    const SECOND: Duration = Duration::from_secs(1);

    prop_compose! {
        /// From a few, so that some come twice.
        fn any_address()(v6: bool, number in 1..20u8) -> SocketAddr {
            match v6 {
                true => SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()], 1)),
                false => address(number),
            }
        }
    }

    proptest! {
        #[test]
        fn families_take_turns_in_the_resolvers_order(
            resolved in proptest::collection::vec(any_address(), 0..60),
        ) {
            let order = interleave(resolved.clone());
            prop_assert_eq!(order.first(), resolved.first());
            let mut distinct = Vec::new();
            for address in resolved {
                if !distinct.contains(&address) {
                    distinct.push(address);
                }
            }
            prop_assert_eq!(order.len(), distinct.len());
            for v6 in [false, true] {
                let of_family = |all: &[SocketAddr]| -> Vec<SocketAddr> {
                    all.iter().copied().filter(|address| address.is_ipv6() == v6).collect()
                };
                prop_assert_eq!(of_family(&order), of_family(&distinct));
            }
            let turns = order.windows(2).position(|pair| pair[0].is_ipv6() == pair[1].is_ipv6());
            let rest = &order[turns.unwrap_or(order.len())..];
            prop_assert!(rest.windows(2).all(|pair| pair[0].is_ipv6() == pair[1].is_ipv6()), "{order:?}");
        }
    }

    fn address(number: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, number], 1))
    }

    fn addresses(count: u8) -> Vec<SocketAddr> {
        (1..=count).map(address).collect()
    }

    /// What has become of the attempts of a race, and when.
    #[derive(Clone, Default)]
    struct Log(Rc<RefCell<LogEntries>>);

    #[derive(Default)]
    struct LogEntries {
        started: Vec<(SocketAddr, Instant, PathBuf)>,
        failed: Vec<Instant>,
    }

    impl Log {
        fn race(
            &self,
            simulation: &mut Simulation,
            addresses: Vec<SocketAddr>,
            delay: Duration,
            limit: Duration,
        ) -> JoinHandle<Result<OwnedFd, Failed>> {
            let (log, deadline) = (self.clone(), simulation.now() + limit);
            simulation.spawn(race(addresses, delay, deadline, move |address| {
                let socket = socket::for_connect(address, None, &Default::default())?;
                log.0.borrow_mut().started.push((address, now(), name(&socket)));
                let log = log.clone();
                Ok(Box::pin(async move {
                    let result = connect(socket, address).await;
                    if result.is_err() {
                        log.0.borrow_mut().failed.push(now());
                    }
                    result
                }))
            }))
        }

        fn started(&self) -> Vec<SocketAddr> {
            self.0.borrow().started.iter().map(|(address, ..)| *address).collect()
        }

        /// The addresses whose sockets this process has not closed.
        fn open(&self) -> Vec<SocketAddr> {
            let files = std::fs::read_dir("/proc/self/fd").unwrap();
            let open: Vec<PathBuf> =
                files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok()).collect();
            let is_open = |socket| open.contains(socket);
            let started = &self.0.borrow().started;
            started.iter().filter(|(_, _, socket)| is_open(socket)).map(|(address, ..)| *address).collect()
        }
    }

    /// A socket's own among all that there were: its descriptor's number is used again.
    fn name(socket: &impl AsRawFd) -> PathBuf {
        std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap()
    }

    #[test]
    fn the_next_is_tried_beside_the_first_and_whoever_answers_wins() {
        for winner in [1, 2] {
            let (mut simulation, log) = (Simulation::new(1, Faults::none()), Log::default());
            simulation.ignore_at(address(1));
            simulation.ignore_at(address(2));
            let race = log.race(&mut simulation, addresses(3), SECOND, SECOND * 10);
            simulation.run();
            simulation.advance(SECOND - Duration::from_millis(2));
            assert_eq!(log.started(), addresses(1), "it has the delay to itself");
            simulation.advance(Duration::from_millis(4));
            assert_eq!(log.started(), addresses(2));
            simulation.answer_at(address(winner));
            let connected = simulation.finish(race).unwrap().unwrap();
            assert_eq!(log.open(), [address(winner)], "the other socket is closed");
            simulation.advance(SECOND * 10);
            assert_eq!(log.started(), addresses(2), "and no other is tried");
            drop(connected);
            assert_eq!(log.open(), []);
        }
    }

    #[test]
    fn the_next_is_tried_at_once_when_one_fails() {
        let (mut simulation, log) = (Simulation::new(1, Faults::none()), Log::default());
        simulation.answer_at(address(3));
        let race = log.race(&mut simulation, addresses(4), SECOND, SECOND * 10);
        let connected = simulation.finish(race).unwrap().unwrap();
        assert_eq!(log.started(), addresses(3));
        assert_eq!(log.open(), [address(3)]);
        drop(connected);
    }

    #[test]
    fn at_the_deadline_all_have_failed_and_are_closed() {
        let (mut simulation, log) = (Simulation::new(1, Faults::none()), Log::default());
        addresses(20).into_iter().skip(1).for_each(|address| simulation.ignore_at(address));
        let race = log.race(&mut simulation, addresses(20), SECOND, SECOND * 5 / 2);
        simulation.advance(SECOND * 3);
        let failed = simulation.finish(race).unwrap().unwrap_err();
        let causes: Vec<_> = failed.attempts.iter().map(|attempt| attempt.cause.kind()).collect();
        use io::ErrorKind::{ConnectionRefused, TimedOut};
        assert_eq!(causes, [ConnectionRefused, TimedOut, TimedOut, TimedOut]);
        assert_eq!(failed.untried, 16);
        assert_eq!(log.open(), []);
    }

    #[test]
    fn a_race_that_is_dropped_closes_its_sockets_at_once() {
        let (mut simulation, log) = (Simulation::new(1, Faults::none()), Log::default());
        addresses(3).into_iter().for_each(|address| simulation.ignore_at(address));
        let race = log.race(&mut simulation, addresses(3), SECOND, SECOND * 10);
        simulation.advance(SECOND * 5);
        assert_eq!(log.open(), addresses(3));
        race.abort();
        simulation.run();
        assert_eq!(log.open(), []);
    }

    #[test]
    fn whatever_the_addresses_do_one_connection_is_left_or_none() {
        each_seed(0..300, |seed| {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut simulation, log) = (Simulation::new(seed, Faults::survivable()), Log::default());
            let (all, mut answering) = (addresses(random.u8(1..20)), Vec::new());
            for address in &all {
                match random.u8(0..4) {
                    0 => simulation.refuse_at(*address),
                    1 => {
                        simulation.answer_at(*address);
                        answering.push(*address);
                    }
                    _ => simulation.ignore_at(*address),
                }
            }
            let delay = Duration::from_millis(random.u64(10..100));
            let race = log.race(&mut simulation, all.clone(), delay, SECOND * 10);
            simulation.advance(SECOND * 11);
            let result = simulation.finish(race).expect("it is decided");

            let started = log.started();
            assert!(all.starts_with(&started) && started.len() <= ATTEMPTS_MAX, "{started:?}");
            for pair in log.0.borrow().started.windows(2) {
                let (before, after) = (pair[0].1, pair[1].1);
                let failed = log.0.borrow().failed.iter().any(|at| (before..=after).contains(at));
                assert!(failed || after - before >= delay, "{:?}", after - before);
            }
            let mut left = 0;
            while let Some(peer) = simulation.answered() {
                match peer.sees() {
                    Ending::Open => left += 1,
                    other => assert_eq!(other, Ending::Closed),
                }
            }
            match result {
                Ok(connected) => {
                    assert_eq!(left, 1);
                    let [winner] = log.open()[..] else { panic!("{:?}", log.open()) };
                    assert!(answering.contains(&winner));
                    drop(connected);
                }
                Err(failed) => {
                    assert_eq!(left, 0);
                    assert!(all.iter().take(ATTEMPTS_MAX).all(|address| !answering.contains(address)));
                    assert_eq!(failed.attempts.len(), started.len());
                    assert_eq!(failed.untried, all.len() - started.len());
                }
            }
            assert_eq!(log.open(), []);
        });
    }
}
