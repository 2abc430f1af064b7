//! What is told of connections: logs and counts.

use perihelion::middleware::{self, ConnectionMetrics};
use perihelion::prelude::*;
use perihelion::runtime::simulation::Simulation;
use perihelion::testing::Faults;
use std::io::{self, Write};
use std::net::Shutdown;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use tracing::Level;

use crate::common::*;
use crate::serve;

#[derive(Clone, Default)]
struct Text(Arc<Mutex<Vec<u8>>>);

impl Write for Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The lines that are logged meanwhile, by this thread.
fn logged(max: Level, call: impl FnOnce()) -> Vec<String> {
    let text = Text::default();
    let writer = text.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(max)
        .with_writer(move || writer.clone())
        .without_time()
        .with_ansi(false)
        .finish();
    tracing::subscriber::with_default(subscriber, call);
    let bytes = text.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap().lines().map(|line| line.trim().to_owned()).collect()
}

/// Echoes, and fails at a word.
async fn echo_all(connection: Connection) -> Result<()> {
    while let Some(bytes) = connection.read().await? {
        match &bytes[..] {
            b"fail" => return Err(Error::msg("it has failed")),
            b"panic" => std::panic::resume_unwind(Box::new("on purpose")),
            _ => connection.write(bytes).await?,
        }
    }
    Ok(())
}

/// One connection, to which this is sent.
fn talk(simulation: &mut Simulation, text: &str) {
    let far = simulation.knock();
    simulation.advance(Duration::from_secs(2));
    far.send(text);
    simulation.run();
    if text == "reset" {
        far.reset()
    } else {
        far.end()
    }
    simulation.run();
}

#[test]
fn opening_and_closing_are_logged_with_all_that_is_known() {
    let lines = logged(Level::INFO, || {
        let (mut simulation, _server) = serve(Simulation::new(1, Faults::none()), |server| {
            server.with(middleware::log(Level::INFO)).connections(echo_all)
        });
        ["hello", "fail", "panic", "reset"].iter().for_each(|text| talk(&mut simulation, text));
    });
    let of_connections: Vec<_> =
        lines.iter().filter_map(|line| line.strip_prefix("INFO perihelion::connections: ")).collect();
    assert_eq!(of_connections.len(), 8, "{lines:#?}");
    let closed = |rest: &str| format!("a connection is closed side=Accepted{rest}");
    let expected = [
        " duration=2s received=5 sent=5",
        " duration=2s received=4 sent=0 reason=\"it has failed\"",
        " duration=2s received=5 sent=0 reason=\"its function panicked, or its worker stopped\"",
        " duration=2s received=5 sent=5 reason=\"",
    ];
    for (pair, expected) in of_connections.chunks(2).zip(expected) {
        assert!(pair[0].starts_with("a connection is open side=Accepted"), "{pair:?}");
        assert!(pair[1].starts_with(&closed("")) && pair[1].contains(expected), "{pair:?}");
    }
    assert!(of_connections[7].contains("reset"), "{of_connections:?}");
}

#[test]
fn addresses_are_logged_and_nothing_below_the_level() {
    let logs = |level| {
        logged(Level::DEBUG, || {
            let (mut simulation, _server) = serve(Simulation::new(1, Faults::none()), |server| {
                let addresses = perihelion::transports::Addresses {
                    peer: "192.0.2.7:1234".parse().unwrap(),
                    local: "192.0.2.1:80".parse().unwrap(),
                };
                let learn = async move |connection: Connection, next: Next| {
                    connection.features().insert(addresses);
                    next.run(connection).await
                };
                server.with(learn).with(middleware::log(level)).connections(echo_all)
            });
            talk(&mut simulation, "hello");
        })
    };
    let ends = "peer=192.0.2.7:1234 local=192.0.2.1:80";
    assert_eq!(logs(Level::DEBUG).iter().filter(|line| line.contains(ends)).count(), 2);
    assert_eq!(logs(Level::TRACE).iter().filter(|line| line.contains(ends)).count(), 0);
}

#[test]
fn bytes_are_dumped_and_pass() {
    let mut received = Vec::new();
    let lines = logged(Level::DEBUG, || {
        let (mut simulation, _server) = serve(Simulation::new(1, Faults::none()), |server| {
            server.with(middleware::dump(Level::DEBUG)).connections(echo_all)
        });
        let far = simulation.knock();
        far.send("hello, world");
        simulation.run();
        received = far.received();
    });
    assert_eq!(received, b"hello, world");
    let dump = format!("00000000  {:48} hello, world", "68 65 6c 6c 6f 2c 20 77 6f 72 6c 64");
    assert_eq!(lines.iter().filter(|line| **line == dump).count(), 2, "read and written: {lines:#?}");
}

#[test]
fn what_is_sent_when_the_function_is_done_is_counted() {
    let metrics = ConnectionMetrics::default();
    let (mut simulation, _server) = serve(Simulation::new(1, Faults::none()), |server| {
        server.with(middleware::measure(metrics.clone())).connections(async |connection| {
            connection.write(vec![7; 100_000].into()).await?;
            Ok(())
        })
    });
    let far = simulation.knock();
    far.set_window(Some(1000));
    simulation.advance(Duration::from_secs(1));
    assert_eq!((metrics.report().open, metrics.report().sent), (1, 0));
    far.set_window(None);
    far.end();
    simulation.run();
    let report = metrics.report();
    assert_eq!((report.open, report.failed, report.sent), (0, 0, 100_000));
    assert_eq!(report.duration, Duration::from_secs(1));
}

#[test]
fn all_threads_see_what_is_counted() {
    const CLIENTS: usize = 200;
    let fixture = Fixture::with(|config| config.runtime.workers = 2);
    let metrics = ConnectionMetrics::default();
    let server =
        Server::bind(V4).with(middleware::measure(metrics.clone())).pipeline(echo).start(&fixture).unwrap();
    let address = address_of(&server);
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            scope.spawn(move || {
                let client = connect(address);
                ask(&client, text(number as u64, number));
                if number % 10 == 0 {
                    return reset(client);
                }
                client.shutdown(Shutdown::Write).unwrap();
                assert_eq!(read_to_end(&client).1, End::InOrder);
            });
        }
    });
    eventually("all are closed", || metrics.report().open == 0);
    let report = metrics.report();
    let bytes = (0..CLIENTS).map(|number| 4 + number as u64).sum();
    assert_eq!((report.total, report.failed), (CLIENTS as u64, CLIENTS as u64 / 10));
    assert_eq!((report.received, report.sent), (bytes, bytes));
    assert!(report.duration > Duration::ZERO);
    fixture.stop_all(server);
}
