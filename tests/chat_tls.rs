//! The chat over TLS: everyone hears everyone else, on every core, and nobody else's troubles.

#[allow(dead_code, reason = "not all of it is needed here")]
#[path = "tls/authority.rs"]
mod authority;
mod common;
#[path = "common/tls.rs"]
mod tls;

use authority::{Authority, Identity};
use common::*;
use perihelion::tls::ClientTls;
use perihelion::tls::rustls::ClientConfig;
use socket2::SockRef;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tls::*;

/// A server on two workers.
struct Chat {
    program: Program,
    address: SocketAddr,
    authority: Authority,
    _limit: Limit,
}

/// A client that has said nothing.
struct Guest(TlsStream);

impl Chat {
    fn start() -> Self {
        Self::start_with(Authority::new(), &[])
    }

    fn start_with(authority: Authority, more: &[&str]) -> Self {
        let limit = Limit::new();
        let Identity { cert, key } = authority.issue("127.0.0.1");
        let arguments = [
            "--listen",
            "tls://127.0.0.1:0",
            "--workers",
            "2",
            "--cert",
            argument(&cert),
            "--key",
            argument(&key),
        ];
        let (program, line) = Program::start(&example("chat-tls"), &[&arguments, more].concat());
        Chat { program, address: address_in(&line), authority, _limit: limit }
    }

    fn join(&self) -> Guest {
        self.join_as(trust(&self.authority))
    }

    fn join_as(&self, config: Arc<ClientConfig>) -> Guest {
        let mut guest = Guest(secure(connect(self.address), config));
        guest.say(""); // answered when it is in the room
        guest
    }

    /// Stops the server while these guests are there, and gives what it has said.
    fn stop<G>(self, guests: G) -> String {
        self.program.signal("TERM");
        drop(guests);
        self.said()
    }

    /// Waits for its end.
    fn said(self) -> String {
        let (code, said) = self.program.wait();
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("\nserved ") || said.starts_with("served "), "{said}");
        said
    }
}

fn message(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    [&(text.len() as u16).to_le_bytes(), text].concat()
}

impl Guest {
    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).unwrap();
        self.0.flush().unwrap();
    }

    fn hear(&mut self) -> String {
        let mut length = [0; 2];
        self.0.read_exact(&mut length).unwrap();
        let mut text = vec![0; u16::from_le_bytes(length).into()];
        self.0.read_exact(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    /// What was said, and the number of the guest who did.
    fn hear_guest(&mut self) -> (u64, String) {
        let heard = self.hear();
        let (number, text) = heard.strip_prefix("guest ").unwrap().split_once(": ").unwrap();
        (number.parse().unwrap(), text.into())
    }

    /// Says it, and waits until the others will hear it.
    fn say(&mut self, text: impl AsRef<[u8]>) {
        self.send(message(text));
        assert_eq!(self.hear(), "");
    }

    /// The end of the connection: whether it came in order.
    fn ends_in_order(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset));
                false
            }
        }
    }
}

#[test]
fn all_others_hear_what_is_said_whichever_core_they_are_on() {
    let chat = Chat::start();
    // The kernel deals them out; that none of sixteen gets to one of two cores doesn't happen.
    let mut guests: Vec<Guest> = (0..16).map(|_| chat.join()).collect();
    for (number, guest) in guests.iter_mut().enumerate() {
        for _ in 0..number {
            guest.hear();
        }
        guest.say(format!("I am {number}"));
    }
    for (number, guest) in guests.iter_mut().enumerate() {
        for other in number + 1..16 {
            assert_eq!(guest.hear_guest().1, format!("I am {other}"));
        }
    }
    chat.program.signal("TERM");
    for mut guest in guests {
        assert!(guest.ends_in_order());
    }
    let said = chat.said();
    assert!(said.starts_with("served 16 connections"), "{said}");
}

#[test]
fn messages_of_one_keep_their_order_however_they_are_cut() {
    let chat = Chat::start();
    let mut listeners: Vec<Guest> = (0..4).map(|_| chat.join()).collect();
    let mut speaker = chat.join();
    let texts: Vec<String> = (0..50).map(|number| "ö".repeat(number + 1)).collect();
    let bytes: Vec<u8> = texts.iter().flat_map(message).collect();
    for size in [1, 7, 1000, bytes.len()] {
        for piece in bytes.chunks(size) {
            speaker.send(piece); // a TLS record of its own
        }
        for text in &texts {
            for listener in &mut listeners {
                assert_eq!(listener.hear_guest().1, *text);
            }
            assert_eq!(speaker.hear(), "");
        }
    }
    chat.stop((speaker, listeners));
}

#[test]
fn the_longest_message_comes_in_two_where_there_is_no_room_for_the_name() {
    let chat = Chat::start();
    let (mut speaker, mut listener) = (chat.join(), chat.join());
    speaker.say("hello");
    let prefix = format!("guest {}: ", listener.hear_guest().0).len();
    let fits = "x".repeat(65_535 - prefix);
    speaker.say(&fits);
    assert_eq!(listener.hear_guest().1, fits);
    // No character is cut.
    let long = format!("x{}", "ö".repeat(32_767));
    assert_eq!(long.len(), 65_535);
    speaker.say(&long);
    let parts = [listener.hear_guest().1, listener.hear_guest().1];
    assert!((1..=prefix + 1).contains(&parts[1].len()), "{}", parts[1].len());
    assert_eq!(parts.concat(), long);
    chat.stop((speaker, listener));
}

#[test]
fn who_sends_what_is_no_message_is_put_out_and_the_log_says_why() {
    let chat = Chat::start();
    let (mut one, mut other) = (chat.join(), chat.join());
    let mut binary = chat.join();
    binary.send(message(b"caf\xe9"));
    assert!(!binary.ends_in_order());
    let mut half = chat.join();
    half.send(&message("hello")[..4]);
    half.0.conn.send_close_notify();
    half.0.flush().unwrap();
    assert!(!half.ends_in_order());
    let plain = connect(chat.address);
    (&plain).write_all(b"hello\r\n").unwrap();
    assert_eq!(read_to_end(&plain).0, b"");
    one.say("still there?");
    assert_eq!(other.hear_guest().1, "still there?");
    drop((half, plain));
    let said = chat.stop((one, other, binary));
    assert!(said.contains("no UTF-8: incomplete utf-8 byte sequence from index 3"), "{said}");
    assert!(said.contains("the stream ended inside a frame, after 4 bytes of it"), "{said}");
    assert!(said.contains("the other side doesn't speak TLS: it began with hello\\r\\n"), "{said}");
}

#[test]
fn a_certificate_gives_the_name_and_without_one_nobody_gets_in_where_it_is_asked_for() {
    let authority = Authority::new();
    let ca = authority.ca();
    let chat = Chat::start_with(authority, &["--client-ca", argument(&ca)]);
    let join = |name| {
        let Identity { cert, key } = chat.authority.issue(name);
        let tls = ClientTls::builder().roots(chat.authority.ca()).certificate(cert, key).build().unwrap();
        chat.join_as(Arc::clone(tls.config()))
    };
    let (mut ada, mut alan) = (join("ada.example"), join("alan.example"));
    ada.say("hello");
    assert_eq!(alan.hear(), "ada.example: hello");
    alan.say("hi");
    assert_eq!(ada.hear(), "alan.example: hi");
    let mut stranger = secure(connect(chat.address), trust(&chat.authority));
    let _ = stranger.write_all(&message("let me in"));
    let refused = stranger.read(&mut [0]).unwrap_err().to_string();
    assert!(refused.contains("CertificateRequired"), "{refused}");
    ada.say("who was that?");
    assert_eq!(alan.hear(), "ada.example: who was that?");
    chat.stop((ada, alan, stranger));
}

#[test]
fn who_does_not_listen_is_put_out_and_the_others_miss_nothing() {
    let authority = Authority::new();
    let file = authority.write("server.toml", "[channel]\nclose_ms = 200");
    let chat = Chat::start_with(authority, &["--config", argument(&file)]);
    let (mut speaker, mut listener) = (chat.join(), chat.join());
    let mut deaf = chat.join();
    SockRef::from(&deaf.0.sock).set_recv_buffer_size(4096).unwrap();
    let text = "x".repeat(60_000);
    // What the kernel keeps for it, a bounded queue, and then some.
    for _ in 0..300 {
        speaker.say(&text);
        assert_eq!(listener.hear_guest().1.len(), text.len());
    }
    assert!(!deaf.ends_in_order());
    let said = chat.stop((speaker, listener, deaf));
    assert!(said.contains("reads too slowly"), "{said}");
}

#[test]
fn who_speaks_and_reads_no_reply_is_read_no_further() {
    let authority = Authority::new();
    let file = authority.write("server.toml", "[tcp]\nsend_buffer_bytes = 4096\nreceive_buffer_bytes = 4096");
    let chat = Chat::start_with(authority, &["--config", argument(&file)]);
    let (mut listener, mut speaker) = (chat.join(), chat.join());
    let listens = thread::spawn(move || while listener.hear_guest().1 != "enough" {});
    SockRef::from(&speaker.0.sock).set_recv_buffer_size(4096).unwrap();
    SockRef::from(&speaker.0.sock).set_send_buffer_size(4096).unwrap();
    speaker.0.sock.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let some = message("x").repeat(1000);
    let taken = (0..1000).take_while(|_| speaker.0.write_all(&some).is_ok()).count();
    assert!(taken < 1000, "a million messages of one who reads no reply were taken");
    chat.join().say("enough");
    listens.join().unwrap();
    chat.stop(speaker);
}

#[test]
fn the_client_sends_lines_and_prints_what_others_say() {
    let chat = Chat::start();
    let mut guest = chat.join();
    let (address, ca) = (format!("tls://{}", chat.address), chat.authority.ca());
    let mut client = Command::new(example("chat-tls-client"))
        .args([&address, "--ca", argument(&ca)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // It is in the room when its first line has been heard.
    client.stdin.as_mut().unwrap().write_all(b"good evening\n").unwrap();
    assert_eq!(guest.hear_guest().1, "good evening");
    guest.say("what's on?");
    guest.say("\x1b[2Jboo\nada: lies");
    let arguments = [&*address, "--ca", argument(&ca), "--name", "bob"];
    let (code, printed, said) = run_on(&example("chat-tls-client"), &arguments, "nothing\n");
    assert_eq!((code, &*printed, &*said), (Some(0), "", ""));
    assert_eq!(guest.hear_guest().1, "bob: nothing");
    chat.stop(guest); // and so the client ends, in order
    let output = client.wait_with_output().unwrap();
    assert!(output.status.success());
    let printed = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = printed.lines().map(|line| line.split_once(": ").unwrap().1).collect();
    assert_eq!(lines, ["what's on?", "\u{fffd}[2Jboo\u{fffd}ada: lies", "bob: nothing"]);
}

#[test]
fn wrong_input_is_said_to_be_so() {
    let chat = Chat::start();
    let stranger = Authority::new();
    let Identity { cert, key } = stranger.issue("127.0.0.1");
    let other = stranger.issue("other").key;
    let (cert, key, other) = (argument(&cert), argument(&key), argument(&other));
    let (server, client) = (example("chat-tls"), example("chat-tls-client"));
    let (ca, foreign) = (chat.authority.ca(), stranger.ca());
    let (ca, foreign) = (argument(&ca), argument(&foreign));
    let address = chat.address.to_string();
    let long = "x".repeat(65_536);
    for (program, arguments, input, code, parts) in [
        (&server, &["--listen", V4][..], "", 1, ["this chat is over TLS", "tls://HOST:PORT"]),
        (&server, &["--listen", "tls://127.0.0.1:0"], "", 1, ["needs --cert FILE", "--key FILE"]),
        (&server, &["--cert", cert], "", 2, ["not provided", "--key <KEY>"]),
        (
            &server,
            &["--listen", "tls://127.0.0.1:0", "--cert", cert, "--key", other],
            "",
            1,
            ["does not belong", other],
        ),
        (
            &server,
            &["--listen", "tls://127.0.0.1:0", "--cert", "/nowhere.pem", "--key", key],
            "",
            1,
            ["/nowhere.pem", "No such file"],
        ),
        (&client, &["https://x"], "", 2, ["`https://x` is no address", "scheme"]),
        (&client, &[&address, "--ca", "/nowhere.pem"], "", 1, ["/nowhere.pem", "No such file"]),
        (&client, &[&address, "--ca", foreign], "", 1, ["TLS failed", "UnknownIssuer"]),
        (&client, &["127.0.0.1:1", "--ca", foreign], "", 1, ["127.0.0.1:1", "refused"]),
        (&client, &[&address, "--ca", ca], &long, 1, ["65536", "65535"]),
    ] {
        let (found, _, said) = run_on(program, arguments, input);
        assert_eq!(found, Some(code), "{arguments:?}: {said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    }
    chat.stop(());
}
