//! A relay, and its target.

use perihelion::prelude::*;
use perihelion::transports::{RelayTo, ServerReport};
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::common::*;

/// A relay on a runtime of its own.
pub(crate) struct Setup {
    pub(crate) fixture: Fixture,
    pub(crate) server: RunningServer,
    pub(crate) address: SocketAddr,
    pub(crate) target: TcpListener,
}

impl Setup {
    pub(crate) fn new() -> Self {
        Self::with(|_| ())
    }

    /// With the defaults but for this change.
    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::with_server(change, |server| server)
    }

    pub(crate) fn with_server(
        change: impl FnOnce(&mut Config),
        set_up: impl FnOnce(Server<RelayTo>) -> Server<RelayTo>,
    ) -> Self {
        let fixture = Fixture::with(change);
        let target = TcpListener::bind(V4).unwrap();
        let buffer = fixture.config().tcp.receive_buffer_bytes;
        if buffer > 0 {
            socket2::SockRef::from(&target).set_recv_buffer_size(buffer).unwrap();
        }
        let server = Server::bind(V4).relay_to(target.local_addr().unwrap().to_string());
        let server = set_up(server).start(&fixture).unwrap();
        let address = address_of(&server);
        Setup { fixture, server, address, target }
    }

    /// A client, and the target's side of its relay.
    pub(crate) fn pair(&self) -> (TcpStream, TcpStream) {
        let client = connect(self.address);
        (client, self.accept())
    }

    pub(crate) fn accept(&self) -> TcpStream {
        let (target, _) = self.target.accept().unwrap();
        target.set_read_timeout(Some(PATIENCE)).unwrap();
        target.set_write_timeout(Some(PATIENCE)).unwrap();
        target.set_nodelay(true).unwrap();
        target
    }

    /// Both stop, when all relays have ended.
    pub(crate) fn stop(self) -> ServerReport {
        self.fixture.stop_all(self.server)
    }
}

/// Writes until nobody takes more for a while, and gives what was taken.
pub(crate) fn write_until_blocked(mut stream: &TcpStream) -> Vec<u8> {
    stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut written = Vec::new();
    loop {
        let bytes = text(written.len() as u64, 64 << 10);
        match stream.write(&bytes) {
            Ok(n) => written.extend(&bytes[..n]),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                break;
            }
        }
    }
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    written
}
