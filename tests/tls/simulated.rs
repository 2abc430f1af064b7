//! The real channel with TLS in a made-up world, against a connection of rustls: whatever comes late, in parts or in
//! another order.

use perihelion::prelude::*;
use perihelion::testing::{Faults, TestChannel, each_seed};
use perihelion::tls::rustls::crypto::aws_lc_rs;
use perihelion::tls::rustls::pki_types::pem::PemObject;
use perihelion::tls::rustls::pki_types::{CertificateDer, ServerName};
use perihelion::tls::rustls::{ClientConfig, ClientConnection, RootCertStore};
use perihelion::tls::{ServerTls, UpdateKeys};
use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;

use crate::authority::Authority;

/// Echoes, and changes its keys now and then.
struct Echo(u32);

impl Tail for Echo {
    type In = Bytes;
    type Out = Bytes;
    fn read(&mut self, cx: &mut Context<'_, Bytes>, msg: Bytes) -> Result<()> {
        self.0 += 1;
        if self.0.is_multiple_of(7) {
            cx.send_event(UpdateKeys)?;
        }
        cx.write(msg)
    }
}

/// A client of rustls's own, and what it has read.
struct Client {
    connection: ClientConnection,
    read: Vec<u8>,
    has_ended: bool,
}

impl Client {
    fn new(authority: &Authority) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(authority.ca()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
        connection.set_buffer_limit(None);
        Client { connection, read: Vec::new(), has_ended: false }
    }

    /// Goes on with the channel until nothing moves.
    fn talk(&mut self, channel: &mut TestChannel, random: &mut fastrand::Rng) {
        loop {
            let mut outgoing = Vec::new();
            while self.connection.wants_write() {
                self.connection.write_tls(&mut outgoing).unwrap();
            }
            let mut rest = &outgoing[..];
            while !rest.is_empty() {
                let (now, later) = rest.split_at(random.usize(1..=rest.len()));
                // A peer that reads little stops the channel; what it does not take is not lost.
                channel.set_window(random.bool().then(|| random.usize(0..1000)));
                channel.send(now);
                channel.set_window(None);
                rest = later;
            }
            let received = channel.received();
            if outgoing.is_empty() && received.is_empty() {
                return;
            }
            self.take(&received);
        }
    }

    fn take(&mut self, mut received: &[u8]) {
        while !received.is_empty() {
            self.connection.read_tls(&mut received).unwrap();
            self.connection.process_new_packets().unwrap();
            let mut piece = [0; 4096];
            loop {
                match self.connection.reader().read(&mut piece) {
                    Ok(0) => {
                        self.has_ended = true;
                        break;
                    }
                    Ok(n) => self.read.extend_from_slice(&piece[..n]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
}

#[test]
fn an_echo_over_tls_loses_nothing_whatever_happens_on_the_way() {
    let authority = Authority::new();
    let identity = authority.issue("localhost");
    let tls = ServerTls::builder().certificate(&identity.cert, &identity.key).build().unwrap();
    each_seed(0..100, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let framed = codec(tls.accept()).codec(LengthPrefixed::u32_be(1 << 20)).tail(Echo(0));
        let mut channel = TestChannel::with_faults(seed, Faults::survivable(), framed);
        let mut client = Client::new(&authority);
        let mut sent = Vec::new();
        for _ in 0..random.usize(1..30) {
            let size = if random.u8(0..8) == 0 { random.usize(0..100_000) } else { random.usize(0..200) };
            let frame: Vec<u8> =
                (size as u32).to_be_bytes().into_iter().chain((0..size).map(|_| random.u8(..))).collect();
            client.connection.writer().write_all(&frame).unwrap();
            sent.extend(frame);
            if random.u8(0..10) == 0 && !client.connection.is_handshaking() {
                client.connection.refresh_traffic_keys().unwrap();
            }
            if random.bool() {
                client.talk(&mut channel, &mut random);
            }
        }
        client.talk(&mut channel, &mut random);
        assert_eq!(channel.closed(), None);
        client.connection.send_close_notify();
        client.talk(&mut channel, &mut random);
        channel.end();
        client.talk(&mut channel, &mut random);
        assert!(client.read == sent, "{} of {} bytes", client.read.len(), sent.len());
        assert!(client.has_ended, "it has said goodbye");
        assert_eq!(channel.closed(), Some(None));
    });
}

#[test]
fn bytes_that_were_tampered_with_are_never_taken_for_data() {
    let authority = Authority::new();
    let identity = authority.issue("localhost");
    let tls = ServerTls::builder().certificate(&identity.cert, &identity.key).build().unwrap();
    each_seed(0..100, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut channel = TestChannel::with_faults(
            seed,
            Faults::survivable(),
            codec(tls.accept()).codec(Raw).tail(Echo(0)),
        );
        let mut client = Client::new(&authority);
        client.talk(&mut channel, &mut random);
        client.connection.writer().write_all(&vec![7; random.usize(1..40_000)]).unwrap();
        let mut bytes = Vec::new();
        while client.connection.wants_write() {
            client.connection.write_tls(&mut bytes).unwrap();
        }
        // The header of the last record, or anything in it.
        let at = random.usize(0..bytes.len());
        bytes[at] ^= 1 << random.u8(0..8);
        channel.send(&bytes);
        channel.end();
        let mut received = &channel.received()[..];
        while !received.is_empty() && client.connection.read_tls(&mut received).is_ok() {
            let _ = client.connection.process_new_packets(); // the alert
        }
        let mut back = Vec::new();
        let _ = client.connection.reader().read_to_end(&mut back);
        assert!(back.iter().all(|byte| *byte == 7), "only what was whole came back");
        assert!(back.len() < bytes.len() - 22);
        let reason = channel.closed().flatten().expect("an error closes the channel");
        assert!(reason.contains("TLS failed") || reason.contains("close_notify"), "{reason}");
    });
}
