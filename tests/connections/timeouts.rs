//! Connections whose time is over.

use perihelion::handlers::{IdleKind, IdleTooLong};
use perihelion::middleware::{self, LifetimeOver};
use perihelion::prelude::*;
use perihelion::runtime::simulation::Simulation;
use perihelion::testing::{Ending, Faults, each_seed};
use perihelion::transports::PerCore;
use std::time::Duration;

use crate::common::Journal;
use crate::serve;

const SECOND: Duration = Duration::from_secs(1);

fn world(
    seed: u64,
    journal: &Journal,
    set_up: impl FnOnce(Server) -> Server<PerCore>,
) -> (Simulation, RunningServer) {
    let journal = journal.clone();
    let outcome = async move |connection: Connection, next: Next| {
        let result = next.run(connection).await;
        journal.note(result.as_ref().map_or_else(ToString::to_string, |()| "in order".into()));
        result
    };
    serve(Simulation::new(seed, Faults { delay_max: SECOND / 10, ..Faults::none() }), |server| {
        set_up(server.with(outcome))
    })
}

async fn echo(connection: Connection) -> Result<()> {
    while let Some(bytes) = connection.read().await? {
        connection.write(bytes).await?;
    }
    Ok(())
}

#[test]
fn a_connection_lives_for_so_long_and_no_longer() {
    each_seed(0..50, |seed| {
        let journal = Journal::default();
        let (mut simulation, _server) =
            world(seed, &journal, |server| server.with(middleware::lifetime(SECOND * 10)).connections(echo));
        let (quick, stays) = (simulation.knock(), simulation.knock());
        quick.end();
        for _ in 0..9 {
            stays.send("x");
            simulation.advance(SECOND);
        }
        assert_eq!(journal.entries(), ["in order"], "the one that has left");
        assert_eq!(stays.sees(), Ending::Open);
        simulation.advance(SECOND * 2);
        assert_eq!(
            (stays.received().len(), stays.sees()),
            (9, Ending::Ended),
            "in order, behind what was written"
        );
        stays.end();
        simulation.advance(SECOND);
        assert_eq!(journal.entries().last(), Some(&LifetimeOver { limit: SECOND * 10 }.to_string()));
    });
}

#[test]
fn an_error_of_the_function_itself_is_the_one_that_counts() {
    let journal = Journal::default();
    let (mut simulation, _server) = world(1, &journal, |server| {
        server.with(middleware::lifetime(SECOND)).connections(async |connection| {
            connection.closed().await;
            Err(Error::msg("the state could not be saved"))
        })
    });
    simulation.knock().end();
    simulation.advance(SECOND * 10);
    assert_eq!(journal.entries(), ["the state could not be saved"]);
}

#[test]
fn what_moves_keeps_a_connection_from_being_idle() {
    each_seed(0..50, |seed| {
        let journal = Journal::default();
        let (mut simulation, _server) = world(seed, &journal, |server| {
            server.with(middleware::idle(SECOND * 10)).connections(async |connection| {
                let ticks = async {
                    for _ in 0..3 {
                        sleep(SECOND * 9).await;
                        connection.write("tick".into()).await.unwrap();
                    }
                };
                ticks.await;
                echo(connection).await
            })
        });
        let far = simulation.knock();
        simulation.advance(SECOND * 28);
        far.send("x"); // for which it waits by now
        simulation.advance(SECOND * 9);
        assert_eq!((far.received(), far.sees()), (b"tickticktickx".to_vec(), Ending::Open));
        simulation.advance(SECOND * 2);
        assert_eq!(far.sees(), Ending::Ended);
        far.end();
        simulation.advance(SECOND);
        assert!(journal.entries()[0].contains("10s"), "{:?}", journal.entries());
    });
}

#[test]
fn a_peer_that_is_not_listened_to_is_not_idle() {
    let journal = Journal::default();
    let (mut simulation, _server) = world(1, &journal, |server| {
        server.with(middleware::idle(SECOND * 10)).connections(async |connection| {
            sleep(SECOND * 60).await; // while far more comes than it keeps
            while connection.read().await?.is_some() {}
            Ok(())
        })
    });
    let far = simulation.knock();
    far.send(vec![7; 1 << 20]);
    simulation.advance(SECOND * 65);
    assert_eq!((journal.entries().len(), far.sees()), (0, Ending::Open));
    simulation.advance(SECOND * 10);
    assert_eq!(far.sees(), Ending::Ended, "all is read, and nothing more has come");

    let journal = Journal::default();
    let (mut simulation, _server) = world(1, &journal, |server| {
        server.with(middleware::idle(SECOND * 10)).pipeline(|_conn| {
            codec(Lines::lf(100)).service(async |line: String| {
                sleep(SECOND * 25).await;
                Ok(line)
            })
        })
    });
    let far = simulation.knock();
    far.send("a question that needs thought\n");
    simulation.advance(SECOND * 26);
    assert_eq!((far.received().len(), far.sees()), (30, Ending::Open));
    simulation.advance(SECOND * 11);
    assert_eq!(far.sees(), Ending::Ended);
}

#[test]
fn a_peer_that_takes_nothing_is_idle_and_in_the_end_reset() {
    let protocols: [fn(Server) -> Server<PerCore>; 2] = [
        |server| server.connections(echo),
        |server| {
            server.connections(async |connection| {
                connection.write(vec![7; 1000].into()).await?;
                sleep(SECOND * 60).await; // while far more comes than it keeps
                Ok(())
            })
        },
    ];
    for protocol in protocols {
        let journal = Journal::default();
        let (mut simulation, _server) =
            world(1, &journal, |server| protocol(server.with(middleware::idle(SECOND * 10))));
        let far = simulation.knock();
        far.set_window(Some(0));
        far.send(vec![7; 1 << 20]);
        simulation.advance(SECOND * 9);
        assert_eq!(far.sees(), Ending::Open);
        simulation.advance(SECOND * 9);
        assert_eq!(far.sees(), Ending::Reset, "it had channel.close_ms to take the rest");
        simulation.advance(SECOND * 60);
        let idle = IdleTooLong { kind: IdleKind::Both, limit: SECOND * 10 };
        assert_eq!(journal.entries(), [idle.to_string()]);
    }
}
