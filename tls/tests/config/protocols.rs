use std::sync::Arc;

use perihelion_tls::{ClientTls, ClientTlsBuilder, HandshakeLimits, ServerTls, ServerTlsBuilder};
use rustls::{ClientConfig, Error, ProtocolVersion};

use crate::common::{Folder, Met, Refused, meet, self_signed};

const NAME: &str = "example.org";

fn try_to_meet(
    server: impl FnOnce(ServerTlsBuilder) -> ServerTlsBuilder,
    client: impl FnOnce(ClientTlsBuilder) -> ClientTlsBuilder,
) -> Result<Met, Refused> {
    let folder = Folder::new();
    let pair = self_signed(&folder, "server", &[NAME]);
    let server = server(ServerTls::builder().certificate(&pair.chain, &pair.key)).build().unwrap();
    meet(&server, &client(ClientTls::builder().trust_certificate(&pair.chain)).build().unwrap(), NAME)
}

#[test]
fn the_server_chooses_the_protocol() {
    let met = try_to_meet(|server| server.alpn(["h2", "http/1.1"]), |client| client.alpn(["http/1.1", "h2"]));
    let met = met.unwrap();
    assert_eq!(met.client.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(met.server.alpn_protocol(), Some(&b"h2"[..]));
}

#[test]
fn without_a_protocol_in_common_the_client_is_refused() {
    let met = try_to_meet(|server| server.alpn(["h2"]), |client| client.alpn([b"http/1.1"]));
    assert!(matches!(met, Err(Refused::ByServer(Error::NoApplicationProtocol))), "{met:?}");
}

#[test]
fn a_side_that_names_no_protocol_takes_any() {
    assert_eq!(
        try_to_meet(|server| server.alpn(["h2"]), |client| client).unwrap().server.alpn_protocol(),
        None
    );
    assert_eq!(
        try_to_meet(|server| server, |client| client.alpn(["h2"])).unwrap().client.alpn_protocol(),
        None
    );
}

#[test]
fn tls_1_2_is_spoken_with_those_who_know_no_other_unless_it_is_refused() {
    let folder = Folder::new();
    let pair = self_signed(&folder, "server", &[NAME]);
    let trusting = ClientTls::builder().trust_certificate(&pair.chain).build().unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pair.der.clone()).unwrap();
    let old = ClientConfig::builder_with_provider(trusting.config().crypto_provider().clone())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let old = ClientTls::from_rustls(Arc::new(old));
    let version = |met: Result<Met, Refused>| met.unwrap().server.protocol_version();
    assert_eq!(version(meet(&pair.server(), &old, NAME)), Some(ProtocolVersion::TLSv1_2));
    assert_eq!(version(meet(&pair.server(), &trusting, NAME)), Some(ProtocolVersion::TLSv1_3));

    let strict = ServerTls::builder().certificate(&pair.chain, &pair.key).tls13_only().build().unwrap();
    let met = meet(&strict, &old, NAME);
    assert!(matches!(met, Err(Refused::ByServer(Error::PeerIncompatible(_)))), "{met:?}");
    assert_eq!(version(meet(&strict, &trusting, NAME)), Some(ProtocolVersion::TLSv1_3));
}

#[test]
fn a_handshake_may_take_ten_seconds_and_128_kib() {
    let limits = HandshakeLimits::default();
    assert_eq!((limits.time.as_secs(), limits.bytes), (10, 131_072));
}
