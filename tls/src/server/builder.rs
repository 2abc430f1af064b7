//! What a server's TLS is built from.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::KeyLogFile;

use super::ServerTls;
use super::state::{Source, State};
use crate::certificates::CertificateFiles;
use crate::client_certificates::ClientCertificates;
use crate::files::Files;
use crate::provider::{TLS12_OR_NEWER, TLS13_ONLY};
use crate::{ConfigError, HandshakeLimits};

const TICKETS_DEFAULT: usize = 2;

/// Builds a [`ServerTls`]. Files are read in the end, by [`build`](ServerTlsBuilder::build).
#[must_use]
pub struct ServerTlsBuilder {
    source: Source,
    limits: HandshakeLimits,
}

/// Rules for clients that ask for one name, or for the names of one wildcard. What is not set here is as for the other
/// clients.
#[must_use]
pub struct HostBuilder {
    pub(super) certificates: Vec<CertificateFiles>,
    pub(super) clients: Option<ClientCertificates>,
    pub(super) protocols: Option<Vec<Vec<u8>>>,
}

impl ServerTlsBuilder {
    pub(super) fn new() -> Self {
        let source = Source {
            certificates: Vec::new(),
            rejects_unknown_names: false,
            clients: ClientCertificates::none(),
            protocols: Vec::new(),
            hosts: Vec::new(),
            versions: TLS12_OR_NEWER,
            tickets: TICKETS_DEFAULT,
            key_log: None,
        };
        ServerTlsBuilder { source, limits: HandshakeLimits::default() }
    }

    /// A certificate, followed by those that signed it except the root, and its private key, both in PEM. May be
    /// called more than once: a client gets one for the name that it asks for, by the subjectAltName, where
    /// `*.example.org` is for names with one label more than `example.org`. Of several for a name (RSA and ECDSA), it
    /// gets the first that it can verify.
    ///
    /// The first certificate is also the default one: for clients that name no host, or one that no certificate is
    /// for.
    pub fn certificate(mut self, chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Self {
        self.source.certificates.push(CertificateFiles::new(chain, key));
        self
    }

    /// As [`certificate`](ServerTlsBuilder::certificate), with the answer of the authority that it is not revoked, in
    /// DER, to be passed on to clients. It has to be fetched, and reloaded, before it runs out.
    pub fn certificate_with_ocsp(
        mut self,
        chain: impl AsRef<Path>,
        key: impl AsRef<Path>,
        response: impl AsRef<Path>,
    ) -> Self {
        self.source.certificates.push(CertificateFiles::new(chain, key).with_ocsp(response));
        self
    }

    /// Refuses clients that ask for a name which neither a certificate nor a [`host`](ServerTlsBuilder::host) is for,
    /// with the alert `unrecognized_name`. A client that names none still gets the default certificate.
    pub fn reject_unknown_names(mut self) -> Self {
        self.source.rejects_unknown_names = true;
        self
    }

    /// Whether clients have to show certificates. They are not asked by default.
    pub fn client_certificates(mut self, how: ClientCertificates) -> Self {
        self.source.clients = how;
        self
    }

    /// The protocols that are spoken here, by their names for ALPN (`h2`), the preferred first. A client that offers
    /// others only is refused; one that offers none is not.
    pub fn alpn<I>(mut self, protocols: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<Vec<u8>>,
    {
        self.source.protocols = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// Rules of its own for a name, or for all names of a wildcard like `*.example.org` that have none themselves.
    ///
    /// What a client asks for inside of TLS may be another host than it named outside. Where hosts have different
    /// rules for client certificates, compare the two.
    pub fn host(mut self, name: &str, rules: impl FnOnce(HostBuilder) -> HostBuilder) -> Self {
        let host = HostBuilder { certificates: Vec::new(), clients: None, protocols: None };
        self.source.hosts.push((name.to_owned(), rules(host)));
        self
    }

    /// How long a handshake may take; 10 seconds by default.
    pub fn handshake_timeout(mut self, time: Duration) -> Self {
        self.limits.time = time;
        self
    }

    /// How many bytes a client may send until the handshake is done; 128 KiB by default.
    pub fn handshake_bytes_max(mut self, bytes: usize) -> Self {
        self.limits.bytes = bytes;
        self
    }

    /// Refuses TLS 1.2.
    pub fn tls13_only(mut self) -> Self {
        self.source.versions = TLS13_ONLY;
        self
    }

    /// How many tickets a client of TLS 1.3 gets after a full handshake, 2 by default. It can resume that many
    /// sessions at once. With none there is no resumption, of TLS 1.2 neither.
    pub fn tickets(mut self, count: usize) -> Self {
        self.source.tickets = count;
        self
    }

    /// Each connection is a full handshake.
    pub fn without_resumption(self) -> Self {
        self.tickets(0)
    }

    /// Writes the keys of all connections to the file that the environment variable `SSLKEYLOGFILE` names, for
    /// Wireshark. Without the variable nothing is written.
    ///
    /// **Dangerous:** whoever has that file can read every connection.
    pub fn key_log(mut self) -> Self {
        self.source.key_log = Some(Arc::new(KeyLogFile::new()));
        self
    }

    /// Reads the files.
    ///
    /// # Errors
    /// What is wrong with a file, a name or a protocol; or that there is no certificate.
    pub fn build(self) -> Result<ServerTls, ConfigError> {
        let mut files = Files::default();
        let state = State::load(&self.source, &mut files, None)?;
        Ok(ServerTls::new(Some(self.source), self.limits, state, files))
    }
}

impl HostBuilder {
    /// A certificate of its own, as in [`ServerTlsBuilder::certificate`]. Then those of the server are not for this
    /// host.
    pub fn certificate(mut self, chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Self {
        self.certificates.push(CertificateFiles::new(chain, key));
        self
    }

    /// As [`certificate`](HostBuilder::certificate), with an answer of the authority as in
    /// [`ServerTlsBuilder::certificate_with_ocsp`].
    pub fn certificate_with_ocsp(
        mut self,
        chain: impl AsRef<Path>,
        key: impl AsRef<Path>,
        response: impl AsRef<Path>,
    ) -> Self {
        self.certificates.push(CertificateFiles::new(chain, key).with_ocsp(response));
        self
    }

    /// Whether clients have to show certificates.
    pub fn client_certificates(mut self, how: ClientCertificates) -> Self {
        self.clients = Some(how);
        self
    }

    /// The protocols that are spoken here, as in [`ServerTlsBuilder::alpn`].
    pub fn alpn<I>(mut self, protocols: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<Vec<u8>>,
    {
        self.protocols = Some(protocols.into_iter().map(Into::into).collect());
        self
    }
}
