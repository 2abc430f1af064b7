//! A client that keeps to the record layer and to nothing else.

use bytes::Bytes;
use perihelion_pipeline::{Raw, codec};
use perihelion_tls::rustls::crypto::aws_lc_rs::cipher_suite;
use perihelion_tls::rustls::crypto::cipher::{MessageEncrypter, OutboundChunks, OutboundPlainMessage};
use perihelion_tls::rustls::{ConnectionTrafficSecrets, ContentType, ProtocolVersion};

use crate::common::Host;
use crate::keys::{Keys, TLS13};
use crate::oracle::Oracle;

/// Encrypts whatever it is told to, with the keys of an open session.
pub(crate) struct Forger {
    encrypter: Box<dyn MessageEncrypter>,
    sequence: u64,
}

impl Forger {
    /// A channel with an open session, and who goes on in the client's place.
    pub(crate) fn on(keys: &Keys, host: &mut Host) -> Self {
        let mut config = keys.client_config(TLS13);
        config.enable_secret_extraction = true;
        let mut client = Oracle::client_with(config);
        client.talk(host, usize::MAX);
        let (sequence, secrets) = client.connection.dangerous_extract_secrets().unwrap().tx;
        let suite = cipher_suite::TLS13_AES_256_GCM_SHA384.tls13().unwrap();
        let ConnectionTrafficSecrets::Aes256Gcm { key, iv } = secrets else { panic!("another suite") };
        Forger { encrypter: suite.aead_alg.encrypter(key, iv), sequence }
    }

    /// A record of this kind with so many zeros behind its content.
    pub(crate) fn record(&mut self, kind: u8, content: &[u8], padding: usize) -> Vec<u8> {
        let (mut payload, mut typ) = (content.to_vec(), kind);
        if padding > 0 {
            payload.push(kind);
            payload.resize(payload.len() + padding - 1, 0);
            typ = 0;
        }
        let message = OutboundPlainMessage {
            typ: ContentType::from(typ),
            version: ProtocolVersion::TLSv1_2,
            payload: OutboundChunks::Single(&payload),
        };
        self.sequence += 1;
        self.encrypter.encrypt(message, self.sequence - 1).unwrap().encode()
    }
}

const HANDSHAKE: u8 = 22;

fn echo(keys: &Keys) -> Host {
    Host::keeping_back(codec(keys.server(TLS13).accept()).codec(Raw).service(async |bytes: Bytes| Ok(bytes)))
}

#[test]
fn a_message_that_is_never_whole_is_not_kept_for_ever() {
    let keys = Keys::new();
    for padding in [0, 16_000] {
        let mut host = echo(&keys);
        let mut forger = Forger::on(&keys, &mut host);
        host.feed(forger.record(23, b"hello", padding)).run();
        assert_eq!(host.closed, None);
        let mut sent = 0;
        // A message of almost 64 KiB, a byte in each record.
        let header = [24, 0, 0xff, 0xff];
        let bytes = header.into_iter().chain(std::iter::repeat(0));
        for byte in bytes.take(60_000) {
            let record = forger.record(HANDSHAKE, &[byte], padding);
            sent += record.len();
            host.feed(record).run();
            if host.closed.is_some() || sent > 1 << 20 {
                break;
            }
        }
        assert!(host.closed.is_some(), "{sent} bytes are kept");
    }
}
