//! What a server asks of its clients.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};

use crate::ConfigError;
use crate::files::Files;
use crate::provider::sha256;

/// Whether clients have to show a certificate, and whose.
///
/// A certificate that is shown has to be signed by an authority that is named here, with intermediates that the client
/// sends, has to be in its time, and must not be revoked. Otherwise the handshake fails, also where a certificate is
/// optional.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificates {
    demand: Demand,
    authorities: Vec<PathBuf>,
    revocation_lists: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Demand {
    None,
    Optional,
    Required,
}

impl ClientCertificates {
    /// Clients are not asked for one.
    pub fn none() -> Self {
        ClientCertificates { demand: Demand::None, authorities: Vec::new(), revocation_lists: Vec::new() }
    }

    /// Clients may come without one. The file has the certificates of the authorities that sign them, in PEM.
    pub fn optional(authorities: impl AsRef<Path>) -> Self {
        ClientCertificates { demand: Demand::Optional, ..ClientCertificates::none() }.authorities(authorities)
    }

    /// Clients without one are refused. The file has the certificates of the authorities that sign them, in PEM.
    pub fn required(authorities: impl AsRef<Path>) -> Self {
        ClientCertificates { demand: Demand::Required, ..ClientCertificates::none() }.authorities(authorities)
    }

    /// One more file of authorities.
    pub fn authorities(mut self, file: impl AsRef<Path>) -> Self {
        self.authorities.push(file.as_ref().to_owned());
        self
    }

    /// A file of revocation lists, in PEM. As soon as there is one, each authority up to the root has to have a list
    /// that is not out of date: a certificate of which nothing is known is refused.
    pub fn revocation_list(mut self, file: impl AsRef<Path>) -> Self {
        self.revocation_lists.push(file.as_ref().to_owned());
        self
    }

    pub(crate) fn load(
        &self,
        files: &mut Files,
        provider: &Arc<CryptoProvider>,
    ) -> Result<ClientRules, ConfigError> {
        if self.demand == Demand::None {
            return Ok(ClientRules { verifier: WebPkiClientVerifier::no_client_auth(), digest: [0; 32] });
        }
        let mut contents = vec![self.demand as u8];
        let roots = load_roots(&self.authorities, files, |root| append(&mut contents, root))?;
        let mut verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
        for file in &self.revocation_lists {
            let lists = files.revocation_lists(file)?;
            lists.iter().for_each(|list| append(&mut contents, list));
            verifier = verifier.with_crls(lists).enforce_revocation_expiration();
        }
        if self.demand == Demand::Optional {
            verifier = verifier.allow_unauthenticated();
        }
        let verifier = verifier.build().map_err(refused)?;
        Ok(ClientRules { verifier, digest: sha256(&contents) })
    }
}

/// Rules with what was in their files.
#[derive(Clone)]
pub(crate) struct ClientRules {
    pub(crate) verifier: Arc<dyn ClientCertVerifier>,
    /// The same only for rules under which the same clients pass.
    pub(crate) digest: [u8; 32],
}

/// All certificates of these files, each of which is shown to the caller too.
pub(crate) fn load_roots(
    paths: &[PathBuf],
    files: &mut Files,
    mut seen: impl FnMut(&[u8]),
) -> Result<Arc<RootCertStore>, ConfigError> {
    let mut roots = RootCertStore::empty();
    for file in paths {
        for certificate in files.certificates(file)? {
            seen(&certificate);
            roots.add(certificate).map_err(|cause| ConfigError::unparsable(file, cause))?;
        }
    }
    Ok(Arc::new(roots))
}

pub(crate) fn refused(cause: VerifierBuilderError) -> ConfigError {
    ConfigError::setup(rustls::Error::General(cause.to_string()))
}

/// With its length, so that no two sequences of contents look the same.
fn append(contents: &mut Vec<u8>, der: &[u8]) {
    contents.extend((der.len() as u64).to_le_bytes());
    contents.extend(der);
}
