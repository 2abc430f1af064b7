//! What a proxy says of the client's TLS (section 2.2.6).

use super::tlvs;

/// The TLS between a client and its proxy, as the proxy tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SslInfo<'a> {
    client: u8,
    verify: u32,
    tlvs: &'a [u8],
}

const USES_TLS: u8 = 1;
const CERTIFICATE_IN_CONNECTION: u8 = 2;
const CERTIFICATE_IN_SESSION: u8 = 4;

const VERSION: u8 = 0x21;
const COMMON_NAME: u8 = 0x22;
const CIPHER: u8 = 0x23;
const SIGNATURE_ALGORITHM: u8 = 0x24;
const KEY_ALGORITHM: u8 = 0x25;

impl<'a> SslInfo<'a> {
    pub(super) fn parse(value: &'a [u8]) -> Option<Self> {
        let (&[client, ref verify @ ..], tlvs) = value.split_first_chunk::<5>()?;
        let mut rest = tlvs;
        while !rest.is_empty() {
            (_, _, rest) = tlvs::split_first(rest)?;
        }
        Some(SslInfo { client, verify: u32::from_be_bytes(*verify), tlvs })
    }

    /// Whether the client uses TLS.
    pub fn uses_tls(&self) -> bool {
        self.client & USES_TLS != 0
    }

    /// Whether the client has shown a certificate on this connection.
    pub fn has_certificate(&self) -> bool {
        self.client & CERTIFICATE_IN_CONNECTION != 0
    }

    /// Whether the client has shown a certificate in this session of TLS, on this connection or one before it.
    pub fn has_certificate_in_session(&self) -> bool {
        self.client & CERTIFICATE_IN_SESSION != 0
    }

    /// Whether the client has shown a certificate, and the proxy has found it to be good.
    pub fn is_verified(&self) -> bool {
        // Some proxies send a zero where there is no certificate.
        self.verify == 0 && (self.has_certificate() || self.has_certificate_in_session())
    }

    /// The version of TLS: `TLSv1.3`.
    pub fn version(&self) -> Option<&'a str> {
        self.text(VERSION)
    }

    /// The common name in the client's certificate.
    pub fn common_name(&self) -> Option<&'a str> {
        self.text(COMMON_NAME)
    }

    /// The cipher suite: `ECDHE-RSA-AES128-GCM-SHA256`.
    pub fn cipher(&self) -> Option<&'a str> {
        self.text(CIPHER)
    }

    /// With what the proxy's certificate is signed: `RSA-SHA256`.
    pub fn signature_algorithm(&self) -> Option<&'a str> {
        self.text(SIGNATURE_ALGORITHM)
    }

    /// The key of the proxy's certificate: `RSA2048`.
    pub fn key_algorithm(&self) -> Option<&'a str> {
        self.text(KEY_ALGORITHM)
    }

    /// All of them, each with its kind, as they were sent.
    pub fn tlvs(&self) -> impl Iterator<Item = (u8, &'a [u8])> {
        tlvs::iter(self.tlvs)
    }

    /// `None` where it is missing, or no text.
    fn text(&self, kind: u8) -> Option<&'a str> {
        let (_, value) = self.tlvs().find(|(other, _)| *other == kind)?;
        str::from_utf8(value).ok()
    }
}
