//! Leaves decrypted data where it was decrypted.
//!
//! rustls decrypts a record in the memory that it is shown, but then copies the data out of it, and its user copies it
//! a second time. The cipher suites here are those of aws-lc with one difference: [`during`] a call, of a record of data,
//! rustls is given the first byte only, and where all of it lies is remembered. All else (handshakes, alerts, counting,
//! the state machine) rustls does as ever: data counts when rustls hands out that byte. Whoever uses the suites without
//! `during` sees no difference.

use rustls::crypto::CryptoProvider;
use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, KeyBlockShape, MessageDecrypter,
    MessageEncrypter, Tls12AeadAlgorithm, Tls13AeadAlgorithm, UnsupportedOperationError,
};
use rustls::{
    CipherSuiteCommon, ConnectionTrafficSecrets, ContentType, Error, SupportedCipherSuite, Tls12CipherSuite,
    Tls13CipherSuite,
};
use std::cell::Cell;
use std::ops::Range;
use std::sync::OnceLock;

thread_local! {
    static LEAVING: Cell<Leave> = const { Cell::new(Leave::No) };
}

/// Whether data is left in its place.
#[derive(Clone, Copy)]
enum Leave {
    No,
    Next,
    /// It was: its address and length.
    Left(usize, usize),
}

/// Runs a call in which rustls decrypts a record in `memory`; tells where in it the data lies, if it was left there.
pub(crate) fn during<R>(memory: Range<*const u8>, call: impl FnOnce() -> R) -> (R, Option<Range<usize>>) {
    /// Also when the call panics.
    struct Ends;
    impl Drop for Ends {
        fn drop(&mut self) {
            LEAVING.set(Leave::No);
        }
    }
    let _ends = Ends;
    LEAVING.set(Leave::Next);
    let result = call();
    let Leave::Left(address, len) = LEAVING.get() else { return (result, None) };
    let start = address.checked_sub(memory.start.addr());
    let left = start.filter(|_| address + len <= memory.end.addr()).map(|start| start..start + len);
    (result, left)
}

/// The provider, with cipher suites that leave data in its place.
pub(crate) fn provider(provider: CryptoProvider) -> CryptoProvider {
    static SUITES: OnceLock<Vec<SupportedCipherSuite>> = OnceLock::new();
    let suites = SUITES.get_or_init(|| provider.cipher_suites.iter().map(leaving).collect());
    CryptoProvider { cipher_suites: suites.clone(), ..provider }
}

/// Leaked: rustls wants suites that live for ever, and there is one of each.
fn leaving(suite: &SupportedCipherSuite) -> SupportedCipherSuite {
    let common = |common: &CipherSuiteCommon| CipherSuiteCommon {
        suite: common.suite,
        hash_provider: common.hash_provider,
        confidentiality_limit: common.confidentiality_limit,
    };
    match *suite {
        SupportedCipherSuite::Tls13(suite) => {
            SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
                common: common(&suite.common),
                aead_alg: Box::leak(Box::new(Leaving(suite.aead_alg))),
                ..*suite
            })))
        }
        SupportedCipherSuite::Tls12(suite) => {
            SupportedCipherSuite::Tls12(Box::leak(Box::new(Tls12CipherSuite {
                common: common(&suite.common),
                aead_alg: Box::leak(Box::new(Leaving(suite.aead_alg))),
                ..*suite
            })))
        }
    }
}

/// An algorithm, or its decrypter, that leaves data in its place.
struct Leaving<A>(A);

impl MessageDecrypter for Leaving<Box<dyn MessageDecrypter>> {
    fn decrypt<'a>(
        &mut self,
        msg: InboundOpaqueMessage<'a>,
        seq: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let mut plain = self.0.decrypt(msg, seq)?;
        // Empty records are left to rustls, which counts them: there may not be too many.
        if let Leave::Next = LEAVING.get()
            && plain.typ == ContentType::ApplicationData
            && !plain.payload.is_empty()
        {
            LEAVING.set(Leave::Left(plain.payload.as_ptr().addr(), plain.payload.len()));
            plain.payload = &plain.payload[..1];
        }
        Ok(plain)
    }
}

impl Tls13AeadAlgorithm for Leaving<&'static dyn Tls13AeadAlgorithm> {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        self.0.encrypter(key, iv)
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        Box::new(Leaving(self.0.decrypter(key, iv)))
    }

    fn key_len(&self) -> usize {
        self.0.key_len()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.0.extract_keys(key, iv)
    }

    fn fips(&self) -> bool {
        self.0.fips()
    }
}

impl Tls12AeadAlgorithm for Leaving<&'static dyn Tls12AeadAlgorithm> {
    fn encrypter(&self, key: AeadKey, iv: &[u8], extra: &[u8]) -> Box<dyn MessageEncrypter> {
        self.0.encrypter(key, iv, extra)
    }

    fn decrypter(&self, key: AeadKey, iv: &[u8]) -> Box<dyn MessageDecrypter> {
        Box::new(Leaving(self.0.decrypter(key, iv)))
    }

    fn key_block_shape(&self) -> KeyBlockShape {
        self.0.key_block_shape()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: &[u8],
        explicit: &[u8],
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.0.extract_keys(key, iv, explicit)
    }

    fn fips(&self) -> bool {
        self.0.fips()
    }
}
