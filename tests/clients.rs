//! Clients: connecting, and how that fails; closing, from both sides; writing from beside the pipeline.

mod common;

use common::*;
use perihelion::prelude::*;
use perihelion::transports;
use std::io::Read;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

/// Says something first, and notes what comes.
struct Caller {
    first: &'static str,
    journal: Journal,
}

impl Tail for Caller {
    type In = String;
    type Out = String;
    fn open(&mut self, cx: &mut Context<'_, String>) -> Result<()> {
        cx.write(self.first.into())
    }
    fn read(&mut self, _cx: &mut Context<'_, String>, line: String) -> Result<()> {
        self.journal.note(line);
        Ok(())
    }
    fn closed(&mut self, _why: Option<&Error>) {
        self.journal.note("closed");
    }
}

fn caller(first: &'static str, journal: &Journal) -> impl Pipeline<In = Bytes, Out = Bytes> + use<> {
    codec(Lines::lf(1 << 20)).tail(Caller { first, journal: journal.clone() })
}

/// Answers lines; `bye` with the end, `die` with a reset.
fn lines(_: &NewConnection<'_>) -> impl Pipeline<In = Bytes, Out = Bytes> + use<> {
    struct Answer;
    impl Tail for Answer {
        type In = String;
        type Out = String;
        fn read(&mut self, cx: &mut Context<'_, String>, line: String) -> Result<()> {
            match &line[..] {
                "bye" => cx.close(),
                "die" => std::panic::resume_unwind(Box::new("on purpose")),
                _ => cx.write(line),
            }
        }
    }
    codec(Lines::lf(1 << 20)).tail(Answer)
}

/// Connects on the runtime with this pipeline, and waits for the end. Gives the reason.
fn call(fixture: &Fixture, address: Address, first: &'static str, journal: &Journal) -> Option<String> {
    let (config, journal) = (fixture.config().clone(), journal.clone());
    let result = fixture.block_on(move || async move {
        let channel = Client::new(&config).connect(&address, caller(first, &journal)).await?;
        Ok::<_, transports::Error>(channel.closed().await)
    });
    result.unwrap().unwrap()
}

/// What connecting there says.
fn refusal(fixture: &Fixture, address: &str) -> String {
    let (config, address) = (fixture.config().clone(), address.parse::<Address>().unwrap());
    let connect = move || async move {
        let pipeline = codec(Raw).tail(Echo);
        Client::new(&config).connect(&address, pipeline).await.err().map(|error| error.to_string())
    };
    fixture.block_on(connect).unwrap().expect("nobody is there")
}

#[test]
fn a_client_hears_of_the_end_and_its_reason() {
    for any in [V4, V6] {
        let fixture = Fixture::new();
        let (server, _) = fixture.serve_on(any, lines);
        let journal = Journal::default();
        assert_eq!(call(&fixture, server.address(), "bye", &journal), None);
        let reason = call(&fixture, server.address(), "die", &journal).unwrap();
        assert_eq!(reason, "Connection reset by peer (os error 104)");
        assert_eq!(journal.entries(), ["closed", "closed"]);
        assert_eq!(fixture.stop_all(server).connections, 2);
    }
}

#[test]
fn a_client_closes_behind_what_it_has_written() {
    let fixture = Fixture::new();
    let server = TcpListener::bind(V4).unwrap();
    let (address, config) = (server.local_addr().unwrap(), fixture.config().clone());
    let journal = Journal::default();
    let theirs = journal.clone();
    let closed = fixture.spawn_on(0, move || async move {
        let channel = Client::new(&config).connect_to(address, caller("hello", &theirs)).await.unwrap();
        channel.close();
        channel.closed().await
    });
    let (mut connection, _) = server.accept().unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut bytes = String::new();
    connection.read_to_string(&mut bytes).unwrap();
    assert_eq!(bytes, "hello\n");
    assert!(journal.entries().is_empty(), "it waits for the other side's end");
    drop(connection);
    assert_eq!(closed.unwrap().recv().unwrap(), None);
    assert_eq!(journal.entries(), ["closed"]);
    fixture.stop();
}

#[test]
fn everyone_who_waits_for_the_end_hears_of_it() {
    let fixture = Fixture::new();
    let (server, address) = fixture.serve(lines);
    let config = fixture.config().clone();
    let reasons = fixture.block_on(move || async move {
        let pipeline = caller("hello", &Journal::default());
        let channel = Rc::new(Client::new(&config).connect_to(address, pipeline).await.unwrap());
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let channel = Rc::clone(&channel);
                spawn_local(async move { channel.closed().await })
            })
            .collect();
        sleep(Duration::from_millis(1)).await; // they wait
        channel.close();
        let mut reasons = Vec::new();
        for task in waiting {
            reasons.push(task.await.unwrap());
        }
        reasons.push(channel.closed().await);
        reasons
    });
    assert_eq!(reasons.unwrap(), [None, None, None, None]);
    fixture.stop_all(server);
}

#[test]
fn a_name_is_looked_up_and_all_its_addresses_are_tried() {
    for any in [V4, V6] {
        let fixture = Fixture::new();
        let (server, address) = fixture.serve_on(any, lines);
        let name = format!("localhost:{}", address.port());
        if name.parse::<Address>().unwrap().resolve().unwrap().contains(&address) {
            assert_eq!(call(&fixture, name.parse().unwrap(), "bye", &Journal::default()), None);
        }
        fixture.stop_all(server);
    }
}

#[test]
fn a_connection_that_is_refused_or_has_nowhere_to_go_is_an_error() {
    let fixture = Fixture::new();
    for any in [V4, V6] {
        let free = TcpListener::bind(any).unwrap().local_addr().unwrap();
        assert_eq!(
            refusal(&fixture, &free.to_string()),
            format!("can't connect to tcp://{free}: Connection refused (os error 111)")
        );
    }
    let error = refusal(&fixture, "no-such-host.invalid:7000");
    assert!(error.starts_with("tcp://no-such-host.invalid:7000 can't be resolved: "), "{error}");
    fixture.stop();
}

#[test]
fn a_connect_that_takes_too_long_is_an_error_that_names_the_limit() {
    let fixture = Fixture::with(|config| config.channel.connect_ms = 50);
    let (_listener, _waiting, address) = full_listener();
    assert_eq!(
        refusal(&fixture, &address.to_string()),
        format!("can't connect to tcp://{address}: no answer within channel.connect_ms")
    );
    let by_name = refusal(&fixture, &format!("localhost:{}", address.port()));
    assert!(by_name.contains(&format!("{address}: no answer within channel.connect_ms")), "{by_name}");
    fixture.stop();
}

#[test]
fn a_look_up_that_takes_too_long_is_an_error_that_names_the_limit() {
    let fixture = Fixture::with(|config| {
        (config.channel.connect_ms, config.runtime.blocking_threads) = (50, 1);
    });
    let (release, released) = std::sync::mpsc::channel::<()>();
    let busy = fixture.spawn_on(0, move || run_blocking(move || released.recv()));
    let error = refusal(&fixture, "localhost:7000");
    assert_eq!(error, "tcp://localhost:7000 can't be resolved: no answer within channel.connect_ms");
    drop(release);
    assert!(busy.unwrap().recv().unwrap().unwrap().is_err(), "the thread was held");
    fixture.stop();
}

#[test]
fn a_connect_that_is_dropped_closes_its_socket_at_once() {
    in_child("one connect", || {
        let fixture = Fixture::with(|config| config.channel.connect_ms = 3_600_000);
        let (_listener, _waiting, address) = full_listener();
        let config = fixture.config().clone();
        let given_up = fixture.block_on(move || async move {
            let before = descriptors();
            let connect = async move {
                let _ = Client::new(&config).connect_to(address, codec(Raw).tail(Echo)).await;
            };
            let connecting = spawn_local(connect);
            while descriptors() == before {
                sleep(Duration::from_millis(1)).await;
            }
            connecting.abort();
            while descriptors() > before {
                sleep(Duration::from_millis(1)).await;
            }
        });
        given_up.unwrap();
        fixture.stop();
    });
}

#[test]
fn a_port_that_a_client_is_bound_to_serves_several_connections() {
    let fixture = Fixture::new();
    let (first, second) = (fixture.serve(lines), fixture.serve(lines));
    let port = TcpListener::bind(V4).unwrap().local_addr().unwrap();
    let (config, addresses) = (fixture.config().clone(), [first.1, second.1]);
    let ends = fixture.block_on(move || async move {
        let client = Client::new(&config).bind(port);
        let journal = Journal::default();
        let kept = client.connect_to(addresses[0], caller("hello", &journal)).await?;
        let beside = client.connect_to(addresses[1], caller("bye", &journal)).await?;
        Ok::<_, transports::Error>([beside.closed().await, kept.close().await])
    });
    assert_eq!(ends.unwrap().unwrap(), [None, None]);
    assert_eq!(first.0.stop(DRAIN).connections, 1);
    assert_eq!(fixture.stop_all(second.0).connections, 1);
}

#[test]
fn a_runtime_stops_while_a_client_connects() {
    let fixture = Fixture::new();
    let (_listener, _waiting, address) = full_listener();
    let config = fixture.config().clone();
    let connecting = fixture.spawn_on(0, move || async move {
        let _ = Client::new(&config).connect_to(address, codec(Raw).tail(Echo)).await;
    });
    fixture.block_on(|| async { sleep(Duration::from_millis(5)).await }).unwrap();
    fixture.stop();
    assert!(connecting.unwrap().recv().is_err(), "it was dropped");
}

/// The client's writer is held up by a small queue before a server that does not read at first.
#[test]
fn a_writer_waits_for_a_server_that_reads_slowly() {
    const LINES: usize = 10_000;
    let line = |number: usize| format!("{number:01000}");
    let fixture = Fixture::with(|config| config.tcp.send_buffer_bytes = 64 << 10);
    let server = TcpListener::bind(V4).unwrap();
    socket2::SockRef::from(&server).set_recv_buffer_size(64 << 10).unwrap();
    let (address, config) = (server.local_addr().unwrap(), fixture.config().clone());
    let (written, theirs) = (Arc::new(AtomicUsize::new(0)), Journal::default());
    let (count, journal) = (Arc::clone(&written), theirs.clone());
    let closed = fixture.spawn_on(0, move || async move {
        let writer = Writer::new(4);
        let pipeline = codec(Lines::lf(2_000))
            .then(journal.stage())
            .tail_with_writer(Caller { first: "first", journal: journal.clone() }, &writer);
        let channel = Client::new(&config).connect_to(address, pipeline).await.unwrap();
        for number in 0..LINES {
            writer.write(line(number)).await.unwrap();
            count.fetch_add(1, SeqCst);
        }
        writer.close();
        assert!(writer.write("too late".into()).await.is_err());
        channel.closed().await
    });
    let (mut connection, _) = server.accept().unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    theirs.wait_for("unwritable");
    let mut before = usize::MAX;
    eventually("the writer waits", || {
        thread::sleep(Duration::from_millis(10));
        std::mem::replace(&mut before, written.load(SeqCst)) == before
    });
    assert!(before < LINES / 2, "{before} lines were taken though nobody reads");
    let mut text = String::new();
    connection.read_to_string(&mut text).unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("first"));
    assert!((0..LINES).all(|number| lines.next() == Some(&line(number))));
    assert_eq!(lines.next(), None);
    drop(connection);
    assert_eq!(closed.unwrap().recv().unwrap(), None);
    fixture.stop();
}

#[test]
fn a_writer_whose_channel_breaks_is_told() {
    let fixture = Fixture::new();
    let server = TcpListener::bind(V4).unwrap();
    let (address, config) = (server.local_addr().unwrap(), fixture.config().clone());
    let written = fixture.spawn_on(0, move || async move {
        let writer = Writer::new(4);
        let pipeline = codec(Raw).tail_with_writer(Echo, &writer);
        let channel = Client::new(&config).connect_to(address, pipeline).await.unwrap();
        while writer.write(Bytes::from_static(&[0; 10_000])).await.is_ok() {}
        (writer.is_closed(), channel.closed().await)
    });
    let (connection, _) = server.accept().unwrap();
    (&connection).read_exact(&mut [0; 100]).unwrap();
    reset(connection);
    let (is_closed, reason) = written.unwrap().recv().unwrap();
    assert!(is_closed);
    let reason = reason.unwrap();
    assert!(reason.contains("reset") || reason.contains("Broken pipe"), "{reason}");
    fixture.stop();
}

/// Client and server on one worker, thousands of connections one after the other.
#[test]
fn clients_come_and_go() {
    let fixture = Fixture::new();
    let (server, address) = fixture.serve(lines);
    let config = fixture.config().clone();
    let reasons = fixture.block_on(move || async move {
        let client = Client::new(&config);
        let tasks: Vec<_> = (0..20)
            .map(|_| {
                let client = client.clone();
                spawn_local(async move {
                    for _ in 0..100 {
                        let pipeline = caller("bye", &Journal::default());
                        let channel = client.connect_to(address, pipeline).await.unwrap();
                        assert_eq!(channel.closed().await, None);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
    reasons.unwrap();
    assert_eq!(fixture.stop_all(server).connections, 2_000);
}

/// Notes the operations that pass it on their way to the transport.
struct Operations(Journal);

impl Handler for Operations {
    type In = String;
    type Next = String;
    type Write = String;
    type Out = String;
    fn read(&mut self, _cx: &mut Context<'_, String>, line: String) -> Result<Flow<String>> {
        Ok(Flow::Next(line))
    }
    fn write(&mut self, cx: &mut Context<'_, String>, line: String) -> Result<()> {
        cx.write(line)
    }
    fn open(&mut self, _cx: &mut Context<'_, String>) -> Result<()> {
        self.0.note("open");
        Ok(())
    }
    fn operate(&mut self, cx: &mut Context<'_, String>, operation: Operation) -> Result<()> {
        self.0.note(match &operation {
            Operation::Bind(local) => format!("bind {}", local.ip()),
            Operation::Connect(_) => "connect".into(),
            Operation::Close => "close".into(),
            _ => "other".into(),
        });
        cx.operate(operation)
    }
}

#[test]
fn a_client_is_bound_before_it_connects_and_the_stages_see_it() {
    let fixture = Fixture::new();
    let (server, address) = fixture.serve(|connection| {
        let from = connection.peer_addr().unwrap().ip().to_string();
        codec(Lines::lf(99)).service(async move |_line: String| Ok(from.clone()))
    });
    let journal = Journal::default();
    let theirs = journal.clone();
    let end = fixture.block_on(move || async move {
        let client = Client::new(&Config::default()).bind("127.0.0.2:0".parse().unwrap());
        let tail = Caller { first: "who am I?", journal: theirs.clone() };
        let pipeline = codec(Lines::lf(99)).then(Operations(theirs.clone())).tail(tail);
        let channel = client.connect_to(address, pipeline).await.map_err(|error| error.to_string())?;
        while theirs.count("127.0.0.2") < 2 {
            sleep(Duration::from_millis(1)).await;
        }
        Ok::<_, String>(channel.close().await)
    });
    assert_eq!(end.unwrap(), Ok(None));
    assert_eq!(journal.entries(), ["bind 127.0.0.2", "connect", "open", "127.0.0.2", "close", "closed"]);
    fixture.stop_all(server);
}
