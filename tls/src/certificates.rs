//! The certificates of a server, and which of them a client gets.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use webpki::EndEntityCert;

use crate::ConfigError;
use crate::files::Files;
use crate::names::Names;

/// Where a certificate and its key are.
#[derive(Clone)]
pub(crate) struct CertificateFiles {
    chain: PathBuf,
    key: PathBuf,
    ocsp: Option<PathBuf>,
}

/// Certificates by the names that they are for.
pub(crate) struct Certificates {
    by_name: Names<Vec<Arc<CertifiedKey>>>,
    /// The first, and others for names that it is for too.
    default: Vec<Arc<CertifiedKey>>,
}

/// Chooses a certificate for a client.
pub(crate) struct Resolver {
    pub(crate) certificates: Arc<Certificates>,
    /// A client that asks for another name gets none, instead of the default one.
    pub(crate) rejects_unknown_names: bool,
}

impl CertificateFiles {
    pub(crate) fn new(chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Self {
        CertificateFiles { chain: chain.as_ref().to_owned(), key: key.as_ref().to_owned(), ocsp: None }
    }

    pub(crate) fn with_ocsp(self, file: impl AsRef<Path>) -> Self {
        CertificateFiles { ocsp: Some(file.as_ref().to_owned()), ..self }
    }

    pub(crate) fn load(
        &self,
        files: &mut Files,
        provider: &CryptoProvider,
    ) -> Result<CertifiedKey, ConfigError> {
        let chain = files.certificates(&self.chain)?;
        for certificate in &chain {
            use webpki::Error::{UnsupportedCertVersion, UnsupportedCriticalExtension};
            match EndEntityCert::try_from(certificate) {
                // A root may be of an older version, and an extension is for the clients to judge.
                Ok(_) | Err(UnsupportedCertVersion | UnsupportedCriticalExtension) => {}
                Err(cause) => return Err(ConfigError::unparsable(&self.chain, cause)),
            }
        }
        let key = provider.key_provider.load_private_key(files.private_key(&self.key)?);
        let unusable =
            |cause: Error| ConfigError::UnusableKey { file: self.key.clone(), cause: cause.to_string() };
        let key = key.map_err(unusable)?;
        let mut certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Ok(()) => {}
            Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                return Err(ConfigError::KeyMismatch { chain: self.chain.clone(), key: self.key.clone() });
            }
            Err(cause) => return Err(ConfigError::unparsable(&self.chain, cause)),
        }
        certified.ocsp = self.ocsp.as_deref().map(|file| load_ocsp(file, files)).transpose()?;
        Ok(certified)
    }
}

impl Certificates {
    /// The first is the default one.
    pub(crate) fn load(
        paths: &[CertificateFiles],
        files: &mut Files,
        provider: &CryptoProvider,
    ) -> Result<Self, ConfigError> {
        let mut by_name = Names::new();
        let mut default: Vec<Arc<CertifiedKey>> = Vec::new();
        let mut default_names = Vec::new();
        for path in paths {
            let certified = Arc::new(path.load(files, provider)?);
            let names = dns_names(&certified);
            for name in &names {
                if let Some(entry) = by_name.entry(name) {
                    entry.or_insert_with(Vec::new).push(certified.clone());
                }
            }
            if default.is_empty() {
                default_names.clone_from(&names);
                default.push(certified);
            } else if names.iter().any(|name| default_names.contains(name)) {
                default.push(certified);
            } else if names.is_empty() {
                tracing::warn!(file = %path.chain.display(), "a certificate for no DNS name is never chosen");
            }
        }
        Ok(Certificates { by_name, default })
    }

    /// Whether there is one for this name.
    pub(crate) fn are_for(&self, name: &str) -> bool {
        self.by_name.find(name).next().is_some()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let Certificates { by_name, default } = &*self.certificates;
        let named = hello
            .server_name()
            .filter(|name| self.rejects_unknown_names || by_name.find(name).next().is_some());
        let candidates: Vec<_> = match named {
            Some(name) => by_name.find(name).flatten().collect(),
            None => default.iter().collect(),
        };
        let signs = |certified: &&&Arc<CertifiedKey>| {
            certified.key.choose_scheme(hello.signature_schemes()).is_some()
        };
        // If none can sign, rustls says so to the client better than a missing certificate would.
        candidates.iter().find(signs).or(candidates.first()).map(|certified| Arc::clone(certified))
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

/// In lower case, of the subjectAltName.
fn dns_names(certified: &CertifiedKey) -> Vec<String> {
    let certificate = certified.cert.first().and_then(|der| EndEntityCert::try_from(der).ok());
    certificate
        .iter()
        .flat_map(|certificate| certificate.valid_dns_names())
        .map(str::to_ascii_lowercase)
        .collect()
}

/// It is passed on as it is: the client looks into it.
fn load_ocsp(file: &Path, files: &mut Files) -> Result<Vec<u8>, ConfigError> {
    const SEQUENCE: u8 = 0x30;
    let response = files.read(file)?;
    if response.first() != Some(&SEQUENCE) {
        return Err(ConfigError::NoOcspResponse { file: file.to_owned() });
    }
    Ok(response)
}
