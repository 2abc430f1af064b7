//! The examples are what they say: the configuration names every key with its default, the programs run and stop.

mod common;

use common::*;
use perihelion::prelude::*;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

fn server_toml() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/server.toml")).unwrap()
}

#[test]
fn the_configuration_example_has_the_defaults() {
    assert_eq!(Config::parse(&server_toml()).unwrap(), Config::default());
}

/// The keys of a section, as the error for a wrong one lists them.
fn keys(section: &str) -> Vec<String> {
    let header = if section.is_empty() { String::new() } else { format!("[{section}]\n") };
    let error = Config::parse(&format!("{header}wrong = 1")).unwrap_err().to_string();
    let list = error.split_once("expected ").unwrap().1;
    list.split('`').skip(1).step_by(2).map(String::from).collect()
}

#[test]
fn the_configuration_example_names_every_key() {
    // A key that has no default stands in a comment.
    let text = server_toml().replace("# linger_s = ", "linger_s = ");
    let table: toml::Table = toml::from_str(&text).unwrap();
    let mut sections = vec![String::new()];
    let mut count = 0;
    while let Some(section) = sections.pop() {
        let path = section.split('.').filter(|name| !name.is_empty());
        let values = path.fold(&table, |table, name| table[name].as_table().unwrap());
        for key in keys(&section) {
            let value = values.get(&key).unwrap_or_else(|| panic!("`{key}` is missing in [{section}]"));
            if value.is_table() {
                sections.push(format!("{section}.{key}").trim_start_matches('.').into());
            }
            count += 1;
        }
    }
    assert!(count > 25, "only {count} keys were found");
    assert_eq!(Config::parse(&text).unwrap().tcp.linger_s, Some(1));
}

fn echo(arguments: &[&str]) -> (Program, String) {
    Program::start(&example("echo"), arguments)
}

#[test]
fn the_echo_server_says_where_it_listens_echoes_and_stops_in_order() {
    let _limit = Limit::new();
    for (signal, codec, any) in [("TERM", "raw", V4), ("INT", "length", V6), ("TERM", "lines", V4)] {
        let (program, line) = echo(&["--listen", any, "--codec", codec, "--workers", "1", "--spin-us", "10"]);
        let address = address_in(&line);
        assert!(line.contains("io_uring") && line.contains("on CPUs "), "{line}");
        let sent = if codec == "length" { frame("hello") } else { b"hello\n".to_vec() };
        let client = connect(address);
        (&client).write_all(&sent).unwrap();
        let mut back = vec![0; sent.len()];
        (&client).read_exact(&mut back).unwrap();
        assert_eq!(back, sent);
        program.signal(signal);
        assert_eq!(read_to_end(&client), (vec![], End::InOrder));
        drop(client);
        let (code, said) = program.wait();
        assert_eq!(code, Some(0), "{said}");
        assert!(said.starts_with("served 1 connections and 1 messages\n"), "{said}");
    }
}

#[test]
fn a_second_signal_ends_the_echo_server_at_once() {
    let _limit = Limit::new();
    let (program, line) = echo(&["--listen", V4]);
    // It would wait for this client to read.
    let client = connect(address_in(&line));
    client.set_write_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
    while (&client).write_all(&[0; 100_000]).is_ok() {}
    program.signal("TERM");
    // The first has been seen when the server takes no more connections.
    eventually("it listens no more", || std::net::TcpStream::connect(address_in(&line)).is_err());
    program.signal("TERM");
    assert_eq!(program.wait().0, None, "ended by the signal");
}

#[test]
fn options_and_values_that_can_not_be_used_are_said_to_be_so() {
    let _limit = Limit::new();
    let taken = TcpListener::bind(V4).unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (arguments, code, parts) in [
        (&["--lissen", "x"][..], 2, ["unexpected argument '--lissen'", "--listen"]),
        (&["--codec", "xml"], 2, ["invalid value 'xml'", "lines"]),
        (&["--workers", "many"], 2, ["invalid value 'many'", "--workers"]),
        (&["--driver", "iocp"], 2, ["invalid value 'iocp'", "auto or io_uring"]),
        (&["--cpus", "1-"], 2, ["invalid value '1-'", "write a list like 0,2-5"]),
        (&["--cpus", "4000"], 1, ["can't be pinned to CPU 4000", "may use the CPUs"]),
        (&["--listen", "nowhere"], 1, ["`nowhere` is no address", "HOST:PORT"]),
        (&["--listen", &taken], 1, [&taken, "choose another port"]),
        (&["--config", "/nowhere.toml"], 1, ["/nowhere.toml", "No such file"]),
    ] {
        let (found, said) = echo(arguments).0.wait();
        assert_eq!(found, Some(code), "{said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    }
}

#[test]
fn the_echo_server_takes_the_configuration_example() {
    let _limit = Limit::new();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/server.toml");
    let (program, line) = echo(&["--listen", V4, "--config", file]);
    drop(connect(address_in(&line)));
    program.signal("TERM");
    assert_eq!(program.wait().0, Some(0));
}

#[test]
fn the_echo_client_prints_what_comes_back() {
    let _limit = Limit::new();
    let (server, line) = echo(&["--listen", V4, "--codec", "lines"]);
    let address = address_in(&line).to_string();
    let lines: String = (0..1000).map(|number| format!("line {number}\n")).collect();
    assert_eq!(run_on(&example("echo-client"), &[&address], &lines), (Some(0), lines, String::new()));
    server.signal("TERM");
    assert_eq!(server.wait().0, Some(0));
}

/// What the `auth` server says to these bytes, in segments that are cut here.
fn auth(address: SocketAddr, text: &str, cut: usize) -> (String, End) {
    let client = connect(address);
    client.set_nodelay(true).unwrap();
    let (first, second) = text.split_at(cut.min(text.len()));
    (&client).write_all(first.as_bytes()).unwrap();
    let _ = (&client).write_all(second.as_bytes());
    let _ = client.shutdown(std::net::Shutdown::Write);
    let (bytes, end) = read_to_end(&client);
    (String::from_utf8(bytes).unwrap(), end)
}

#[test]
fn nobody_talks_to_the_auth_server_before_the_login_and_nothing_behind_it_is_lost() {
    let _limit = Limit::new();
    let (server, line) = Program::start(
        &example("auth"),
        &["--listen", V4, "--user", "ada:lovelace", "--user", "alan:turing"],
    );
    let address = address_in(&line);
    let talk = "login ada lovelace\nhello\nlogin alan turing\n";
    let answer = "welcome ada\nada: hello\nada: login alan turing\n";
    std::thread::scope(|scope| {
        for cut in 0..=talk.len() {
            scope.spawn(move || {
                assert_eq!(auth(address, talk, cut), (answer.into(), End::InOrder), "cut at {cut}")
            });
        }
    });
    let wrong = "hello\nlogin ada turing\nlogin ada lovelace\nbye\n";
    assert_eq!(auth(address, wrong, 0).0, "denied\ndenied\nwelcome ada\nada: bye\n");
    let denied = "login\nlogin eve\nlogin eve x\nlogin ada lovelace\n";
    assert_eq!(auth(address, denied, 0).0, "denied\ndenied\ndenied\n", "and then it is closed");
    server.signal("TERM");
    assert_eq!(server.wait().0, Some(0));
}
