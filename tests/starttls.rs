//! The upgrade from clear text to TLS on one connection, from both sides: nothing of before counts afterwards.

#[allow(dead_code, reason = "not all of it is needed here")]
#[path = "tls/authority.rs"]
mod authority;
mod common;
#[path = "common/tls.rs"]
mod tls;

use authority::{Authority, Identity};
use common::*;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use tls::*;

struct StartTls {
    program: Program,
    address: SocketAddr,
    authority: Authority,
    _limit: Limit,
}

impl StartTls {
    fn start() -> Self {
        let limit = Limit::new();
        let authority = Authority::new();
        let Identity { cert, key } = authority.issue("127.0.0.1");
        let arguments =
            ["--listen", V4, "--workers", "1", "--cert", argument(&cert), "--key", argument(&key)];
        let (program, line) = Program::start(&example("starttls"), &arguments);
        StartTls { program, address: address_in(&line), authority, _limit: limit }
    }

    /// A client in clear that has been greeted.
    fn client(&self) -> TcpStream {
        let client = connect(self.address);
        assert_eq!(line_of(&client), "220 ready\r\n");
        client
    }

    /// Stops the server, and gives what it has said.
    fn stop(self) -> String {
        self.program.signal("TERM");
        let (code, said) = self.program.wait();
        assert_eq!(code, Some(0), "{said}");
        assert!(said.starts_with("served "), "{said}");
        said
    }

    /// Runs the client against it.
    fn run_client(&self, authority: &Path, input: &str) -> (Option<i32>, String, String) {
        let address = self.address.to_string();
        run_on(&example("starttls-client"), &[&address, "--ca", argument(authority)], input)
    }
}

/// Reads a line, and no byte behind it: that may be TLS.
fn line_of(mut stream: impl Read) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap_or_else(|error| panic!("after {line:?}: {error}"));
        line.extend(byte);
    }
    String::from_utf8(line).unwrap()
}

fn ask_line(mut stream: impl Read + Write, line: &str) -> String {
    stream.write_all(format!("{line}\r\n").as_bytes()).unwrap();
    line_of(stream)
}

#[test]
fn over_tls_the_server_knows_nothing_of_what_was_said_in_clear() {
    let server = StartTls::start();
    let clear = server.client();
    assert_eq!(ask_line(&clear, "whoami"), "250 nobody in clear\r\n");
    assert_eq!(ask_line(&clear, "HELO ada"), "250 hello ada\r\n");
    assert_eq!(ask_line(&clear, "EHLO ada"), "250-hello ada\r\n");
    assert_eq!(line_of(&clear), "250 STARTTLS\r\n");
    assert_eq!(ask_line(&clear, "WHOAMI"), "250 ada in clear\r\n");
    assert_eq!(ask_line(&clear, "HELO"), "501 say who you are\r\n");
    assert_eq!(ask_line(&clear, "STARTTLS now"), "500 this is no command\r\n");
    assert_eq!(ask_line(&clear, "STARTTLS"), "220 go ahead\r\n");
    let mut secure = secure(clear, trust(&server.authority));
    // The server doesn't greet again: this is the first reply.
    let reply = ask_line(&mut secure, "WHOAMI");
    assert_eq!(reply, "250 nobody over TLSv1_3 TLS13_AES_256_GCM_SHA384\r\n");
    assert_eq!(ask_line(&mut secure, "EHLO alan"), "250 hello alan\r\n");
    assert_eq!(ask_line(&mut secure, "STARTTLS"), "503 this is TLS already\r\n");
    assert!(ask_line(&mut secure, "WHOAMI").starts_with("250 alan over "));
    assert_eq!(ask_line(&mut secure, "QUIT"), "221 bye\r\n");
    assert_eq!(secure.read(&mut [0]).unwrap(), 0, "there is a close_notify");
    drop(secure);
    let clear = server.client();
    assert_eq!(ask_line(&clear, "quit"), "221 bye\r\n");
    assert_eq!(read_to_end(&clear), (vec![], End::InOrder));
    drop(clear);
    assert!(server.stop().starts_with("served 2 connections"));
}

#[test]
fn what_stands_behind_starttls_in_clear_is_obeyed_neither_now_nor_later() {
    let server = StartTls::start();
    let injected = "STARTTLS\r\nQUIT\r\nHELO eve\r\n";
    for cut in 0..injected.len() {
        let client = server.client();
        let (first, second) = injected.split_at(cut);
        (&client).write_all(first.as_bytes()).unwrap();
        // The server may have given up by then.
        let _ = (&client).write_all(second.as_bytes());
        assert_eq!(line_of(&client), "220 go ahead\r\n");
        let (rest, _) = read_to_end(&client);
        assert_eq!(rest, b"", "cut at {cut}");
    }
    // Also where an honest handshake follows.
    let client = server.client();
    (&client).write_all(b"STARTTLS\r\nHELO eve\r\n").unwrap();
    assert_eq!(line_of(&client), "220 go ahead\r\n");
    let mut secure = secure(client, trust(&server.authority));
    let error = secure.write_all(b"WHOAMI\r\n").and_then(|()| secure.read_exact(&mut [0])).unwrap_err();
    let broken = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
    assert!(broken.contains(&error.kind()), "{error}");
    drop(secure);
    let said = server.stop();
    assert!(said.contains("the other side doesn't speak TLS: it began with QUIT\\r\\n"), "{said}");
    assert!(said.contains("the other side doesn't speak TLS: it began with HELO eve\\r\\n"), "{said}");
}

#[test]
fn a_client_may_send_its_handshake_in_the_same_segment_as_starttls() {
    let server = StartTls::start();
    let early = b"HELO ada\r\nSTARTTLS\r\n";
    // Behind the command, in it, at its end, in the record's header, and nowhere.
    for cut in [early.len() - 5, early.len() - 1, early.len(), early.len() + 1, early.len() + 100, usize::MAX]
    {
        let client = server.client();
        let mut session = client_of(trust(&server.authority));
        let mut bytes = early.to_vec();
        session.write_tls(&mut bytes).unwrap(); // the ClientHello
        let (first, second) = bytes.split_at(cut.min(bytes.len()));
        (&client).write_all(first).unwrap();
        (&client).write_all(second).unwrap();
        assert_eq!(line_of(&client), "250 hello ada\r\n");
        assert_eq!(line_of(&client), "220 go ahead\r\n");
        let mut secure = TlsStream::new(session, client);
        assert!(ask_line(&mut secure, "WHOAMI").starts_with("250 nobody over "), "cut at {cut}");
        assert_eq!(ask_line(&mut secure, "QUIT"), "221 bye\r\n");
    }
    assert!(server.stop().starts_with("served 6 connections"));
}

#[test]
fn openssl_upgrades_as_with_smtp() {
    let server = StartTls::start();
    let (address, ca) = (server.address.to_string(), server.authority.ca());
    for version in ["-tls1_2", "-tls1_3"] {
        let mut openssl = Command::new("openssl")
            .args(["s_client", "-starttls", "smtp", "-crlf", "-quiet", "-verify_return_error", version])
            .args(["-connect", &address, "-CAfile", argument(&ca)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("this test needs openssl: apt-get install openssl");
        let mut input = openssl.stdin.take().unwrap();
        let mut lines = BufReader::new(openssl.stdout.take().unwrap()).lines().map(Result::unwrap);
        for (command, reply) in [
            ("WHOAMI", "250 nobody over TLSv1_"),
            ("EHLO ada", "250 hello ada"),
            ("WHOAMI", "250 ada over TLSv1_"),
            ("STARTTLS", "503 this is TLS already"),
            ("QUIT", "221 bye"),
        ] {
            input.write_all(format!("{command}\n").as_bytes()).unwrap();
            let line = lines.next().unwrap();
            assert!(line.starts_with(reply), "{line}");
        }
        assert_eq!(lines.next(), None);
        drop(lines);
        let output = openssl.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("Didn't find STARTTLS"), "{said}");
    }
    server.stop();
}

#[test]
fn the_client_says_nothing_of_its_own_before_tls() {
    let server = StartTls::start();
    let (code, printed, said) =
        server.run_client(&server.authority.ca(), "WHOAMI\nHELO ada\nWHOAMI\nSTARTTLS\nQUIT\n");
    let how = "over TLSv1_3 TLS13_AES_256_GCM_SHA384";
    let expected = format!(
        "220 ready\n220 go ahead\n250 nobody {how}\n250 hello ada\n250 ada {how}\n503 this is TLS already\n221 bye\n"
    );
    assert_eq!((code, printed, said), (Some(0), expected, String::new()));
    // The end of its input ends it too.
    let (code, printed, said) = server.run_client(&server.authority.ca(), "HELO ada\n");
    assert_eq!((code, &*said), (Some(0), ""));
    assert!(printed.ends_with("\n250 hello ada\n"), "{printed}");
    let stranger = Authority::new();
    let (code, printed, said) = server.run_client(&stranger.ca(), "HELO ada\n");
    assert_eq!((code, &*printed), (Some(1), "220 ready\n220 go ahead\n"));
    assert!(
        said.contains("starttls-client: the connection ended: TLS failed") && said.contains("UnknownIssuer")
    );
    let (code, _, said) = server.run_client("/nowhere.pem".as_ref(), "HELO ada\n");
    assert_eq!(code, Some(1));
    assert!(said.contains("/nowhere.pem: No such file"), "{said}");
    server.stop();
}

/// Runs the client against a server that greets, and answers STARTTLS like this. Gives what the client has sent from
/// there on too.
fn client_meets(greeting: &str, reply: &str) -> (Option<i32>, String, String, Vec<u8>) {
    let _limit = Limit::new();
    let authority = Authority::new();
    let listener = TcpListener::bind(V4).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (greeting, reply) = (greeting.to_owned(), reply.to_owned());
    let server = thread::spawn(move || {
        let (client, _) = listener.accept().unwrap();
        (&client).write_all(greeting.as_bytes()).unwrap();
        if greeting.starts_with("220 ") {
            assert_eq!(line_of(&client), "STARTTLS\r\n");
            (&client).write_all(reply.as_bytes()).unwrap();
        }
        let _ = client.shutdown(std::net::Shutdown::Write);
        read_to_end(&client).0
    });
    let program = example("starttls-client");
    let (code, printed, said) = run_on(&program, &[&address, "--ca", argument(&authority.ca())], "secret\n");
    (code, printed, said, server.join().unwrap())
}

#[test]
fn the_client_is_not_talked_out_of_tls() {
    for (greeting, reply, printed, reason) in [
        ("554 go away\r\n", "", "554 go away\n", "the server won't: 554 go away"),
        ("220 ready\r\n", "454 not now\r\n", "220 ready\n454 not now\n", "the server won't: 454 not now"),
        ("220 ready\r\n", "", "220 ready\n", "ended the connection before there was TLS"),
        // Put there by somebody on the way, to be taken for a reply over TLS.
        (
            "220 ready\r\n",
            "220 go ahead\r\n250 hello ada\r\n",
            "220 ready\n220 go ahead\n",
            "the other side doesn't speak TLS: it began with 250 hello ada",
        ),
    ] {
        let (code, found, said, sent) = client_meets(greeting, reply);
        assert_eq!((code, &*found), (Some(1), printed), "{said}");
        assert!(said.contains(reason), "{said}");
        assert!(!String::from_utf8_lossy(&sent).contains("secret"));
    }
}

#[test]
fn wrong_input_is_said_to_be_so() {
    let _limit = Limit::new();
    let authority = Authority::new();
    let Identity { cert, key } = authority.issue("127.0.0.1");
    let other = authority.issue("other").key;
    let (cert, key, other) = (argument(&cert), argument(&key), argument(&other));
    let (server, client) = (example("starttls"), example("starttls-client"));
    for (program, arguments, code, parts) in [
        (&server, &["--listen", V4][..], 2, ["not provided", "--cert <CERT>"]),
        (&server, &["--listen", "here", "--cert", cert, "--key", key], 1, ["`here` is no", "port"]),
        (&server, &["--cert", cert, "--key", other], 1, ["does not belong", other]),
        (&server, &["--cert", key, "--key", key], 1, [key, "certificate"]),
        (&client, &[], 2, ["not provided", "<SERVER>"]),
        (&client, &["ftp://x:1"], 2, ["`ftp://x:1` is no address", "scheme"]),
        (&client, &["127.0.0.1:1"], 1, ["127.0.0.1:1", "refused"]),
    ] {
        let (found, _, said) = run_on(program, arguments, "");
        assert_eq!(found, Some(code), "{arguments:?}: {said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    }
    let server = StartTls::start();
    for (line, reason) in [
        ("HELO \u{e9}\r\n".as_bytes().to_vec(), ""),
        (b"HELO \xff\r\n".to_vec(), "invalid utf-8"),
        (b"HELO ada\n".to_vec(), "a line feed without a carriage return"),
        (b"x".repeat(1002), "a line is too long"),
    ] {
        let client = server.client();
        (&client).write_all(&line).unwrap();
        if reason.is_empty() {
            assert_eq!(line_of(&client), "250 hello \u{e9}\r\n");
        } else {
            assert_eq!(read_to_end(&client).0, b"", "{reason}");
        }
    }
    let said = server.stop();
    for reason in ["invalid utf-8", "a line feed without a carriage return", "a line is too long"] {
        assert!(said.contains(reason), "{said}");
    }
}
