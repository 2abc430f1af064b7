//! So many connections at once, and no more.

use perihelion::middleware::{self, ConnectionLimit};
use perihelion::prelude::*;
use perihelion::runtime::simulation::Simulation;
use perihelion::testing::{Ending, Faults, each_seed};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use crate::common::*;
use crate::serve;

const SECOND: Duration = Duration::from_secs(1);
const STORM: usize = 200;

/// Reads to the end, and notes the first line.
fn journalled(journal: &Journal) -> impl AsyncFn(Connection) -> Result<()> + Send + Sync + 'static + use<> {
    let journal = journal.clone();
    async move |connection: Connection| {
        while let Some(bytes) = connection.read().await? {
            journal.note(String::from_utf8(bytes.to_vec())?);
        }
        Ok(())
    }
}

#[test]
fn in_a_storm_there_are_never_too_many_and_nobody_is_forgotten() {
    each_seed(0..60, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let (max, waiting_max) = (random.usize(1..20), random.usize(0..STORM));
        let limit = ConnectionLimit::wait(max, waiting_max, SECOND * random.u32(1..5));
        let (inside, outcomes) = (Arc::new(AtomicUsize::new(0)), Journal::default());
        let (mut simulation, server) = serve(Simulation::new(seed, Faults::all()), |server| {
            let (inside, outcomes) = (Arc::clone(&inside), outcomes.clone());
            let outcome = async move |connection: Connection, next: Next| {
                let result = next.run(connection).await;
                let refused = result.as_ref().is_err_and(|error| error.to_string().contains("as many"));
                outcomes.note(if refused { "refused" } else { "served, or gone" });
                result
            };
            let limited = server.with(outcome).with(middleware::limit(limit.clone()));
            limited.connections(async move |connection: Connection| {
                assert!(inside.fetch_add(1, SeqCst) < max, "too many at once");
                while let Ok(Some(_)) = connection.read().await {}
                inside.fetch_sub(1, SeqCst);
                Ok(())
            })
        });
        let mut fars = Vec::new();
        for _ in 0..STORM {
            fars.push(simulation.knock());
            let some = random.usize(0..fars.len());
            match random.u8(0..8) {
                0..3 => fars[some].end(),
                3 => fars[some].reset(),
                4 => simulation.advance(Duration::from_millis(random.u64(0..300))),
                _ => {}
            }
            assert!(limit.open() <= max && limit.waiting() <= waiting_max);
        }
        simulation.advance(SECOND * 10);
        assert_eq!(limit.waiting(), 0, "all have come in, or waited in vain");
        fars.iter().for_each(|far| far.end());
        simulation.advance(SECOND * 10);
        assert_eq!((limit.open(), server.report().open), (0, 0));
        assert_eq!(outcomes.entries().len() as u64, server.report().connections);
        assert_eq!(outcomes.count("refused") as u64, limit.refused());
    });
}

#[test]
fn those_that_wait_come_in_turn() {
    each_seed(0..60, |seed| {
        let (limit, journal) = (ConnectionLimit::wait(3, 20, SECOND * 100), Journal::default());
        let (mut simulation, _server) = serve(Simulation::new(seed, Faults::none()), |server| {
            server.with(middleware::limit(limit.clone())).connections(journalled(&journal))
        });
        let fars: Vec<_> = (0..23).map(|_| simulation.knock()).collect();
        fars.iter().enumerate().for_each(|(number, far)| far.send(format!("{number}")));
        simulation.run();
        assert_eq!((limit.open(), limit.waiting()), (3, 20));
        // Some give up, and the places of all others go round.
        let mut random = fastrand::Rng::with_seed(seed);
        let given_up: Vec<bool> = (0..fars.len()).map(|number| number >= 3 && random.u8(0..4) == 0).collect();
        fars.iter().zip(&given_up).filter(|(_, given_up)| **given_up).for_each(|(far, _)| far.reset());
        simulation.run();
        let mut inside = Vec::new();
        while limit.open() > 0 {
            inside.clear();
            inside.extend(journal.entries());
            let leaves = &inside[random.usize(0..inside.len())];
            fars[leaves.parse::<usize>().unwrap()].end();
            simulation.run();
        }
        let expected: Vec<String> =
            (0..fars.len()).filter(|number| !given_up[*number]).map(|number| number.to_string()).collect();
        assert_eq!(journal.entries(), expected);
        assert_eq!(limit.refused(), 0);
    });
}

#[test]
fn one_that_has_waited_for_too_long_is_reset() {
    let (limit, journal) = (ConnectionLimit::wait(1, 1, SECOND * 10), Journal::default());
    let (mut simulation, _server) = serve(Simulation::new(1, Faults::none()), |server| {
        server.with(middleware::limit(limit.clone())).connections(journalled(&journal))
    });
    let (inside, waits) = (simulation.knock(), simulation.knock());
    waits.send("hello");
    simulation.advance(SECOND * 9);
    let too_many = simulation.knock();
    simulation.run();
    assert_eq!((too_many.sees(), waits.sees()), (Ending::Reset, Ending::Open));
    simulation.advance(SECOND);
    assert_eq!((waits.sees(), inside.sees()), (Ending::Reset, Ending::Open));
    assert_eq!((limit.open(), limit.waiting(), limit.refused()), (1, 0, 2));
    assert!(journal.entries().is_empty());

    // What has come while a connection waited is not lost.
    let waits = simulation.knock();
    waits.send("hello");
    simulation.advance(SECOND);
    inside.end();
    simulation.run();
    assert_eq!(journal.entries(), ["hello"]);
}

#[test]
fn a_place_is_free_when_the_connection_is_closed_and_not_before() {
    let limit = ConnectionLimit::refuse(1);
    let (mut simulation, _server) = serve(Simulation::new(1, Faults::none()), |server| {
        server.with(middleware::limit(limit.clone())).connections(async |connection| {
            connection.write(vec![7; 100_000].into()).await?;
            Ok(())
        })
    });
    let far = simulation.knock();
    far.set_window(Some(1000));
    simulation.advance(SECOND);
    assert_eq!(limit.open(), 1, "its function is done, and its bytes are not");
    far.set_window(None);
    far.end();
    simulation.run();
    assert_eq!((limit.open(), far.received().len()), (0, 100_000));
}

#[test]
fn two_servers_on_several_workers_share_a_limit() {
    let fixture = Fixture::with(|config| config.runtime.workers = 2);
    let limit = ConnectionLimit::wait(7, STORM, PATIENCE);
    let inside = Arc::new(AtomicUsize::new(0));
    let serve = || {
        let inside = Arc::clone(&inside);
        let count = async move |connection: Connection, next: Next| {
            assert!(inside.fetch_add(1, SeqCst) < 7, "too many at once");
            let result = next.run(connection).await;
            inside.fetch_sub(1, SeqCst);
            result
        };
        Server::bind(V4)
            .with(middleware::limit(limit.clone()))
            .with(count)
            .pipeline(echo)
            .start(&fixture)
            .unwrap()
    };
    let servers = [serve(), serve()];
    let addresses = servers.each_ref().map(address_of);
    thread::scope(|scope| {
        for number in 0..STORM {
            scope.spawn(move || ask(&connect(addresses[number % 2]), format!("{number}")));
        }
    });
    eventually("all places are free", || limit.open() == 0);
    assert_eq!(limit.refused(), 0);
    for server in servers {
        assert_eq!(server.stop(DRAIN).connections, STORM as u64 / 2);
    }
    fixture.stop();
}

#[test]
fn those_above_the_limit_are_refused_at_once() {
    let fixture = Fixture::with(|config| config.runtime.workers = 2);
    let limit = ConnectionLimit::refuse(10);
    let server =
        Server::bind(V4).with(middleware::limit(limit.clone())).pipeline(echo).start(&fixture).unwrap();
    // Some are reset so soon that they can't even be set up.
    let clients: Vec<_> = (0..STORM).filter_map(|_| try_connect(address_of(&server)).ok()).collect();
    eventually("all have been looked at", || limit.refused() == STORM as u64 - 10);
    let served = clients.iter().filter(|client| {
        let mut client = *client;
        client.write_all(&frame("hello")).is_ok() && try_receive(client).is_ok()
    });
    assert_eq!(served.count(), 10);
    drop(clients);
    fixture.stop_all(server);
}
