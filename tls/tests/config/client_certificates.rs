use perihelion_tls::{ClientCertificates, ServerTls};
use rcgen::{KeyPair, SerialNumber, date_time_ymd};

use crate::common::{Authority, Folder, Met, Pair, Refused, meet};

const NAME: &str = "example.org";
const SERIAL: u64 = 4711;

struct World {
    folder: Folder,
    authority: Authority,
    strange: Authority,
    server: Pair,
    /// From the authority, with the serial number.
    client: Pair,
}

fn world() -> World {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "authority");
    let strange = Authority::new(&folder, "strange");
    let server = authority.issue(&folder, "server", &[NAME]);
    let client =
        authority.issue_with(&folder, "client", &["client"], KeyPair::generate().unwrap(), |params| {
            params.serial_number = Some(SerialNumber::from(SERIAL));
        });
    World { folder, authority, strange, server, client }
}

impl World {
    fn server(&self, clients: ClientCertificates) -> ServerTls {
        let server = ServerTls::builder().certificate(&self.server.chain, &self.server.key);
        server.client_certificates(clients).build().unwrap()
    }

    fn required(&self) -> ClientCertificates {
        ClientCertificates::required(&self.authority.file)
    }

    fn meet(&self, clients: ClientCertificates, shown: Option<&Pair>) -> Result<Met, Refused> {
        let client = match shown {
            Some(pair) => self.authority.client_with(pair),
            None => self.authority.client(),
        };
        meet(&self.server(clients), &client, NAME)
    }
}

fn refusal(result: Result<Met, Refused>) -> String {
    match result {
        Err(Refused::ByServer(error)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_certificate_is_asked_for_only_where_it_is_said() {
    let world = world();
    let met = world.meet(ClientCertificates::none(), Some(&world.client)).unwrap();
    assert!(met.server.peer_certificates().is_none());
}

#[test]
fn where_one_is_required_nobody_comes_without() {
    let world = world();
    let met = world.meet(world.required(), Some(&world.client)).unwrap();
    assert_eq!(met.server.peer_certificates().unwrap()[0], world.client.der);
    assert_eq!(refusal(world.meet(world.required(), None)), "peer sent no certificates");
}

#[test]
fn where_one_is_optional_a_client_may_come_without() {
    let world = world();
    let optional = || ClientCertificates::optional(&world.authority.file);
    assert!(world.meet(optional(), None).unwrap().server.peer_certificates().is_none());
    assert!(world.meet(optional(), Some(&world.client)).unwrap().server.peer_certificates().is_some());
}

#[test]
fn a_certificate_of_another_authority_is_refused_even_if_it_is_optional() {
    let world = world();
    let shown = world.strange.issue(&world.folder, "other", &["client"]);
    for clients in [world.required(), ClientCertificates::optional(&world.authority.file)] {
        assert!(refusal(world.meet(clients, Some(&shown))).contains("UnknownIssuer"));
    }
    world.meet(world.required().authorities(&world.strange.file), Some(&shown)).unwrap();
}

#[test]
fn a_certificate_that_is_out_of_date_is_refused() {
    let world = world();
    let key = KeyPair::generate().unwrap();
    let shown = world.authority.issue_with(&world.folder, "old", &["client"], key, |params| {
        params.not_after = date_time_ymd(2020, 1, 1);
    });
    assert!(refusal(world.meet(world.required(), Some(&shown))).contains("expired"));
}

#[test]
fn a_certificate_that_is_revoked_is_refused_and_others_are_not() {
    let world = world();
    let list = |serials: &[u64]| {
        let file = world.folder.write("list.pem", world.authority.revoke(serials, 4000));
        world.required().revocation_list(file)
    };
    assert!(refusal(world.meet(list(&[1, SERIAL]), Some(&world.client))).contains("Revoked"));
    world.meet(list(&[1]), Some(&world.client)).unwrap();
}

#[test]
fn where_nothing_is_known_of_revocation_a_certificate_is_refused() {
    let world = world();
    let strange = world.folder.write("strange-list.pem", world.strange.revoke(&[], 4000));
    let old = world.folder.write("old-list.pem", world.authority.revoke(&[], 2021));
    let by_strange = world.meet(world.required().revocation_list(strange), Some(&world.client));
    assert!(refusal(by_strange).contains("UnknownRevocationStatus"));
    let by_old = world.meet(world.required().revocation_list(old), Some(&world.client));
    assert!(refusal(by_old).contains("expired"));
}
