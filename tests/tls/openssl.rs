//! The command line programs of OpenSSL, in both roles.

use perihelion::prelude::*;
use perihelion::tls::{ClientCertificates, ClientTls, ServerTls};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::authority::{Authority, Identity};
use crate::common::{Fixture, Journal, PATIENCE};
use crate::server::serve;

/// `openssl s_client`, which is fed line by line: each as soon as what comes before it in the list has been printed.
fn s_client(address: SocketAddr, arguments: &[&str], dialogue: &[(&str, &str)]) -> String {
    // What it says on both outputs comes in one.
    let mut child = Command::new("sh")
        .args(["-c", "exec openssl s_client \"$@\" 2>&1", "sh", "-connect", &address.to_string()])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut output = Vec::new();
    let mut piece = [0; 4096];
    for (after, line) in dialogue {
        while !String::from_utf8_lossy(&output).contains(after) {
            let n = stdout.read(&mut piece).unwrap();
            if n == 0 {
                break;
            }
            output.extend_from_slice(&piece[..n]);
        }
        let _ = stdin.write_all(line.as_bytes()); // it may have ended already
    }
    drop(stdin);
    stdout.read_to_end(&mut output).unwrap();
    child.wait().unwrap();
    let output = String::from_utf8_lossy(&output).into_owned();
    assert!(output.contains("CONNECTED"), "this test needs openssl (apt-get install openssl): {output}");
    output
}

/// What it prints when the handshake is done.
const READY: &str = "Verify return code";

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn tls(identity: &Identity) -> ServerTls {
    ServerTls::builder().certificate(&identity.cert, &identity.key).alpn(["one", "two"]).build().unwrap()
}

#[test]
fn both_versions_are_spoken_and_tls_1_1_is_not() {
    let (fixture, authority) = (Fixture::new(), Authority::new());
    let (server, address, journal) = serve(&fixture, &tls(&authority.issue("localhost")));
    let ca = authority.ca();
    let common = ["-CAfile", text(&ca), "-servername", "localhost", "-verify_hostname", "localhost"];
    for (version, name) in [("-tls1_2", "TLSv1_2"), ("-tls1_3", "TLSv1_3")] {
        let arguments = [&common[..], &[version, "-alpn", "two,three", "-verify_return_error"]].concat();
        let output = s_client(address, &arguments, &[(READY, "who\n"), ("server_name", "bye\n")]);
        assert!(output.contains("Verify return code: 0 (ok)"), "{output}");
        assert!(output.contains("ALPN protocol: two"), "{output}");
        assert!(output.contains(&format!("version: {name}")), "{output}");
        assert!(output.contains("server_name: Some(\"localhost\")"), "{output}");
    }
    let arguments = [&common[..], &["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"]].concat();
    let output = s_client(address, &arguments, &[]);
    assert!(output.contains(" alert "), "{output}");
    journal.wait_for("TLS failed");
    assert_eq!(journal.count("in order"), 2, "{:?}", journal.entries());
    fixture.stop_all(server);
}

#[test]
fn sessions_are_resumed_on_whichever_worker() {
    let fixture = Fixture::with(|config| config.runtime.workers = 2);
    let authority = Authority::new();
    let (server, address, _) = serve(&fixture, &tls(&authority.issue("localhost")));
    let (ca, session) = (authority.ca(), authority.file("session"));
    for version in ["-tls1_2", "-tls1_3"] {
        let common = ["-CAfile", text(&ca), version];
        let arguments = [&common[..], &["-sess_out", text(&session)]].concat();
        let output = s_client(address, &arguments, &[(READY, "who\n"), ("resumed: false", "bye\n")]);
        assert!(output.contains("\nNew, "), "{output}");
        for _ in 0..12 {
            let arguments = [&common[..], &["-sess_in", text(&session)]].concat();
            let output = s_client(address, &arguments, &[("Reused", "who\n"), ("resumed: true", "bye\n")]);
            assert!(output.contains("\nReused, ") && output.contains("resumed: true"), "{output}");
        }
    }
    fixture.stop_all(server);
}

#[test]
fn keys_are_updated() {
    let (fixture, authority) = (Fixture::new(), Authority::new());
    let (server, address, _) = serve(&fixture, &tls(&authority.issue("localhost")));
    let ca = authority.ca();
    let dialogue = [
        (READY, "before\n"),
        ("before", "k\n"),
        ("KEYUPDATE", "one side\n"),
        ("one side", "K\n"),
        ("one side\nKEYUPDATE", "both sides\n"),
        ("both sides", "bye\n"),
    ];
    let output = s_client(address, &["-CAfile", text(&ca), "-tls1_3"], &dialogue);
    for line in ["before", "one side", "both sides"] {
        assert!(output.contains(&format!("\n{line}\n")), "{output}");
    }
    assert_eq!(output.matches("KEYUPDATE").count(), 2, "{output}");
    fixture.stop_all(server);
}

#[test]
fn renegotiation_is_refused() {
    let (fixture, authority) = (Fixture::new(), Authority::new());
    let (server, address, journal) = serve(&fixture, &tls(&authority.issue("localhost")));
    let ca = authority.ca();
    let dialogue = [(READY, "before\n"), ("before", "R\n")];
    let output = s_client(address, &["-CAfile", text(&ca), "-tls1_2"], &dialogue);
    assert!(output.contains("no renegotiation"), "{output}");
    journal.wait_for("");
    fixture.stop_all(server);
}

#[test]
fn a_client_certificate_is_asked_for_and_known_to_the_stages() {
    let (fixture, authority, stranger) = (Fixture::new(), Authority::new(), Authority::new());
    let identity = authority.issue("localhost");
    let (revoked, list) = authority.issue_revoked("revoked.example");
    let rules = ClientCertificates::required(authority.ca()).revocation_list(list);
    let tls = ServerTls::builder()
        .certificate(&identity.cert, &identity.key)
        .client_certificates(rules)
        .build()
        .unwrap();
    let (server, address, journal) = serve(&fixture, &tls);
    let ca = authority.ca();
    let talk = |version: &str, client: Option<&Identity>| {
        let mut arguments = vec!["-CAfile", text(&ca), version];
        if let Some(Identity { cert, key }) = client {
            arguments.extend(["-cert", text(cert), "-key", text(key)]);
        }
        s_client(address, &arguments, &[(READY, "who\n"), ("peer_names", "bye\n")])
    };
    for version in ["-tls1_2", "-tls1_3"] {
        let output = talk(version, Some(&authority.issue("ada.example")));
        assert!(output.contains("peer_names: [\"ada.example\"]"), "{output}");
        for (client, alert) in [
            (None, "certificate required"),
            (Some(authority.issue_expired("late.example")), "certificate expired"),
            (Some(stranger.issue("eve.example")), "unknown ca"),
            (Some(stranger.self_signed("eve.example")), "unknown ca"),
        ] {
            let output = talk(version, client.as_ref());
            assert!(output.contains(alert), "{version} {alert}: {output}");
            assert!(!output.contains("peer_names"), "nothing was served: {output}");
        }
        let output = talk(version, Some(&revoked));
        assert!(output.contains("certificate revoked"), "{output}");
    }
    journal.wait_for("no certificates");
    for reason in ["certificate expired", "UnknownIssuer", "Revoked"] {
        journal.wait_for(reason);
    }
    fixture.stop_all(server);
}

/// `openssl s_server`, which sends back each line with its letters in reverse order.
struct SServer {
    child: Child,
    address: SocketAddr,
}

impl SServer {
    fn start(identity: &Identity, arguments: &[&str]) -> Self {
        // It can't be asked for a free port and tell which.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new("openssl")
            .args(["s_server", "-rev", "-accept", &free.to_string()])
            .args(["-cert", text(&identity.cert), "-key", text(&identity.key)])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("this test needs openssl: apt-get install openssl");
        let mut server = SServer { child, address: free };
        let mut lines = BufReader::new(server.child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().starts_with("ACCEPT")));
        std::thread::spawn(move || lines.for_each(drop)); // so that it never has to wait for a reader
        server
    }
}

impl Drop for SServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Says a line when it is open, notes the first that comes back, and closes.
struct Says(Journal);

impl Tail for Says {
    type In = String;
    type Out = String;
    fn open(&mut self, cx: &mut Context<'_, String>) -> Result<()> {
        cx.write("hello".into())
    }
    fn read(&mut self, cx: &mut Context<'_, String>, line: String) -> Result<()> {
        let session = format!("{:?}", cx.get::<perihelion::tls::Session>());
        self.0.note(format!("{line} {session}"));
        cx.close()
    }
}

/// What comes back, or why nothing does.
fn ask(fixture: &Fixture, tls: &ClientTls, host: &str, address: SocketAddr) -> String {
    let (tls, host, journal) = (tls.clone(), host.to_owned(), Journal::default());
    let notes = journal.clone();
    let reason = fixture.block_on(async move || {
        let pipeline = codec(tls.connect(&host).unwrap()).codec(Lines::lf(1000)).tail(Says(notes));
        let client = Client::new(&Config::default());
        client.connect_to(address, pipeline).await.unwrap().closed().await
    });
    match reason.unwrap() {
        Some(reason) => reason,
        None => journal.entries().concat(),
    }
}

#[test]
fn a_client_talks_to_s_server() {
    let (fixture, authority) = (Fixture::new(), Authority::new());
    let (identity, ada) = (authority.issue("localhost"), authority.issue("ada.example"));
    let tls = ClientTls::builder().roots(authority.ca()).alpn(["two", "one"]);
    let tls = tls.certificate(&ada.cert, &ada.key).build().unwrap();
    let ca = authority.ca();
    for (version, name) in [("-tls1_2", "TLSv1_2"), ("-tls1_3", "TLSv1_3")] {
        let arguments =
            [version, "-alpn", "one", "-Verify", "1", "-verify_return_error", "-CAfile", text(&ca)];
        let server = SServer::start(&identity, &arguments);
        for resumed in [false, true] {
            let answer = ask(&fixture, &tls, "localhost", server.address);
            assert!(answer.starts_with("olleh "), "{answer}");
            assert!(answer.contains(&format!("version: {name}")), "{answer}");
            assert!(answer.contains("protocol: Some(\"one\")"), "{answer}");
            assert!(answer.contains(&format!("resumed: {resumed}")), "{answer}");
        }
    }
    fixture.stop();
}

#[test]
fn a_client_refuses_servers_that_it_can_not_trust() {
    let (fixture, authority, stranger) = (Fixture::new(), Authority::new(), Authority::new());
    let (revoked, list) = authority.issue_revoked("localhost");
    let builder = || ClientTls::builder().roots(authority.ca());
    let tls = builder().revocation_list(list).build().unwrap();
    let cases = [
        (authority.issue("localhost"), "olleh"),
        (authority.issue("other.example"), "not valid for name \"localhost\""),
        (authority.issue_expired("localhost"), "expired"),
        (authority.self_signed("localhost"), "UnknownIssuer"),
        (stranger.issue("localhost"), "UnknownIssuer"),
        (revoked, "Revoked"),
    ];
    for (identity, expected) in cases {
        let server = SServer::start(&identity, &[]);
        let answer = ask(&fixture, &tls, "localhost", server.address);
        assert!(answer.contains(expected), "{expected}: {answer}");
    }
    let server = SServer::start(&stranger.self_signed("localhost"), &[]);
    let tls = builder().danger_accept_any_certificate().build().unwrap();
    assert!(ask(&fixture, &tls, "localhost", server.address).starts_with("olleh"));
    fixture.stop();
}

#[test]
fn a_server_that_speaks_no_tls_is_told_so() {
    let fixture = Fixture::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let plain = std::thread::spawn(move || {
        let (mut stream, _): (TcpStream, _) = listener.accept().unwrap();
        stream.write_all(b"220 ready\r\n").unwrap();
        let start = Instant::now();
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        while stream.read(&mut [0; 1000]).is_ok_and(|n| n > 0) {
            assert!(start.elapsed() < PATIENCE);
        }
    });
    let tls = ClientTls::builder().danger_accept_any_certificate().build().unwrap();
    let reason = ask(&fixture, &tls, "localhost", address);
    assert_eq!(reason, "the other side doesn't speak TLS: it began with 220 ready\\r\\n");
    plain.join().unwrap();
    fixture.stop();
}
