//! The end of a connection, in order and not.

use bytes::Bytes;
use perihelion_pipeline::{Context, Error, Lines, Raw, Result, Tail, Written, codec};
use std::cell::RefCell;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use crate::common::{Host, Log};
use crate::keys::{Keys, TLS12, TLS13};
use crate::oracle::{Oracle, talk};

/// Notes what it reads and when that ends, and does as it is told.
#[derive(Clone, Default)]
struct Notes(Log);

impl Tail for Notes {
    type In = String;
    type Out = String;
    fn read(&mut self, cx: &mut Context<'_, String>, line: String) -> Result<()> {
        match &*line {
            "close" => {
                cx.write("bye".into())?;
                cx.close()?;
            }
            "close output" => {
                cx.write("bye".into())?;
                cx.close_output()?;
            }
            "fail" => return Err(perihelion_pipeline::Error::msg("as told")),
            _ => {}
        }
        self.0.add(line);
        Ok(())
    }
    fn half_closed(&mut self, cx: &mut Context<'_, String>) -> Result<()> {
        self.0.add("half-closed");
        cx.write("last word".into())?;
        cx.close()
    }
    fn closed(&mut self, why: Option<&perihelion_pipeline::Error>) {
        self.0.add(format!("closed {}", why.map_or("in order".into(), ToString::to_string)));
    }
}

/// A channel with an open session to a client.
fn session(versions: &[&'static perihelion_tls::rustls::SupportedProtocolVersion]) -> (Host, Oracle, Log) {
    let keys = Keys::new();
    let tls = keys.server(versions);
    let notes = Notes::default();
    let mut host = Host::keeping_back(codec(tls.accept()).codec(Lines::lf(100)).tail(notes.clone()));
    let mut client = Oracle::client(&keys);
    client.talk(&mut host, usize::MAX);
    assert!(!client.connection.is_handshaking());
    (host, client, notes.0)
}

#[test]
fn a_close_says_goodbye_behind_the_last_word() {
    for versions in [TLS12, TLS13] {
        let (mut host, mut client, log) = session(versions);
        client.write(b"close\n");
        client.talk(&mut host, usize::MAX);
        assert_eq!(client.read, b"bye\n");
        assert!(client.has_ended, "there was a close_notify");
        assert_eq!(host.closed, Some(None));
        assert_eq!(log.take(), ["close", "closed in order"]);
    }
}

#[test]
fn a_close_from_outside_says_goodbye_too() {
    let (mut host, mut client, log) = session(TLS13);
    host.close();
    client.talk(&mut host, usize::MAX);
    assert!(client.has_ended);
    assert_eq!(log.take(), ["closed in order"]);
}

#[test]
fn an_error_closes_without_a_goodbye() {
    let (mut host, mut client, log) = session(TLS13);
    client.write(b"fail\n");
    client.talk(&mut host, usize::MAX);
    assert!(!client.has_ended);
    assert_eq!(host.closed, Some(Some("as told".into())));
    assert_eq!(log.take(), ["closed as told"]);
}

#[test]
fn a_goodbye_of_the_client_ends_what_is_received_and_the_server_may_still_write() {
    for versions in [TLS12, TLS13] {
        let (mut host, mut client, log) = session(versions);
        client.write(b"one\n");
        client.connection.send_close_notify();
        let mut bytes = client.outgoing();
        bytes.extend(b"garbage behind the end");
        host.feed(bytes).run();
        host.feed_end().run();
        client.talk(&mut host, usize::MAX);
        assert_eq!(log.take(), ["one", "half-closed", "closed in order"]);
        assert_eq!(client.read, b"last word\n");
        assert!(client.has_ended);
    }
}

#[test]
fn half_a_close_leaves_the_other_half() {
    let (mut host, mut client, log) = session(TLS13);
    client.write(b"close output\n");
    client.talk(&mut host, usize::MAX);
    assert_eq!(client.read, b"bye\n");
    assert!(client.has_ended);
    client.write(b"still here\n");
    client.talk(&mut host, usize::MAX);
    assert_eq!(host.closed, None);
    assert_eq!(log.take(), ["close output", "still here"]);
}

#[test]
fn an_end_without_a_goodbye_is_reported() {
    for versions in [TLS12, TLS13] {
        let (mut host, mut client, log) = session(versions);
        client.write(b"one\ntw");
        client.talk(&mut host, usize::MAX);
        host.feed_end().run();
        let reason = "the connection ended without a close_notify: what came last may be missing";
        assert_eq!(log.take(), ["one".into(), format!("closed {reason}")]);
    }
}

#[test]
fn an_end_in_the_middle_of_a_record_is_reported() {
    let (mut host, mut client, log) = session(TLS13);
    client.write(b"one\n");
    let bytes = client.outgoing();
    host.feed(&bytes[..bytes.len() - 1]).feed_end().run();
    let reason = "the connection ended without a close_notify: what came last may be missing";
    assert_eq!(log.take(), [format!("closed {reason}")]);
}

#[test]
fn the_alert_that_ended_a_connection_is_its_reason() {
    let keys = Keys::new();
    let stranger = Keys::new();
    let tls = keys.server(TLS13);
    let mut host = Host::keeping_back(codec(tls.accept()).codec(Lines::lf(100)).tail(Notes::default()));
    let mut client = Oracle::client_with(stranger.client_config(TLS13));
    let hello = client.outgoing();
    host.feed(hello).run();
    client.take_from(&host).unwrap_err();
    host.feed(client.outgoing()).run();
    let reason = host.closed.flatten().unwrap();
    assert!(reason.contains("UnknownCA"), "{reason}");
}

#[test]
fn a_record_that_was_tampered_with_ends_it_with_an_alert() {
    let (mut host, mut client, log) = session(TLS13);
    client.write(b"one\n");
    let mut bytes = client.outgoing();
    *bytes.last_mut().unwrap() ^= 1;
    host.feed(bytes).run();
    assert_eq!(log.take(), ["closed TLS failed: cannot decrypt peer's message"]);
    let alert = client.take_from(&host).unwrap_err();
    assert_eq!(alert.to_string(), "received fatal alert: BadRecordMac");
}

#[test]
fn a_close_before_the_handshake_is_done_waits_for_it_if_there_is_something_to_say() {
    let keys = Keys::new();
    struct SayAndClose;
    impl Tail for SayAndClose {
        type In = Bytes;
        type Out = Bytes;
        fn open(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
            cx.write("hello".into())?;
            cx.close()?;
            let _ = cx.write("behind the close".into()); // refused, now or at the end of the turn
            Ok(())
        }
        fn read(&mut self, _cx: &mut Context<'_, Bytes>, _msg: Bytes) -> Result<()> {
            Ok(())
        }
    }
    let notes = Notes::default();
    let mut server =
        Host::keeping_back(codec(keys.server(TLS13).accept()).codec(Lines::lf(100)).tail(notes.clone()));
    let stage = keys.client(TLS13).connect("localhost").unwrap();
    let mut client = Host::keeping_back(codec(stage).codec(Raw).tail(SayAndClose));
    talk(&mut client, &mut server, 100);
    assert_eq!(client.closed, Some(None));
    server.feed_end().run();
    let left = "the stream ended inside a frame, after 5 bytes of it";
    assert_eq!(notes.0.take(), [format!("closed {left}")], "all of it has come");
}

#[test]
fn a_close_before_the_handshake_is_done_ends_it_if_there_is_nothing_to_say() {
    let keys = Keys::new();
    let stage = keys.client(TLS13).connect("localhost").unwrap();
    let mut client = Host::keeping_back(codec(stage).codec(Raw).service(async |bytes: Bytes| Ok(bytes)));
    client.run();
    assert!(!client.sent.is_empty(), "the ClientHello");
    client.close();
    client.run();
    assert_eq!(client.closed, Some(None));
}

/// Speaks first, may close behind it, and thinks that no error is worth an end.
struct Careless {
    closes: bool,
    written: Rc<RefCell<Option<Written>>>,
    log: Log,
}

impl Tail for Careless {
    type In = Bytes;
    type Out = Bytes;
    fn open(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
        cx.write("welcome".into())?;
        self.written.replace(Some(cx.written()?));
        if self.closes { cx.close() } else { Ok(()) }
    }
    fn read(&mut self, _cx: &mut Context<'_, Bytes>, _msg: Bytes) -> Result<()> {
        Ok(())
    }
    fn error(&mut self, _cx: &mut Context<'_, Bytes>, error: Error) -> Result<()> {
        self.log.add(error.to_string());
        Ok(())
    }
}

#[test]
fn a_handshake_that_fails_closes_though_a_stage_handles_the_error() {
    let keys = Keys::new();
    for closes in [false, true] {
        for (bytes, waits) in [("GET / HTTP/1.1", 0), ("\x16\x03\x01\0\x04\x05\0\0\0", 0), ("", 10)] {
            let (written, log) = (Rc::default(), Log::default());
            let tail = Careless { closes, written: Rc::clone(&written), log: log.clone() };
            let mut host = Host::keeping_back(codec(keys.server(TLS13).accept()).codec(Raw).tail(tail));
            host.feed(bytes).run();
            host.advance(Duration::from_secs(waits));
            assert_eq!(host.closed, Some(None), "{bytes:?}: what is handled is no reason");
            assert_eq!(log.take().len(), 1);
            let mut written = written.take().unwrap();
            let mut task = std::task::Context::from_waker(std::task::Waker::noop());
            let lost = Future::poll(std::pin::Pin::new(&mut written), &mut task);
            assert!(matches!(lost, Poll::Ready(Err(_))), "{bytes:?}");
        }
    }
}

#[test]
fn an_end_before_the_first_byte_waits_for_no_handshake() {
    let keys = Keys::new();
    for closes in [false, true] {
        let tail = || Careless { closes, written: Rc::default(), log: Log::default() };
        let mut host = Host::keeping_back(codec(keys.server(TLS13).accept()).codec(Raw).tail(tail()));
        host.feed_end().run();
        assert_eq!((host.closed.take(), host.text()), (Some(None), String::new()));

        let stage = keys.server(TLS13).accept_optional();
        let mut host = Host::keeping_back(codec(stage).codec(Raw).tail(tail()));
        host.feed_end().run();
        assert_eq!((host.closed.take(), host.text()), (Some(None), "welcome".into()), "it is no TLS");
    }
}

#[test]
fn a_close_from_outside_waits_for_the_handshake_if_there_is_something_to_say() {
    let keys = Keys::new();
    let notes = Notes::default();
    let mut server =
        Host::keeping_back(codec(keys.server(TLS13).accept()).codec(Lines::lf(100)).tail(notes.clone()));
    let stage = keys.client(TLS13).connect("localhost").unwrap();
    let tail = Careless { closes: false, written: Rc::default(), log: Log::default() };
    let mut client = Host::keeping_back(codec(stage).codec(Raw).tail(tail));
    client.close();
    client.close();
    talk(&mut client, &mut server, 100);
    assert_eq!(client.closed, Some(None));
    server.feed_end().run();
    let left = "the stream ended inside a frame, after 7 bytes of it";
    assert_eq!(notes.0.take(), [format!("closed {left}")], "all of it has come");
}
