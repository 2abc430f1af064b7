use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::task::{self, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use perihelion_pipeline::proxy_protocol::*;
use perihelion_pipeline::*;
use proptest::prelude::*;

use super::header::header;
use crate::common::{Echo, Host, Log, cut, frame, length, texts};

const LINE: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n";
const SECOND: Duration = Duration::from_secs(1);

/// Notes what it sees, in order, and echoes bytes.
struct Witness(Log);

impl Witness {
    fn header(cx: &Channel) -> String {
        match cx.get::<ProxyHeader>() {
            Some(header) => header.source().map_or("unspecified".into(), |source| source.to_string()),
            None => "none".into(),
        }
    }
}

impl Tail for Witness {
    type In = Bytes;
    type Out = Bytes;

    fn event(&mut self, cx: &mut Context<'_, Bytes>, event: &mut Event) -> Result<()> {
        event.take::<ProxyHeaderSeen>().expect("no other event");
        self.0.add(format!("seen: {}", Self::header(cx)));
        Ok(())
    }

    fn read(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        self.0.add(Self::header(cx));
        cx.write(msg)
    }

    fn half_closed(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
        cx.close()
    }
}

fn witness(stage: ProxyProtocol) -> (Host, Log) {
    let log = Log::default();
    (Host::new(codec(stage).tail(Witness(log.clone()))), log)
}

/// Why it is closed; empty for in order.
fn reason(host: &mut Host) -> String {
    host.run();
    host.closed.clone().expect("it is closed").unwrap_or_default()
}

fn encoded(header: &ProxyHeader) -> Vec<u8> {
    let mut bytes = Vec::new();
    header.encode(&mut bytes);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_header_comes_first_and_what_follows_it_is_whole(
        header in header(),
        payload in prop::collection::vec(any::<u8>(), 0..200),
        sizes in prop::collection::vec(1..300usize, 1..8),
        optional in any::<bool>(),
    ) {
        let stage = ProxyProtocol::server(true);
        let (mut host, log) = witness(if optional { stage.optional() } else { stage });
        let stream = [&encoded(&header)[..], &payload].concat();
        for piece in cut(&stream, &sizes) {
            host.feed(piece);
        }
        host.feed_end().run();
        prop_assert_eq!(&host.closed, &Some(None));
        prop_assert_eq!(&host.sent, &payload);
        let source = header.source().map_or("unspecified".into(), |source| source.to_string());
        let log = log.take();
        prop_assert_eq!(&log[0], &format!("seen: {source}"));
        prop_assert!(log[1..].iter().all(|seen| *seen == source));
        prop_assert_eq!(log.len() == 1, payload.is_empty());
    }

    #[test]
    fn whatever_comes_nothing_panics_and_a_plain_stream_is_whole(
        begins in prop_oneof![Just(""), Just("PRO"), Just("PROXY "), Just("\r\n\r\n"), Just("\r\n\r\n\0\r\nQUIT\n")],
        rest in prop::collection::vec(any::<u8>(), 0..100),
        sizes in prop::collection::vec(1..40usize, 1..6),
        (trusted, optional, ends) in any::<(bool, bool, bool)>(),
    ) {
        let stage = ProxyProtocol::server(trusted);
        let (mut host, log) = witness(if optional { stage.optional() } else { stage });
        let stream = [begins.as_bytes(), &rest].concat();
        for piece in cut(&stream, &sizes) {
            host.feed(piece);
        }
        if ends {
            host.feed_end();
        }
        host.run();
        let is_header = stream.starts_with(b"PROXY") || stream.starts_with(b"\r\n\r\n\0\r\nQUIT\n");
        if (!trusted || optional) && !is_header {
            let unclear = !ends && (b"PROXY".starts_with(&stream) || b"\r\n\r\n\0\r\nQUIT\n".starts_with(&stream));
            prop_assert_eq!(host.sent, if unclear { vec![] } else { stream });
            prop_assert!(log.take().iter().all(|seen| seen == "none"));
        } else if !trusted {
            prop_assert!(reason(&mut host).contains("not trusted"));
            prop_assert_eq!(host.sent, b"");
        }
    }
}

#[test]
fn it_can_be_cut_anywhere() {
    let v2 = encoded(&ProxyHeader::v2(
        SocketType::Stream,
        "192.0.2.7:56324".parse().unwrap(),
        "198.51.100.1:443".parse().unwrap(),
    ));
    for bytes in [LINE, &v2] {
        let stream = [bytes, &frame("hello"), &frame("you")].concat();
        for at in 0..=stream.len() {
            for ends in [false, true] {
                let mut host = Host::new(codec(ProxyProtocol::server(true)).codec(length()).tail(Echo));
                let (first, rest) = stream.split_at(at);
                host.feed(first).run();
                host.feed(rest);
                if ends {
                    host.feed_end();
                }
                host.run();
                assert_eq!(texts(&host.sent), ["hello", "you"], "cut at {at}");
            }
        }
        let (mut host, _) = witness(ProxyProtocol::server(true));
        for byte in &stream {
            host.feed([*byte]).run();
        }
        assert_eq!(host.sent, stream[bytes.len()..]);
    }
}

#[test]
fn what_follows_the_header_is_not_copied() {
    struct Keep(Rc<RefCell<Bytes>>);
    impl Tail for Keep {
        type In = Bytes;
        type Out = Bytes;
        fn read(&mut self, _cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
            *self.0.borrow_mut() = msg;
            Ok(())
        }
    }
    let kept: Rc<RefCell<Bytes>> = Rc::default();
    let mut host = Host::new(codec(ProxyProtocol::server(true)).tail(Keep(Rc::clone(&kept))));
    let chunk = Bytes::from([LINE, b"hello"].concat());
    host.channel.prepare(Instant::now(), Waker::noop().clone());
    host.runner.received(&mut host.channel, chunk.clone());
    assert_eq!((kept.borrow().as_ptr(), &kept.borrow()[..]), (chunk[LINE.len()..].as_ptr(), &b"hello"[..]));
}

#[test]
fn a_stream_that_ends_in_the_header() {
    for end in 0..LINE.len() {
        let (mut host, log) = witness(ProxyProtocol::server(true));
        host.feed(&LINE[..end]).feed_end();
        let expected = match end {
            0 => "",
            1..5 => "instead of a PROXY header",
            _ => "ended inside a PROXY header",
        };
        let reason = reason(&mut host);
        assert!(reason.contains(expected) && reason.is_empty() == (end == 0), "{end}: {reason}");
        assert_eq!(log.take(), [""; 0]);
    }
}

#[test]
fn a_trusted_source_must_send_one() {
    for (stream, said) in [
        (
            &b"GET / HTTP/1.1\r\nHost: a\r\n"[..],
            "began with \"GET / HTTP/1.1\\r\\n\" instead of a PROXY header",
        ),
        (b"\x16\x03\x01", "began with \"\\x16\\x03\\x01\""),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\nhello", "version 1, has a wrong port"),
        (b"\r\n\r\n\0\r\nQUIT\n\x11", "version and command 0x11"),
    ] {
        let (mut host, log) = witness(ProxyProtocol::server(true));
        host.feed(stream);
        let reason = reason(&mut host);
        assert!(reason.contains(said), "{reason}");
        assert_eq!((host.sent, log.take()), (vec![], vec![]));
    }
}

#[test]
fn a_source_that_is_not_trusted_goes_on_without_one_and_can_not_pass_one_through() {
    for bytes in [&b"PROXY"[..], LINE, b"\r\n\r\n\0\r\nQUIT\n", b"PROXY nonsense"] {
        for stage in [ProxyProtocol::server(false), ProxyProtocol::server(false).optional()] {
            let (mut host, log) = witness(stage);
            for byte in bytes {
                host.feed([*byte]).run();
            }
            assert!(reason(&mut host).contains("a source that is not trusted has sent a PROXY header"));
            assert_eq!((host.sent, log.take()), (vec![], vec![]));
        }
    }
    let (mut host, log) = witness(ProxyProtocol::server(false));
    host.feed(b"PRO").run();
    assert_eq!(host.sent, b"");
    host.feed(b"XIMA").feed(LINE).run();
    assert_eq!(host.sent, [b"PROXIMA", LINE].concat(), "only at the beginning");
    assert!(log.take().iter().all(|seen| seen == "none"));
}

#[test]
fn a_byte_a_second_is_too_slow() {
    let untrusted = ProxyProtocol::server(false);
    for (stage, seconds) in [
        (ProxyProtocol::server(true), 5),
        (ProxyProtocol::server(true).header_timeout(SECOND * 9), 9),
        (ProxyProtocol::server(true).optional(), 5),
        (untrusted.header_timeout(SECOND * 3), 3),
    ] {
        let (mut host, _) = witness(stage);
        for (second, byte) in LINE.iter().enumerate().take(seconds) {
            assert_eq!(host.closed, None, "after {second} s");
            host.feed([*byte]).run();
            host.advance(SECOND);
        }
        let reason = reason(&mut host);
        assert!(reason.contains(&format!("no whole PROXY header has come within {seconds}s")), "{reason}");
    }
}

#[test]
fn the_time_begins_when_a_header_is_due() {
    let (mut host, _) = witness(ProxyProtocol::server(true));
    host.advance(SECOND * 5);
    assert!(reason(&mut host).contains("within 5s"));
    for stage in [ProxyProtocol::server(false), ProxyProtocol::server(true).optional()] {
        let (mut host, _) = witness(stage);
        host.advance(SECOND * 3600);
        host.feed("hello").run();
        assert_eq!(
            (&host.sent[..], &host.closed),
            (&b"hello"[..], &None),
            "who need not send one may be silent"
        );
    }
    let (mut host, _) = witness(ProxyProtocol::server(true));
    host.advance(SECOND * 4).feed(LINE).run();
    assert_eq!(host.runner.next_timer(), None);
    host.advance(SECOND * 3600);
    assert_eq!(host.closed, None);
}

#[test]
fn a_header_has_a_greatest_length() {
    let with = |bytes: usize| {
        let header = ProxyHeader::local().with_tlv(0xE0, &vec![7; bytes - 16 - 3]).unwrap();
        assert_eq!(encoded(&header).len(), bytes);
        encoded(&header)
    };
    let server = || ProxyProtocol::server(true);
    for (stage, bytes, is_taken) in [
        (server as fn() -> ProxyProtocol, 4096, true),
        (server, 4097, false),
        (|| ProxyProtocol::server(true).header_bytes_max(5000), 5000, true),
        (|| ProxyProtocol::server(true).header_bytes_max(5000), 5001, false),
        (|| ProxyProtocol::server(true).header_bytes_max(0), 107, true),
        (|| ProxyProtocol::server(true).header_bytes_max(0), 108, false),
        (|| ProxyProtocol::server(true).header_bytes_max(usize::MAX), 65_551, true),
    ] {
        let stream = [with(bytes), b"hello".to_vec()].concat();
        for first in [15, 16, bytes] {
            let (mut host, _) = witness(stage());
            host.feed(&stream[..first]).run();
            assert_eq!(host.closed.is_some(), !is_taken && first >= 16, "its length is known");
            host.feed(&stream[first..]).run();
            if is_taken {
                assert_eq!(host.sent, b"hello");
            } else {
                assert!(reason(&mut host).contains(&format!("has {bytes} bytes")), "{:?}", host.closed);
            }
        }
    }
    let (mut host, _) = witness(server());
    host.feed(format!("PROXY UNKNOWN {}", "x".repeat(100)));
    assert!(reason(&mut host).contains("more than 107 bytes"));
}

#[test]
fn only_an_optional_header_may_be_missing() {
    let (mut host, log) = witness(ProxyProtocol::server(true).optional());
    host.feed("hello").run();
    assert_eq!((host.text(), log.take()), ("hello".into(), vec!["none".to_string()]));
    let (mut host, log) = witness(ProxyProtocol::server(true).optional());
    host.feed(LINE).run();
    assert_eq!(log.take(), ["seen: 192.0.2.7:56324"]);
    let (mut host, _) = witness(ProxyProtocol::server(true).optional());
    host.feed("PROXY?\r\n");
    assert!(reason(&mut host).contains("version 1"), "what begins as a header must be one");
}

/// Speaks first.
struct Greeter {
    closes: bool,
    written: Rc<RefCell<Option<Written>>>,
}

impl Tail for Greeter {
    type In = Bytes;
    type Out = Bytes;

    fn open(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
        cx.write("220 ".into())?;
        cx.write("ready\n".into())?;
        *self.written.borrow_mut() = Some(cx.written()?);
        if self.closes {
            cx.close()?;
            assert!(cx.write("more".into()).is_err());
        }
        Ok(())
    }

    fn read(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        cx.write(msg)
    }
}

/// The host, and a look at what has become of the greeting's promise.
fn greeter(stage: ProxyProtocol, closes: bool) -> (Host, impl Fn() -> Option<bool>) {
    let written: Rc<RefCell<Option<Written>>> = Rc::default();
    let host = Host::keeping_back(codec(stage).tail(Greeter { closes, written: Rc::clone(&written) }));
    let look = move || {
        let mut written = written.borrow_mut();
        match pin!(written.as_mut().unwrap()).poll(&mut task::Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => Some(result.is_ok()),
            Poll::Pending => None,
        }
    };
    (host, look)
}

#[test]
fn nobody_is_greeted_who_is_not_known() {
    let (mut host, written) = greeter(ProxyProtocol::server(true), false);
    host.feed(&LINE[..20]).run();
    assert_eq!(
        (host.text(), written(), host.runner.queued()),
        (String::new(), None, 10),
        "kept back, and counted"
    );
    host.feed(&LINE[20..]).feed("hello").run();
    assert_eq!((host.text(), written(), host.runner.queued()), ("220 ready\nhello".into(), Some(true), 0));

    let (mut host, written) = greeter(ProxyProtocol::server(true), true);
    host.feed(&LINE[..20]).run();
    assert_eq!((host.closed.clone(), written()), (None, None));
    host.feed(&LINE[20..]).run();
    assert_eq!((host.text(), written(), host.closed), ("220 ready\n".into(), Some(true), Some(None)));

    let (mut host, written) = greeter(ProxyProtocol::server(true), false);
    host.feed("nonsense");
    assert!(reason(&mut host).contains("instead of a PROXY header"));
    assert_eq!((host.text(), written(), host.runner.queued()), (String::new(), Some(false), 0));
}

#[test]
fn who_needs_no_header_is_greeted_at_once() {
    for stage in [ProxyProtocol::server(false), ProxyProtocol::server(true).optional()] {
        let (mut host, _) = greeter(stage, false);
        host.run();
        assert_eq!(host.text(), "220 ready\n");
    }
}

#[test]
fn a_client_sends_its_header_before_anything_else() {
    let header = ProxyHeader::v1("192.0.2.7:56324".parse().unwrap(), "198.51.100.1:443".parse().unwrap());
    let (mut client, _) = greeter(ProxyProtocol::client(header), false);
    client.feed("hello").run();
    assert_eq!(client.sent, [LINE, b"220 ready\nhello"].concat());

    let (mut server, log) = witness(ProxyProtocol::server(true));
    server.feed(&client.sent).run();
    assert_eq!((server.text(), log.take().len()), ("220 ready\nhello".into(), 2));
}

#[test]
fn an_error_closes_though_it_is_handled() {
    struct Calm;
    impl Tail for Calm {
        type In = Bytes;
        type Out = Bytes;
        fn read(&mut self, _cx: &mut Context<'_, Bytes>, _msg: Bytes) -> Result<()> {
            unreachable!("there is no header")
        }
        fn error(&mut self, _cx: &mut Context<'_, Bytes>, _error: Error) -> Result<()> {
            Ok(())
        }
    }
    for stage in [ProxyProtocol::server(true), ProxyProtocol::server(false)] {
        let mut host = Host::new(codec(stage).tail(Calm));
        host.feed("PROXY nonsense\r\n").feed("and more").run();
        assert_eq!(host.closed, Some(None));
    }
}
