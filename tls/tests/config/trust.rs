use std::sync::Arc;

use perihelion_tls::{ClientTls, ClientTlsBuilder, PinMismatch, ServerTls};
use rcgen::{KeyPair, PublicKeyData, SerialNumber, date_time_ymd};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, Error, ServerConfig, SupportedProtocolVersion};

use crate::common::{Authority, Folder, Met, Pair, Refused, meet, self_signed};

const NAME: &str = "example.org";

struct World {
    folder: Folder,
    authority: Authority,
    server: Pair,
}

fn world() -> World {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "authority");
    let server = authority.issue(&folder, "server", &[NAME]);
    World { folder, authority, server }
}

impl World {
    fn builder(&self) -> ClientTlsBuilder {
        ClientTls::builder().roots(&self.authority.file)
    }
}

fn try_to_meet(server: &Pair, client: ClientTlsBuilder) -> Result<Met, Refused> {
    meet(&server.server(), &client.build().unwrap(), NAME)
}

fn refusal(result: Result<Met, Refused>) -> CertificateError {
    match result {
        Err(Refused::ByClient(Error::InvalidCertificate(error))) => error,
        other => panic!("{other:?}"),
    }
}

/// Of the public key.
fn sha256(pair: &Pair) -> [u8; 32] {
    let suite = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13().unwrap();
    let key = pair.key_pair.subject_public_key_info();
    suite.common.hash_provider.hash(&key).as_ref().try_into().unwrap()
}

/// Shows this certificate, but signs with another key.
fn impostor(shown: &Pair, version: &'static SupportedProtocolVersion) -> ServerTls {
    let key = KeyPair::generate().unwrap().serialize_der();
    let provider = default_provider();
    let key = provider.key_provider.load_private_key(key.try_into().unwrap()).unwrap();
    let certified = CertifiedKey::new(vec![shown.der.clone()], key);
    let config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    ServerTls::from_rustls(Arc::new(config))
}

#[test]
fn a_server_of_the_authority_is_trusted() {
    let world = world();
    try_to_meet(&world.server, world.builder()).unwrap();
}

#[test]
fn a_server_of_another_authority_or_of_none_is_refused() {
    let world = world();
    let strange = Authority::new(&world.folder, "strange");
    let other = strange.issue(&world.folder, "other", &[NAME]);
    assert_eq!(refusal(try_to_meet(&other, world.builder())), CertificateError::UnknownIssuer);
    try_to_meet(&other, world.builder().roots(&strange.file)).unwrap();
    let own = self_signed(&world.folder, "own", &[NAME]);
    assert_eq!(refusal(try_to_meet(&own, world.builder())), CertificateError::UnknownIssuer);
}

#[test]
fn a_server_of_another_name_or_time_is_refused() {
    let world = world();
    let other = world.authority.issue(&world.folder, "other", &["elsewhere.test"]);
    let error = refusal(try_to_meet(&other, world.builder()));
    assert!(matches!(error, CertificateError::NotValidForNameContext { .. }), "{error:?}");
    let key = KeyPair::generate().unwrap();
    let old = world.authority.issue_with(&world.folder, "old", &[NAME], key, |params| {
        params.not_after = date_time_ymd(2020, 1, 1);
    });
    let error = refusal(try_to_meet(&old, world.builder()));
    assert!(matches!(error, CertificateError::ExpiredContext { .. }), "{error:?}");
}

#[test]
fn a_server_that_is_revoked_or_of_which_nothing_is_known_is_refused() {
    let world = world();
    let key = KeyPair::generate().unwrap();
    let server = world.authority.issue_with(&world.folder, "revoked", &[NAME], key, |params| {
        params.serial_number = Some(SerialNumber::from(7));
    });
    let with = |serials: &[u64], next_year| {
        let list = world.folder.write("list.pem", world.authority.revoke(serials, next_year));
        try_to_meet(&server, world.builder().revocation_list(list))
    };
    assert_eq!(refusal(with(&[7], 4000)), CertificateError::Revoked);
    with(&[8], 4000).unwrap();
    let error = refusal(with(&[8], 2021));
    assert!(matches!(error, CertificateError::ExpiredRevocationListContext { .. }), "{error:?}");
}

#[test]
fn a_pin_is_one_more_demand() {
    let world = world();
    let (right, wrong) = (sha256(&world.server), [7; 32]);
    try_to_meet(&world.server, world.builder().pin(right)).unwrap();
    try_to_meet(&world.server, world.builder().pin(wrong).pin(right)).unwrap();
    let error = refusal(try_to_meet(&world.server, world.builder().pin(wrong)));
    let CertificateError::Other(error) = error else { panic!("{error:?}") };
    assert_eq!(error.0.downcast_ref(), Some(&PinMismatch { sha256: right }));
    assert!(error.to_string().contains(&format!("{:02x}{:02x}", right[0], right[1])));
    // The right key is not enough where the certificate is not trusted.
    let own = self_signed(&world.folder, "own", &[NAME]);
    let error = refusal(try_to_meet(&own, world.builder().pin(sha256(&own))));
    assert_eq!(error, CertificateError::UnknownIssuer);
}

#[test]
fn a_certificate_can_be_trusted_by_itself_and_then_it_is_the_only_one() {
    let world = world();
    let own = self_signed(&world.folder, "own", &["other.test"]);
    let trusting = || ClientTls::builder().trust_certificate(&own.chain);
    try_to_meet(&own, trusting()).unwrap();
    try_to_meet(&own, trusting().pin(sha256(&own))).unwrap();
    refusal(try_to_meet(&own, trusting().pin([7; 32])));
    assert_eq!(refusal(try_to_meet(&world.server, trusting())), CertificateError::UnknownIssuer);
    let renewed = world.authority.issue_with(
        &world.folder,
        "renewed",
        &["other.test"],
        KeyPair::from_pem(&own.key_pair.serialize_pem()).unwrap(),
        |_| {},
    );
    assert_eq!(refusal(try_to_meet(&renewed, trusting())), CertificateError::UnknownIssuer);
}

#[test]
fn a_trusted_certificate_beside_authorities() {
    let world = world();
    let own = self_signed(&world.folder, "own", &["other.test"]);
    let both = || world.builder().trust_certificate(&own.chain);
    try_to_meet(&own, both()).unwrap();
    try_to_meet(&world.server, both()).unwrap();
    let third = self_signed(&world.folder, "third", &[NAME]);
    assert_eq!(refusal(try_to_meet(&third, both())), CertificateError::UnknownIssuer);
}

#[test]
fn any_certificate_is_accepted_where_it_is_said_but_for_pins() {
    let world = world();
    let own = self_signed(&world.folder, "own", &["other.test"]);
    let any = || ClientTls::builder().danger_accept_any_certificate();
    try_to_meet(&own, any()).unwrap();
    try_to_meet(&own, any().pin(sha256(&own))).unwrap();
    refusal(try_to_meet(&own, any().pin([7; 32])));
}

#[test]
fn whoever_has_not_the_key_is_refused_in_any_case() {
    let world = world();
    let clients = [
        world.builder(),
        world.builder().pin(sha256(&world.server)),
        ClientTls::builder().trust_certificate(&world.server.chain),
        ClientTls::builder().danger_accept_any_certificate(),
    ];
    for client in clients.map(|client| client.build().unwrap()) {
        for version in rustls::ALL_VERSIONS {
            let met = meet(&impostor(&world.server, version), &client, NAME);
            assert_eq!(refusal(met), CertificateError::BadSignature);
        }
    }
}
