//! curl, and Python's ssl.

use perihelion::prelude::*;
use perihelion::tls::ServerTls;
use std::process::{Command, Stdio};

use crate::authority::{Authority, Identity};
use crate::common::{Fixture, in_child_where};
use crate::server::serve;

fn tls(identity: &Identity) -> ServerTls {
    ServerTls::builder().certificate(&identity.cert, &identity.key).alpn(["http/1.1"]).build().unwrap()
}

/// Runs a Python program with these arguments; gives what it prints.
fn python(program: &str, arguments: &[&str]) -> String {
    let output = Command::new("python3")
        .args(["-c", program])
        .args(arguments)
        .env_remove("SSLKEYLOGFILE") // it would write there too
        .output()
        .expect("this test needs python3: apt-get install python3");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Answers any request when its head is complete.
struct Web(Vec<u8>);

impl Tail for Web {
    type In = Bytes;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, bytes: Bytes) -> Result<()> {
        self.0.extend_from_slice(&bytes);
        if self.0.ends_with(b"\r\n\r\n") {
            cx.write("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".into())?;
            cx.write(vec![b'x'; 100_000].into())?;
            cx.close()?;
        }
        Ok(())
    }
}

#[test]
fn curl_fetches_a_page() {
    let (fixture, authority) = (Fixture::new(), Authority::new());
    let tls = tls(&authority.issue("localhost"));
    let (server, address) = fixture.serve(move |_conn| codec(tls.accept()).codec(Raw).tail(Web(Vec::new())));
    let url = format!("https://localhost:{}/", address.port());
    for arguments in [&["--tlsv1.3"][..], &["--tls-max", "1.2"]] {
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--cacert"])
            .arg(authority.ca())
            .args(arguments)
            .arg(&url)
            .output()
            .expect("this test needs curl: apt-get install curl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.stdout.len(), 100_000);
    }
    let plain = url.replace("https", "http");
    let output = Command::new("curl").args(["--silent", &plain]).stdout(Stdio::piped()).output().unwrap();
    assert!(!output.status.success(), "plain HTTP is no TLS");
    fixture.stop_all(server);
}

/// Sends a lot, reads it again, and then closes TLS in order, on both sides, before the connection.
const PYTHON_CLIENT: &str = r#"
import select, socket, ssl, sys
ca, port, version = sys.argv[1], int(sys.argv[2]), sys.argv[3]
context = ssl.create_default_context(cafile=ca)
context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
context.set_alpn_protocols(["h2", "http/1.1"])
session = None
for _ in range(2):
    plain = socket.create_connection(("127.0.0.1", port))
    with context.wrap_socket(plain, server_hostname="localhost", session=session) as secure:
        sent = (b"y" * 500_000 + b"\n") * 4
        unsent, received = memoryview(sent), bytearray()
        # From one thread: reading in one and writing in another is a race within Python's ssl before 3.13.
        secure.setblocking(False)
        while len(received) < len(sent):
            select.select([secure], [secure] if unsent else [], [])
            try:
                unsent = unsent[secure.send(unsent[:1 << 16]):]
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                pass
            try:
                while len(received) < len(sent):
                    received += secure.recv(1 << 16)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                pass
        assert received == sent
        secure.setblocking(True)
        print(secure.version(), secure.selected_alpn_protocol(), secure.session_reused)
        session = secure.session
        secure.unwrap()
"#;

#[test]
fn pythons_client_talks_and_says_goodbye() {
    let authority = Authority::new();
    // With a byte a turn, each turn leaves completions to the next, which must not sleep on them.
    for unpacked in [1, Config::default().runtime.unpacked_bytes_per_turn] {
        let fixture = Fixture::with(|config| config.runtime.unpacked_bytes_per_turn = unpacked);
        let (server, address, journal) = serve(&fixture, &tls(&authority.issue("localhost")));
        let (ca, port) = (authority.ca(), address.port().to_string());
        for (version, name) in [("TLSv1_2", "TLSv1.2"), ("TLSv1_3", "TLSv1.3")] {
            let output = python(PYTHON_CLIENT, &[ca.to_str().unwrap(), &port, version]);
            assert_eq!(output, format!("{name} http/1.1 False\n{name} http/1.1 True\n"));
        }
        journal.wait_for_some(4, "in order");
        fixture.stop_all(server);
    }
}

#[test]
fn secrets_are_logged_on_request_and_else_never() {
    let authority = Authority::new();
    let identity = authority.issue("localhost");
    let (ca, file) = (authority.ca(), authority.file("secrets"));
    in_child_where("SSLKEYLOGFILE", &file, || {
        let file = std::env::var_os("SSLKEYLOGFILE").unwrap();
        let builder = || ServerTls::builder().certificate(&identity.cert, &identity.key).alpn(["http/1.1"]);
        for (tls, logs) in [(builder().build().unwrap(), false), (builder().key_log().build().unwrap(), true)]
        {
            let fixture = Fixture::new();
            let (server, address, _) = serve(&fixture, &tls);
            python(PYTHON_CLIENT, &[ca.to_str().unwrap(), &address.port().to_string(), "TLSv1_3"]);
            fixture.stop_all(server);
            let secrets = std::fs::read_to_string(&file).unwrap_or_default();
            assert_eq!(secrets.contains("SERVER_TRAFFIC_SECRET_0"), logs, "{secrets}");
        }
    });
}

/// Closes the connection without a word.
const PYTHON_RUDE_CLIENT: &str = r#"
import socket, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[1])
plain = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
secure = context.wrap_socket(plain, server_hostname="localhost")
secure.sendall(b"hello\n")
assert secure.recv(100) == b"hello\n"
socket.socket.shutdown(secure, socket.SHUT_WR)
"#;

#[test]
fn an_end_without_a_goodbye_is_noticed() {
    let (fixture, authority) = (Fixture::new(), Authority::new());
    let (server, address, journal) = serve(&fixture, &tls(&authority.issue("localhost")));
    python(PYTHON_RUDE_CLIENT, &[authority.ca().to_str().unwrap(), &address.port().to_string()]);
    journal.wait_for("ended without a close_notify");
    fixture.stop_all(server);
}
