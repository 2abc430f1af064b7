//! What the kernel was lent comes back, and who waits for it is served, whatever user code does meanwhile.

use bytes::Bytes;
use perihelion_runtime::{Completion, Config, Endpoint, EndpointId, Io, Outgoing, Piece, Runtime};
use std::any::Any;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

/// Says how many bytes came, and keeps the first frames.
struct Keeper {
    said: Sender<usize>,
    kept: Vec<Bytes>,
    keeps: usize,
}

impl Endpoint for Keeper {
    fn complete(&mut self, _io: &mut Io, completion: Completion) {
        if let Completion::Received(bytes) = completion {
            let _ = self.said.send(bytes.len());
            if self.kept.len() < self.keeps {
                self.kept.push(bytes);
            }
        }
    }
    fn finish_turn(&mut self, _io: &mut Io) {}
    fn wake(&mut self, _io: &mut Io) {}
    fn timer(&mut self, _io: &mut Io, _key: u32) {}
    fn notify(&mut self, _io: &mut Io, _notice: &dyn Any) {}
}

fn runtime(change: impl FnOnce(&mut Config)) -> Runtime {
    let mut config = Config::default();
    config.runtime.workers = 1;
    change(&mut config);
    Runtime::from_config(config).unwrap()
}

/// Puts an endpoint on the runtime that receives from the stream that is given back.
fn open(runtime: &Runtime, keeps: usize) -> (UnixStream, EndpointId, Receiver<usize>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(PATIENCE)).unwrap();
    let (say, said) = mpsc::channel();
    let opened = runtime.on_each({
        let theirs = std::sync::Mutex::new(Some((theirs, say)));
        move |io, _| {
            let (theirs, said) = theirs.lock().unwrap().take().unwrap();
            let id = io.open(theirs, |_, _| Keeper { said, kept: Vec::new(), keeps }).unwrap();
            io.receive(id);
            id
        }
    });
    (ours, opened.unwrap()[0], said)
}

/// Waits until this many bytes have been received.
fn received(said: &Receiver<usize>, mut bytes: usize) {
    while bytes > 0 {
        bytes -= said.recv_timeout(PATIENCE).expect("everything that was sent is received");
    }
}

#[test]
fn idle_receivers_keep_no_buffer_from_one_that_has_bytes() {
    let runtime = runtime(|config| {
        let receive = &mut config.runtime.receive;
        (receive.buffers, receive.buffers_max, receive.buffers_kept_max) = (1, 2, 1);
    });
    let mut all: Vec<_> = (0..50).map(|_| open(&runtime, 0)).collect();
    // All wait for a buffer at once, and have nothing more to come.
    for (stream, ..) in &mut all {
        stream.write_all(b"once").unwrap();
    }
    all.iter().for_each(|(.., said)| received(said, 4));
    for (stream, _, said) in all.iter_mut().rev() {
        stream.write_all(b"hello").unwrap();
        received(said, 5);
    }
    assert!(runtime.stop());
}

#[test]
fn a_pool_that_has_shrunk_while_its_buffers_were_kept_serves_on() {
    let runtime = runtime(|config| {
        let receive = &mut config.runtime.receive;
        (receive.buffer_bytes, receive.buffers) = (64, 2);
        (receive.buffers_max, receive.buffers_kept_max) = (16, 8);
    });
    let (mut stream, _, said) = open(&runtime, 8);
    for _ in 0..8 {
        stream.write_all(&[7; 64]).unwrap();
        received(&said, 64);
    }
    // A pool gets smaller by half for each second that it was large enough, when its worker goes to sleep.
    let until = Instant::now() + Duration::from_millis(4_500);
    while Instant::now() < until {
        thread::park_timeout(Duration::from_millis(100));
        runtime.on_each(|_, _| ()).unwrap();
    }
    stream.write_all(&[7; 64 * 64]).unwrap();
    received(&said, 64 * 64);
    assert!(runtime.stop());
}

/// Memory whose owner panics when it is no longer needed.
struct Panics(Vec<u8>);

impl AsRef<[u8]> for Panics {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Panics {
    fn drop(&mut self) {
        resume_unwind(Box::new("on purpose"));
    }
}

#[test]
fn a_panic_of_the_owner_of_what_is_being_sent_ends_nothing_else() {
    let runtime = runtime(|_| ());
    let (mut other, _, said) = open(&runtime, 0);
    for closes_first in [true, false] {
        let (mut stream, id, _) = open(&runtime, 0);
        runtime
            .on_each(move |io, _| {
                // More than the socket takes: it is in flight until it is cancelled.
                let bytes = Bytes::from_owner(Panics(vec![7; 10_000_000]));
                io.send(id, Outgoing::One(Piece::Shared(bytes)));
                if closes_first {
                    io.close(id);
                }
            })
            .unwrap();
        if closes_first {
            stream.read_to_end(&mut Vec::new()).unwrap();
        }
        other.write_all(b"hello").unwrap();
        received(&said, 5);
    }
    // The second send is still in flight.
    assert!(runtime.stop());
}

#[test]
fn wakers_that_are_woken_without_end_keep_no_message_away() {
    let runtime = runtime(|_| ());
    let (_stream, id, _) = open(&runtime, 0);
    let waker = runtime.on_each(move |io, _| io.waker(id)).unwrap().remove(0);
    let enough = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let (waker, enough) = (waker.clone(), Arc::clone(&enough));
            thread::spawn(move || {
                while !enough.load(Relaxed) {
                    waker.wake_by_ref();
                    thread::yield_now();
                }
            })
        })
        .collect();
    for _ in 0..100 {
        runtime.on_each(|_, _| ()).unwrap();
    }
    let clean = runtime.stop();
    enough.store(true, Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(clean);
}

#[test]
fn a_descriptor_whose_endpoint_could_not_be_made_is_closed() {
    let runtime = runtime(|_| ());
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(PATIENCE)).unwrap();
    runtime
        .send(0, |io| {
            let _ = io.open(theirs, |io, id| -> Keeper {
                io.receive(id);
                resume_unwind(Box::new("on purpose"))
            });
        })
        .unwrap();
    assert_eq!(ours.read(&mut [0]).unwrap(), 0);
    assert!(runtime.stop());
}

#[test]
fn a_send_of_too_many_pieces_is_refused_before_anything_is_changed() {
    let runtime = runtime(|_| ());
    let (mut stream, id, _) = open(&runtime, 0);
    let refused = runtime
        .on_each(move |io, _| {
            let pieces = (0..1_000).map(|_| Piece::Owned(vec![7])).collect();
            let send = std::panic::AssertUnwindSafe(|| io.send(id, Outgoing::Many(pieces)));
            let refused = std::panic::catch_unwind(send).unwrap_err();
            io.close(id);
            refused.downcast_ref::<String>().cloned().unwrap_or_default()
        })
        .unwrap()
        .remove(0);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the descriptor is closed");
    assert!(refused.contains("at most"), "{refused}");
    assert!(runtime.stop());
}
