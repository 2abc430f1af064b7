//! What can be wrong with a configuration: each error names the file, the cause and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

/// Why a configuration of TLS can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A file that can't be read.
    #[error("{file}: {cause}{remedy}")]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the operating system said.
        cause: io::Error,
        /// What to do about it; may be empty.
        remedy: &'static str,
    },
    /// A file with something in it that is not what it should be, or is cut short.
    #[error("{file} can't be understood: {cause}; is the file whole, and in the format PEM?")]
    Unparsable {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// A file without a certificate.
    #[error(
        "{file} has no certificate in it: there has to be a line -----BEGIN CERTIFICATE-----; if it is DER, convert \
         it with: openssl x509 -inform der -in {file} -out certificate.pem"
    )]
    NoCertificate {
        /// The file.
        file: PathBuf,
    },
    /// A file without a private key.
    #[error(
        "{file} has no private key in it: there has to be a line -----BEGIN PRIVATE KEY-----; if it is DER, convert \
         it with: openssl pkey -inform der -in {file} -out key.pem"
    )]
    NoPrivateKey {
        /// The file.
        file: PathBuf,
    },
    /// A private key that a passphrase protects.
    #[error("the private key in {file} is encrypted; decrypt it with: openssl pkey -in {file} -out key.pem")]
    EncryptedKey {
        /// The file.
        file: PathBuf,
    },
    /// A private key that is damaged, or of a kind that can't be used.
    #[error(
        "the private key in {file} can't be used: {cause}; it has to be RSA with 2048 to 8192 bits, ECDSA on P-256, \
         P-384 or P-521, or Ed25519"
    )]
    UnusableKey {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// A private key that belongs to another certificate.
    #[error(
        "the private key in {key} does not belong to the first certificate in {chain}; the certificate of this \
         server or client comes first, then those that signed it"
    )]
    KeyMismatch {
        /// The file of the certificates.
        chain: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
    /// A file that is no OCSP response.
    #[error("{file} is no OCSP response in the format DER; openssl ocsp -respout writes one")]
    NoOcspResponse {
        /// The file.
        file: PathBuf,
    },
    /// A file without a revocation list.
    #[error(
        "{file} has no revocation list in it: there has to be a line -----BEGIN X509 CRL-----; if it is DER, convert \
         it with: openssl crl -inform der -in {file} -out crl.pem"
    )]
    NoRevocationList {
        /// The file.
        file: PathBuf,
    },
    /// A server without a certificate.
    #[error("a server needs a certificate: call ServerTlsBuilder::certificate")]
    NoCertificateGiven,
    /// A host's name that no client can ask for, or that is given twice.
    #[error("host {name:?}: {cause}")]
    Host {
        /// The name.
        name: String,
        /// What is wrong with it.
        cause: &'static str,
    },
    /// A protocol's name for ALPN that is empty or too long.
    #[error("the name of a protocol for ALPN has 1 to 255 bytes, not {}: {:?}", .name.len(), .name.escape_ascii().to_string())]
    Protocol {
        /// The name.
        name: Vec<u8>,
    },
    /// A configuration that did not come from files can't be read again.
    #[error(
        "ServerTls::from_rustls was given this configuration, and there are no files to read it from again; make a \
         new ServerTls, or use ServerTls::builder"
    )]
    NotFromFiles,
    /// No certificate of an authority was found on this machine.
    #[error(
        "this machine's list of certificate authorities can't be used: {cause}; install the package ca-certificates, \
         or name a file with ClientTlsBuilder::roots"
    )]
    NoPlatformRoots {
        /// What is wrong.
        cause: rustls::Error,
    },
    /// A revocation list for the authorities that the platform knows.
    #[error(
        "a revocation list needs the certificates of the authorities that sign it: name them with \
         ClientTlsBuilder::roots"
    )]
    RevocationListWithoutRoots,
    /// TLS refuses what was put together.
    #[error("TLS can't be set up: {cause}")]
    Setup {
        /// What is wrong.
        cause: rustls::Error,
    },
}

impl ConfigError {
    pub(crate) fn unreadable(file: &Path, cause: io::Error) -> Self {
        let remedy = match cause.kind() {
            io::ErrorKind::NotFound => "; a path that is not absolute begins in the working directory",
            io::ErrorKind::PermissionDenied => "; allow the user that runs this program to read it",
            _ => "",
        };
        ConfigError::Unreadable { file: file.to_owned(), cause, remedy }
    }

    pub(crate) fn unparsable(file: &Path, cause: impl ToString) -> Self {
        ConfigError::Unparsable { file: file.to_owned(), cause: cause.to_string() }
    }

    pub(crate) fn setup(cause: rustls::Error) -> Self {
        ConfigError::Setup { cause }
    }
}
