//! Certificates that change while the server runs.

use perihelion::tls::ServerTls;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::authority::{Authority, Identity};
use crate::common::{Fixture, PATIENCE, eventually};
use crate::server::serve;

/// An open session: `openssl s_client` that says nothing of its own.
struct Session(Child);

impl Session {
    fn open(address: SocketAddr) -> Self {
        let child = Command::new("openssl")
            .args(["s_client", "-quiet", "-connect", &address.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("this test needs openssl: apt-get install openssl");
        let mut session = Session(child);
        assert_eq!(session.ask("hello"), "hello\n");
        session
    }

    fn ask(&mut self, line: &str) -> String {
        writeln!(self.0.stdin.as_mut().unwrap(), "{line}").unwrap();
        let mut answer = String::new();
        BufReader::new(self.0.stdout.as_mut().unwrap()).read_line(&mut answer).unwrap();
        answer
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The name in the certificate that a new client is shown.
fn shown_name(address: SocketAddr) -> String {
    let output = Command::new("openssl")
        .args(["s_client", "-connect", &address.to_string()])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    let subject = output.lines().find_map(|line| line.strip_prefix("subject=CN = "));
    subject.unwrap_or_else(|| panic!("{output}")).to_owned()
}

fn eventually_shown(address: SocketAddr, name: &str) {
    let start = Instant::now();
    while shown_name(address) != name {
        assert!(start.elapsed() < PATIENCE, "it never shows {name}");
    }
}

/// Puts other files in their place, as a tool does that renews certificates.
fn replace(old: &Identity, new: &Identity) {
    std::fs::copy(&new.cert, &old.cert).unwrap();
    std::fs::copy(&new.key, &old.key).unwrap();
}

#[test]
fn new_clients_see_the_new_certificate_and_open_sessions_go_on() {
    let (fixture, authority) = (Fixture::new(), Authority::new());
    let identity = authority.issue("old.example");
    let tls = ServerTls::builder().certificate(&identity.cert, &identity.key).build().unwrap();
    let (server, address, _) = serve(&fixture, &tls);
    let watch = tls.watch(Duration::from_millis(10)).unwrap();
    let mut open = Session::open(address);
    assert_eq!(shown_name(address), "old.example");

    // Half written: the old one stays.
    let new = authority.issue("new.example");
    let text = std::fs::read_to_string(&new.cert).unwrap();
    std::fs::write(&identity.cert, &text[..text.len() / 2]).unwrap();
    eventually("the broken file was tried", || !tls.has_changed());
    assert_eq!(shown_name(address), "old.example");
    // Whole, but the key is still the old one.
    std::fs::write(&identity.cert, &text).unwrap();
    eventually("the pair that doesn't fit was tried", || !tls.has_changed());
    assert_eq!(shown_name(address), "old.example");

    replace(&identity, &new);
    eventually_shown(address, "new.example");
    assert_eq!(open.ask("still here"), "still here\n");
    assert!(std::fs::metadata(&identity.cert).is_ok());

    drop(watch);
    replace(&identity, &authority.issue("ignored.example"));
    assert_eq!(shown_name(address), "new.example", "nobody watches any more");
    assert!(tls.has_changed(), "and nobody has tried what is new");
    drop(open);
    fixture.stop_all(server);
}

#[test]
fn a_hangup_reads_them_again() {
    let (fixture, authority) = (Fixture::new(), Authority::new());
    let identity = authority.issue("old.example");
    let tls = ServerTls::builder().certificate(&identity.cert, &identity.key).build().unwrap();
    let (server, address, _) = serve(&fixture, &tls);
    let _watch = tls.reload_at_hangup().unwrap();
    replace(&identity, &authority.issue("new.example"));
    assert_eq!(shown_name(address), "old.example");
    let kill = format!("kill -HUP {}", std::process::id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    eventually_shown(address, "new.example");
    // The port still answers those who say nothing.
    drop(TcpStream::connect(address).unwrap());
    fixture.stop_all(server);
}
