//! The options of a server's TLS.

use clap::Args;
use perihelion::prelude::*;
use perihelion::runtime::TlsConfig;
use perihelion::tls::{ClientCertificates, ServerTls, Tls, Watch};
use std::path::PathBuf;
use std::sync::Arc;

/// TLS of a server. Where an address begins with `tls://`, a certificate and its key are needed.
#[derive(Args)]
pub(crate) struct TlsArguments {
    /// The certificate with its chain, a PEM file; it is read again when it changes, and at SIGHUP.
    #[arg(long, requires = "key")]
    cert: Option<PathBuf>,
    /// The certificate's private key, a PEM file.
    #[arg(long, requires = "cert")]
    key: Option<PathBuf>,
    /// Who must have issued the certificates of clients, a PEM file. Without it, clients need none.
    #[arg(long, requires = "cert")]
    client_ca: Option<PathBuf>,
    /// The protocols to offer (ALPN), the best first: h2,http/1.1.
    #[arg(long, value_delimiter = ',', requires = "cert")]
    alpn: Vec<String>,
    /// Serve clients that do without TLS too, on the same port.
    #[arg(long, requires = "cert")]
    optional_tls: bool,
}

/// How a server's connections are secured.
#[derive(Clone)]
pub(crate) struct Security {
    tls: ServerTls,
    optional: bool,
    /// Keep the certificates fresh.
    _watches: Arc<[Watch; 2]>,
}

impl Security {
    /// The stage of a new connection.
    pub(crate) fn stage(&self) -> Tls {
        if self.optional { self.tls.accept_optional() } else { self.tls.accept() }
    }
}

impl TlsArguments {
    /// The server at this address, which may begin with `tls://`.
    pub(crate) fn bind(&self, listen: &str) -> Server {
        Server::bind(listen.strip_prefix("tls://").unwrap_or(listen))
    }

    /// What the options and the address together ask for. `None`: no TLS.
    pub(crate) fn load(&self, listen: &str, config: &TlsConfig) -> Result<Option<Security>> {
        let wanted = listen.starts_with("tls://");
        let (Some(cert), Some(key)) = (&self.cert, &self.key) else {
            return if wanted {
                Err(Error::msg("an address that begins with tls:// needs --cert FILE and --key FILE"))
            } else {
                Ok(None)
            };
        };
        if !wanted {
            return Err(Error::msg("--cert is for TLS: write --listen tls://HOST:PORT"));
        }
        let mut builder = ServerTls::builder()
            .certificate(cert, key)
            .alpn(self.alpn.clone())
            .handshake_timeout(config.handshake())
            .handshake_bytes_max(config.handshake_bytes_max);
        if let Some(authorities) = &self.client_ca {
            builder = builder.client_certificates(ClientCertificates::required(authorities));
        }
        let tls = builder.build()?;
        let _watches = Arc::new([tls.watch(config.reload())?, tls.reload_at_hangup()?]);
        Ok(Some(Security { tls, optional: self.optional_tls, _watches }))
    }
}
