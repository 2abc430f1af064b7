//! Handlers that fail or panic: their channel ends, and nothing else does.

mod common;

use common::*;
use perihelion::prelude::*;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// Where something goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Factory,
    Open,
    Read,
    Write,
    ReadComplete,
    HalfClosed,
    Closed,
    Drop,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    Error,
    Panic,
}

/// A stage in which something goes wrong.
struct Faulty(Option<(Place, How)>);

impl Faulty {
    fn come_to(&self, place: Place) -> Result<()> {
        match self.0 {
            Some((fault, How::Error)) if fault == place => Err(Error::msg("on purpose")),
            // Without the message that a panic prints.
            Some((fault, How::Panic)) if fault == place => std::panic::resume_unwind(Box::new("on purpose")),
            _ => Ok(()),
        }
    }
}

impl Handler for Faulty {
    type In = Bytes;
    type Next = Bytes;
    type Write = Bytes;
    type Out = Bytes;
    fn read(&mut self, _cx: &mut Context<'_, Bytes>, message: Bytes) -> Result<Flow<Bytes>> {
        self.come_to(Place::Read)?;
        Ok(Flow::Next(message))
    }
    fn write(&mut self, cx: &mut Context<'_, Bytes>, message: Bytes) -> Result<()> {
        self.come_to(Place::Write)?;
        cx.write(message)
    }
    fn open(&mut self, _cx: &mut Context<'_, Bytes>) -> Result<()> {
        self.come_to(Place::Open)
    }
    fn read_complete(&mut self, _cx: &mut Context<'_, Bytes>) -> Result<()> {
        self.come_to(Place::ReadComplete)
    }
    fn half_closed(&mut self, _cx: &mut Context<'_, Bytes>) -> Result<()> {
        self.come_to(Place::HalfClosed)
    }
    fn closed(&mut self, _why: Option<&Error>) {
        let _ = self.come_to(Place::Closed);
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        let _ = self.come_to(Place::Drop);
    }
}

/// Speaks with a server in whose pipeline something goes wrong, up to the connection's end. Gives how that was.
fn meet(address: SocketAddr) -> End {
    match converse(address) {
        Ok(end) => end,
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
            End::Reset
        }
        Err(error) => panic!("{error}"),
    }
}

/// The end may come at any time.
fn converse(address: SocketAddr) -> io::Result<End> {
    let mut client = try_connect(address)?;
    client.write_all(&frame("hello"))?;
    let mut back = [0; 9];
    match client.read_exact(&mut back) {
        Ok(()) => assert_eq!(back, *frame("hello")),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
        Err(error) => return Err(error),
    }
    let _ = client.shutdown(Shutdown::Write);
    Ok(read_to_end(&client).1)
}

/// Has something go wrong in one connection of several.
fn check(place: Place, how: How) {
    let fixture = Fixture::new();
    let (journal, armed) = (Journal::default(), Arc::new(AtomicBool::new(false)));
    let (notes, is_armed) = (journal.clone(), Arc::clone(&armed));
    let (server, address) = fixture.serve(move |_| {
        let faulty = Faulty(is_armed.swap(false, SeqCst).then_some((place, how)));
        let _ = faulty.come_to(Place::Factory);
        codec(frames()).then(notes.stage()).then(faulty).tail(Echo)
    });
    let before = connect(address);
    ask(&before, "before");
    armed.store(true, SeqCst);
    let end = meet(address);
    // What a stage gives back is an orderly close. A panic when all is said and done is nobody's business.
    let late = matches!(place, Place::Closed | Place::Drop | Place::Factory);
    assert!(late || (end == End::InOrder) == (how == How::Error), "{place:?} {how:?}: {end:?}");
    let after = connect(address);
    for round in ["one", "two", "three"] {
        ask(&before, round);
        ask(&after, round);
    }
    eventually("its channel is gone", || server.report().open == 2);
    if how == How::Error && !late {
        journal.wait_for("closed: on purpose");
    }
    drop((before, after));
    let report = fixture.stop_all(server);
    assert_eq!(report.connections, if place == Place::Factory { 2 } else { 3 }, "{place:?} {how:?}");
    let messages = match place {
        Place::Factory | Place::Open => 7,
        _ => 8,
    };
    assert_eq!(report.messages, messages, "{place:?} {how:?}");
}

#[test]
fn a_stage_that_fails_closes_its_channel() {
    for place in [Place::Open, Place::Read, Place::Write, Place::ReadComplete, Place::HalfClosed] {
        check(place, How::Error);
    }
}

#[test]
fn a_stage_that_panics_resets_its_channel() {
    for place in [Place::Open, Place::Read, Place::Write, Place::ReadComplete, Place::HalfClosed] {
        check(place, How::Panic);
    }
}

#[test]
fn a_stage_that_panics_at_its_end_does_no_harm() {
    for place in [Place::Closed, Place::Drop] {
        check(place, How::Panic);
    }
}

#[test]
fn a_function_that_makes_pipelines_and_panics_loses_one_connection() {
    check(Place::Factory, How::Panic);
}

/// While the server drains: that must neither hang nor be counted as a connection that had to be reset.
#[test]
fn a_stage_that_panics_while_its_server_stops_is_not_waited_for() {
    for place in [Place::Closed, Place::Drop] {
        let fixture = Fixture::new();
        let (server, address) =
            fixture.serve(move |_| codec(frames()).then(Faulty(Some((place, How::Panic)))).tail(Echo));
        let clients: Vec<_> = (0..10).map(|_| connect(address)).collect();
        clients.iter().for_each(|client| ask(client, "hello"));
        let ends = std::thread::spawn(move || clients.iter().for_each(|client| drop(read_to_end(client))));
        let report = fixture.stop_all(server);
        ends.join().unwrap();
        assert_eq!((report.connections, report.messages), (10, 10));
    }
}

#[test]
fn the_last_messages_of_a_connection_that_breaks_are_counted() {
    let fixture = Fixture::new();
    let (server, address) = fixture.serve(echo);
    let client = connect(address);
    ask(&client, "hello");
    let gate = fixture.hold();
    (0..3).for_each(|_| send(&client, "hello"));
    reset(client);
    drop(gate);
    eventually("its channel is gone", || server.report().open == 0);
    assert_eq!(fixture.stop_all(server).messages, 4);
}
