//! The example `port-forward`, as a program.

mod common;

use common::*;
use std::io::{Read, Write};
use std::net::TcpListener;

fn port_forward(arguments: &[&str]) -> (Program, String) {
    Program::start(&example("port-forward"), arguments)
}

#[test]
fn it_forwards_both_ways_and_says_how_much_when_it_stops() {
    let _limit = Limit::new();
    let target = TcpListener::bind(V4).unwrap();
    let name = format!("localhost:{}", target.local_addr().unwrap().port());
    let (program, line) = port_forward(&["--listen", V4, "--target", &name, "--workers", "1"]);
    assert!(line.contains("io_uring") && line.contains("on CPUs "), "{line}");
    let mut client = connect(address_in(&line));
    client.write_all(b"request").unwrap();
    let (mut served, _) = target.accept().unwrap();
    served.read_exact(&mut [0; 7]).unwrap();
    program.signal("TERM");
    eventually("it listens no more", || try_connect(address_in(&line)).is_err());
    // What is open goes on.
    served.write_all(b"the answer").unwrap();
    drop(served);
    assert_eq!(read_to_end(&client), (b"the answer".to_vec(), End::InOrder));
    drop((client, target));
    let (code, said) = program.wait();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(" connections, 7 bytes in and 10 bytes out\n"), "{said}");
}

#[test]
fn a_target_that_can_not_be_reached_is_said_once() {
    let _limit = Limit::new();
    let target = TcpListener::bind(V4).unwrap().local_addr().unwrap();
    let (program, line) = port_forward(&["--listen", V4, "--target", &target.to_string()]);
    for _ in 0..5 {
        expect_reset(address_in(&line));
    }
    let listener = TcpListener::bind(target).unwrap();
    let client = connect(address_in(&line));
    drop(listener.accept().unwrap());
    assert_eq!(read_to_end(&client).1, End::InOrder);
    drop(client);
    program.signal("TERM");
    let (code, said) = program.wait();
    assert_eq!(code, Some(0), "{said}");
    for what in ["can't be reached: its clients are reset", "can be reached again", "Connection refused"] {
        assert_eq!(said.matches(what).count(), 1, "{said}");
    }
    assert!(said.contains(&target.to_string()), "{said}");
}

#[test]
fn targets_that_can_not_be_used_are_said_to_be_so() {
    let _limit = Limit::new();
    for (arguments, code, parts) in [
        (&["--listen", V4][..], 2, ["--target", "Usage"]),
        (&["--listen", V4, "--target", "nowhere"], 1, ["`nowhere` is no address", "HOST:PORT"]),
        (
            &["--listen", V4, "--target", "no-such-host.invalid:1"],
            1,
            ["no-such-host.invalid", "can't be resolved"],
        ),
    ] {
        let (found, said) = port_forward(arguments).0.wait();
        assert_eq!(found, Some(code), "{said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    }
}
