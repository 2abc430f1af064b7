//! How a client verifies a server.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::provider::sha256;

/// The server's public key is none of those that were pinned. It is what a
/// [`CertificateError::Other`] of rustls holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinMismatch {
    /// The SHA-256 of the SubjectPublicKeyInfo that the server has.
    pub sha256: [u8; 32],
}

/// Verifies in three steps: the certificate, its key against the pins, and, whatever it is, that the server has the
/// private key to it.
#[derive(Debug)]
pub(crate) struct Verifier {
    /// Servers with exactly these certificates are trusted.
    pub(crate) trusted: Vec<CertificateDer<'static>>,
    pub(crate) others: Others,
    /// One of these has to be the server's key, unless there are none.
    pub(crate) pins: Vec<[u8; 32]>,
    pub(crate) algorithms: WebPkiSupportedAlgorithms,
}

/// What becomes of other certificates than those that are trusted.
#[derive(Debug)]
pub(crate) enum Others {
    Refused,
    Verified(Arc<dyn ServerCertVerifier>),
    Accepted,
}

impl Verifier {
    fn check_pins(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        if self.pins.is_empty() {
            return Ok(());
        }
        let sha256 = sha256(&ParsedCertificate::try_from(certificate)?.subject_public_key_info());
        if self.pins.contains(&sha256) {
            return Ok(());
        }
        Err(CertificateError::Other(OtherError(Arc::new(PinMismatch { sha256 }))).into())
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.trusted.contains(end_entity) {
            match &self.others {
                Others::Refused => return Err(CertificateError::UnknownIssuer.into()),
                Others::Verified(verifier) => {
                    verifier.verify_server_cert(
                        end_entity,
                        intermediates,
                        server_name,
                        ocsp_response,
                        now,
                    )?;
                }
                Others::Accepted => {}
            }
        }
        self.check_pins(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl fmt::Display for PinMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server's public key is not pinned: the SHA-256 of its SubjectPublicKeyInfo is ")?;
        self.sha256.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::error::Error for PinMismatch {}
