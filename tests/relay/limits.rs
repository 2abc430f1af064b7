//! What relays take of the process is bounded, and given back.

use perihelion::prelude::*;
use perihelion::runtime::{RelayConfig, ServerConfig, WhenFull};
use std::fs::File;
use std::io::Read;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::*;
use crate::setup::{Setup, write_until_blocked};

/// For everything between a writer and a reader that doesn't read: four buffers of 64 KiB, which the kernel doubles and
/// overdraws a little, and a pipe.
const BYTES_ON_THE_WAY_MAX: usize = 2 << 20;

fn small_buffers(config: &mut Config) {
    (config.tcp.send_buffer_bytes, config.tcp.receive_buffer_bytes) = (64 << 10, 64 << 10);
}

#[test]
fn a_reader_that_does_not_read_holds_up_the_writer_and_loses_nothing() {
    let setup = Setup::with(small_buffers);
    for target_reads_slowly in [true, false] {
        let (client, target) = setup.pair();
        let (writer, mut reader) = if target_reads_slowly { (client, target) } else { (target, client) };
        socket2::SockRef::from(&writer).set_send_buffer_size(64 << 10).unwrap();
        let written = write_until_blocked(&writer);
        assert!(written.len() < BYTES_ON_THE_WAY_MAX, "{} bytes were taken", written.len());
        // The other direction is free.
        send(&reader, "the other way");
        assert_eq!(receive(&writer), b"the other way");
        let mut read = vec![0; written.len()];
        reader.read_exact(&mut read).unwrap();
        assert!(read == written);
    }
    setup.stop();
}

/// The only pipe belongs to a relay whose target does not read; the others have theirs when it does.
#[test]
fn relays_wait_for_a_pipe() {
    let setup = Setup::with(|config| {
        small_buffers(config);
        config.runtime.pipes.pipes_max = 1;
    });
    let (writer, mut reader) = setup.pair();
    let written = write_until_blocked(&writer);
    let others: Vec<_> = (0..10).map(|_| setup.pair()).collect();
    for (client, target) in &others {
        send(client, "hello");
        send(target, "welcome");
    }
    let mut read = vec![0; written.len()];
    reader.read_exact(&mut read).unwrap();
    assert!(read == written);
    for (client, target) in &others {
        assert_eq!((receive(target), receive(client)), (b"hello".to_vec(), b"welcome".to_vec()));
    }
    drop((writer, reader, others));
    setup.stop();
}

fn pipes_without_descriptors() {
    let setup = Setup::new();
    let (client, target) = setup.pair();
    let mut used_up = Vec::new();
    rlimit::Resource::NOFILE.set(200, 200).unwrap();
    while let Ok(file) = File::open("/dev/null") {
        used_up.push(file);
    }
    let turns = setup.fixture.stats()[0].turns;
    send(&client, "hello");
    eventually("it has asked for a pipe again and again", || setup.fixture.stats()[0].turns > turns + 5);
    drop(used_up);
    assert_eq!(receive(&target), b"hello");
    drop((client, target));
    setup.stop();
}

#[test]
fn relays_wait_while_there_is_no_descriptor_for_a_pipe() {
    in_child("no descriptor", pipes_without_descriptors);
}

#[test]
fn a_relay_that_is_idle_is_reset_but_not_one_that_works() {
    let idle_ms = 1000;
    let setup = Setup::with_server(|_| (), |server| server.relay(RelayConfig { idle_ms }));
    let (client, target) = setup.pair();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(idle_ms * 5 / 2) {
        send(&client, "still");
        assert_eq!(receive(&target), b"still");
    }
    assert_eq!([&client, &target].map(|stream| read_to_end(stream).1), [End::Reset; 2]);
    setup.stop();
}

#[test]
fn a_relay_has_a_place_and_gives_it_back() {
    let limits = ServerConfig { connections_max: 1, when_full: WhenFull::Wait, ..Default::default() };
    let setup = Setup::with_server(|_| (), |server| server.limits(limits));
    let clients: Vec<_> = (0..5).map(|_| connect(setup.address)).collect();
    for client in clients {
        let target = setup.accept();
        send(&client, "my turn");
        assert_eq!(receive(&target), b"my turn");
        assert_eq!(setup.server.report().open, 1);
    }
    eventually("the last one is over", || setup.server.report().open == 0);
    assert_eq!(setup.stop().connections, 5);
}

#[test]
fn a_filter_is_asked_before_anything_is_relayed() {
    let setup = Setup::with_server(|_| (), |server| server.filter(|_| false));
    assert_eq!(read_to_end(&connect(setup.address)).0, b"");
    let report = setup.stop();
    assert_eq!((report.connections, report.refused), (0, 1));
}

const MANY: usize = 500;
/// More than pipes that are kept for later.
const SPARE_DESCRIPTORS_MAX: usize = 200;

fn many_at_once() {
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let at_first = descriptors();
    let setup = Setup::with(|config| {
        small_buffers(config);
        config.runtime.workers = 2;
    });
    let without = descriptors();
    let pairs: Vec<_> = (0..MANY).map(|_| setup.pair()).collect();
    thread::scope(|scope| {
        for part in pairs.chunks(MANY / 10) {
            scope.spawn(move || {
                for round in 0..3 {
                    let message = text(round, 50_000);
                    part.iter().for_each(|(client, _)| send(client, &message));
                    part.iter().for_each(|(_, target)| assert!(receive(target) == message));
                    part.iter().for_each(|(_, target)| send(target, &message));
                    part.iter().for_each(|(client, _)| assert!(receive(client) == message));
                }
            });
        }
    });
    // Idle, they hold their two sockets each, and no pipe.
    let idle = descriptors() - without - 4 * MANY;
    assert!(idle < SPARE_DESCRIPTORS_MAX, "{idle} descriptors beside the sockets");
    // Some end while their pipe is full.
    let blocked = &pairs[..5];
    blocked.iter().for_each(|(client, _)| drop(write_until_blocked(client)));
    drop(pairs);
    eventually("all relays are over", || setup.server.report().open == 0);
    eventually("their descriptors are closed", || descriptors() < without + SPARE_DESCRIPTORS_MAX);
    assert_eq!(setup.stop().connections, MANY as u64);
    assert_eq!(descriptors(), at_first);
}

/// In a process of its own, whose descriptors nobody else opens.
#[test]
fn many_relays_at_once_leave_no_descriptor() {
    in_child("many relays", many_at_once);
}
