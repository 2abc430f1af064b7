//! TLS for clients.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, KeyLogFile};
use webpki::EndEntityCert;

use crate::certificates::CertificateFiles;
use crate::client_certificates::{load_roots, refused};
use crate::files::Files;
use crate::provider::{TLS12_OR_NEWER, TLS13_ONLY, Versions, check_protocols, provider};
use crate::verify::{Others, Verifier};
use crate::{ConfigError, HandshakeLimits};

/// Whom a client trusts, and what it shows of itself. A clone is the same one: it has the sessions in common that can
/// be resumed.
///
/// ```no_run
/// # use perihelion_tls::ClientTls;
/// let tls = ClientTls::builder().roots("/etc/tls/our-authority.pem").alpn(["h2"]).build()?;
/// # Ok::<(), perihelion_tls::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    limits: HandshakeLimits,
}

/// Builds a [`ClientTls`]. Files are read in the end, by [`build`](ClientTlsBuilder::build).
///
/// A server is verified by the authorities that this machine trusts, unless it is said otherwise:
///
/// | called | trusted are |
/// |---|---|
/// | nothing | the machine's authorities |
/// | [`roots`](ClientTlsBuilder::roots) | those authorities only |
/// | [`trust_certificate`](ClientTlsBuilder::trust_certificate) | those servers only |
/// | both | the servers, and those authorities |
///
/// A [`pin`](ClientTlsBuilder::pin) is one more demand on top of that.
#[must_use]
pub struct ClientTlsBuilder {
    roots: Vec<PathBuf>,
    trusted: Vec<PathBuf>,
    accepts_any: bool,
    pins: Vec<[u8; 32]>,
    revocation_lists: Vec<PathBuf>,
    certificate: Option<CertificateFiles>,
    protocols: Vec<Vec<u8>>,
    versions: Versions,
    resumes: bool,
    logs_keys: bool,
    limits: HandshakeLimits,
}

impl ClientTls {
    /// Trusts the authorities that this machine trusts.
    ///
    /// # Errors
    /// It has no list of them.
    pub fn new() -> Result<Self, ConfigError> {
        ClientTls::builder().build()
    }

    /// Begins a configuration.
    pub fn builder() -> ClientTlsBuilder {
        ClientTlsBuilder {
            roots: Vec::new(),
            trusted: Vec::new(),
            accepts_any: false,
            pins: Vec::new(),
            revocation_lists: Vec::new(),
            certificate: None,
            protocols: Vec::new(),
            versions: TLS12_OR_NEWER,
            resumes: true,
            logs_keys: false,
            limits: HandshakeLimits::default(),
        }
    }

    /// Takes a configuration as it is.
    pub fn from_rustls(config: Arc<ClientConfig>) -> Self {
        ClientTls { config, limits: HandshakeLimits::default() }
    }

    /// The configuration.
    pub fn config(&self) -> &Arc<ClientConfig> {
        &self.config
    }

    pub(crate) fn limits(&self) -> HandshakeLimits {
        self.limits
    }
}

impl ClientTlsBuilder {
    /// A file of authorities in PEM, which are trusted instead of the machine's. May be called more than once.
    pub fn roots(mut self, file: impl AsRef<Path>) -> Self {
        self.roots.push(file.as_ref().to_owned());
        self
    }

    /// Trusts a server that has exactly this certificate, for instance one that it signed itself: the file has it in
    /// PEM. Neither the names nor the times in it are looked at, but the server has to have the key. May be called more
    /// than once. Others are refused then, unless there are [`roots`](ClientTlsBuilder::roots) too.
    pub fn trust_certificate(mut self, file: impl AsRef<Path>) -> Self {
        self.trusted.push(file.as_ref().to_owned());
        self
    }

    /// Refuses a server whose key is not this one, even if it is trusted otherwise. The pin is the SHA-256 of the
    /// SubjectPublicKeyInfo in the server's own certificate (RFC 7469), which stays the same when the certificate is
    /// renewed with the same key. May be called more than once: one pin has to fit. Pin the next key beforehand.
    ///
    /// ```text
    /// openssl x509 -in server.pem -noout -pubkey | openssl pkey -pubin -outform der | openssl dgst -sha256
    /// ```
    pub fn pin(mut self, sha256: [u8; 32]) -> Self {
        self.pins.push(sha256);
        self
    }

    /// A file of revocation lists in PEM, for the [`roots`](ClientTlsBuilder::roots) that were named. As soon as there
    /// is one, each authority up to the root has to have a list that is not out of date: a certificate of which nothing
    /// is known is refused.
    pub fn revocation_list(mut self, file: impl AsRef<Path>) -> Self {
        self.revocation_lists.push(file.as_ref().to_owned());
        self
    }

    /// The certificate that is shown to servers which ask for one, followed by those that signed it except the root,
    /// and its private key, both in PEM.
    pub fn certificate(mut self, chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Self {
        self.certificate = Some(CertificateFiles::new(chain, key));
        self
    }

    /// The protocols that are offered, by their names for ALPN (`h2`), the preferred first.
    pub fn alpn<I>(mut self, protocols: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<Vec<u8>>,
    {
        self.protocols = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// Each connection is a full handshake. Otherwise the sessions of the last 256 servers are remembered.
    pub fn without_resumption(mut self) -> Self {
        self.resumes = false;
        self
    }

    /// How long a handshake may take; 10 seconds by default.
    pub fn handshake_timeout(mut self, time: Duration) -> Self {
        self.limits.time = time;
        self
    }

    /// How many bytes a server may send until the handshake is done; 128 KiB by default.
    pub fn handshake_bytes_max(mut self, bytes: usize) -> Self {
        self.limits.bytes = bytes;
        self
    }

    /// Refuses TLS 1.2.
    pub fn tls13_only(mut self) -> Self {
        self.versions = TLS13_ONLY;
        self
    }

    /// Writes the keys of all connections to the file that the environment variable `SSLKEYLOGFILE` names, for
    /// Wireshark. Without the variable nothing is written.
    ///
    /// **Dangerous:** whoever has that file can read every connection.
    pub fn key_log(mut self) -> Self {
        self.logs_keys = true;
        self
    }

    /// Trusts every server, whatever certificate it shows. It has to have the key to it, and a
    /// [`pin`](ClientTlsBuilder::pin) still has to fit.
    ///
    /// **Dangerous:** without a pin, whoever is on the way can pose as the server, and read and change everything.
    pub fn danger_accept_any_certificate(mut self) -> Self {
        self.accepts_any = true;
        self
    }

    /// Reads the files.
    ///
    /// # Errors
    /// What is wrong with a file or a protocol's name; or that there are no authorities to trust.
    pub fn build(self) -> Result<ClientTls, ConfigError> {
        let (provider, mut files) = (provider(), Files::default());
        check_protocols(&self.protocols)?;
        let verifier = self.verifier(&provider, &mut files)?;
        let certificate =
            self.certificate.as_ref().map(|certificate| certificate.load(&mut files, &provider));
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(self.versions)
            .map_err(ConfigError::setup)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match certificate.transpose()? {
            Some(certificate) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certificate)))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.protocols;
        if !self.resumes {
            config.resumption = Resumption::disabled();
        }
        if self.logs_keys {
            config.key_log = Arc::new(KeyLogFile::new());
        }
        Ok(ClientTls { config: Arc::new(config), limits: self.limits })
    }

    fn verifier(&self, provider: &Arc<CryptoProvider>, files: &mut Files) -> Result<Verifier, ConfigError> {
        let mut trusted = Vec::new();
        for file in &self.trusted {
            for certificate in files.certificates(file)? {
                EndEntityCert::try_from(&certificate)
                    .map_err(|cause| ConfigError::unparsable(file, cause))?;
                trusted.push(certificate);
            }
        }
        let algorithms = provider.signature_verification_algorithms;
        Ok(Verifier { trusted, others: self.others(provider, files)?, pins: self.pins.clone(), algorithms })
    }

    fn others(&self, provider: &Arc<CryptoProvider>, files: &mut Files) -> Result<Others, ConfigError> {
        if self.roots.is_empty() && !self.revocation_lists.is_empty() {
            return Err(ConfigError::RevocationListWithoutRoots);
        }
        if self.accepts_any {
            return Ok(Others::Accepted);
        }
        let verifier: Arc<dyn ServerCertVerifier> = if !self.roots.is_empty() {
            let roots = load_roots(&self.roots, files, |_| {})?;
            let mut verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone());
            for file in &self.revocation_lists {
                verifier = verifier.with_crls(files.revocation_lists(file)?).enforce_revocation_expiration();
            }
            verifier.build().map_err(refused)?
        } else if self.trusted.is_empty() {
            let verifier = rustls_platform_verifier::Verifier::new(provider.clone());
            Arc::new(verifier.map_err(|cause| ConfigError::NoPlatformRoots { cause })?)
        } else {
            return Ok(Others::Refused);
        };
        Ok(Others::Verified(verifier))
    }
}
