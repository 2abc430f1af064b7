//! A pipeline for each protocol of ALPN.

use bytes::Bytes;
use perihelion_pipeline::{Context, Lines, Raw, Result, Tail, codec};
use perihelion_tls::{ServerTls, by_protocol};
use std::sync::Arc;

use crate::common::Host;
use crate::keys::{Keys, TLS13};
use crate::oracle::Oracle;

/// Speaks first.
struct Greets;

impl Tail for Greets {
    type In = Bytes;
    type Out = Bytes;
    fn open(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
        cx.write("welcome ".into())
    }
    fn read(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        cx.write(msg)
    }
}

fn server(keys: &Keys) -> Host {
    let mut config = keys.server_config(TLS13);
    config.alpn_protocols = ["upper", "greet", "unknown"].map(|name| name.into()).to_vec();
    let tls = ServerTls::from_rustls(Arc::new(config));
    Host::keeping_back(codec(tls.accept()).pipeline(by_protocol(|chosen| match chosen.protocol() {
        Some(b"upper") => {
            chosen.go_on_with(codec(Lines::lf(100)).service(async |line: String| Ok(line.to_uppercase())))
        }
        Some(b"greet") | None => chosen.go_on_with(codec(Raw).tail(Greets)),
        _ => Ok(()),
    })))
}

fn client(keys: &Keys, protocols: &[&str]) -> Oracle {
    let mut config = keys.client_config(TLS13);
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Oracle::client_with(config)
}

#[test]
fn the_protocol_chooses_the_pipeline() {
    let keys = Keys::new();
    for (protocols, answer) in
        [(&["other", "upper"][..], "HELLO\n"), (&["greet"], "welcome hello\n"), (&[], "welcome hello\n")]
    {
        for cut in [1, 100, usize::MAX] {
            let mut host = server(&keys);
            let mut client = client(&keys, protocols);
            client.write(b"hello\n");
            client.talk(&mut host, cut);
            assert_eq!(String::from_utf8_lossy(&client.read), answer);
        }
    }
}

#[test]
fn a_server_that_speaks_first_does_so_without_being_spoken_to() {
    let keys = Keys::new();
    let mut host = server(&keys);
    let mut client = client(&keys, &["greet"]);
    client.talk(&mut host, usize::MAX);
    assert_eq!(client.read, b"welcome ");
}

#[test]
fn a_client_that_only_listens_is_spoken_to() {
    let keys = Keys::new();
    let mut host = server(&keys);
    let mut client = client(&keys, &["greet"]);
    let hello = client.outgoing();
    host.feed(hello).run();
    client.take_from(&host).unwrap();
    client.connection.send_close_notify(); // in one piece with the end of the handshake
    client.talk(&mut host, usize::MAX);
    assert_eq!(client.read, b"welcome ");
    assert_eq!(host.closed, Some(None));
}

#[test]
fn a_protocol_without_a_pipeline_closes() {
    let keys = Keys::new();
    let mut host = server(&keys);
    let mut client = client(&keys, &["unknown"]);
    client.talk(&mut host, usize::MAX);
    let reason = "no pipeline was chosen for the protocol that TLS has negotiated: unknown";
    assert_eq!(host.closed, Some(Some(reason.into())));
}

#[test]
fn no_common_protocol_is_an_alert() {
    let keys = Keys::new();
    let mut host = server(&keys);
    let mut client = client(&keys, &["other"]);
    host.feed(client.outgoing()).run();
    let alert = client.take_from(&host).unwrap_err();
    assert_eq!(alert.to_string(), "received fatal alert: NoApplicationProtocol");
}
