use perihelion_tls::{ClientTls, ServerTls, ServerTlsBuilder};
use rcgen::KeyPair;
use rustls::Error;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::crypto::aws_lc_rs::default_provider;

use crate::common::{Authority, Folder, Observer, Pair, Refused, meet, meet_config};

/// Takes any certificate, so that the choice can be seen.
fn anybody() -> ClientTls {
    ClientTls::builder().danger_accept_any_certificate().build().unwrap()
}

/// Verifies signatures of RSA only, or of all but RSA.
fn client_of(rsa: bool) -> ClientTls {
    let all = default_provider().signature_verification_algorithms;
    let mapping = all.mapping.iter().copied();
    let mapping: Vec<_> =
        mapping.filter(|(scheme, _)| format!("{scheme:?}").starts_with("RSA") == rsa).collect();
    Observer::new(WebPkiSupportedAlgorithms { mapping: mapping.leak(), ..all }).client()
}

fn chosen(server: &ServerTls, client: &ClientTls, name: &str) -> Vec<u8> {
    meet(server, client, name).unwrap().server_certificate().to_vec()
}

struct Three {
    folder: Folder,
    first: Pair,
    exact: Pair,
    wildcard: Pair,
}

fn three() -> Three {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "authority");
    let first = authority.issue(&folder, "first", &["example.org", "192.0.2.1"]);
    let exact = authority.issue(&folder, "exact", &["A.example.net", "b.example.net"]);
    let wildcard = authority.issue(&folder, "wildcard", &["*.example.net"]);
    Three { folder, first, exact, wildcard }
}

impl Three {
    fn builder(&self) -> ServerTlsBuilder {
        [&self.first, &self.exact, &self.wildcard]
            .into_iter()
            .fold(ServerTls::builder(), |server, pair| server.certificate(&pair.chain, &pair.key))
    }
}

#[test]
fn a_client_gets_the_certificate_for_the_name_it_asks_for() {
    let three = three();
    let (server, client) = (three.builder().build().unwrap(), anybody());
    for (name, pair) in [
        ("example.org", &three.first),
        ("a.example.net", &three.exact),
        ("A.Example.NET", &three.exact),
        ("b.example.net", &three.exact),
        ("c.example.net", &three.wildcard),
        ("d.c.example.net", &three.first),
        ("example.net", &three.first),
        ("elsewhere.test", &three.first),
        ("192.0.2.1", &three.first),
    ] {
        assert_eq!(chosen(&server, &client, name), *pair.der, "{name}");
    }
}

#[test]
fn names_that_are_unknown_are_rejected_where_it_is_said() {
    let three = three();
    let server = three.builder().reject_unknown_names().host("host.test", |host| host).build().unwrap();
    let client = anybody();
    for (name, pair) in [
        ("a.example.net", &three.exact),
        ("c.example.net", &three.wildcard),
        ("host.test", &three.first),
        ("192.0.2.1", &three.first),
    ] {
        assert_eq!(chosen(&server, &client, name), *pair.der, "{name}");
    }
    for name in ["d.c.example.net", "elsewhere.test"] {
        assert!(matches!(meet(&server, &client, name), Err(Refused::UnknownName)), "{name}");
        // Also where the hosts' rules are not asked for.
        assert!(matches!(meet_config(server.config(), &client, name), Err(Refused::ByServer(_))), "{name}");
    }
}

#[test]
fn of_several_certificates_a_client_gets_the_first_that_it_can_verify() {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "authority");
    let rsa_key = || KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let first = authority.issue(&folder, "ecdsa", &["example.org"]);
    let second = authority.issue_with(&folder, "rsa", &["EXAMPLE.org", "*.example.net"], rsa_key(), |_| {});
    let third = authority.issue(&folder, "exact", &["a.example.net"]);
    let server = [&first, &second, &third]
        .into_iter()
        .fold(ServerTls::builder(), |server, pair| server.certificate(&pair.chain, &pair.key))
        .build()
        .unwrap();
    for (name, rsa, ecdsa) in [
        ("example.org", &second, &first),
        ("a.example.net", &second, &third),
        ("192.0.2.1", &second, &first), // the second is for the name of the first, too
    ] {
        assert_eq!(chosen(&server, &client_of(true), name), *rsa.der, "{name}");
        assert_eq!(chosen(&server, &client_of(false), name), *ecdsa.der, "{name}");
        assert_eq!(chosen(&server, &anybody(), name), *ecdsa.der, "{name}");
    }
    // Nothing fits, and the handshake fails as one.
    let met = meet(&first.server(), &client_of(true), "example.org");
    assert!(matches!(met, Err(Refused::ByServer(Error::PeerIncompatible(_)))), "{met:?}");
}

#[test]
fn a_staple_is_passed_on() {
    let three = three();
    let staple = three.folder.write("staple.der", [0x30, 0x03, 0x0a, 0x01, 0x06]);
    let server = ServerTls::builder().certificate_with_ocsp(&three.first.chain, &three.first.key, staple);
    let seen = Observer::new(default_provider().signature_verification_algorithms);
    meet(&server.build().unwrap(), &seen.client(), "example.org").unwrap();
    assert_eq!(*seen.stapled.lock().unwrap(), [0x30, 0x03, 0x0a, 0x01, 0x06]);
}
