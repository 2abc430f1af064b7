//! Clients on rustls's own blocking connections.

use perihelion::tls::ClientTls;
use perihelion::tls::rustls::{ClientConfig, ClientConnection, StreamOwned};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use crate::authority::Authority;

/// A client's connection. Blocks, and ends with an error where there is no close_notify.
pub(crate) type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// What a client needs that trusts this authority.
pub(crate) fn trust(authority: &Authority) -> Arc<ClientConfig> {
    Arc::clone(ClientTls::builder().roots(authority.ca()).build().unwrap().config())
}

/// A client's side of the loopback that has sent nothing yet.
pub(crate) fn client_of(config: Arc<ClientConfig>) -> ClientConnection {
    ClientConnection::new(config, "127.0.0.1".try_into().unwrap()).unwrap()
}

/// Goes on over TLS. The handshake is done by the first read or write.
pub(crate) fn secure(stream: TcpStream, config: Arc<ClientConfig>) -> TlsStream {
    StreamOwned::new(client_of(config), stream)
}

/// As an argument of a program.
pub(crate) fn argument(path: &Path) -> &str {
    path.to_str().unwrap()
}
