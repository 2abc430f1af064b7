//! Who is behind a proxy, and telling so to whoever is behind this one.

use perihelion_pipeline::handlers::IpRules;
use perihelion_pipeline::proxy_protocol::{ProxyHeader, ProxyProtocol, SocketType};
use perihelion_pipeline::{Result, codec};

use super::Next;
use crate::{Addresses, Connection};

/// Reads the header of the [PROXY protocol](ProxyProtocol) first, of connections that come from a trusted proxy, which
/// must send one. It becomes a feature of the connection, and what it says of the client's addresses takes the place of
/// the socket's: whatever is inside sees the client.
///
/// A connection from elsewhere is closed when it sends a header, and else goes on as it is: anybody could say anything.
///
/// ```
/// # use perihelion_transports::{Server, middleware};
/// let server = Server::bind("tcp://0.0.0.0:7000")
///     .with(middleware::accept_proxy_header("allow 10.0.0.0/8".parse()?));
/// # Ok::<(), perihelion_pipeline::handlers::IpRuleError>(())
/// ```
pub fn accept_proxy_header(
    trusted: IpRules,
) -> impl AsyncFn(Connection, Next) -> Result<()> + Send + Sync + 'static {
    async move |connection: Connection, next: Next| {
        let is_trusted = connection.addresses().is_some_and(|ends| trusted.permits(ends.peer.ip()));
        let connection = connection.upgrade(codec(ProxyProtocol::server(is_trusted))).await?;
        let header = connection.get::<ProxyHeader>();
        if let Some((peer, local)) = header.and_then(|header| header.source().zip(header.destination())) {
            connection.features().insert(Addresses { peer, local });
        }
        next.run(connection).await
    }
}

/// Sends a header of the PROXY protocol, version 2, before anything else: with the addresses of a client on whose behalf
/// the connection is made, or with those of the connection itself.
pub fn send_proxy_header(
    client: Option<Addresses>,
) -> impl AsyncFn(Connection, Next) -> Result<()> + Send + Sync + 'static {
    async move |connection: Connection, next: Next| {
        let own =
            || connection.addresses().map(|Addresses { peer, local }| Addresses { peer: local, local: peer });
        let header = match client.or_else(own) {
            Some(Addresses { peer, local }) => ProxyHeader::v2(SocketType::Stream, peer, local),
            None => ProxyHeader::local(),
        };
        next.run(connection.upgrade(codec(ProxyProtocol::client(header))).await?).await
    }
}
