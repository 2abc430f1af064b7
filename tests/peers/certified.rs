//! Both sides of TLS.

use perihelion::testing::TestChannel;
use perihelion::tls::rustls::ClientConnection;
use perihelion::tls::{ClientTls, ServerTls};
use std::io::{ErrorKind, Read, Write};
use std::sync::{Arc, OnceLock};

use crate::authority::Authority;

/// What both sides of TLS need.
pub(crate) struct Certified {
    pub(crate) server: ServerTls,
    pub(crate) client: ClientTls,
}

impl Certified {
    pub(crate) fn new() -> Arc<Self> {
        static CERTIFIED: OnceLock<Arc<Certified>> = OnceLock::new();
        let make = || {
            let authority = Authority::new();
            let identity = authority.issue("localhost");
            let server = ServerTls::builder().certificate(&identity.cert, &identity.key).build().unwrap();
            let client = ClientTls::builder().roots(authority.ca()).build().unwrap();
            Arc::new(Certified { server, client })
        };
        Arc::clone(CERTIFIED.get_or_init(make))
    }
}

/// The other side of TLS, by rustls alone, and what it has read.
pub(crate) struct Far {
    connection: ClientConnection,
    pub(crate) read: Vec<u8>,
}

impl Far {
    pub(crate) fn new(certified: &Certified) -> Self {
        let name = "localhost".try_into().unwrap();
        let connection = ClientConnection::new(Arc::clone(certified.client.config()), name).unwrap();
        Far { connection, read: Vec::new() }
    }

    pub(crate) fn write(&mut self, text: &str) {
        self.connection.writer().write_all(text.as_bytes()).unwrap();
    }

    pub(crate) fn outgoing(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    pub(crate) fn take(&mut self, mut received: &[u8]) {
        while !received.is_empty() {
            self.connection.read_tls(&mut received).unwrap();
            self.connection.process_new_packets().unwrap();
            match self.connection.reader().read_to_end(&mut self.read) {
                Err(error) if error.kind() != ErrorKind::WouldBlock => panic!("{error}"),
                _ => {}
            }
        }
    }

    /// Goes on until nothing moves, and gives what it has read.
    pub(crate) fn talk(&mut self, channel: &mut TestChannel) -> Vec<u8> {
        loop {
            let outgoing = self.outgoing();
            channel.send(&outgoing);
            let received = channel.received();
            if outgoing.is_empty() && received.is_empty() {
                return std::mem::take(&mut self.read);
            }
            self.take(&received);
        }
    }
}
