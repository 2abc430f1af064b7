//! Clients that mean no good.

use perihelion::runtime::raise_descriptor_limit;
use perihelion::tls::ServerTls;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::authority::Authority;
use crate::common::{Fixture, PATIENCE, alone, descriptors, eventually, in_child};
use crate::server::serve;

/// Sends this and gives what comes back, until the server ends.
fn send(address: SocketAddr, pieces: &[&[u8]]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    for piece in pieces {
        if stream.write_all(piece).is_err() {
            break; // it has closed already
        }
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer); // a reset is an answer too
    answer
}

/// The last alert, if the bytes end with one in clear.
fn alert(bytes: &[u8]) -> Option<u8> {
    match bytes {
        [.., 21, 3, _, 0, 2, 2, description] => Some(*description),
        _ => None,
    }
}

/// A record of a handshake.
fn record(bytes: &[u8]) -> Vec<u8> {
    [&[22, 3, 1], &(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

#[test]
fn what_is_no_handshake_is_turned_away() {
    let (fixture, authority) = (Fixture::new(), Authority::new());
    let identity = authority.issue("localhost");
    let tls = ServerTls::builder().certificate(&identity.cert, &identity.key).build().unwrap();
    let (server, address, journal) = serve(&fixture, &tls);
    send(address, &[b"GET / HTTP/1.1\r\n\r\n"]);
    send(address, &[&[0x80; 1000]]);
    send(address, &[&[0; 1000]]);
    journal.wait_for_some(3, "doesn't speak TLS");

    // A handshake that begins with data; with nonsense; with a record that is longer than one may be.
    send(address, &[&[23, 3, 3, 0, 1, 0]]);
    journal.wait_for_some(4, "doesn't speak TLS");
    let nonsense = [
        record(&[99; 100]),
        record(&[1, 0, 0, 4, 1, 2, 3, 4]),
        vec![22, 3, 3, 0xff, 0xff, 1, 0, 0],
        record(&[]),
        [22, 3, 1, 0, 0].repeat(1000),
    ];
    for bytes in &nonsense {
        let answer = send(address, &[bytes]);
        assert!(alert(&answer).is_some(), "{:?} got {answer:?}", &bytes[..8.min(bytes.len())]);
    }
    // 16 MiB are announced, and nothing more comes until the connection ends.
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(&record(&[1, 0xff, 0xff, 0xff, 3, 3])).unwrap();
    drop(stream);
    journal.wait_for_some(4 + nonsense.len() + 1, "");
    assert_eq!(journal.count("in order"), 0, "{:?}", journal.entries());
    fixture.stop_all(server);
}

/// Opens connections and says nothing; prints how many, and waits for the end of its input.
const SILENT_CLIENTS: &str = r#"
import socket, sys, resource
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
clients = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(int(sys.argv[2]))]
print(len(clients), flush=True)
sys.stdin.read()
"#;

/// How many bytes of this process are in memory.
fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn ten_thousand_that_say_nothing_cost_little_and_go() {
    const CLIENTS: usize = 10_000;
    in_child("server", || {
        let _alone = alone();
        raise_descriptor_limit().unwrap();
        let authority = Authority::new();
        let fixture = Fixture::with(|config| config.tcp.backlog = 4096);
        let identity = authority.issue("localhost");
        let tls = ServerTls::builder()
            .certificate(&identity.cert, &identity.key)
            .handshake_timeout(Duration::from_secs(10))
            .build()
            .unwrap();
        let (server, address, journal) = serve(&fixture, &tls);
        let (memory, open) = (resident_bytes(), descriptors());
        let mut clients = Command::new("python3")
            .args(["-c", SILENT_CLIENTS, &address.port().to_string(), &CLIENTS.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this test needs python3: apt-get install python3");
        let mut line = [0; 6];
        clients.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
        let grown = resident_bytes().saturating_sub(memory);
        assert!(grown < CLIENTS * 4096, "they cost {} bytes each", grown / CLIENTS);

        let good = Command::new("openssl")
            .args(["s_client", "-connect", &address.to_string()])
            .stdin(Stdio::null())
            .output()
            .expect("this test needs openssl: apt-get install openssl");
        let said = String::from_utf8_lossy(&good.stdout);
        assert!(said.contains("CN = localhost"), "a good client is served meanwhile: {said}");

        journal.wait_for_some(CLIENTS, "the TLS handshake took longer than 10s");
        eventually("all descriptors are closed", || descriptors() <= open + 2);
        clients.kill().unwrap();
        clients.wait().unwrap();
        fixture.stop_all(server);
    });
}
