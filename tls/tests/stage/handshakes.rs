//! Handshakes that are slow, large, or none.

use bytes::Bytes;
use perihelion_pipeline::proxy_protocol::ProxyProtocol;
use perihelion_pipeline::{Context, Event, Lines, Operation, Raw, Result, Tail, codec};
use perihelion_tls::rustls::{Connection, NamedGroup, ProtocolVersion};
use perihelion_tls::{Established, ServerTls, Session};
use std::sync::Arc;
use std::time::Duration;

use crate::common::{Host, Log};
use crate::keys::{Keys, TLS12, TLS13};
use crate::oracle::{Oracle, talk};

/// Notes what it learns of the handshake, and what it reads.
struct Notes(Log);

impl Tail for Notes {
    type In = Bytes;
    type Out = Bytes;
    fn event(&mut self, cx: &mut Context<'_, Bytes>, event: &mut Event) -> Result<()> {
        if event.take::<Established>().is_some() {
            match cx.get::<Session>() {
                Some(session) => self.0.add(format!("{:?} {:?}", session.version(), session.server_name())),
                None => self.0.add("no TLS"),
            }
        }
        Ok(())
    }
    fn read(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        self.0.add(String::from_utf8_lossy(&msg));
        cx.write(msg)
    }
}

fn server(tls: &ServerTls) -> (Host, Log) {
    let log = Log::default();
    (Host::keeping_back(codec(tls.accept()).codec(Raw).tail(Notes(log.clone()))), log)
}

#[test]
fn the_stages_above_learn_of_the_session_before_the_first_message() {
    let keys = Keys::new();
    for (versions, name) in [(TLS12, "TLSv1_2"), (TLS13, "TLSv1_3")] {
        let (mut host, log) = server(&keys.server(versions));
        let mut client = Oracle::client(&keys);
        while client.connection.is_handshaking() {
            let bytes = client.outgoing();
            host.feed(bytes).run();
            client.take_from(&host).unwrap();
        }
        client.write(b"hello"); // in one piece with the end of the handshake
        client.talk(&mut host, usize::MAX);
        assert_eq!(log.take(), [format!("{name} Some(\"localhost\")"), "hello".into()]);
    }
}

#[test]
fn a_stage_below_that_is_ready_does_not_make_this_one_so() {
    /// Notes whether the stages below need input.
    struct Needs(Log);
    impl Tail for Needs {
        type In = Bytes;
        type Out = Bytes;
        fn event(&mut self, cx: &mut Context<'_, Bytes>, _event: &mut Event) -> Result<()> {
            self.0.add(cx.needs_input().to_string());
            Ok(())
        }
        fn read(&mut self, _cx: &mut Context<'_, Bytes>, _msg: Bytes) -> Result<()> {
            Ok(())
        }
    }
    let (keys, log) = (Keys::new(), Log::default());
    let stages = codec(ProxyProtocol::server(true)).codec(keys.server(TLS13).accept()).codec(Raw);
    let mut host = Host::keeping_back(stages.tail(Needs(log.clone())));
    host.feed("PROXY UNKNOWN\r\n").run();
    assert_eq!(log.take(), ["true"]);
    Oracle::client(&keys).talk(&mut host, usize::MAX);
    assert_eq!(log.take(), ["false"]);
}

#[test]
fn a_client_learns_of_its_session_and_the_keys_are_agreed_on_with_a_post_quantum_method() {
    let keys = Keys::new();
    let mut server = Host::keeping_back(
        codec(keys.server(TLS13).accept()).codec(Raw).service(async |bytes: Bytes| Ok(bytes)),
    );
    struct Asserts;
    impl Tail for Asserts {
        type In = Bytes;
        type Out = Bytes;
        fn event(&mut self, cx: &mut Context<'_, Bytes>, event: &mut Event) -> Result<()> {
            if event.get::<Established>().is_some() {
                let session = cx.get::<Session>().unwrap();
                assert_eq!(session.version(), ProtocolVersion::TLSv1_3);
                assert_eq!(session.key_exchange(), Some(NamedGroup::X25519MLKEM768));
                assert_eq!(session.peer_names().collect::<Vec<_>>(), ["localhost"]);
                assert!(!session.is_resumed());
                cx.operate(Operation::Close)?;
            }
            Ok(())
        }
        fn read(&mut self, _cx: &mut Context<'_, Bytes>, _msg: Bytes) -> Result<()> {
            Ok(())
        }
    }
    let stage = keys.client(TLS13).connect("localhost").unwrap();
    let mut client = Host::keeping_back(codec(stage).codec(Raw).tail(Asserts));
    talk(&mut client, &mut server, 1);
    assert_eq!(client.closed, Some(None));
}

#[test]
fn a_handshake_that_takes_too_long_is_ended() {
    let keys = Keys::new();
    for bytes in [0, 1, 100] {
        let (mut host, _) = server(&keys.server(TLS13));
        host.feed(&Oracle::client(&keys).outgoing()[..bytes]).run();
        host.advance(Duration::from_millis(9_999));
        assert_eq!(host.closed, None);
        host.advance(Duration::from_millis(1));
        let reason = "the TLS handshake took longer than 10s";
        assert_eq!(host.closed, Some(Some(reason.into())), "after {bytes} bytes");
    }
    let (mut host, _) = server(&keys.server(TLS13));
    let mut client = Oracle::client(&keys);
    client.talk(&mut host, usize::MAX);
    host.advance(Duration::from_secs(60));
    assert_eq!(host.closed, None, "what is established has no such limit");
}

#[test]
fn an_end_during_the_handshake_is_reported_but_not_one_before_it() {
    let keys = Keys::new();
    let (mut host, _) = server(&keys.server(TLS13));
    host.feed_end().run();
    assert_eq!(host.closed, Some(None), "somebody has looked whether the port is open");
    let (mut host, _) = server(&keys.server(TLS13));
    host.feed(&Oracle::client(&keys).outgoing()[..100]).feed_end().run();
    assert_eq!(host.closed, Some(Some("the connection ended during the TLS handshake".into())));
}

#[test]
fn what_is_no_tls_is_told_so() {
    let keys = Keys::new();
    let (mut host, _) = server(&keys.server(TLS13));
    host.feed("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").run();
    let reason = "the other side doesn't speak TLS: it began with GET / HTTP/1.1\\r\\n";
    assert_eq!(host.closed, Some(Some(reason.into())));

    let stage = keys.client(TLS13).connect("localhost").unwrap();
    let mut client = Host::keeping_back(codec(stage).codec(Raw).service(async |bytes: Bytes| Ok(bytes)));
    client.feed("220 welcome\r\n").run();
    let reason = "the other side doesn't speak TLS: it began with 220 welcome\\r\\n";
    assert_eq!(client.closed, Some(Some(reason.into())));
}

#[test]
fn a_client_hello_in_pieces_of_a_byte_is_read() {
    let keys = Keys::new();
    let (mut host, log) = server(&keys.server(TLS13));
    let mut client = Oracle::client(&keys);
    client.write(b"hello");
    client.talk(&mut host, 1);
    assert_eq!(log.take(), ["TLSv1_3 Some(\"localhost\")", "hello"]);
}

/// A handshake message of a ClientHello that says it is this long, in records of 16 KiB.
fn announced(len: u32, sent: usize) -> Vec<u8> {
    let mut message = vec![1];
    message.extend(&len.to_be_bytes()[1..]);
    message.resize(sent, 0);
    let record = |bytes: &[u8]| [&[22, 3, 1], &(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    message.chunks(16 * 1024).flat_map(record).collect()
}

#[test]
fn a_client_hello_that_is_too_large_is_refused() {
    let keys = Keys::new();
    for (len, sent) in [(0xff_ffff, 4), (0xff_ffff, 200_000), (65_530, 65_534), (300_000, 300_000)] {
        let (mut host, _) = server(&keys.server(TLS13));
        for piece in announced(len, sent).chunks(4096) {
            if host.closed.is_none() {
                host.feed(piece).run();
            }
        }
        host.advance(Duration::from_secs(10));
        let reason = host.closed.flatten().unwrap();
        assert!(!reason.contains("longer than"), "{len}: {reason}");
    }
}

#[test]
fn optional_tls_goes_by_the_first_byte() {
    let keys = Keys::new();
    let plain = |log: &Log| {
        let tls = keys.server(TLS13);
        Host::keeping_back(codec(tls.accept_optional()).codec(Lines::lf(100)).tail(Greets(log.clone())))
    };
    let log = Log::default();
    let mut host = plain(&log);
    host.run();
    assert_eq!(host.sent, b"", "it is kept until it is known how to send it");
    host.feed("one\ntwo\n").run();
    assert_eq!(host.text(), "welcome\none\ntwo\n");
    host.feed_end().run();
    assert_eq!(host.closed, Some(None));
    assert_eq!(log.take(), ["plain"]);

    let mut host = plain(&log);
    let mut client = Oracle::client(&keys);
    client.write(b"one\ntwo\n");
    client.talk(&mut host, 10);
    assert_eq!(client.read, b"welcome\none\ntwo\n");
    assert_eq!(log.take(), ["TLS"]);
}

/// Speaks first.
struct Greets(Log);

impl Tail for Greets {
    type In = String;
    type Out = String;
    fn open(&mut self, cx: &mut Context<'_, String>) -> Result<()> {
        cx.write("welcome".into())
    }
    fn event(&mut self, cx: &mut Context<'_, String>, event: &mut Event) -> Result<()> {
        if event.get::<Established>().is_some() {
            self.0.add(if cx.get::<Session>().is_some() { "TLS" } else { "plain" });
        }
        Ok(())
    }
    fn read(&mut self, cx: &mut Context<'_, String>, line: String) -> Result<()> {
        cx.write(line)
    }
}

#[test]
fn a_name_that_can_stand_in_no_certificate_is_refused() {
    let keys = Keys::new();
    for name in ["", "a b", "exa_mple..org", "-"] {
        let error = keys.client(TLS13).connect(name).err().unwrap();
        assert_eq!(error.to_string(), format!("`{name}` is neither a host name nor an IP address"));
    }
    for name in ["localhost", "127.0.0.1", "[::1]", "::1"] {
        keys.client(TLS13).connect(name).unwrap();
    }
}

#[test]
fn more_than_the_water_marks_may_be_written_before_the_handshake_is_done() {
    /// Writes a lot when it is open, and sees that it should stop.
    struct Floods;
    impl Tail for Floods {
        type In = Bytes;
        type Out = Bytes;
        fn open(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
            for n in 0..100 {
                cx.write(vec![n; 10_000].into())?;
                cx.flush()?;
            }
            assert!(!cx.is_writable());
            cx.close_output()
        }
        fn read(&mut self, _cx: &mut Context<'_, Bytes>, _msg: Bytes) -> Result<()> {
            Ok(())
        }
    }
    let keys = Keys::new();
    for cut in [1000, usize::MAX] {
        let tls = keys.server(TLS13);
        let mut host = Host::keeping_back(codec(tls.accept_optional()).codec(Raw).tail(Floods));
        let mut client = Oracle::client(&keys);
        client.talk(&mut host, cut);
        assert_eq!(client.read.len(), 1_000_000);
        assert!(client.has_ended);

        let log = Log::default();
        let mut server = Host::keeping_back(codec(tls.accept()).codec(Raw).tail(Notes(log)));
        let stage = keys.client(TLS13).connect("localhost").unwrap();
        let mut client = Host::keeping_back(codec(stage).codec(Raw).tail(Floods));
        talk(&mut client, &mut server, cut);
        assert_eq!(client.closed.flatten(), None, "no error");
        assert!(server.sent.len() > 1_000_000, "it has echoed everything");
    }
}

#[test]
fn a_channel_that_is_paused_does_its_handshake_and_passes_nothing_on() {
    /// Is paused from the beginning, until it is told to read.
    struct Paused(Log);
    impl Tail for Paused {
        type In = Bytes;
        type Out = Bytes;
        fn open(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
            cx.pause();
            cx.set_timer(0, Duration::from_secs(1));
            Ok(())
        }
        fn event(&mut self, _cx: &mut Context<'_, Bytes>, event: &mut Event) -> Result<()> {
            if event.take::<Established>().is_some() {
                self.0.add("established");
            }
            Ok(())
        }
        fn timer(&mut self, cx: &mut Context<'_, Bytes>, _key: u32) -> Result<()> {
            cx.resume();
            Ok(())
        }
        fn read(&mut self, _cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
            self.0.add(String::from_utf8_lossy(&msg));
            Ok(())
        }
    }
    let keys = Keys::new();
    for (versions, cut) in [(TLS12, 1), (TLS12, usize::MAX), (TLS13, 1), (TLS13, usize::MAX)] {
        let log = Log::default();
        let pipeline = codec(keys.server(versions).accept()).codec(Raw).tail(Paused(log.clone()));
        let mut host = Host::keeping_back(pipeline);
        let mut client = Oracle::client(&keys);
        client.write(b"hello"); // sent in one piece with the end of the handshake
        client.talk(&mut host, cut);
        assert_eq!(log.take(), ["established"]);
        host.advance(Duration::from_secs(1));
        assert_eq!(log.take(), ["hello"]);
    }
}

#[test]
fn early_data_is_refused_whatever_the_configuration_says() {
    let keys = Keys::new();
    let mut config = keys.server_config(TLS13);
    config.max_early_data_size = 1000;
    let tls = ServerTls::from_rustls(Arc::new(config));
    let mut config = keys.client_config(TLS13);
    config.enable_early_data = true;
    let config = Arc::new(config);
    for _ in 0..2 {
        let (mut host, log) = server(&tls);
        let mut client = Oracle::client_with(Arc::clone(&config));
        if let Connection::Client(client) = &mut client.connection {
            assert!(client.early_data().is_none(), "the ticket allows none");
        }
        client.write(b"hello");
        client.talk(&mut host, usize::MAX);
        assert_eq!(log.take().last().unwrap(), "hello");
    }
}
