//! Certificates and configurations, made on the spot.

use perihelion_tls::{ClientTls, ServerTls, crypto_provider, rustls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub(crate) const TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
pub(crate) const TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];

/// An authority, and a certificate of `localhost` that it has issued.
pub(crate) struct Keys {
    roots: Arc<RootCertStore>,
    leaf: rcgen::Certificate,
    key: KeyPair,
}

/// Of both kinds in turn: one that leaves data where it is decrypted, and rustls's own.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(if serial().is_multiple_of(2) { crypto_provider() } else { aws_lc_rs::default_provider() })
}

/// Authorities of the same name would pass for one another until a signature is checked.
fn serial() -> usize {
    static SERIAL: AtomicUsize = AtomicUsize::new(0);
    SERIAL.fetch_add(1, Ordering::Relaxed)
}

impl Keys {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, format!("authority {}", serial()));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(["localhost".into()]).unwrap().signed_by(&key, &authority).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        Keys { roots: Arc::new(roots), leaf, key }
    }

    pub(crate) fn server_config(&self, versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.leaf.der().clone()], key)
            .unwrap()
    }

    pub(crate) fn client_config(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(Arc::clone(&self.roots))
            .with_no_client_auth()
    }

    pub(crate) fn server(&self, versions: &[&'static SupportedProtocolVersion]) -> ServerTls {
        ServerTls::from_rustls(Arc::new(self.server_config(versions)))
    }

    pub(crate) fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientTls {
        ClientTls::from_rustls(Arc::new(self.client_config(versions)))
    }
}
