use std::fs;
use std::sync::Arc;

use perihelion_tls::{ClientCertificates, ClientTls, ServerTls, ServerTlsBuilder};
use rcgen::{KeyPair, SerialNumber};
use rustls::{ClientConfig, Error};

use crate::common::{Authority, Folder, Pair, Refused, meet, meet_config};

const NAME: &str = "example.org";
const ADMIN: &str = "admin.example.org";
const SERIAL: u64 = 4711;

struct World {
    folder: Folder,
    authority: Authority,
    server: Pair,
    client: Pair,
}

fn world() -> World {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "authority");
    let server = authority.issue(&folder, "server", &[NAME, ADMIN]);
    let client =
        authority.issue_with(&folder, "client", &["client"], KeyPair::generate().unwrap(), |params| {
            params.serial_number = Some(SerialNumber::from(SERIAL));
        });
    World { folder, authority, server, client }
}

impl World {
    fn builder(&self) -> ServerTlsBuilder {
        ServerTls::builder().certificate(&self.server.chain, &self.server.key)
    }

    fn required(&self) -> ClientCertificates {
        ClientCertificates::required(&self.authority.file)
    }

    /// Knows TLS 1.2 only.
    fn old_client(&self) -> ClientTls {
        let mut roots = rustls::RootCertStore::empty();
        let authority = fs::read(&self.authority.file).unwrap();
        roots.add(rustls::pki_types::pem::PemObject::from_pem_slice(&authority).unwrap()).unwrap();
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        ClientTls::from_rustls(Arc::new(config))
    }
}

fn resumes(server: &ServerTls, client: &ClientTls) -> bool {
    meet(server, client, NAME).unwrap().is_resumed()
}

#[test]
fn a_session_is_resumed_also_after_a_reload() {
    let world = world();
    for client in [world.authority.client(), world.old_client()] {
        let server = world.builder().build().unwrap();
        assert!(!resumes(&server, &client));
        assert!(resumes(&server, &client));
        world.server.replace(&world.authority.issue(&world.folder, "successor", &[NAME]));
        server.reload().unwrap();
        assert!(resumes(&server, &client));
        server.reload().unwrap();
        assert!(resumes(&server, &client));
    }
}

#[test]
fn a_ticket_is_for_the_server_that_made_it() {
    let world = world();
    let client = world.authority.client();
    assert!(!resumes(&world.builder().build().unwrap(), &client));
    assert!(!resumes(&world.builder().build().unwrap(), &client));
}

#[test]
fn without_resumption_every_handshake_is_full() {
    let world = world();
    let server = world.builder().build().unwrap();
    let roots = || ClientTls::builder().roots(&world.authority.file);
    let forgetful = roots().without_resumption().build().unwrap();
    for (server, client) in [
        (&world.builder().without_resumption().build().unwrap(), &world.authority.client()),
        (&world.builder().tickets(0).build().unwrap(), &world.old_client()),
        (&server, &forgetful),
    ] {
        assert!(!resumes(server, client));
        assert!(!resumes(server, client));
    }
}

#[test]
fn a_client_gets_as_many_tickets_as_it_was_said() {
    let world = world();
    let count = |server: ServerTlsBuilder| {
        let met = meet(&server.build().unwrap(), &world.authority.client(), NAME).unwrap();
        met.client.tls13_tickets_received()
    };
    assert_eq!(
        [count(world.builder()), count(world.builder().tickets(5)), count(world.builder().tickets(0))],
        [2, 5, 0]
    );
}

#[test]
fn a_session_with_a_certificate_is_resumed_while_the_rules_stay() {
    let world = world();
    let list = world.folder.write("list.pem", world.authority.revoke(&[], 4000));
    let rules = world.required().revocation_list(list);
    let server = world.builder().client_certificates(rules).build().unwrap();
    let client = world.authority.client_with(&world.client);
    assert!(!resumes(&server, &client));
    server.reload().unwrap();
    let met = meet(&server, &client, NAME).unwrap();
    assert!(met.is_resumed());
    assert_eq!(met.server.peer_certificates().unwrap()[0], world.client.der);
}

#[test]
fn a_certificate_that_was_revoked_is_no_good_for_a_resumed_session() {
    let world = world();
    let list = world.folder.write("list.pem", world.authority.revoke(&[], 4000));
    let rules = world.required().revocation_list(&list);
    let server = world.builder().client_certificates(rules).build().unwrap();
    let client = world.authority.client_with(&world.client);
    assert!(!resumes(&server, &client));
    fs::write(&list, world.authority.revoke(&[SERIAL], 4000)).unwrap();
    server.reload().unwrap();
    let met = meet(&server, &client, NAME);
    assert!(matches!(met, Err(Refused::ByServer(Error::InvalidCertificate(_)))), "{met:?}");
    // Nor when it is taken from the list again: it is verified anew.
    fs::write(&list, world.authority.revoke(&[], 4000)).unwrap();
    server.reload().unwrap();
    assert!(!resumes(&server, &client));
}

#[test]
fn a_certificate_of_an_authority_that_was_taken_away_is_no_good_for_a_resumed_session() {
    let world = world();
    let authorities = world.folder.write("authorities.pem", fs::read(&world.authority.file).unwrap());
    let rules = ClientCertificates::optional(&authorities);
    let server = world.builder().client_certificates(rules).build().unwrap();
    let client = world.authority.client_with(&world.client);
    assert!(!resumes(&server, &client));
    assert!(resumes(&server, &client));
    fs::copy(&Authority::new(&world.folder, "strange").file, &authorities).unwrap();
    server.reload().unwrap();
    // The client has none that this authority signed, and shows none, or one that is refused.
    match meet(&server, &client, NAME) {
        Ok(met) => assert!(!met.is_resumed() && met.server.peer_certificates().is_none()),
        Err(refused) => {
            assert!(matches!(refused, Refused::ByServer(Error::InvalidCertificate(_))), "{refused:?}")
        }
    }
}

#[test]
fn a_ticket_is_no_good_under_other_rules_for_client_certificates() {
    let world = world();
    let server = world.builder().host(ADMIN, |host| host.client_certificates(world.required()));
    let server = server.build().unwrap();
    let stranger = world.authority.client();
    // A ticket for the host's name, from where nobody has to show anything.
    assert!(!meet_config(server.config(), &stranger, ADMIN).unwrap().is_resumed());
    assert!(meet_config(server.config(), &stranger, ADMIN).unwrap().is_resumed());
    let met = meet(&server, &stranger, ADMIN);
    assert!(matches!(met, Err(Refused::ByServer(Error::NoCertificatesPresented))), "{met:?}");
}

#[test]
fn a_session_is_resumed_at_a_host_with_rules_of_its_own() {
    let world = world();
    let server = world.builder().host(ADMIN, |host| host.client_certificates(world.required()));
    let server = server.build().unwrap();
    let client = world.authority.client_with(&world.client);
    assert!(!meet(&server, &client, ADMIN).unwrap().is_resumed());
    server.reload().unwrap();
    assert!(meet(&server, &client, ADMIN).unwrap().is_resumed());
}

#[test]
fn hosts_with_the_same_rules_lose_no_session_by_a_reload() {
    let world = world();
    let server = world.builder().host(ADMIN, |host| host.alpn(["h2"])).build().unwrap();
    let client = world.authority.client();
    let meets_again = |name| meet(&server, &client, name).unwrap().is_resumed();
    assert!(!meets_again(NAME) && !meets_again(ADMIN));
    server.reload().unwrap();
    assert!(meets_again(NAME) && meets_again(ADMIN));
}

#[test]
fn tickets_are_good_for_an_hour_at_most_where_certificates_are_asked_for() {
    let world = world();
    let optional = ClientCertificates::optional(&world.authority.file);
    let hours = |server: ServerTlsBuilder| server.build().unwrap().config().ticketer.lifetime() / 3600;
    assert_eq!(hours(world.builder()), 12);
    assert_eq!(hours(world.builder().client_certificates(optional)), 1);
    assert_eq!(hours(world.builder().client_certificates(world.required())), 1);
}
