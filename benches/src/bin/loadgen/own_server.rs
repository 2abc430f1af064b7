//! The echo server of `--self`.

use perihelion::prelude::*;
use perihelion::tls::rustls::crypto::aws_lc_rs::{self, Ticketer};
use perihelion::tls::rustls::pki_types::PrivatePkcs8KeyDer;
use perihelion::tls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use perihelion::tls::{ClientTls, ServerTls};
use std::sync::Arc;

use crate::arguments::Framing;

/// The name that its certificate is for.
pub(crate) const NAME: &str = "localhost";

/// It serves until it is stopped.
pub(crate) struct OwnServer {
    runtime: Runtime,
    server: RunningServer,
}

impl OwnServer {
    pub(crate) fn start(
        config: Config,
        framing: Framing,
        size: usize,
        tls: Option<ServerTls>,
    ) -> Result<Self> {
        let runtime = Runtime::from_config(config)?;
        let server = match framing {
            Framing::Raw => serve(&runtime, tls, || codec(Raw).service(async |bytes: Bytes| Ok(bytes)))?,
            Framing::Length => serve(&runtime, tls, move || {
                codec(LengthPrefixed::u32_be(size)).service(async |frame: Bytes| Ok(frame))
            })?,
        };
        Ok(OwnServer { runtime, server })
    }

    pub(crate) fn address(&self) -> Address {
        self.server.address()
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    pub(crate) fn stop(self) {
        self.server.stop(self.runtime.config().channel.drain());
    }
}

fn serve<P>(
    runtime: &Runtime,
    tls: Option<ServerTls>,
    pipeline: impl Fn() -> P + Clone + Send + Sync + 'static,
) -> Result<RunningServer>
where
    P: Pipeline<In = Bytes, Out = Bytes> + 'static,
{
    let bind = Server::bind("127.0.0.1:0");
    let server = match tls {
        Some(tls) => bind.pipeline(move |_conn| codec(tls.accept()).pipeline(pipeline())),
        None => bind.pipeline(move |_conn| pipeline()),
    };
    Ok(server.start(runtime)?)
}

/// Both sides of TLS with a certificate that is made for this run, signs itself, and never leaves memory.
pub(crate) fn throw_away_tls() -> Result<(ServerTls, ClientTls)> {
    let made = rcgen::generate_simple_self_signed([NAME.into()])?;
    let certificate = made.cert.der();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.into())?;
    server.ticketer = Ticketer::new()?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone())?;
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok((ServerTls::from_rustls(Arc::new(server)), ClientTls::from_rustls(Arc::new(client))))
}
