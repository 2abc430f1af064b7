//! What wraps the whole life of connections.

use perihelion::prelude::*;
use perihelion::runtime::simulation::{Far, Simulation};
use perihelion::testing::{Ending, Faults, each_seed};
use perihelion::transports::{Addresses, PerCore};
use std::io::Write;
use std::net::Shutdown;
use std::sync::{Arc, Mutex};

use crate::common::{DRAIN, Fixture, Journal, address_of, connect, eventually, read_to_end};
use crate::world::*;

fn bind() -> Server {
    Server::bind("127.0.0.1:0")
}

/// A server in a made-up world, and one that has connected to it.
fn knock(seed: u64, server: Server<PerCore>) -> (Simulation, Far) {
    let mut simulation = Simulation::new(seed, Faults::survivable());
    drop(server.start(simulation.handle()).unwrap());
    simulation.run();
    let far = simulation.knock();
    simulation.advance(SECOND); // after a failed accept a listener rests
    (simulation, far)
}

/// The same server made in each of the ways: it sends lines back.
fn each_kind(make: impl Fn() -> Server, mut test: impl FnMut(Server<PerCore>)) {
    test(make().pipeline(|_| codec(lines()).service(async |line: String| Ok(line))));
    test(
        make().pipeline_per_core(|| {
            |_: &NewConnection<'_>| codec(lines()).service(async |line: String| Ok(line))
        }),
    );
    test(make().peer(
        |_| codec(lines()),
        async |peer: Lined| {
            while let Some(line) = peer.recv().await? {
                peer.send(line).await?;
            }
            Ok(())
        },
    ));
    test(make().connections(async |connection: Connection| {
        while let Some(bytes) = connection.read().await? {
            connection.write(bytes).await?;
        }
        Ok(())
    }));
}

#[test]
fn what_was_registered_first_is_outermost_and_ends_last() {
    each_seed(0..10, |seed| {
        let journal = Journal::default();
        let make = || {
            let (outer, inner) = (journal.clone(), journal.clone());
            let outer = async move |connection: Connection, next: Next| {
                outer.note("outer begins");
                let handle = connection.handle();
                let result = next.run(connection).await;
                assert!(handle.is_closed(), "it is done when the connection is closed");
                outer.note(format!("outer ends after {} bytes", handle.traffic().sent()));
                result
            };
            let inner = async move |connection: Connection, next: Next| {
                inner.note("inner begins");
                let result = next.run(connection).await;
                inner.note("inner ends");
                result
            };
            bind().with(outer).with(inner)
        };
        each_kind(make, |server| {
            let before = journal.entries().len();
            let (mut simulation, far) = knock(seed, server);
            far.send("hello\n");
            simulation.run();
            assert_eq!(far.received(), b"hello\n");
            assert_eq!(journal.entries()[before..], ["outer begins", "inner begins"]);
            far.end();
            simulation.run();
            assert_eq!(far.sees(), Ending::Closed);
            let ends = ["inner ends", "outer ends after 6 bytes"];
            assert_eq!(journal.entries()[before + 2..], ends);
        });
    });
}

#[test]
fn the_outermost_decides_how_long_a_connection_lives() {
    each_seed(0..10, |seed| {
        let lives_for_20_s = |server| {
            let (mut simulation, far) = knock(seed, server);
            far.send("hello\n");
            simulation.run();
            assert_eq!((far.received(), far.sees()), (b"hello\n".to_vec(), Ending::Open));
            simulation.advance(SECOND * 20);
            assert_eq!(far.sees(), Ending::Ended);
        };
        // It does not wait for what is inside.
        let leaves = async |connection: Connection, next: Next| {
            drop(spawn_local(next.run(connection)));
            sleep(SECOND * 20).await;
            Ok(())
        };
        each_kind(|| bind().with(leaves), lives_for_20_s);
        // It gives up what is inside.
        let hurries = async |connection: Connection, next: Next| {
            drop(timeout(SECOND * 20, next.run(connection)).await);
            Ok(())
        };
        each_kind(|| bind().with(hurries), lives_for_20_s);
    });
}

#[test]
fn a_function_that_lets_its_connection_go_elsewhere_is_done_with_it() {
    each_seed(0..10, |seed| {
        // As the function is done, so is the connection.
        let kept = async |connection: Connection| {
            connection.write("kept".into()).await?;
            drop(spawn_local(async move {
                sleep(SECOND * 60).await;
                drop(connection);
            }));
            Ok(())
        };
        let (_simulation, far) = knock(seed, bind().connections(kept));
        assert_eq!((far.received(), far.sees()), (b"kept".to_vec(), Ending::Ended));
        // A peer lives for as long as somebody holds it, with middleware or without.
        let through = async |connection: Connection, next: Next| next.run(connection).await;
        for server in [bind(), bind().with(through)] {
            let kept = async |peer: Lined| {
                peer.send("kept".into()).await?;
                drop(spawn_local(async move {
                    sleep(SECOND * 60).await;
                    drop(peer);
                }));
                Ok(())
            };
            let (mut simulation, far) = knock(seed, server.peer(|_| codec(lines()), kept));
            assert_eq!((far.received(), far.sees()), (b"kept\n".to_vec(), Ending::Open));
            simulation.advance(SECOND * 60);
            assert_eq!(far.sees(), Ending::Ended);
        }
    });
}

#[test]
fn whoever_never_calls_what_is_inside_ends_the_connection() {
    each_seed(0..10, |seed| {
        let refuses = async |connection: Connection, _next: Next| {
            connection.write("go away".into()).await?;
            Err(Error::msg("not wanted"))
        };
        let drops = async |connection: Connection, _next: Next| {
            drop(connection);
            sleep(SECOND * 60).await;
            Ok(())
        };
        let unused = || bind().with(async |_: Connection, _: Next| Ok(()));
        each_kind(
            || bind().with(refuses),
            |server| {
                let (mut simulation, far) = knock(seed, server);
                assert_eq!((far.received(), far.sees()), (b"go away".to_vec(), Ending::Ended));
                far.end();
                simulation.run();
                assert_eq!(far.sees(), Ending::Closed);
            },
        );
        for make in [&(|| bind().with(drops)) as &dyn Fn() -> Server, &unused] {
            each_kind(make, |server| {
                let (_simulation, far) = knock(seed, server);
                assert_eq!((far.received(), far.sees()), (vec![], Ending::Ended));
            });
        }
    });
}

#[test]
fn errors_come_out_to_each_layer_which_may_handle_them() {
    each_seed(0..10, |seed| {
        let journal = Journal::default();
        let (outer, inner) = (journal.clone(), journal.clone());
        let make = || {
            let (outer, inner) = (outer.clone(), inner.clone());
            bind()
                .with(async move |connection: Connection, next: Next| {
                    let error = next.run(connection).await.unwrap_err();
                    outer.note(format!("outer: {error}"));
                    Ok(())
                })
                .with(async move |connection: Connection, next: Next| {
                    let handle = connection.handle();
                    let error = next.run(connection).await.unwrap_err();
                    let reason = handle.closed().await.unwrap();
                    assert!(error.to_string().contains(&reason), "it is closed for {reason}");
                    inner.note(format!("inner: {error}"));
                    Err(Error::msg("it went wrong"))
                })
        };
        let failing = make().connections(async |_| Err(Error::msg("on purpose")));
        let (mut simulation, far) = knock(seed, failing);
        assert_eq!(far.sees(), Ending::Ended);
        far.end();
        simulation.run();
        assert_eq!(journal.entries(), ["inner: on purpose", "outer: it went wrong"]);
        // What a stage fails with is an error of the connection.
        let short = make().pipeline(|_| codec(Lines::lf(3)).service(async |line: String| Ok(line)));
        let (mut simulation, far) = knock(seed, short);
        far.send("too long");
        far.end();
        simulation.run();
        let last = &journal.entries()[2..];
        assert!(last[0].contains("the connection is closed: "), "{last:?}");
        assert!(last[0].contains('3'), "for the reason: {last:?}");
    });
}

#[test]
fn a_panic_costs_its_connection_and_no_other() {
    each_seed(0..10, |seed| {
        let before = async |connection: Connection, next: Next| {
            let mut connection = connection;
            assert_ne!(line_from(&mut connection).await?, "bang", "on purpose");
            next.run(connection).await
        };
        let after = async |connection: Connection, next: Next| {
            drop(next.run(connection).await);
            panic!("on purpose");
        };
        each_kind(
            || bind().with(after).with(before),
            |server| {
                let (mut simulation, far) = knock(seed, server);
                let other = simulation.knock();
                simulation.advance(SECOND * 10);
                far.send("bang\n");
                other.send("fine\n");
                simulation.run();
                assert_eq!(far.sees(), Ending::Reset);
                assert_eq!(other.sees(), Ending::Open);
                other.send("hello\n");
                other.end();
                simulation.run();
                assert_eq!((other.received(), other.sees()), (b"hello\n".to_vec(), Ending::Closed));
            },
        );
        // Where the pipeline is made.
        let through = async |connection: Connection, next: Next| next.run(connection).await;
        let panics = bind().with(through).pipeline(|new| {
            assert!(new.get::<u8>().is_some(), "on purpose");
            codec(lines()).service(async |line: String| Ok(line))
        });
        let (_simulation, far) = knock(seed, panics);
        assert_eq!(far.sees(), Ending::Reset);
    });
}

/// Reads a line, and no byte behind it.
async fn line_from(connection: &mut Connection) -> Result<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        line.extend(read_up_to(connection, 1).await?.ok_or_else(|| Error::msg("no line"))?);
    }
    line.pop();
    Ok(String::from_utf8(line)?)
}

struct User(String);

/// Reads a line that tells who the other side is and where: as a proxy in front of it might.
async fn told_by_proxy(mut connection: Connection, next: Next) -> Result<()> {
    let line = line_from(&mut connection).await?;
    let (user, address) = line.split_once(' ').ok_or_else(|| Error::msg("no user"))?;
    let (peer, local) = (address.parse()?, "192.0.2.1:1".parse()?);
    connection.features().insert(Addresses { peer, local });
    connection.features().insert(User(user.into()));
    sleep(SECOND).await; // somebody is asked about the user
    next.run(connection).await
}

#[test]
fn what_middleware_finds_out_is_known_inside_and_what_it_has_not_read_is_read_there() {
    let greeting = |peer: String, user: String, line: &str| format!("{line} from {user} at {peer}");
    let by_pipeline = || {
        bind().with(told_by_proxy).pipeline(move |new| {
            let (peer, user) = (new.peer_addr().unwrap().to_string(), new.get::<User>().unwrap().0.clone());
            assert_eq!(new.local_addr().unwrap().to_string(), "192.0.2.1:1");
            codec(lines()).service(async move |line: String| Ok(greeting(peer.clone(), user.clone(), &line)))
        })
    };
    let by_peer = || {
        bind().with(told_by_proxy).peer(
            |new| {
                assert_eq!(new.peer_addr().unwrap().port(), 7);
                codec(lines())
            },
            async move |peer: Lined| {
                let (address, user) = (peer.addresses().unwrap().peer, peer.get::<User>().unwrap());
                while let Some(line) = peer.recv().await? {
                    peer.send(greeting(address.to_string(), user.0.clone(), &line)).await?;
                }
                Ok(())
            },
        )
    };
    let sent = b"ada 203.0.113.9:7\nhello\nworld\n";
    for cut in 0..sent.len() {
        for server in [by_pipeline(), by_peer()] {
            let (mut simulation, far) = knock(cut as u64, server);
            let (now, later) = sent.split_at(cut);
            far.send(now);
            simulation.advance(SECOND * 2);
            far.send(later);
            far.end();
            simulation.advance(SECOND * 2);
            let received = String::from_utf8(far.received()).unwrap();
            let expected = "hello from ada at 203.0.113.9:7\nworld from ada at 203.0.113.9:7\n";
            assert_eq!(received, expected, "cut at {cut}");
            assert_eq!(far.sees(), Ending::Closed);
        }
    }
}

#[test]
fn what_comes_while_middleware_waits_is_not_lost_however_much_it_is() {
    each_seed(0..5, |seed| {
        let waits = async |connection: Connection, next: Next| {
            sleep(SECOND * 20).await;
            next.run(connection).await
        };
        each_kind(
            || bind().with(waits),
            |server| {
                let (mut simulation, far) = knock(seed, server);
                let sent: String = (0..30_000).map(|number| format!("{number}\n")).collect();
                far.send(&sent);
                far.end();
                simulation.advance(SECOND * 20);
                assert!(far.received() == sent.as_bytes());
                assert_eq!(far.sees(), Ending::Closed);
            },
        );
    });
}

#[test]
fn a_server_stops_while_middleware_waits() {
    let waiting = Arc::new(Mutex::new(0));
    let fixture = Fixture::with(|config| config.runtime.workers = 2);
    let counted = Arc::clone(&waiting);
    let waits = async move |connection: Connection, next: Next| {
        connection.write("wait\n".into()).await?;
        *counted.lock().unwrap() += 1;
        // Neither looks at the connection.
        std::future::pending::<()>().await;
        next.run(connection).await
    };
    let server = bind().with(waits).connections(async |_| Ok(())).start(&fixture).unwrap();
    let clients: Vec<_> = (0..10).map(|_| connect(address_of(&server))).collect();
    eventually("all wait", || *waiting.lock().unwrap() == 10);
    let reading: Vec<_> = clients
        .into_iter()
        .map(|client| {
            std::thread::spawn(move || {
                (&client).write_all(b"is anybody there?\n").unwrap();
                let (said, _) = read_to_end(&client);
                let _ = client.shutdown(Shutdown::Both);
                said
            })
        })
        .collect();
    let report = server.stop(DRAIN);
    assert_eq!((report.connections, report.open, report.aborted), (10, 0, 0), "{report}");
    for reading in reading {
        assert_eq!(reading.join().unwrap(), b"wait\n");
    }
    fixture.stop();
}
