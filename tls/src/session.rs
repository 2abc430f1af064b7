//! What a handshake has agreed on.

use rustls::pki_types::CertificateDer;
use rustls::{CipherSuite, CommonState, HandshakeKind, NamedGroup, ProtocolVersion};
use std::fmt;
use webpki::EndEntityCert;

/// What a handshake has agreed on. A stage above TLS finds it in its channel, as soon as there was
/// [`Established`](crate::Established):
///
/// ```
/// # use bytes::Bytes;
/// # use perihelion_pipeline::Context;
/// fn user(cx: &Context<'_, Bytes>) -> Option<String> {
///     let session = cx.get::<perihelion_tls::Session>()?;
///     session.peer_names().next().map(str::to_owned)
/// }
/// ```
#[derive(Clone)]
pub struct Session {
    version: ProtocolVersion,
    cipher_suite: CipherSuite,
    key_exchange: Option<NamedGroup>,
    resumed: bool,
    protocol: Option<Box<[u8]>>,
    server_name: Option<Box<str>>,
    peer_certificates: Box<[CertificateDer<'static>]>,
}

/// Goes to the stages above TLS when the handshake is done, before the first message. Where TLS is optional and the
/// client does without, it comes too, but there is no [`Session`].
pub struct Established;

impl Session {
    /// Of a connection whose handshake is done.
    pub(crate) fn of(connection: &CommonState) -> Self {
        let suite = connection.negotiated_cipher_suite();
        Session {
            version: connection.protocol_version().unwrap_or(ProtocolVersion::Unknown(0)),
            cipher_suite: suite.map_or(CipherSuite::Unknown(0), |suite| suite.suite()),
            key_exchange: connection.negotiated_key_exchange_group().map(|group| group.name()),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            protocol: connection.alpn_protocol().map(Into::into),
            server_name: None,
            peer_certificates: connection.peer_certificates().unwrap_or_default().into(),
        }
    }

    pub(crate) fn with_server_name(self, server_name: Option<Box<str>>) -> Self {
        Session { server_name, ..self }
    }

    /// TLS 1.2 or 1.3.
    pub fn version(&self) -> ProtocolVersion {
        self.version
    }

    /// How data is encrypted.
    pub fn cipher_suite(&self) -> CipherSuite {
        self.cipher_suite
    }

    /// How the keys were agreed on. `None` where an old session was resumed without.
    pub fn key_exchange(&self) -> Option<NamedGroup> {
        self.key_exchange
    }

    /// Whether an old session was resumed: nobody showed a certificate this time, those of the old session count.
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// The application's protocol that both sides want (ALPN).
    pub fn protocol(&self) -> Option<&[u8]> {
        self.protocol.as_deref()
    }

    /// The host that the client has named (SNI), in lower case.
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// The other side's certificates in DER, its own first. They have been verified, unless verification was turned
    /// off by a setting with `danger` in its name. Empty for a client that has shown none.
    pub fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        &self.peer_certificates
    }

    /// The DNS names that the other side's certificate is for.
    pub fn peer_names(&self) -> impl Iterator<Item = &str> {
        let certificate = self.peer_certificates.first().map(EndEntityCert::try_from).and_then(Result::ok);
        certificate.into_iter().flat_map(|certificate| certificate.valid_dns_names().collect::<Vec<_>>())
    }
}

/// For a log: one line, without certificates.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        f.debug_struct("Session")
            .field("version", &self.version)
            .field("cipher_suite", &self.cipher_suite)
            .field("key_exchange", &self.key_exchange)
            .field("resumed", &self.resumed)
            .field("protocol", &self.protocol().map(text))
            .field("server_name", &self.server_name)
            .field("peer_names", &self.peer_names().collect::<Vec<_>>())
            .finish()
    }
}
