//! The load generator, as a program: against servers of this process, and with arguments that can't be used.

use perihelion::prelude::*;
use perihelion::tls::{ClientCertificates, ServerTls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;

/// An authority, and a certificate for 127.0.0.1 that it has signed; in files of their own for each test.
struct Keys {
    directory: PathBuf,
}

impl Keys {
    fn new(test: &str) -> Self {
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("loadgen-{test}"));
        std::fs::create_dir_all(&directory).unwrap();
        let keys = Keys { directory };
        let (trusted, stranger) = (authority("trusted"), authority("stranger"));
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".into()]).unwrap();
        let certificate = params.signed_by(&key, &trusted).unwrap();
        keys.write("ca.pem", &trusted.pem());
        keys.write("stranger.pem", &stranger.pem());
        keys.write("cert.pem", &certificate.pem());
        keys.write("key.pem", &key.serialize_pem());
        keys
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.directory.join(name), text).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    fn server(&self) -> ServerTls {
        self.server_with(ClientCertificates::none())
    }

    fn server_with(&self, clients: ClientCertificates) -> ServerTls {
        let (certificate, key) = (self.path("cert.pem"), self.path("key.pem"));
        ServerTls::builder().certificate(certificate, key).client_certificates(clients).build().unwrap()
    }
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// An echo server, by TLS if it has keys. It lives as long as the process.
fn echo(tls: Option<ServerTls>) -> String {
    let mut config = Config::default();
    config.runtime.workers = 1;
    let runtime = Runtime::from_config(config).unwrap();
    let bind = Server::bind("127.0.0.1:0");
    let (scheme, server) = match tls {
        Some(tls) => ("tls", bind.pipeline(move |_conn| codec(tls.accept()).codec(Raw).service(echo_bytes))),
        None => ("tcp", bind.pipeline(|_conn| codec(Raw).service(echo_bytes))),
    };
    let server = server.start(&runtime).unwrap();
    let target = server.address().to_string().replace("tcp", scheme);
    std::mem::forget((runtime, server));
    target
}

async fn echo_bytes(bytes: Bytes) -> Result<Bytes> {
    Ok(bytes)
}

/// How a run has gone.
struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
    json: Value,
}

fn loadgen(arguments: &[&str]) -> Run {
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("{}.json", std::thread::current().name().unwrap()));
    let _ = std::fs::remove_file(&file);
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["--duration", "300ms", "--warmup", "200ms", "--connections", "4", "--workers", "1", "--quiet"])
        .arg("--json")
        .arg(&file)
        .args(arguments)
        .output()
        .unwrap();
    let json = std::fs::read(&file).map_or(Value::Null, |text| serde_json::from_slice(&text).unwrap());
    let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    Run { code: output.status.code(), stdout, stderr, json }
}

impl Run {
    fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.stdout, self.stderr);
        self
    }

    fn number(&self, pointer: &str) -> f64 {
        self.json.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("{:#}", self.json))
    }

    fn says(&self, text: &str) {
        assert!(self.stderr.contains(text), "{}", self.stderr);
    }
}

#[test]
fn replies_are_compared_over_plain_tcp_and_over_tls() {
    let keys = Keys::new("replies");
    let ca = ["--ca", &keys.path("ca.pem")];
    for (target, trust) in [(echo(None), &[][..]), (echo(Some(keys.server())), &ca)] {
        // Replies of several records, cut anywhere, and more than a channel's high-water mark before the handshake.
        for load in [
            &["--size", "1"][..],
            &["--size", "40001", "--depth", "4"],
            &["--size", "20000", "--depth", "3", "--codec", "length"],
            &["--size", "100", "--depth", "16", "--requests-per-connection", "20"],
        ] {
            let run = loadgen(&[&["--target", &target], trust, load].concat()).expect(0);
            assert!(run.number("/requests") > 0.0, "{load:?}");
            assert!(run.stdout.contains("no errors"), "{}", run.stdout);
            assert_eq!(run.json.get("handshakes").is_some(), target.starts_with("tls"));
        }
    }
}

#[test]
fn a_server_that_is_not_trusted_is_an_error_of_its_own_kind() {
    let keys = Keys::new("trust");
    let target = echo(Some(keys.server()));
    let (ca, stranger) = (keys.path("ca.pem"), keys.path("stranger.pem"));
    for (trust, cause) in [
        (&["--ca", &stranger][..], "invalid peer certificate: UnknownIssuer"),
        (&["--ca", &ca, "--server-name", "elsewhere"], "not valid for name \"elsewhere\""),
    ] {
        let run = loadgen(&[&["--target", &target], trust].concat()).expect(1);
        run.says(cause);
        assert_eq!(run.stderr.lines().count(), 1, "only the first: {}", run.stderr);
        assert!(run.number("/errors/tls") > 0.0);
        assert_eq!(run.json["errors"].as_object().unwrap().len(), 1);
    }
    loadgen(&["--target", &target, "--insecure", "--server-name", "elsewhere"]).expect(0);
}

#[test]
fn a_server_may_ask_for_a_certificate() {
    let keys = Keys::new("clients");
    let target = echo(Some(keys.server_with(ClientCertificates::required(keys.path("ca.pem")))));
    let (ca, certificate, key) = (keys.path("ca.pem"), keys.path("cert.pem"), keys.path("key.pem"));
    let run = loadgen(&["--target", &target, "--ca", &ca]).expect(1);
    run.says("CertificateRequired");
    loadgen(&["--target", &target, "--ca", &ca, "--cert", &certificate, "--key", &key]).expect(0);
}

#[test]
fn full_and_resumed_handshakes_are_counted() {
    let keys = Keys::new("handshakes");
    let (target, ca) = (echo(Some(keys.server())), keys.path("ca.pem"));
    let arguments = ["--target", &target, "--ca", &ca, "--requests-per-connection", "1"];
    let run = loadgen(&arguments).expect(0);
    assert!(run.number("/handshakes/resumed") > 0.0);
    assert!(run.number("/handshakes/full") <= 4.0, "only the first of each: {:#}", run.json);
    assert!(run.number("/handshakes/per_second") > 0.0);
    assert!(run.stdout.contains("full handshakes and "), "{}", run.stdout);

    let run = loadgen(&[&arguments[..], &["--no-resumption"]].concat()).expect(0);
    assert!(run.number("/handshakes/full") > 0.0);
    assert_eq!(run.number("/handshakes/resumed"), 0.0);
}

#[test]
fn the_server_of_this_process_speaks_tls_too() {
    let run = loadgen(&["--self", "--tls", "--requests-per-connection", "1"]).expect(0);
    assert!(run.number("/handshakes/resumed") > 0.0);
    assert!(run.json["target"].as_str().unwrap().starts_with("tls://"));
}

#[test]
fn arguments_that_can_not_be_used_are_said_to_be_so() {
    let keys = Keys::new("arguments");
    let (ca, key) = (keys.path("ca.pem"), keys.path("key.pem"));
    for (arguments, part) in [
        (&["--target", "ftp://localhost:1"][..], "neither tcp nor tls"),
        (&["--target", "tls://localhost"], "there is no port"),
        (&["--target", "tcp://localhost:1", "--ca", &ca], "--ca is for TLS: write --target tls://HOST:PORT"),
        (&["--target", "localhost:1", "--insecure"], "--insecure is for TLS"),
        (&["--self", "--no-resumption"], "--no-resumption is for TLS: add --tls"),
        (&["--self", "--tls", "--ca", &ca], "cannot be used with"),
        (&["--target", "tls://localhost:1", "--tls"], "cannot be used with"),
        (&["--tls"], "--self"),
        (&["--target", "tls://localhost:1", "--ca", &ca, "--insecure"], "cannot be used with"),
        (&["--target", "tls://localhost:1", "--ca", &ca, "--cert", &ca], "--key"),
        (&["--target", "tls://localhost:1", "--ca", "/nowhere.pem"], "/nowhere.pem: No such file"),
        (&["--target", "tls://localhost:1", "--ca", &key], "has no certificate in it"),
        (&["--target", "tls://localhost:1", "--ca", &ca, "--server-name", "a b"], "neither a host name"),
    ] {
        loadgen(arguments).expect(2).says(part);
    }
}
