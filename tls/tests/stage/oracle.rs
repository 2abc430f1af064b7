//! The other side: a buffered connection of rustls, or another channel with the stage.

use perihelion_tls::rustls::{ClientConfig, ClientConnection, Connection};
use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;

use crate::common::Host;
use crate::keys::{Keys, TLS12, TLS13};

/// A connection of rustls, and what it has read.
pub(crate) struct Oracle {
    pub(crate) connection: Connection,
    pub(crate) read: Vec<u8>,
    pub(crate) has_ended: bool,
    /// How many bytes of what the channel has sent it has taken.
    taken: usize,
}

impl Oracle {
    pub(crate) fn client(keys: &Keys) -> Self {
        Self::client_with(keys.client_config(&[TLS13, TLS12].concat()))
    }

    pub(crate) fn client_with(config: impl Into<Arc<ClientConfig>>) -> Self {
        let name = "localhost".try_into().unwrap();
        Self::new(ClientConnection::new(config.into(), name).unwrap().into())
    }

    pub(crate) fn new(connection: Connection) -> Self {
        Oracle { connection, read: Vec::new(), has_ended: false, taken: 0 }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.connection.writer().write_all(bytes).unwrap();
    }

    /// Takes what there is to be sent.
    pub(crate) fn outgoing(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    /// Reads what the channel has sent.
    ///
    /// # Errors
    /// What rustls finds wrong.
    pub(crate) fn take_from(&mut self, host: &Host) -> Result<(), perihelion_tls::rustls::Error> {
        let mut new = &host.sent[self.taken..];
        self.taken = host.sent.len();
        while !new.is_empty() {
            self.connection.read_tls(&mut new).unwrap();
            self.connection.process_new_packets()?;
            self.drain();
        }
        Ok(())
    }

    fn drain(&mut self) {
        let mut piece = [0; 4096];
        loop {
            match self.connection.reader().read(&mut piece) {
                Ok(0) => return self.has_ended = true,
                Ok(n) => self.read.extend_from_slice(&piece[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Both sides go on until nothing moves. What is sent to the channel is cut into pieces of up to `cut` bytes.
    pub(crate) fn talk(&mut self, host: &mut Host, cut: usize) {
        loop {
            let outgoing = self.outgoing();
            for piece in outgoing.chunks(cut) {
                host.feed(piece).run();
            }
            host.run();
            let before = self.taken;
            self.take_from(host).unwrap();
            if outgoing.is_empty() && self.taken == before {
                return;
            }
        }
    }
}

/// Two channels go on until nothing moves, with pieces of up to `cut` bytes.
pub(crate) fn talk(a: &mut Host, b: &mut Host, cut: usize) {
    let (mut from_a, mut from_b) = (0, 0);
    loop {
        let before = (from_a, from_b);
        a.run();
        from_a += carry(&a.sent[from_a..], b, cut);
        from_b += carry(&b.sent[from_b..], a, cut);
        if (from_a, from_b) == before {
            return;
        }
    }
}

fn carry(bytes: &[u8], to: &mut Host, cut: usize) -> usize {
    for piece in bytes.chunks(cut) {
        to.feed(piece).run();
    }
    bytes.len()
}
