//! The options of a client's TLS.

use clap::Args;
use perihelion::prelude::*;
use perihelion::tls::ClientTls;
use std::path::PathBuf;

/// Whom a client trusts, and what it shows of itself.
#[derive(Args)]
pub(crate) struct TlsClientArguments {
    /// Who must have issued the server's certificate, a PEM file. Without it, an authority that this machine trusts.
    #[arg(long)]
    ca: Option<PathBuf>,
    /// The certificate for a server that asks for one, with its chain, a PEM file.
    #[arg(long, requires = "key")]
    cert: Option<PathBuf>,
    /// The certificate's private key, a PEM file.
    #[arg(long, requires = "cert")]
    key: Option<PathBuf>,
}

impl TlsClientArguments {
    /// Reads the files. Blocks meanwhile.
    pub(crate) fn load(&self) -> Result<ClientTls> {
        let mut builder = ClientTls::builder();
        if let Some(authorities) = &self.ca {
            builder = builder.roots(authorities);
        }
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            builder = builder.certificate(cert, key);
        }
        Ok(builder.build()?)
    }
}
