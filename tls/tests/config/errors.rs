use std::path::Path;

use perihelion_tls::{ClientCertificates, ClientTls, ConfigError, ServerTls};
use rustls::server::ServerConfig;

use crate::common::{Authority, Folder, Pair, message, self_signed};

const NO_PEM: &str = "nothing that anybody would understand";

fn pem(label: &str, contents: &str) -> String {
    format!("-----BEGIN {label}-----\n{contents}\n-----END {label}-----\n")
}

fn server(chain: &Path, key: &Path) -> Result<ServerTls, ConfigError> {
    ServerTls::builder().certificate(chain, key).build()
}

fn some_pair() -> (Folder, Pair) {
    let folder = Folder::new();
    let pair = self_signed(&folder, "some", &["example.org"]);
    (folder, pair)
}

#[test]
fn a_file_that_is_not_there() {
    let (_folder, pair) = some_pair();
    let missing = Path::new("no/such/file.pem");
    for result in [server(missing, &pair.key), server(&pair.chain, missing)] {
        assert!(message(result, &[missing]).contains("No such file or directory (os error 2); a path that"));
    }
    message(ClientTls::builder().roots(missing).build(), &[missing]);
    message(ClientTls::builder().trust_certificate(missing).build(), &[missing]);
}

#[test]
fn a_file_without_a_certificate() {
    let (folder, pair) = some_pair();
    for contents in ["", NO_PEM, &pair.key_pair.serialize_pem()] {
        let file = folder.write("chain.pem", contents);
        let told = message(server(&file, &pair.key), &[&file]);
        assert!(
            told.contains("-----BEGIN CERTIFICATE-----") && told.contains("openssl x509 -inform der"),
            "{told}"
        );
        message(ClientTls::builder().roots(&file).build(), &[&file]);
    }
}

#[test]
fn a_file_without_a_key() {
    let (_folder, pair) = some_pair();
    let told = message(server(&pair.chain, &pair.chain), &[&pair.chain]);
    assert!(told.contains("has no private key in it") && told.contains("openssl pkey -inform der"), "{told}");
}

#[test]
fn an_encrypted_key_of_either_kind() {
    let (folder, pair) = some_pair();
    let new = pem("ENCRYPTED PRIVATE KEY", "AAAA");
    let old = pem("RSA PRIVATE KEY", "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA");
    for contents in [new, old] {
        let file = folder.write("encrypted.key", contents);
        let told = message(server(&pair.chain, &file), &[&file]);
        assert!(told.contains(&format!("openssl pkey -in {} -out key.pem", file.display())), "{told}");
    }
}

#[test]
fn a_key_of_another_certificate() {
    let (folder, pair) = some_pair();
    let other = self_signed(&folder, "other", &["example.org"]);
    let told = message(server(&pair.chain, &other.key), &[&pair.chain, &other.key]);
    assert!(told.contains("does not belong to"), "{told}");
    let client = ClientTls::builder().roots(&pair.chain).certificate(&pair.chain, &other.key).build();
    message(client, &[&pair.chain, &other.key]);
}

#[test]
fn a_key_that_is_none() {
    let (folder, pair) = some_pair();
    let file = folder.write("bad.key", pem("PRIVATE KEY", "AAAA"));
    assert!(message(server(&pair.chain, &file), &[&file]).contains("can't be used"));
    let file = folder.write("bad.key", pem("PRIVATE KEY", "!"));
    assert!(message(server(&pair.chain, &file), &[&file]).contains("can't be understood"));
}

#[test]
fn a_certificate_that_is_none() {
    let (folder, pair) = some_pair();
    let good = std::fs::read_to_string(&pair.chain).unwrap();
    let junk = pem("CERTIFICATE", "AAAA");
    for contents in [junk.clone(), format!("{good}{junk}"), good[..good.len() / 2].to_owned()] {
        let file = folder.write("bad.pem", contents);
        assert!(message(server(&file, &pair.key), &[&file]).contains("is the file whole"));
        message(ClientTls::builder().roots(&file).build(), &[&file]);
        message(ClientTls::builder().trust_certificate(&file).build(), &[&file]);
    }
}

#[test]
fn an_ocsp_response_that_is_none() {
    let (_folder, pair) = some_pair();
    for file in [Path::new("no/such/response.der"), &pair.chain] {
        let server = ServerTls::builder().certificate_with_ocsp(&pair.chain, &pair.key, file);
        message(server.build(), &[file]);
    }
}

#[test]
fn a_revocation_list_that_is_none() {
    let (folder, pair) = some_pair();
    let authority = Authority::new(&folder, "authority");
    let with = |file: &Path| {
        let clients = ClientCertificates::required(&authority.file).revocation_list(file);
        let server = ServerTls::builder().certificate(&pair.chain, &pair.key).client_certificates(clients);
        let client = ClientTls::builder().roots(&authority.file).revocation_list(file);
        message(client.build(), &[file]);
        message(server.build(), &[file])
    };
    assert!(with(Path::new("no/such/list.pem")).contains("No such file"));
    assert!(with(&authority.file).contains("openssl crl -inform der"));
    assert!(with(&folder.write("bad.pem", pem("X509 CRL", "AAAA"))).contains("is the file whole"));
}

#[test]
fn a_revocation_list_for_the_authorities_of_the_platform() {
    let folder = Folder::new();
    let list = folder.write("list.pem", Authority::new(&folder, "authority").revoke(&[], 4000));
    assert!(
        message(ClientTls::builder().revocation_list(list).build(), &[]).contains("ClientTlsBuilder::roots")
    );
}

#[test]
fn a_server_without_a_certificate() {
    assert!(message(ServerTls::builder().build(), &[]).contains("ServerTlsBuilder::certificate"));
}

#[test]
fn a_host_that_no_client_can_ask_for_or_twice() {
    let (_folder, pair) = some_pair();
    let with = |names: &[&str]| {
        let server = ServerTls::builder().certificate(&pair.chain, &pair.key);
        message(names.iter().fold(server, |server, name| server.host(name, |host| host)).build(), &[])
    };
    for name in ["", "a b", "*.*.org", "bücher.example", "192.0.2.1"] {
        assert!(with(&[name]).starts_with(&format!("host {name:?}: no client can ask")));
    }
    assert!(with(&["a.example.org", "A.example.org"]).starts_with("host \"A.example.org\": there are rules"));
}

#[test]
fn a_protocol_without_a_name_or_with_too_long_a_one() {
    let (_folder, pair) = some_pair();
    for (name, length) in [(String::new(), "not 0"), ("x".repeat(256), "not 256")] {
        let server = ServerTls::builder().certificate(&pair.chain, &pair.key);
        let host = ServerTls::builder().certificate(&pair.chain, &pair.key);
        let host = host.host("example.org", |host| host.alpn([&name[..]]));
        assert!(message(server.alpn([&name[..]]).build(), &[]).contains(length));
        assert!(message(host.build(), &[]).contains(length));
        assert!(message(ClientTls::builder().alpn([&name[..]]).build(), &[]).contains(length));
    }
}

#[test]
fn a_configuration_of_rustls_can_not_be_read_again() {
    let (_folder, pair) = some_pair();
    let config: std::sync::Arc<ServerConfig> = pair.server().config();
    let server = ServerTls::from_rustls(config.clone());
    assert!(message(server.reload(), &[]).contains("ServerTls::from_rustls"));
    assert!(!server.has_changed());
    assert!(std::sync::Arc::ptr_eq(&server.config(), &config));
}

#[test]
fn a_machine_without_authorities() {
    match ClientTls::new() {
        Ok(_) => {}
        Err(error) => assert!(error.to_string().contains("install the package ca-certificates"), "{error}"),
    }
}
