//! Descriptors that are read and written without the loop: no wake-up is lost, none is made up without end, and none
//! reaches another endpoint.

use perihelion_runtime::{Completion, Config, Endpoint, EndpointId, Io, Pipe, Runtime};
use proptest::prelude::*;
use socket2::SockRef;
use std::any::Any;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

/// What an endpoint does when it is told that it can.
enum Role {
    /// Reads up to so many bytes of what there is, and tells the test.
    Reads(usize),
    /// Writes so many bytes, in one go as far as there is room.
    Writes(usize),
    /// Only tells the test.
    Watches,
}

#[derive(Debug, PartialEq)]
enum Said {
    Read(Vec<u8>),
    Ended,
    /// It has written everything.
    Written,
    Broken(ErrorKind),
    Dropped,
}

struct Tester {
    id: EndpointId,
    role: Role,
    say: Sender<Said>,
}

impl Tester {
    fn say(&self, said: Said) {
        let _ = self.say.send(said); // the test may have seen enough
    }

    fn read(&self, io: &mut Io, most: usize) {
        let mut bytes = vec![0; most];
        let read = (&*SockRef::from(&io.fd(self.id).unwrap())).read(&mut bytes);
        match read {
            Ok(0) => return self.say(Said::Ended),
            Ok(n) => self.say(Said::Read(bytes[..n].to_vec())),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        io.wait_readable(self.id);
    }

    fn write(&mut self, io: &Io) {
        while let Role::Writes(left @ 1..) = &mut self.role {
            match (&*SockRef::from(&io.fd(self.id).unwrap())).write(&vec![7; *left]) {
                Ok(n) => *left -= n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => return self.say(Said::Broken(error.kind())),
            }
        }
        self.say(Said::Written);
    }
}

impl Endpoint for Tester {
    fn complete(&mut self, io: &mut Io, completion: Completion) {
        match (completion, &self.role) {
            (Completion::Readable, Role::Reads(most)) => self.read(io, *most),
            (Completion::Writable, Role::Writes(1..)) => self.write(io),
            (Completion::Broken(error), _) => self.say(Said::Broken(error.kind())),
            _ => {}
        }
    }
    fn finish_turn(&mut self, _io: &mut Io) {}
    fn wake(&mut self, _io: &mut Io) {}
    fn timer(&mut self, _io: &mut Io, _key: u32) {}
    fn notify(&mut self, _io: &mut Io, _notice: &dyn Any) {}
}

impl Drop for Tester {
    fn drop(&mut self) {
        self.say(Said::Dropped);
    }
}

fn runtime() -> Runtime {
    let mut config = Config::default();
    config.runtime.workers = 1;
    Runtime::from_config(config).unwrap()
}

/// A connection over the loopback, whose second side doesn't block.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (theirs, _) = listener.accept().unwrap();
    ours.set_read_timeout(Some(PATIENCE)).unwrap();
    theirs.set_nonblocking(true).unwrap();
    (ours, theirs)
}

/// Puts an endpoint on the runtime that waits for whatever its role needs.
fn open(runtime: &Runtime, theirs: TcpStream, role: Role) -> (EndpointId, Receiver<Said>) {
    let (say, said) = mpsc::channel();
    let given = Mutex::new(Some((theirs, role, say)));
    let opened = runtime.on_each(move |io, _| {
        let (theirs, role, say) = given.lock().unwrap().take().unwrap();
        let reads = matches!(role, Role::Reads(_));
        let id = io.open(theirs, |_, id| Tester { id, role, say }).unwrap();
        if reads {
            io.wait_readable(id);
            io.wait_readable(id); // is the same as once
        } else {
            io.watch(id);
            io.watch(id);
        }
        id
    });
    (opened.unwrap()[0], said)
}

fn hear(said: &Receiver<Said>) -> Said {
    said.recv_timeout(PATIENCE).expect("no wake-up is lost")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    /// Whoever reads but a part of what there is hears of the rest, whenever it came.
    #[test]
    fn all_bytes_are_heard_of(chunks in prop::collection::vec(1usize..5_000, 1..40), most in 1usize..3_000) {
        let runtime = runtime();
        let (mut ours, theirs) = pair();
        let (_, said) = open(&runtime, theirs, Role::Reads(most));
        let sent: Vec<u8> = (0..chunks.iter().sum()).map(|n: usize| n as u8).collect();
        let mut rest = &sent[..];
        for chunk in chunks {
            let (now, later) = rest.split_at(chunk);
            ours.write_all(now).unwrap();
            rest = later;
        }
        drop(ours);
        let mut read = Vec::new();
        loop {
            match hear(&said) {
                Said::Read(bytes) => read.extend(bytes),
                other => break prop_assert_eq!(other, Said::Ended),
            }
        }
        prop_assert!(read == sent);
        prop_assert!(runtime.stop());
    }
}

/// Also when the other side sends no more, which the kernel reports to whoever waits for room.
#[test]
fn a_writer_hears_of_room_and_not_without_end() {
    for is_half_closed in [false, true] {
        const BYTES: usize = 20_000_000;
        let runtime = runtime();
        let (mut ours, theirs) = pair();
        if is_half_closed {
            ours.shutdown(Shutdown::Write).unwrap();
        }
        let (_, said) = open(&runtime, theirs, Role::Writes(BYTES));
        let turns = runtime.stats()[0].turns;
        thread::sleep(Duration::from_millis(200)); // for long enough to see whether it spins
        let turns = runtime.stats()[0].turns - turns;
        assert!(turns < 100, "{turns} turns though nobody reads");
        let mut read = 0;
        while read < BYTES {
            read += ours.read(&mut vec![0; 100_000]).unwrap();
        }
        assert_eq!(hear(&said), Said::Written);
        assert!(runtime.stop());
    }
}

#[test]
fn a_break_is_heard_of_also_by_who_does_not_read() {
    for is_half_closed in [false, true] {
        let runtime = runtime();
        let (ours, theirs) = pair();
        if is_half_closed {
            ours.shutdown(Shutdown::Write).unwrap();
        }
        let (_, said) = open(&runtime, theirs, Role::Watches);
        SockRef::from(&ours).set_linger(Some(Duration::ZERO)).unwrap();
        drop(ours);
        // A connection that had been ended already breaks with EPIPE.
        let expected = if is_half_closed { ErrorKind::BrokenPipe } else { ErrorKind::ConnectionReset };
        assert_eq!(hear(&said), Said::Broken(expected));
        assert!(runtime.stop());
    }
}

/// Waits are cancelled, and what they would have said is nobody's.
#[test]
fn an_endpoint_that_is_closed_while_it_waits_leaves_nothing_to_its_successor() {
    let runtime = runtime();
    for role in [Role::Reads, Role::Writes] {
        for _ in 0..100 {
            let (mut ours, theirs) = pair();
            let (id, _said) = open(&runtime, theirs, role(10_000_000));
            let writer = thread::spawn(move || {
                let _ = ours.write_all(&[7; 1000]); // at the same time
                ours
            });
            runtime.send(0, move |io| io.close(id)).unwrap();
            let (_next, theirs) = pair();
            let (next, said) = open(&runtime, theirs, Role::Reads(1));
            drop(writer.join().unwrap());
            runtime.on_each(move |io, _| io.close(next)).unwrap();
            assert!(said.try_iter().all(|said| said == Said::Dropped));
        }
    }
    assert!(runtime.stop());
}

fn with_pipe<R: Send + 'static>(
    runtime: &Runtime,
    call: impl FnOnce(&mut Io, Pipe) -> R + Send + 'static,
) -> R {
    let call = Mutex::new(Some(call));
    let called = runtime.on_each(move |io, _| {
        let pipe = io.take_pipe().expect("there is a pipe");
        call.lock().unwrap().take().unwrap()(io, pipe)
    });
    called.unwrap().remove(0)
}

/// Fills it when there is something.
fn fill(pipe: &mut Pipe, source: &TcpStream) -> usize {
    loop {
        match pipe.fill(source.as_fd()) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::yield_now(),
            filled => return filled.unwrap(),
        }
    }
}

#[test]
fn a_pipe_takes_and_gives_what_it_can() {
    let runtime = runtime();
    let ((mut from, source), (mut to, sink)) = (pair(), pair());
    from.write_all(b"hello").unwrap();
    from.shutdown(Shutdown::Write).unwrap();
    let (filled, drained, ended, is_empty) = with_pipe(&runtime, move |_, mut pipe| {
        let filled = fill(&mut pipe, &source);
        let drained = pipe.drain(sink.as_fd()).unwrap();
        (filled, drained, fill(&mut pipe, &source), pipe.is_empty())
    });
    assert_eq!((filled, drained, ended, is_empty), (5, 5, 0, true));
    let mut bytes = Vec::new();
    to.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"hello");
    assert!(runtime.stop());
}

/// One with bytes in it is not the next one's; and there are no more than may be.
#[test]
fn pipes_are_given_out_empty_and_as_many_as_may_be() {
    let mut config = Config::default();
    (config.runtime.workers, config.runtime.pipes.pipes_max) = (1, 2);
    let runtime = Runtime::from_config(config).unwrap();
    let (mut from, source) = pair();
    from.write_all(b"secret").unwrap();
    with_pipe(&runtime, move |io, mut pipe| {
        fill(&mut pipe, &source);
        let other = io.take_pipe().expect("a second pipe");
        assert!(io.take_pipe().is_none(), "a third one");
        io.give_pipe_back(pipe);
        io.give_pipe_back(other);
        let pipes = [io.take_pipe(), io.take_pipe()];
        assert!(pipes.iter().flatten().all(Pipe::is_empty) && pipes.iter().flatten().count() == 2);
    });
    assert!(runtime.stop());
}
