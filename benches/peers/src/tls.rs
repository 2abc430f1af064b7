//! TLS as the project's own server has it: rustls with aws-lc, its order of ciphers, post-quantum
//! key exchange preferred, sessions resumed by tickets.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, Ticketer};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The arguments of a server's certificate.
#[derive(clap::Args)]
pub struct Certificate {
    /// The certificate with its chain, a PEM file.
    #[arg(long, value_name = "FILE")]
    cert: PathBuf,

    /// Its private key, a PEM file.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

impl Certificate {
    /// A server's configuration with this certificate.
    pub fn server_config(&self) -> io::Result<Arc<ServerConfig>> {
        let unusable = |file: &Path, error: pem::Error| {
            io::Error::other(format!("{} can't be used: {error}", file.display()))
        };
        let chain = CertificateDer::pem_file_iter(&self.cert)
            .and_then(Iterator::collect)
            .map_err(|error| unusable(&self.cert, error))?;
        let key =
            PrivateKeyDer::from_pem_file(&self.key).map_err(|error| unusable(&self.key, error))?;
        server_config(chain, key).map_err(io::Error::other)
    }
}

/// The cryptography of both sides.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// A server's configuration.
pub fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.ticketer = Ticketer::new()?;
    Ok(Arc::new(config))
}
