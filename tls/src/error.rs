//! Why TLS has ended a connection.

use rustls::AlertDescription;
use std::time::Duration;

/// Why TLS has ended a connection: the reason of its close.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The other side has ended it, and said why.
    #[error("the other side ended TLS: {}", in_words(.0))]
    Alert(AlertDescription),
    /// It was ended here, for this; the other side was sent the alert for it, if there is one.
    #[error("TLS failed")]
    Failed(#[source] rustls::Error),
    /// What came first is no TLS: perhaps a plain client, or plain HTTP.
    #[error("the other side doesn't speak TLS: it began with {}", .0.escape_ascii())]
    NotTls(Vec<u8>),
    /// The other side closed the connection without a close_notify: what it had to say may be cut off.
    #[error("the connection ended without a close_notify: what came last may be missing")]
    Truncated,
    /// The other side closed the connection before the handshake was done.
    #[error("the connection ended during the TLS handshake")]
    EndedInHandshake,
    /// The handshake took too long.
    #[error("the TLS handshake took longer than {limit:?}")]
    HandshakeTooSlow {
        /// [`HandshakeLimits::time`](crate::HandshakeLimits::time).
        limit: Duration,
    },
    /// The other side has sent too much without coming to the handshake's end.
    #[error("the TLS handshake took more than {limit} bytes")]
    HandshakeTooLarge {
        /// [`HandshakeLimits::bytes`](crate::HandshakeLimits::bytes).
        limit: usize,
    },
    /// The client has named a host that the server is not.
    #[error("the client asks for the host `{0}`, which no certificate is for")]
    UnknownName(String),
    /// No host name and no IP address: it can't stand in a certificate.
    #[error("`{0}` is neither a host name nor an IP address")]
    InvalidName(String),
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        match error {
            rustls::Error::AlertReceived(alert) => TlsError::Alert(alert),
            error => TlsError::Failed(error),
        }
    }
}

/// The alert's name as in RFC 8446, and what it mostly means.
fn in_words(alert: &AlertDescription) -> String {
    let meaning = match alert {
        AlertDescription::HandshakeFailure => "no cipher suite, version or signature that both sides have",
        AlertDescription::BadCertificate => "it finds our certificate broken",
        AlertDescription::UnsupportedCertificate => "it can't use our kind of certificate",
        AlertDescription::CertificateRevoked => "our certificate is revoked",
        AlertDescription::CertificateExpired => "our certificate is out of date",
        AlertDescription::CertificateUnknown => "it doesn't accept our certificate",
        AlertDescription::UnknownCA => "it doesn't know who issued our certificate",
        AlertDescription::ProtocolVersion => "it doesn't speak our versions of TLS",
        AlertDescription::UnrecognisedName => "it is not the host that we named",
        AlertDescription::CertificateRequired => "it wants a client certificate, and we showed none",
        AlertDescription::NoApplicationProtocol => "it speaks none of the protocols that we offered (ALPN)",
        AlertDescription::UserCanceled => "it gave up",
        _ => return format!("alert {alert:?}"),
    };
    format!("alert {alert:?}: {meaning}")
}
