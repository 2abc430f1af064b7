//! What a header of version 2 says beside addresses: kinds, lengths and values.

use bytes::BufMut;

use super::SslInfo;
use super::header::InvalidHeader;

/// The kinds of TLVs that are registered. Others are kept, too.
pub mod kind {
    /// The protocol above TLS (ALPN).
    pub const ALPN: u8 = 0x01;
    /// The name of the host that the client has asked for, in UTF-8.
    pub const AUTHORITY: u8 = 0x02;
    /// The checksum of the header.
    pub const CRC32C: u8 = 0x03;
    /// Filling.
    pub const NOOP: u8 = 0x04;
    /// What the proxy calls the connection: up to 128 bytes.
    pub const UNIQUE_ID: u8 = 0x05;
    /// The TLS between the client and the proxy.
    pub const SSL: u8 = 0x20;
    /// The name of the network namespace.
    pub const NETNS: u8 = 0x30;
}

/// A kind and a length.
pub(super) const TLV_BYTES_MIN: usize = 3;
const UNIQUE_ID_BYTES_MAX: usize = 128;

/// TLVs as they are sent, each of them whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tlvs(Vec<u8>);

impl Tlvs {
    pub(super) fn push(&mut self, kind: u8, value: &[u8]) -> Result<(), InvalidHeader> {
        if !is_valid(kind, value) {
            return Err(InvalidHeader::Tlv(kind));
        }
        let length = value.len().try_into().map_err(|_| InvalidHeader::TooLong)?;
        self.0.put_u8(kind);
        self.0.put_u16(length);
        self.0.put_slice(value);
        Ok(())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u8, &[u8])> {
        iter(&self.0)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

fn is_valid(kind: u8, value: &[u8]) -> bool {
    match kind {
        kind::AUTHORITY => str::from_utf8(value).is_ok(),
        kind::CRC32C => false, // it is computed
        kind::UNIQUE_ID => value.len() <= UNIQUE_ID_BYTES_MAX,
        kind::SSL => SslInfo::parse(value).is_some(),
        _ => true,
    }
}

/// Those that are whole.
pub(super) fn iter(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (kind, value, rest) = split_first(bytes)?;
        bytes = rest;
        Some((kind, value))
    })
}

/// The first one's kind and value, and what stands behind it. `None` where it is not whole.
pub(super) fn split_first(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[kind, high, low], rest) = bytes.split_first_chunk()?;
    let (value, rest) = rest.split_at_checked(u16::from_be_bytes([high, low]).into())?;
    Some((kind, value, rest))
}
