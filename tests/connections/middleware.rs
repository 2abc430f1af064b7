//! Middleware: in which order it runs, and what it sees of errors, panics and the end of a server.

use perihelion::middleware::{self, ConnectionLimit, ConnectionMetrics};
use perihelion::prelude::*;
use perihelion::runtime::simulation::Simulation;
use perihelion::testing::{Ending, Faults, each_seed};
use perihelion::transports::PerCore;

use std::time::Duration;

use crate::common::*;
use crate::serve;

const SECOND: Duration = Duration::from_secs(1);

/// Notes when a connection comes and goes.
fn noted(
    name: &'static str,
    journal: &Journal,
) -> impl AsyncFn(Connection, Next) -> Result<()> + Send + Sync + 'static + use<> {
    let journal = journal.clone();
    async move |connection: Connection, next: Next| {
        journal.note(format!("{name} in"));
        let result = next.run(connection).await;
        journal.note(match &result {
            Ok(()) => format!("{name} out"),
            Err(error) => format!("{name} out: {error}"),
        });
        result
    }
}

type Protocol = fn(Server) -> Server<PerCore>;

/// Echoes lines, in the three ways that there are.
const PROTOCOLS: [Protocol; 3] = [
    |server| {
        server.connections(async |connection| {
            while let Some(bytes) = connection.read().await? {
                connection.write(bytes).await?;
            }
            Ok(())
        })
    },
    |server| server.pipeline(|_conn| codec(Lines::lf(100)).service(async |line: String| Ok(line))),
    |server| {
        server.peer(
            |_conn| codec(Lines::lf(100)),
            async |peer: Peer<String, String>| {
                while let Some(line) = peer.recv().await? {
                    peer.send(line).await?;
                }
                Ok(())
            },
        )
    },
];

#[test]
fn the_first_is_outermost_and_each_sees_the_end_of_those_inside() {
    each_seed(0..60, |seed| {
        let journal = Journal::default();
        let (mut simulation, _server) = serve(Simulation::new(seed, Faults::survivable()), |server| {
            let server = server.with(noted("first", &journal)).with(noted("second", &journal));
            PROTOCOLS[seed as usize % 3](server)
        });
        let far = simulation.knock();
        far.send("hello\n");
        far.end();
        simulation.advance(SECOND); // after a failed accept a listener rests
        assert_eq!(far.received(), b"hello\n");
        assert_eq!(far.sees(), Ending::Closed);
        assert_eq!(journal.entries(), ["first in", "second in", "second out", "first out"]);
    });
}

#[test]
fn an_error_goes_outwards_and_the_connection_is_closed() {
    let journal = Journal::default();
    let (mut simulation, server) = serve(Simulation::new(1, Faults::none()), |server| {
        server
            .with(noted("outer", &journal))
            .with(async |_connection, _next| Err(Error::msg("no entry")))
            .with(noted("never", &journal))
            .connections(async |_connection| unreachable!())
    });
    let far = simulation.knock();
    far.end();
    simulation.run();
    assert_eq!(far.sees(), Ending::Closed);
    assert_eq!(journal.entries(), ["outer in", "outer out: no entry"]);
    assert_eq!(server.report().open, 0);
}

#[test]
fn a_panic_costs_its_connection_and_gives_back_what_middleware_holds() {
    each_seed(0..60, |seed| {
        let (limit, metrics) = (ConnectionLimit::refuse(1), ConnectionMetrics::default());
        let (mut simulation, server) = serve(Simulation::new(seed, Faults::survivable()), |server| {
            server
                .with(middleware::measure(metrics.clone()))
                .with(middleware::limit(limit.clone()))
                .with(async |connection: Connection, _next| {
                    connection.read().await?;
                    std::panic::resume_unwind(Box::new("on purpose"))
                })
                .connections(async |_connection| unreachable!())
        });
        for _ in 0..3 {
            let far = simulation.knock();
            simulation.advance(SECOND);
            assert_eq!(limit.open(), 1);
            far.send("bang");
            simulation.run();
            assert_eq!((limit.open(), limit.refused(), far.sees()), (0, 0, Ending::Reset));
        }
        let report = metrics.report();
        assert_eq!((report.total, report.open, report.failed), (3, 0, 3));
        assert_eq!(server.report().open, 0);
    });
}

#[test]
fn a_server_that_stops_ends_those_inside_and_those_that_wait() {
    let (fixture, journal) = (Fixture::with(|config| config.runtime.workers = 2), Journal::default());
    let limit = ConnectionLimit::wait(4, 100, DRAIN);
    let server = Server::bind(V4).with(noted("outer", &journal)).with(middleware::limit(limit.clone()));
    let server = PROTOCOLS[0](server).start(&fixture).unwrap();
    let clients: Vec<_> = (0..12).map(|_| connect(address_of(&server))).collect();
    eventually("all have come", || (limit.open(), limit.waiting()) == (4, 8));
    let report = server.stop(DRAIN);
    assert_eq!((report.connections, report.open, report.aborted), (12, 0, 0), "{report}");
    journal.wait_for_some(12, "outer out: the connection is closed");
    assert_eq!((limit.open(), limit.waiting()), (0, 0));
    drop(clients);
    fixture.stop();
}

#[test]
fn clients_have_the_same() {
    let mut simulation = Simulation::new(1, Faults::none());
    let address = "192.0.2.1:80".parse().unwrap();
    simulation.answer_at(address);
    let (limit, metrics) = (ConnectionLimit::refuse(1), ConnectionMetrics::default());
    let client = Client::new(&Config::default())
        .with(middleware::measure(metrics.clone()))
        .with(middleware::limit(limit.clone()))
        .with(middleware::idle(SECOND * 10));
    let connect = |simulation: &mut Simulation| {
        let client = client.clone();
        let task = simulation.spawn(async move {
            client.peer(&address.into(), codec(Lines::lf(100))).await.map_err(|error| error.to_string())
        });
        simulation.finish(task).expect("the connect has ended")
    };
    let peer: Peer<String, String> = connect(&mut simulation).unwrap();
    let refused = connect(&mut simulation).err().expect("there is no second place");
    assert!(refused.contains("as many connections as there may be: 1"), "{refused}");

    let far = simulation.answered().expect("it came");
    far.send("hello\n");
    simulation.advance(SECOND * 9);
    assert_eq!(peer.try_recv().as_deref(), Some("hello"));
    assert_eq!((limit.open(), metrics.report().open, far.sees()), (1, 1, Ending::Open));
    assert_eq!(peer.get::<ConnectionMetrics>().map(|metrics| metrics.report()), Some(metrics.report()));
    simulation.advance(SECOND * 2);
    assert_eq!(far.sees(), Ending::Ended, "idle");
    far.end();
    simulation.run();
    let report = metrics.report();
    assert_eq!((report.total, report.open, report.failed, report.received), (2, 0, 2, 6));
    assert!(connect(&mut simulation).is_ok(), "the place is free");
}
