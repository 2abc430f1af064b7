//! `echo` over TLS, as a user starts it.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::authority::Authority;
use crate::common::{Limit, Program, example};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn the_echo_server_speaks_tls() {
    let _limit = Limit::new();
    let authority = Authority::new();
    let (identity, ada) = (authority.issue("localhost"), authority.issue("ada.example"));
    let ca = authority.ca();
    let arguments =
        ["--listen", "tls://127.0.0.1:0", "--codec", "lines", "--alpn", "one,two", "--optional-tls"];
    let arguments =
        [&arguments[..], &["--cert", text(&identity.cert), "--key", text(&identity.key)]].concat();
    let (program, line) =
        Program::start(&example("echo"), &[&arguments[..], &["--client-ca", text(&ca)]].concat());
    let address = line.strip_prefix("listening on tls://").unwrap_or_else(|| panic!("{line}"));
    let address = address.split_whitespace().next().unwrap();

    let mut client = Command::new("sh")
        .args(["-c", "(echo hello; sleep 1) | openssl s_client -connect \"$@\" 2>&1", "sh", address])
        .args(["-CAfile", text(&ca), "-cert", text(&ada.cert), "-key", text(&ada.key), "-alpn", "two"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut plain = std::net::TcpStream::connect(address).unwrap();
    plain.write_all(b"plain\n").unwrap();
    let mut answer = [0; 6];
    std::io::Read::read_exact(&mut plain, &mut answer).unwrap();
    assert_eq!(&answer, b"plain\n", "it is served without TLS too");
    drop(plain);
    client.wait().unwrap();
    let mut output = String::new();
    std::io::Read::read_to_string(client.stdout.as_mut().unwrap(), &mut output).unwrap();
    assert!(output.contains("hello\n") && output.contains("ALPN protocol: two"), "{output}");

    program.signal("TERM");
    let (code, said) = program.wait();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("served 2 connections and 2 messages\n"), "{said}");
}

#[test]
fn what_is_wrong_with_the_certificate_is_said_with_the_names_of_the_files() {
    let _limit = Limit::new();
    let authority = Authority::new();
    let (one, other) = (authority.issue("one"), authority.issue("other"));
    let listen = ["--listen", "tls://127.0.0.1:0"];
    for (arguments, code, parts) in [
        (&[][..], 1, &["--cert FILE", "--key FILE"][..]),
        (&["--cert", text(&one.cert)], 2, &["--key"]),
        (&["--alpn", "one"], 2, &["--cert"]),
        (&["--cert", "/nowhere.pem", "--key", text(&one.key)], 1, &["/nowhere.pem", "No such file"]),
        (&["--cert", text(&one.key), "--key", text(&one.key)], 1, &[text(&one.key), "no certificate"]),
        (
            &["--cert", text(&one.cert), "--key", text(&other.key)],
            1,
            &[text(&one.cert), text(&other.key), "does not belong"],
        ),
    ] {
        let (found, said) = Program::start(&example("echo"), &[&listen, arguments].concat()).0.wait();
        assert_eq!(found, Some(code), "{said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    }
    let arguments = ["--listen", "127.0.0.1:0", "--cert", text(&one.cert), "--key", text(&one.key)];
    let (code, said) = Program::start(&example("echo"), &arguments).0.wait();
    assert_eq!(code, Some(1));
    assert!(said.contains("tls://HOST:PORT"), "{said}");
}

#[test]
fn the_echo_client_speaks_tls_and_says_whom_it_does_not_trust() {
    let _limit = Limit::new();
    let (authority, stranger) = (Authority::new(), Authority::new());
    let identity = authority.issue("localhost");
    let arguments = ["--listen", "tls://127.0.0.1:0", "--codec", "lines"];
    let arguments =
        [&arguments[..], &["--cert", text(&identity.cert), "--key", text(&identity.key)]].concat();
    let (server, line) = Program::start(&example("echo"), &arguments);
    let port = line.split_once("127.0.0.1:").unwrap().1.split_whitespace().next().unwrap();
    let server_name = format!("tls://localhost:{port}");
    for (ca, expected) in [(authority.ca(), "hello\n"), (stranger.ca(), "UnknownIssuer")] {
        let mut client = Command::new(example("echo-client"))
            .args([&server_name, "--ca", text(&ca)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        client.stdin.take().unwrap().write_all(b"hello\n").unwrap();
        let output = client.wait_with_output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains(expected), "{said}");
        assert_eq!(output.status.success(), expected.starts_with("hello"));
    }
    server.signal("TERM");
    assert_eq!(server.wait().0, Some(0));
}
