//! The PROXY protocol, versions 1 and 2: a header before everything else on a connection, in which a proxy says for
//! whom it connects. By [the specification](https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt) of 2020/03/05.
//!
//! [`ProxyProtocol`] is the stage that reads or sends it, at the transport's end of a pipeline; [`ProxyHeader`] is the
//! header itself, which can be parsed and encoded without a pipeline, too.

mod header;
mod ssl;
mod stage;
mod tlvs;
mod v1;
mod v2;

pub use header::{Addresses, Command, InvalidHeader, Parsed, ProxyHeader, SocketType, Version};
pub use ssl::SslInfo;
pub use stage::{ProxyHeaderSeen, ProxyProtocol, ProxyProtocolError};
pub use tlvs::kind;
