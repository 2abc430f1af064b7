//! The cryptography. It is always named, so that a default of the process that somebody else sets changes nothing.

use std::sync::Arc;

use rustls::SupportedProtocolVersion;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite};

use crate::{ConfigError, in_place};

/// The versions of TLS that may be negotiated.
pub(crate) type Versions = &'static [&'static SupportedProtocolVersion];

pub(crate) const TLS12_OR_NEWER: Versions = rustls::ALL_VERSIONS;
pub(crate) const TLS13_ONLY: Versions = &[&rustls::version::TLS13];

/// The cryptography of this crate: that of aws-lc, with cipher suites that let a connection decrypt data in the memory in
/// which it came. For configurations that are made with rustls's own builders: with other cryptography, data is copied
/// twice more.
pub fn crypto_provider() -> CryptoProvider {
    in_place::provider(aws_lc_rs::default_provider())
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(crypto_provider())
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let suite = cipher_suite::TLS13_AES_128_GCM_SHA256.tls13().expect("a suite of TLS 1.3");
    suite.common.hash_provider.hash(bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Names of protocols for ALPN, as rustls wants them.
pub(crate) fn check_protocols(protocols: &[Vec<u8>]) -> Result<(), ConfigError> {
    match protocols.iter().find(|name| name.is_empty() || name.len() > usize::from(u8::MAX)) {
        Some(name) => Err(ConfigError::Protocol { name: name.clone() }),
        None => Ok(()),
    }
}
