//! TLS towards the server: its options, and what connections are made with.

use clap::Args;
use perihelion::prelude::*;
use perihelion::tls::rustls::client::Resumption;
use perihelion::tls::{ClientTls, ConfigError, Tls};
use std::path::PathBuf;
use std::sync::Arc;

/// The options that need TLS.
#[derive(Args)]
#[command(next_help_heading = "TLS")]
pub(crate) struct TlsArguments {
    /// Trusts the authorities in this PEM file, and no others. Without it, those that this machine trusts.
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    ca: Option<PathBuf>,
    /// Trusts every server, whatever certificate it shows.
    #[arg(long)]
    insecure: bool,
    /// The name that is asked for, and that the server's certificate must be for; by default the host of the target.
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// Makes every handshake a full one. By default a connection resumes the session of the one before it, if the
    /// server gives tickets.
    #[arg(long)]
    no_resumption: bool,
    /// The certificate to show to a server that asks for one, with its chain, a PEM file.
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The private key of that certificate, a PEM file.
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// The protocols to offer (ALPN), the best first: h2,http/1.1.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    alpn: Vec<String>,
}

/// What connections are secured with.
#[derive(Clone)]
pub(crate) struct Security {
    tls: ClientTls,
    server_name: String,
    resumes: bool,
}

impl TlsArguments {
    /// What the options say of a server on this host. Reads the files.
    pub(crate) fn load(&self, host: &str) -> Result<Security> {
        let mut builder = ClientTls::builder().alpn(self.alpn.clone());
        if let Some(authorities) = &self.ca {
            builder = builder.roots(authorities);
        }
        if self.insecure {
            builder = builder.danger_accept_any_certificate();
        }
        if let (Some(certificate), Some(key)) = (&self.cert, &self.key) {
            builder = builder.certificate(certificate, key);
        }
        let tls = builder.build().map_err(|error| match error {
            ConfigError::NoPlatformRoots { cause } => Error::msg(format!(
                "this machine's list of certificate authorities can't be used: {cause}; name a file with --ca"
            )),
            error => error.into(),
        })?;
        self.with(tls, self.server_name.as_deref().unwrap_or(host))
    }

    /// The same for a client that has been made already.
    pub(crate) fn with(&self, tls: ClientTls, server_name: &str) -> Result<Security> {
        tls.connect(server_name)?; // so that it can't fail later
        Ok(Security { tls, server_name: server_name.into(), resumes: !self.no_resumption })
    }

    /// An option that was given.
    pub(crate) fn any(&self) -> Option<&'static str> {
        let options = [
            ("--ca", self.ca.is_some()),
            ("--insecure", self.insecure),
            ("--server-name", self.server_name.is_some()),
            ("--no-resumption", self.no_resumption),
            ("--cert", self.cert.is_some()),
            ("--alpn", !self.alpn.is_empty()),
        ];
        options.into_iter().find(|(_, given)| *given).map(|(name, _)| name)
    }
}

impl Security {
    /// The same with sessions of its own, for connections that follow one another: each resumes the one before. If all
    /// had them in common, connections that open at the same time would compete for the few tickets that rustls keeps
    /// of a server, and whether one resumes would be chance.
    pub(crate) fn with_own_sessions(&self) -> Self {
        let mut config = (**self.tls.config()).clone();
        config.resumption =
            if self.resumes { Resumption::in_memory_sessions(1) } else { Resumption::disabled() };
        Security { tls: ClientTls::from_rustls(Arc::new(config)), ..self.clone() }
    }

    /// The stage of a new connection.
    pub(crate) fn stage(&self) -> Tls {
        self.tls.connect(&self.server_name).expect("the name has been tried")
    }
}
