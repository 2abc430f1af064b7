//! What stands on an event loop, and what the loop owes it.

use perihelion_runtime::{Completion, Config, Endpoint, EndpointId, Io, Outgoing, Piece, Runtime};
use std::any::Any;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, PartialEq)]
enum Said {
    Dropped,
    Noticed,
    Received(usize),
    TimerCame,
}

/// Tells the test what it is told, and does what it is asked to when its turn ends.
struct Reporter {
    say: Sender<Said>,
    at_end_of_turn: Option<fn(&mut Io, EndpointId)>,
    id: EndpointId,
    panics_when_dropped: bool,
}

impl Endpoint for Reporter {
    fn complete(&mut self, io: &mut Io, completion: Completion) {
        if let Completion::Received(bytes) = completion {
            let _ = self.say.send(Said::Received(bytes.len()));
            io.finish_turn(self.id);
        }
    }
    fn finish_turn(&mut self, io: &mut Io) {
        if let Some(call) = self.at_end_of_turn {
            call(io, self.id);
        }
    }
    fn wake(&mut self, _io: &mut Io) {}
    fn timer(&mut self, _io: &mut Io, _key: u32) {
        let _ = self.say.send(Said::TimerCame);
    }
    fn notify(&mut self, _io: &mut Io, _notice: &dyn Any) {
        let _ = self.say.send(Said::Noticed);
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        let _ = self.say.send(Said::Dropped);
        if self.panics_when_dropped {
            std::panic::resume_unwind(Box::new("on purpose"));
        }
    }
}

fn runtime() -> Runtime {
    let mut config = Config::default();
    config.runtime.workers = 1;
    Runtime::from_config(config).unwrap()
}

/// Puts an endpoint on the runtime that receives from the stream that is given back.
fn open(
    runtime: &Runtime,
    panics_when_dropped: bool,
    at_end_of_turn: Option<fn(&mut Io, EndpointId)>,
) -> (UnixStream, EndpointId, Receiver<Said>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(PATIENCE)).unwrap();
    let ((say, said), (tell, told)) = (mpsc::channel(), mpsc::channel());
    runtime
        .send(0, move |io| {
            let make = |_: &mut Io, id| Reporter { say, at_end_of_turn, id, panics_when_dropped };
            let id = io.open(theirs, make).unwrap();
            io.receive(id);
            tell.send(id).unwrap();
        })
        .unwrap();
    (ours, told.recv().unwrap(), said)
}

#[test]
fn a_notice_that_is_given_at_the_end_of_a_turn_arrives() {
    let runtime = runtime();
    let (mut stream, _, said) = open(&runtime, false, Some(|io, _| io.notify_all(())));
    stream.write_all(b"hello").unwrap();
    assert_eq!(said.recv_timeout(PATIENCE), Ok(Said::Received(5)));
    assert_eq!(said.recv_timeout(PATIENCE), Ok(Said::Noticed));
    assert!(runtime.stop());
}

#[test]
fn a_timer_that_is_set_at_the_end_of_a_turn_comes() {
    let runtime = runtime();
    let set = |io: &mut Io, id| {
        io.set_timer(id, 0, io.now() + Duration::from_millis(1));
    };
    let (mut stream, _, said) = open(&runtime, false, Some(set));
    stream.write_all(b"hello").unwrap();
    assert_eq!(said.recv_timeout(PATIENCE), Ok(Said::Received(5)));
    assert_eq!(said.recv_timeout(PATIENCE), Ok(Said::TimerCame));
    assert!(runtime.stop());
}

#[test]
fn an_endpoint_that_is_closed_from_outside_is_gone_when_another_takes_its_place() {
    let runtime = runtime();
    for panics in [false, true] {
        let (mut stream, id, said) = open(&runtime, panics, None);
        runtime.send(0, move |io| io.close(id)).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        let (mut stream, other, other_said) = open(&runtime, false, None);
        stream.write_all(b"hello").unwrap();
        assert_eq!(other_said.recv_timeout(PATIENCE), Ok(Said::Received(5)));
        assert_eq!(said.recv_timeout(PATIENCE), Ok(Said::Dropped));
        assert_ne!(id, other);
        runtime.send(0, move |io| io.close(id)).unwrap(); // a name of the past
        stream.write_all(b"hi").unwrap();
        assert_eq!(other_said.recv_timeout(PATIENCE), Ok(Said::Received(2)));
    }
    assert!(runtime.stop());
}

#[test]
fn what_an_endpoint_sends_before_it_is_closed_may_be_cut_off_but_not_changed() {
    let runtime = runtime();
    let send = |io: &mut Io, id| {
        io.send(id, Outgoing::One(Piece::Owned(vec![7; 10_000_000])));
        io.close(id);
    };
    let (mut stream, _, said) = open(&runtime, false, Some(send));
    stream.write_all(b"hello").unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 7));
    assert_eq!(said.recv_timeout(PATIENCE), Ok(Said::Received(5)));
    assert_eq!(said.recv_timeout(PATIENCE), Ok(Said::Dropped));
    assert!(runtime.stop());
}
