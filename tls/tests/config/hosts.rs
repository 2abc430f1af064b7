use perihelion_tls::{ClientCertificates, ClientTls, ServerTls};
use rustls::Error;

use crate::common::{Authority, Folder, Pair, Refused, meet};

struct World {
    folder: Folder,
    authority: Authority,
    server: Pair,
    client: Pair,
}

fn world() -> World {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "authority");
    let server = authority.issue(&folder, "server", &["example.org", "*.example.org"]);
    let client = authority.issue(&folder, "client", &["client"]);
    World { folder, authority, server, client }
}

impl World {
    fn builder(&self) -> perihelion_tls::ServerTlsBuilder {
        ServerTls::builder().certificate(&self.server.chain, &self.server.key)
    }
}

#[test]
fn a_host_asks_for_certificates_while_others_do_not_and_the_other_way_round() {
    let world = world();
    let (stranger, known) = (world.authority.client(), world.authority.client_with(&world.client));
    let required = || ClientCertificates::required(&world.authority.file);
    let strict_host = world
        .builder()
        .host("admin.example.org", |host| host.client_certificates(required()))
        .build()
        .unwrap();
    let lax_host = world
        .builder()
        .client_certificates(required())
        .host("open.example.org", |host| host.client_certificates(ClientCertificates::none()))
        .build()
        .unwrap();
    for (server, open, strict) in [
        (&strict_host, "example.org", "admin.example.org"),
        (&lax_host, "open.example.org", "example.org"),
        (&lax_host, "open.example.org", "a.example.org"),
    ] {
        meet(server, &stranger, open).unwrap();
        meet(server, &known, open).unwrap();
        meet(server, &known, strict).unwrap();
        let met = meet(server, &stranger, strict);
        assert!(matches!(met, Err(Refused::ByServer(Error::NoCertificatesPresented))), "{met:?}");
    }
}

#[test]
fn a_host_has_protocols_of_its_own_or_those_of_the_server() {
    let world = world();
    let server = world
        .builder()
        .alpn(["h2"])
        .host("own.example.org", |host| host.alpn(["mqtt"]))
        .host("none.example.org", |host| host.alpn([[0u8; 0]; 0]))
        .host("same.example.org", |host| host.client_certificates(ClientCertificates::none()))
        .build()
        .unwrap();
    let client = ClientTls::builder().roots(&world.authority.file).alpn(["h2", "mqtt"]).build().unwrap();
    for (name, protocol) in [
        ("example.org", Some("h2")),
        ("own.example.org", Some("mqtt")),
        ("none.example.org", None),
        ("same.example.org", Some("h2")),
    ] {
        let met = meet(&server, &client, name).unwrap();
        assert_eq!(met.server.alpn_protocol(), protocol.map(str::as_bytes), "{name}");
    }
}

#[test]
fn a_host_has_a_certificate_of_its_own_or_those_of_the_server() {
    let world = world();
    let own = world.authority.issue(&world.folder, "own", &["own.example.org"]);
    let server = world
        .builder()
        .host("OWN.example.org", |host| host.certificate(&own.chain, &own.key))
        .host("same.example.org", |host| host)
        .build()
        .unwrap();
    let client = world.authority.client();
    for (name, pair) in
        [("own.example.org", &own), ("same.example.org", &world.server), ("example.org", &world.server)]
    {
        assert_eq!(meet(&server, &client, name).unwrap().server_certificate(), pair.der, "{name}");
    }
}

#[test]
fn a_host_may_be_a_wildcard_and_the_name_itself_comes_first() {
    let world = world();
    let server = world
        .builder()
        .host("*.example.org", |host| host.alpn(["wildcard"]))
        .host("exact.example.org", |host| host.alpn(["exact"]))
        .alpn(["none"])
        .build()
        .unwrap();
    let client = ClientTls::builder().roots(&world.authority.file).alpn(["wildcard", "exact", "none"]);
    let client = client.build().unwrap();
    for (name, protocol) in
        [("a.example.org", "wildcard"), ("exact.example.org", "exact"), ("example.org", "none")]
    {
        let met = meet(&server, &client, name).unwrap();
        assert_eq!(met.server.alpn_protocol(), Some(protocol.as_bytes()), "{name}");
    }
}
