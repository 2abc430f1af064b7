//! A process that has no descriptor left. In a process of its own, with a low limit.

mod common;

use common::*;
use perihelion::prelude::*;
use std::fs::File;
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// What this process has used of a CPU, in clock ticks (hundredths of a second), from `/proc/self/stat`.
fn cpu_ticks(stat: &File) -> u64 {
    let mut text = [0; 1024];
    let len = stat.read_at(&mut text, 0).unwrap();
    let stat = str::from_utf8(&text[..len]).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// The server shares its limit with its clients, which connect before there is none left: the kernel takes their
/// connections, the server can't.
fn run_out_of_descriptors() {
    // Before the server starts: an accept goes by the limit that there was when it was submitted.
    rlimit::Resource::NOFILE.set(200, 200).unwrap();
    let fixture = Fixture::new();
    let (server, address) = fixture.serve(echo);
    let first = connect(address);
    ask(&first, "before");
    let stat = File::open("/proc/self/stat").unwrap();
    let gate = fixture.hold();
    let waiting: Vec<TcpStream> = (0..20).map(|_| connect(address)).collect();
    let mut used_up: Vec<File> = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        used_up.push(file);
    }
    drop(gate);

    // The worker goes on with the connection that it has, and takes no other.
    let (turns, ticks) = (fixture.stats()[0].turns, cpu_ticks(&stat));
    for _ in 0..5 {
        ask(&first, "meanwhile");
        std::thread::sleep(Duration::from_millis(200)); // for long enough to see whether it spins
    }
    assert_eq!(server.report().connections, 1);
    let (turns, ticks) = (fixture.stats()[0].turns - turns, cpu_ticks(&stat) - ticks);
    assert!(turns < 200, "{turns} turns in a second");
    assert!(ticks < 30, "{ticks} hundredths of a second of a CPU in one second");

    // One is free: one gets in.
    used_up.pop();
    eventually("one that waited is accepted", || server.report().connections == 2);
    ask(&first, "then");

    // Then all are.
    drop(used_up);
    waiting.iter().for_each(|client| ask(client, "after"));
    assert_eq!(server.report().connections, 21);
    drop((first, waiting));
    fixture.stop_all(server);
}

#[test]
fn connections_wait_while_there_is_no_descriptor() {
    in_child("run out of descriptors", run_out_of_descriptors);
}

/// The first worker may start all the same; then it ends.
#[test]
fn a_runtime_without_descriptors_is_an_error_that_says_what_to_do() {
    in_child("start without descriptors", || {
        drop(Runtime::from_config(Config::default()).unwrap());
        rlimit::Resource::NOFILE.set(descriptors() as u64 + 100, 200).unwrap();
        let mut used_up = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            used_up.push(file);
        }
        // One descriptor less is used each time, until it is enough.
        let errors: Vec<String> = std::iter::from_fn(|| {
            let error = Runtime::from_config(Config::default()).err().map(|error| error.to_string());
            used_up.pop().expect("there are enough for a runtime");
            error
        })
        .collect();
        assert!(!errors.is_empty());
        assert!(errors.iter().all(|error| error.contains("Too many open files")), "{errors:?}");
        assert!(errors.iter().all(|error| error.contains("ulimit -n")), "{errors:?}");
        used_up.clear();
        eventually("no thread remains", || threads("perihelion-") == 0);
    });
}
