//! The chat with rooms: who hears what, whose a name is, and what becomes of those who listen too slowly.

#[expect(dead_code, reason = "what it says of a connection is for the programs")]
#[path = "../examples/shared/chat.rs"]
mod chat;
mod common;

use chat::{Chat, Message};
use common::*;
use perihelion::pipeline::testing::{encode, verify_bytes, verify_codec};
use perihelion::prelude::*;
use socket2::SockRef;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

/// A server on two workers.
struct Server {
    program: Program,
    address: SocketAddr,
    _limit: Limit,
}

/// Somebody with a name.
struct Guest {
    stream: TcpStream,
    name: String,
}

impl Server {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(more: &[&str]) -> Self {
        let limit = Limit::new();
        let arguments = [&["--listen", V4, "--workers", "2"], more].concat();
        let (program, line) = Program::start(&example("chat"), &arguments);
        Server { program, address: address_in(&line), _limit: limit }
    }

    /// Somebody who has said nothing.
    fn connect(&self, name: &str) -> Guest {
        Guest { stream: connect(self.address), name: name.into() }
    }

    fn join(&self, name: &str, room: &str) -> Guest {
        let guest = self.connect(name);
        guest.say(format!("#join {room}"));
        guest.hears_system(&format!("{name} has come to {room}"));
        guest
    }

    fn client(&self, name: &str, more: &[&str]) -> Child {
        Command::new(example("chat-client"))
            .args([&self.address.to_string(), "--name", name])
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Stops it while these are there, and gives what it has said.
    fn stop<G>(self, guests: G) -> String {
        self.program.signal("TERM");
        drop(guests);
        let (code, said) = self.program.wait();
        assert_eq!(code, Some(0), "{said}");
        said
    }
}

impl Guest {
    fn send(&self, bytes: impl AsRef<[u8]>) {
        (&self.stream).write_all(bytes.as_ref()).unwrap();
    }

    fn say(&self, text: impl AsRef<str>) {
        self.send(encode(Chat, [message(text.as_ref(), &self.name)]));
    }

    fn hear(&self) -> (String, String) {
        let mut total = [0; 2];
        (&self.stream).read_exact(&mut total).unwrap();
        let mut bytes = vec![0; u16::from_le_bytes(total).into()];
        (&self.stream).read_exact(&mut bytes).unwrap();
        let (text, name) = bytes[2..].split_at(u16::from_le_bytes([bytes[0], bytes[1]]).into());
        assert_eq!(usize::from(name[0]), name.len() - 1);
        (String::from_utf8(text.into()).unwrap(), String::from_utf8(name[1..].into()).unwrap())
    }

    fn hears(&self, text: &str, from: &Guest) {
        assert_eq!(self.hear(), (text.into(), from.name.clone()));
    }

    fn hears_system(&self, text: &str) {
        assert_eq!(self.hear(), (text.into(), String::new()));
    }

    /// Asks, and gives what it is told.
    fn ask(&self, question: &str) -> String {
        self.say(question);
        let (text, name) = self.hear();
        assert_eq!(name, "", "{text}");
        text
    }
}

fn message(text: &str, name: &str) -> Message {
    Message { text: text.into(), name: name.into() }
}

#[test]
fn messages_are_the_same_however_they_are_cut() {
    let (long, longest_name) = ("ö".repeat(100), "n".repeat(255));
    verify_codec(
        || Chat,
        &[message("", ""), message("hello", ""), message(&long, "ada"), message("x", &longest_name)],
    );
    assert_eq!(encode(Chat, [message("hi", "ada")]), b"\x08\0\x02\0hi\x03ada");
}

#[test]
fn what_is_no_message_is_an_error() {
    for (wire, why) in [
        (&b"\x02\0\0\0"[..], "contradict"),
        (b"\x04\0\x05\0hi", "contradict"),
        (b"\x05\0\x02\0hi\x01", "contradict"),
        (b"\x05\0\x01\0h\0x", "contradict"),
        (b"\x04\0\x01\0\xe9\0", "utf-8"),
        (b"\x04\0\0\0\x01\xe9", "utf-8"),
        (b"\x05\0\x01\0h\x01", "ended inside a frame"),
    ] {
        let (frames, error) = verify_bytes(|| Chat, wire);
        assert!(frames.is_empty());
        let error = error.unwrap().to_string();
        assert!(error.contains(why), "{wire:?}: {error}");
    }
    for (text, name, why) in [(65_533, 0, "65536"), (0, 256, "256")] {
        let message = message(&"x".repeat(text), &"x".repeat(name));
        let error = Chat.encode(message, &mut Output::default()).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    let longest = message(&"x".repeat(65_535 - 3 - 3), "ada");
    assert_eq!(encode(Chat, [longest]).len(), 65_537);
}

#[test]
fn all_others_in_the_room_hear_what_is_said_whichever_core_they_are_on() {
    let server = Server::start();
    // The kernel deals them out; that none of sixteen gets to one of two cores doesn't happen.
    let mut rooms: [Vec<Guest>; 2] = Default::default();
    for number in 0..16 {
        let room = &mut rooms[number % 2];
        let guest = server.join(&format!("guest-{number}"), ["blue", "red"][number % 2]);
        for other in room.iter() {
            other.hears_system(&format!("{} has come to {}", guest.name, ["blue", "red"][number % 2]));
        }
        room.push(guest);
    }
    for (room, colour) in rooms.iter().zip(["blue", "red"]) {
        for speaker in room {
            speaker.say(colour);
            for listener in room.iter().filter(|listener| listener.name != speaker.name) {
                listener.hears(colour, speaker);
            }
        }
    }
    server.stop(rooms);
}

#[test]
fn messages_of_one_keep_their_order_however_they_are_cut() {
    let server = Server::start();
    let listeners: Vec<Guest> =
        (0..4).map(|number| server.join(&format!("listener-{number}"), "r")).collect();
    let speaker = server.join("speaker", "r");
    for (number, listener) in listeners.iter().enumerate() {
        for other in number + 1..4 {
            listener.hears_system(&format!("listener-{other} has come to r"));
        }
        listener.hears_system("speaker has come to r");
    }
    let texts: Vec<String> = (0..50).map(|number| "ö".repeat(number + 1)).collect();
    let bytes = encode(Chat, texts.iter().map(|text| message(text, "speaker")));
    for size in [1, 7, 1000, bytes.len()] {
        for piece in bytes.chunks(size) {
            speaker.send(piece);
        }
        for text in &texts {
            for listener in &listeners {
                listener.hears(text, &speaker);
            }
        }
    }
    server.stop((speaker, listeners));
}

#[test]
fn who_comes_and_goes_is_heard_and_names_are_free_again() {
    let server = Server::start();
    let ada = server.connect("ada");
    ada.say("is anybody there?");
    ada.hears_system("ada has come to lobby");
    assert_eq!(ada.ask("#list"), "ada"); // and by now nobody was there on any core
    let alan = server.join("alan", "lobby");
    ada.hears_system("alan has come to lobby");
    assert_eq!(ada.ask("#list"), "ada, alan");
    alan.say("#join kitchen");
    alan.hears_system("alan has come to kitchen");
    ada.hears_system("alan has left lobby");
    assert_eq!(alan.ask("#list"), "alan");
    alan.say("#join lobby");
    alan.hears_system("alan has come to lobby");
    ada.hears_system("alan has come to lobby");
    alan.say("#join lobby"); // where it is
    drop(alan); // with what was said read
    ada.hears_system("alan has left lobby");
    let alan = server.join("alan", "lobby");
    ada.hears_system("alan has come to lobby");
    reset(alan.stream);
    ada.hears_system("alan has left lobby");
    assert_eq!(ada.ask("#list"), "ada");
    server.stop(ada);
}

#[test]
fn a_name_is_one_clients_whichever_cores_want_it() {
    let server = Server::start();
    let guests: Vec<Guest> = (0..16).map(|_| server.connect("ada")).collect();
    for guest in &guests {
        guest.say("#join kitchen");
    }
    let told: Vec<String> = guests.iter().map(|guest| guest.hear().0).collect();
    let owner = told.iter().position(|told| told == "ada has come to kitchen").unwrap();
    for (number, told) in told.iter().enumerate() {
        assert!(number == owner || told == "another is ada in kitchen", "{told}");
    }
    // The others may have it elsewhere, and take it when it is free.
    let (owner, other) = (&guests[owner], &guests[(owner + 1) % 16]);
    assert_eq!(other.ask("#join hall"), "ada has come to hall");
    assert_eq!(other.ask("#join kitchen"), "another is ada in kitchen");
    assert_eq!(other.ask("#list"), "ada", "it has stayed");
    assert_eq!(owner.ask("#join attic"), "ada has come to attic");
    assert_eq!(owner.ask("#list"), "ada", "it has left");
    assert_eq!(other.ask("#join kitchen"), "ada has come to kitchen");
    server.stop(guests);
}

#[test]
fn who_says_what_does_not_go_is_told_so() {
    let server = Server::start();
    for wrong in ["", "two words", "a:b", "\x1b[2J", &"x".repeat(33)] {
        let told = server.connect(wrong).ask("hello");
        assert!(told.starts_with(&format!("`{wrong}` is no name: at most 32")), "{told}");
    }
    let ada = server.join("ada", "lobby");
    assert!(ada.ask("#join").starts_with("`` is no name"));
    assert!(ada.ask("#join big hall").starts_with("`big hall` is no name"));
    assert_eq!(ada.ask("#dance"), "there are #join ROOM, #list and #stats");
    ada.send(encode(Chat, [message("hello", "alan")]));
    ada.hears_system("you are ada here");
    let stats = ada.ask("#stats");
    assert!(stats.starts_with("6 messages in, 5 out; "), "{stats}");
    server.stop(ada);
}

#[test]
fn who_sends_what_is_no_message_is_put_out_and_the_log_says_why() {
    let server = Server::start();
    let (ada, alan) = (server.join("ada", "lobby"), server.join("alan", "lobby"));
    ada.hears_system("alan has come to lobby");
    for wrong in [&b"\x02\0\0\0"[..], b"\x04\0\x01\0\xe9\0"] {
        let stranger = server.connect("stranger");
        stranger.send(wrong);
        assert_eq!(read_to_end(&stranger.stream).0, b"");
    }
    let half = server.connect("half");
    half.send(&encode(Chat, [message("hello", "half")])[..5]);
    half.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&half.stream).0, b"");
    alan.say("still there?");
    ada.hears("still there?", &alan);
    let said = server.stop((ada, alan));
    assert!(said.contains("lengths contradict each other"), "{said}");
    assert!(said.contains("utf-8"), "{said}");
    assert!(said.contains("ended inside a frame, after 5 bytes"), "{said}");
}

#[test]
fn who_does_not_listen_is_put_out_and_the_others_miss_nothing() {
    let server = Server::start();
    let (speaker, listener) = (server.join("speaker", "r"), server.join("listener", "r"));
    speaker.hears_system("listener has come to r");
    let deaf = server.join("deaf", "r");
    SockRef::from(&deaf.stream).set_recv_buffer_size(4096).unwrap();
    for guest in [&speaker, &listener] {
        guest.hears_system("deaf has come to r");
    }
    let text = "x".repeat(60_000);
    // What the kernel keeps for it, a bounded queue, and then some.
    let mut messages = 0;
    loop {
        speaker.say(&text);
        messages += 1;
        let (heard, from) = listener.hear();
        if from.is_empty() {
            assert_eq!(heard, "deaf has left r");
            listener.hears(&text, &speaker);
            break;
        }
        assert_eq!((heard.len(), &*from), (text.len(), "speaker"));
        assert!(messages < 2000, "it is kept although it hears nothing");
    }
    speaker.hears_system("deaf has left r");
    assert_eq!(read_to_end(&deaf.stream).1, End::Reset);
    assert_eq!(speaker.ask("#list"), "listener, speaker");
    let said = server.stop((speaker, listener));
    assert!(said.contains("reads too slowly"), "{said}");
}

#[test]
fn the_client_sends_lines_and_prints_what_others_say() {
    let server = Server::start();
    let ada = server.join("ada", "kitchen");
    let mut client = server.client("alan", &["--room", "kitchen", "--perf-ms", "50"]);
    ada.hears_system("alan has come to kitchen");
    let mut stdin = client.stdin.take().unwrap();
    stdin.write_all(b"good evening\n#list\n/perf\n").unwrap();
    assert_eq!(ada.hear(), ("good evening".into(), "alan".into()));
    assert_eq!(ada.hear(), ("x".repeat(64_000), "alan".into()));
    ada.say("what's on?");
    ada.say("\x1b[2Jboo\nada: lies");
    stdin.write_all(b"that's all\n/stats\n/quit\nunheard\n").unwrap();
    loop {
        match ada.hear() {
            (text, name) if name == "alan" && text.starts_with('x') => {}
            (text, name) if name == "alan" => assert_eq!(text, "that's all"),
            (text, _) => break assert_eq!(text, "alan has left kitchen"),
        }
    }
    let output = client.wait_with_output().unwrap();
    assert!(output.status.success());
    let printed = String::from_utf8(output.stdout).unwrap();
    for line in [
        "* alan has come to kitchen\n",
        "* ada, alan\n",
        "ada: what's on?\n",
        "ada: \u{fffd}[2Jboo\u{fffd}ada: lies\n",
        " MB/s: ",
        " messages in, ",
    ] {
        assert!(printed.contains(line), "{line:?} in {printed}");
    }
    server.stop(ada);
}

#[test]
fn the_client_says_why_it_ends() {
    let server = Server::start();
    let alan = server.join("alan", "lobby");
    let mut client = server.client("ada", &[]);
    let _stdin = client.stdin.take(); // which doesn't end
    alan.hears_system("ada has come to lobby");
    server.stop(alan); // in order
    assert!(client.wait_with_output().unwrap().status.success());

    let server = Server::start();
    let address = server.address.to_string();
    let long = "x".repeat(65_530);
    for (arguments, input, code, parts) in [
        (&[&*address, "--name", "ada"][..], &*long, 1, ["65536", "65535"]),
        (&["127.0.0.1:1", "--name", "ada"], "", 1, ["127.0.0.1:1", "refused"]),
        (&["http://x", "--name", "ada"], "", 2, ["`http://x` is no address", "scheme"]),
        (&[&*address], "", 2, ["--name <NAME>", "required"]),
    ] {
        let (found, _, said) = run_on(&example("chat-client"), arguments, input);
        assert_eq!(found, Some(code), "{arguments:?}: {said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    }
    server.stop(());
}
