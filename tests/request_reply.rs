//! Requests and replies: every reply finds its request, in whatever order it comes, or the client says what went wrong.

mod common;
#[path = "../examples/shared/frames.rs"]
mod frames;

use common::*;
use frames::{Frame, Frames, PAYLOAD_BYTES_MAX, answer};
use perihelion::pipeline::testing::{decode, encode, verify_bytes, verify_codec};
use perihelion::prelude::*;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

/// A server on two workers.
fn start(more: &[&str]) -> (Program, SocketAddr) {
    let arguments = [&["--listen", V4, "--workers", "2"], more].concat();
    let (program, line) = Program::start(&example("request-reply"), &arguments);
    (program, address_in(&line))
}

fn stop(program: Program) -> String {
    program.signal("TERM");
    let (code, said) = program.wait();
    assert_eq!(code, Some(0), "{said}");
    said
}

fn client(address: SocketAddr, more: &[&str]) -> (Option<i32>, String, String) {
    run_on(&example("request-reply-client"), &[&[&*address.to_string()], more].concat(), "")
}

fn requests(seed: u64, count: usize) -> Vec<Frame> {
    let mut random = Random(seed);
    (0..count)
        .map(|_| Frame { id: random.next(), payload: text(random.next(), random.below(300)).into() })
        .collect()
}

/// All replies, up to the end.
fn replies(stream: &TcpStream) -> Vec<Frame> {
    let (bytes, end) = read_to_end(stream);
    let (frames, error) = decode(Frames::new(), [&*bytes]);
    assert!(end == End::InOrder && error.is_none(), "{end:?} {error:?}");
    frames
}

/// Whether each request has one reply, and the right one.
fn check(requests: &[Frame], replies: &[Frame]) {
    let mut expected: HashMap<u64, Bytes> =
        requests.iter().map(|request| (request.id, answer(&request.payload))).collect();
    for reply in replies {
        assert_eq!(expected.remove(&reply.id).as_ref(), Some(&reply.payload), "{}", reply.id);
    }
    assert!(expected.is_empty(), "{} requests have no reply", expected.len());
}

#[test]
fn frames_are_the_same_however_they_are_cut() {
    verify_codec(Frames::new, &requests(1, 4));
    let frame = Frame { id: 0x0102, payload: "hi".into() };
    assert_eq!(encode(Frames::new(), [frame]), b"\x0a\0\0\0\x02\x01\0\0\0\0\0\0hi");
}

#[test]
fn what_is_no_frame_is_an_error() {
    for (wire, why) in [
        (&b"\x07\0\0\0\0\0\0\0\0\0\0"[..], "a frame of 7 bytes: its identifier has 8"),
        (b"\0\0\0\0", "a frame of 0 bytes"),
        (b"\x09\0\x01\0", "a frame of 65545 bytes: at most 65544"),
        (b"\x0a\0\0\0\x02\x01\0\0\0\0\0\0h", "ended inside a frame"),
    ] {
        let (frames, error) = verify_bytes(Frames::new, wire);
        let error = error.unwrap().to_string();
        assert!(frames.is_empty() && error.contains(why), "{error}");
    }
    let long = Frame { id: 0, payload: vec![0; PAYLOAD_BYTES_MAX + 1].into() };
    let error = Frames::new().encode(long, &mut Output::default()).unwrap_err().to_string();
    assert!(error.contains("a payload of 65537 bytes: at most 65536"), "{error}");
}

#[test]
fn every_request_has_its_reply_and_they_come_as_they_are_ready() {
    let _limit = Limit::new();
    let (server, address) = start(&[]);
    let requests = requests(2, 200);
    let bytes = encode(Frames::new(), requests.clone());
    for size in [7, 1000, bytes.len()] {
        let stream = connect(address);
        for piece in bytes.chunks(size) {
            (&stream).write_all(piece).unwrap();
        }
        stream.shutdown(Shutdown::Write).unwrap();
        let replies = replies(&stream);
        check(&requests, &replies);
        let ids = |frames: &[Frame]| frames.iter().map(|frame| frame.id).collect::<Vec<_>>();
        assert_ne!(
            ids(&requests),
            ids(&replies),
            "that each waits longer than the one before doesn't happen"
        );
    }
    stop(server);
}

#[test]
fn more_requests_than_are_answered_at_once_all_have_their_replies() {
    let _limit = Limit::new();
    let (server, address) = start(&["--delay-ms", "5"]);
    let requests = requests(3, 3000);
    let stream = connect(address);
    thread::scope(|scope| {
        scope.spawn(|| {
            (&stream).write_all(&encode(Frames::new(), requests.clone())).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        });
        check(&requests, &replies(&stream));
    });
    stop(server);
}

#[test]
fn who_sends_what_is_no_frame_is_put_out_and_the_log_says_why() {
    let _limit = Limit::new();
    let (server, address) = start(&[]);
    for wrong in [&b"\x07\0\0\0\0\0\0\0\0\0\0"[..], b"\xff\xff\xff\xff", b"\x0a\0\0\0\x02\x01"] {
        let stream = connect(address);
        (&stream).write_all(wrong).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&stream).0, b"");
    }
    assert_eq!(client(address, &["--requests", "10"]).0, Some(0));
    let said = stop(server);
    for why in ["a frame of 7 bytes", "at most 65544", "ended inside a frame, after 6 bytes"] {
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn clients_on_all_cores_get_their_own_replies() {
    let _limit = Limit::new();
    let (server, address) = start(&[]);
    let clients: Vec<_> = (0..4)
        .map(|_| thread::spawn(move || client(address, &["--requests", "3000", "--at-once", "300"])))
        .collect();
    for client in clients {
        let right = "of 3000 replies, 3000 were right and 0 wrong\n".into();
        assert_eq!(client.join().unwrap(), (Some(0), right, String::new()));
    }
    stop(server);
}

/// A server that answers as this function says, until the client ends.
fn pretend(answers: impl Fn(Frame) -> Option<Frame> + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind(V4).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut bytes, mut input) = ([0; 4096], Input::default());
        while let Ok(length @ 1..) = stream.read(&mut bytes) {
            input.push(Bytes::copy_from_slice(&bytes[..length]));
            while let Some(request) = Frames::new().decode(&mut input).unwrap() {
                let _ = stream.write_all(&encode(Frames::new(), answers(request)));
            }
        }
    });
    address
}

#[test]
fn the_client_says_how_many_replies_were_right_and_what_was_wrong() {
    let _limit = Limit::new();
    let address = pretend(|request| match request.id {
        0..7 => Some(Frame { payload: answer(&request.payload), ..request }),
        7 => Some(Frame { payload: "something else".into(), ..request }),
        8 => Some(Frame { id: 77, ..request }), // which nobody waits for
        _ => None,
    });
    let (code, printed, said) = client(address, &["--requests", "10", "--deadline-ms", "2000"]);
    assert_eq!((code, &*printed), (Some(1), "of 10 replies, 7 were right and 1 wrong\n"));
    assert!(said.contains("there was no reply within 2s"), "{said}");

    let address = pretend(Some); // the same payload again
    let (code, printed, said) = client(address, &["--requests", "3", "--bytes", "65536"]);
    assert_eq!((code, &*printed), (Some(1), "of 3 replies, 0 were right and 3 wrong\n"));
    assert!(said.contains("doesn't answer as request-reply does"), "{said}");

    let listener = TcpListener::bind(V4).unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || reset(listener.accept().unwrap().0));
    let (code, printed, said) = client(address, &[]);
    server.join().unwrap();
    assert_eq!((code, &*printed), (Some(1), "of 1000 replies, 0 were right and 0 wrong\n"));
    assert!(said.contains("the connection is closed"), "{said}");
}

#[test]
fn options_that_can_not_be_used_are_said_to_be_so() {
    let _limit = Limit::new();
    let (server, address) = start(&[]);
    let address = address.to_string();
    for (arguments, code, parts) in [
        (&[&*address, "--at-once", "0"][..], 1, ["channel.requests_max", "0"]),
        (&[&address, "--deadline-ms", "0"], 1, ["channel.request_ms", "0"]),
        (&[&address, "--bytes", "65537"], 2, ["65537", "0..=65536"]),
        (&["127.0.0.1:1"], 1, ["127.0.0.1:1", "refused"]),
        (&["ftp://x"], 2, ["`ftp://x` is no address", "scheme"]),
    ] {
        let (found, _, said) = run_on(&example("request-reply-client"), arguments, "");
        assert_eq!(found, Some(code), "{arguments:?}: {said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    }
    stop(server);
}
