//! Servers and runtimes that stop: in order where they can, by force where they must, and in bounded time. Every test
//! counts the descriptors of the process, so they run one at a time.

mod common;

use common::*;
use perihelion::prelude::*;
use perihelion::transports::ServerReport;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Runs a test whose end leaves as many descriptors open as its start.
fn leaving_nothing_open(test: impl FnOnce()) {
    let _alone = alone();
    let before = descriptors();
    test();
    assert_eq!(descriptors(), before, "descriptors were left open");
}

/// Echoes, and counts what its connection has said.
struct Counted(Arc<AtomicU64>);

impl Tail for Counted {
    type In = Bytes;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, message: Bytes) -> Result<()> {
        self.0.fetch_add(1, SeqCst);
        cx.write(message)
    }
}

/// Sends as long as the other side lets it. Gives how many replies came, before the end.
fn send_on_and_on(client: &TcpStream) -> u64 {
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut number: u64 = 0;
            while !ended.load(SeqCst) {
                send(client, number.to_be_bytes());
                number += 1;
            }
        });
        let mut replies: u64 = 0;
        loop {
            match try_receive(client) {
                Ok(reply) => assert_eq!(reply, replies.to_be_bytes()),
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "an end in order");
                    break;
                }
            }
            replies += 1;
        }
        ended.store(true, SeqCst);
        replies
    })
}

#[test]
fn a_server_that_stops_under_load_answers_what_it_has_taken() {
    leaving_nothing_open(|| {
        let fixture = Fixture::new();
        let counters = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&counters);
        let (server, address) = fixture.serve(move |connection| {
            let counter = Arc::new(AtomicU64::new(0));
            all.lock().unwrap().push((connection.peer_addr().unwrap(), Arc::clone(&counter)));
            codec(frames()).tail(Counted(counter))
        });
        let idle: Vec<_> = (0..5).map(|_| connect(address)).collect();
        let idlers = thread::spawn(move || idle.iter().map(read_to_end).collect::<Vec<_>>());
        let busy: Vec<_> = (0..5).map(|_| connect(address)).collect();
        thread::scope(|scope| {
            let busy: Vec<_> = busy
                .into_iter()
                .map(|client| scope.spawn(move || (client.local_addr().unwrap(), send_on_and_on(&client))))
                .collect();
            eventually("there is load", || server.report().messages > 1_000);
            let report = server.stop(DRAIN);
            assert_eq!((report.connections, report.open, report.aborted), (10, 0, 0));
            let mut replies_of_all = 0;
            for client in busy {
                let (name, replies) = client.join().unwrap();
                let counters = counters.lock().unwrap();
                let (_, taken) = counters.iter().find(|(other, _)| *other == name).unwrap();
                assert_eq!(replies, taken.load(SeqCst));
                replies_of_all += replies;
            }
            assert_eq!(report.messages, replies_of_all);
        });
        for (bytes, end) in idlers.join().unwrap() {
            assert_eq!((bytes.len(), end), (0, End::InOrder));
        }
        fixture.stop();
    });
}

/// Stops a server behind a client that has sent several messages in one piece, when the first of them is being
/// worked on and so all have been received. Expects all answers.
fn stop_behind<P>(messages: usize, make: impl Fn(Journal) -> P + Send + Sync + 'static)
where
    P: Pipeline<In = Bytes, Out = Bytes> + 'static,
{
    leaving_nothing_open(|| {
        let fixture = Fixture::with(|config| config.channel.messages_per_turn = 1);
        let journal = Journal::default();
        let notes = journal.clone();
        let (server, address) = fixture.serve(move |_| make(notes.clone()));
        let client = connect(address);
        let sent = frame("one of several").repeat(messages);
        (&client).write_all(&sent).unwrap();
        journal.wait_for("begun");
        let stopping = thread::spawn(move || server.stop(DRAIN));
        let (back, end) = read_to_end(&client);
        drop(client);
        let report = stopping.join().unwrap();
        fixture.stop();
        assert_eq!((back.len(), end), (sent.len(), End::InOrder));
        assert_eq!((report.messages, report.open, report.aborted), (messages as u64, 0, 0));
    });
}

/// Takes its time, on the worker.
struct Slow(Journal);

impl Tail for Slow {
    type In = Bytes;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, message: Bytes) -> Result<()> {
        self.0.note("begun");
        thread::sleep(Duration::from_millis(5));
        cx.write(message)
    }
}

#[test]
fn messages_that_were_received_are_answered_though_their_turn_has_not_come() {
    stop_behind(50, |journal| codec(frames()).tail(Slow(journal)));
}

#[test]
fn a_request_that_is_being_worked_on_is_answered() {
    stop_behind(1, |journal| {
        codec(frames()).service(async move |frame: Bytes| {
            journal.note("begun");
            sleep(Duration::from_millis(50)).await;
            Ok(frame)
        })
    });
}

#[test]
fn a_peer_that_never_reads_is_reset_when_the_time_is_over() {
    leaving_nothing_open(|| {
        let fixture = Fixture::new();
        let (server, address) = fixture.serve(echo);
        let deaf = connect(address);
        deaf.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        while (&deaf).write_all(&frame(text(1, 100_000))).is_ok() {}
        let idle = connect(address);
        ask(&idle, "hello");
        let idle = thread::spawn(move || read_to_end(&idle));
        let report = server.stop(Duration::from_millis(100));
        assert_eq!((report.connections, report.open, report.aborted), (2, 0, 1));
        assert_eq!(idle.join().unwrap(), (vec![], End::InOrder));
        assert_eq!(read_to_end(&deaf).1, End::Reset);
        drop(deaf);
        fixture.stop();
    });
}

#[test]
fn a_server_without_connections_stops() {
    leaving_nothing_open(|| {
        let fixture = Fixture::with(|config| config.runtime.workers = 0);
        let (server, _) = fixture.serve(echo);
        assert_eq!(server.stop(DRAIN), ServerReport::default());
        let (server, _) = fixture.serve(echo);
        assert_eq!(server.stop(Duration::ZERO), ServerReport::default());
        let (server, _) = fixture.serve(echo);
        assert_eq!(server.stop(Duration::MAX), ServerReport::default());
        fixture.stop();
    });
}

#[test]
fn a_runtime_that_is_dropped_resets_what_stands_on_it() {
    leaving_nothing_open(|| {
        let fixture = Fixture::new();
        let (server, address) = fixture.serve(echo);
        let clients: Vec<_> = (0..20).map(|_| connect(address)).collect();
        clients.iter().for_each(|client| ask(client, "hello"));
        drop(fixture);
        eventually("no thread remains", || threads("perihelion-") == 0);
        assert!(TcpStream::connect(address).is_err());
        clients.iter().for_each(|client| assert_eq!(read_to_end(client).1, End::Reset));
        let report = server.stop(DRAIN);
        assert_eq!((report.connections, report.open, report.messages), (20, 0, 20));
    });
}

#[test]
fn servers_of_one_runtime_stop_one_after_the_other() {
    leaving_nothing_open(|| {
        let fixture = Fixture::with(|config| config.runtime.workers = 0);
        let (first, first_address) = fixture.serve(echo);
        let (second, second_address) = fixture.serve_on(V6, echo);
        let (one, two) = (connect(first_address), connect(second_address));
        ask(&one, "first");
        ask(&two, "second");
        let one = thread::spawn(move || read_to_end(&one).1);
        let report = first.stop(DRAIN);
        assert_eq!((report.connections, report.open, report.aborted), (1, 0, 0));
        assert_eq!(one.join().unwrap(), End::InOrder);
        assert!(TcpStream::connect(first_address).is_err());
        ask(&two, "still here");
        ask(&connect(second_address), "more are welcome");
        drop(two);
        fixture.stop_all(second);
    });
}

fn stop_and_start_again(address: SocketAddr, fixture: &Fixture) {
    let server = Server::bind(address.to_string()).pipeline(echo).start(fixture).unwrap();
    ask(&connect(address), "hello");
    server.stop(DRAIN);
}

#[test]
fn an_address_is_free_when_its_server_has_stopped() {
    leaving_nothing_open(|| {
        for workers in [1, 0] {
            let fixture = Fixture::with(|config| config.runtime.workers = workers);
            let address = TcpListener::bind(V4).unwrap().local_addr().unwrap();
            (0..100).for_each(|_| stop_and_start_again(address, &fixture));
            fixture.stop();
        }
    });
}

#[test]
fn a_worker_whose_mailbox_is_full_is_stopped_all_the_same() {
    leaving_nothing_open(|| {
        let fixture = Fixture::with(|config| config.runtime.mailbox_messages = 1);
        let (server, address) = fixture.serve(echo);
        let client = connect(address);
        ask(&client, "hello");
        let gate = fixture.hold();
        while fixture.send(0, |_| ()).is_ok() {}
        let stopping = thread::spawn(move || server.stop(DRAIN));
        let client = thread::spawn(move || read_to_end(&client).1);
        // Long enough for the stop to find the mailbox full.
        thread::sleep(Duration::from_millis(50));
        drop(gate);
        let report = stopping.join().unwrap();
        assert_eq!((report.open, report.aborted), (0, 0));
        assert_eq!(client.join().unwrap(), End::InOrder);
        fixture.stop();
    });
}
