//! Version 2 (section 2.2): 16 bytes, and a block of addresses and TLVs whose length they tell.

use bytes::{Buf, BufMut};
use crc32c::{crc32c, crc32c_append};
use std::ffi::OsStr;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;

use super::header::{Addresses, Command, InvalidHeader, Parsed, ProxyHeader, SocketType, Version};
use super::tlvs::{TLV_BYTES_MIN, Tlvs, kind, split_first};

pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// What stands before the block.
pub(super) const BYTES_MIN: usize = 16;
pub(super) const BYTES_MAX: usize = BYTES_MIN + u16::MAX as usize;
pub(super) const PATH_BYTES: usize = 108;
const CHECKSUM_BYTES: usize = 4;

/// With the version in its upper half.
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

const UNSPECIFIED: u8 = 0;
const IPV4: u8 = 1;
const IPV6: u8 = 2;
const UNIX: u8 = 3;
const STREAM: u8 = 1;
const DATAGRAM: u8 = 2;

/// Of bytes that begin with the signature.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, InvalidHeader> {
    let command = match bytes.get(SIGNATURE.len()) {
        Some(&LOCAL) => Command::Local,
        Some(&PROXY) | None => Command::Proxy,
        Some(&other) => return Err(InvalidHeader::VersionOrCommand(other)),
    };
    let Some(&[.., family, high, low]) = bytes.first_chunk::<BYTES_MIN>() else {
        return Ok(Parsed::NeedMore(BYTES_MIN - bytes.len()));
    };
    let length = BYTES_MIN + usize::from(u16::from_be_bytes([high, low]));
    let Some(header) = bytes.get(..length) else { return Ok(Parsed::NeedMore(length - bytes.len())) };
    Ok(Parsed::Header(parse_whole(header, command, family)?, length))
}

fn parse_whole(header: &[u8], command: Command, family_and_type: u8) -> Result<ProxyHeader, InvalidHeader> {
    let (family, socket_type) = (family_and_type >> 4, family_and_type & 0xF);
    if command == Command::Proxy && (family > UNIX || socket_type > DATAGRAM) {
        return Err(InvalidHeader::Family(family_and_type));
    }
    let is_unspecified = command == Command::Local || family == UNSPECIFIED || socket_type == UNSPECIFIED;
    let mut block = match Block::parse(header, family) {
        Err(_) if is_unspecified => Block::default(),
        block => block?,
    };
    if block.checksum.is_some_and(|at| !is_right(header, at)) {
        return Err(InvalidHeader::Checksum);
    }
    if is_unspecified {
        block.addresses = Addresses::Unspecified;
    }
    let is_datagram = socket_type == DATAGRAM && !is_unspecified;
    Ok(ProxyHeader {
        version: Version::V2,
        command,
        socket_type: if is_datagram { SocketType::Datagram } else { SocketType::Stream },
        addresses: block.addresses,
        tlvs: block.tlvs,
        has_checksum: block.checksum.is_some(),
    })
}

/// What stands behind the first 16 bytes.
#[derive(Default)]
struct Block {
    addresses: Addresses,
    tlvs: Tlvs,
    /// Where in the header it is.
    checksum: Option<usize>,
}

impl Block {
    fn parse(header: &[u8], family: u8) -> Result<Self, InvalidHeader> {
        let (block, needed) = (&header[BYTES_MIN..], address_bytes(family));
        let (addresses, mut rest) = block
            .split_at_checked(needed)
            .ok_or(InvalidHeader::AddressesCutOff { length: block.len(), needed })?;
        let mut block = Block { addresses: parse_addresses(family, addresses), ..Block::default() };
        while let Some(&kind) = rest.first() {
            let (_, value, behind) = split_first(rest).ok_or(InvalidHeader::Tlv(kind))?;
            if kind != kind::CRC32C {
                block.tlvs.push(kind, value)?;
            } else if value.len() == CHECKSUM_BYTES && block.checksum.is_none() {
                block.checksum = Some(header.len() - behind.len() - CHECKSUM_BYTES);
            } else {
                return Err(InvalidHeader::Tlv(kind));
            }
            rest = behind;
        }
        Ok(block)
    }
}

fn address_bytes(family: u8) -> usize {
    match family {
        IPV4 => 12,
        IPV6 => 36,
        UNIX => 2 * PATH_BYTES,
        _ => 0,
    }
}

/// Of so many bytes as this family takes.
fn parse_addresses(family: u8, mut bytes: &[u8]) -> Addresses {
    let ips = match family {
        IPV4 => [bytes.get_u32(), bytes.get_u32()].map(|ip| IpAddr::V4(ip.into())),
        IPV6 => [bytes.get_u128(), bytes.get_u128()].map(|ip| IpAddr::V6(ip.into())),
        UNIX => {
            let (source, destination) = bytes.split_at(PATH_BYTES);
            let [source, destination] =
                [source, destination].map(|bytes| OsStr::from_bytes(path(bytes)).into());
            return Addresses::Unix { source, destination };
        }
        _ => return Addresses::Unspecified,
    };
    let [source, destination] = ips.map(|ip| SocketAddr::new(ip, bytes.get_u16()));
    Addresses::Internet { source, destination }
}

/// A path without what fills its place up: it ends at a zero byte, but an abstract name only at its last zeros.
pub(super) fn path(bytes: &[u8]) -> &[u8] {
    let end = match bytes {
        [0, ..] => bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1),
        _ => bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()),
    };
    &bytes[..end]
}

/// How many bytes of addresses and TLVs the header has.
pub(super) fn block_length(header: &ProxyHeader) -> usize {
    let checksum = if header.has_checksum { TLV_BYTES_MIN + CHECKSUM_BYTES } else { 0 };
    address_bytes(family(&header.addresses)) + header.tlvs.bytes().len() + checksum
}

fn family(addresses: &Addresses) -> u8 {
    match addresses {
        Addresses::Unspecified => UNSPECIFIED,
        Addresses::Internet { source: SocketAddr::V4(_), .. } => IPV4,
        Addresses::Internet { source: SocketAddr::V6(_), .. } => IPV6,
        Addresses::Unix { .. } => UNIX,
    }
}

pub(super) fn encode(header: &ProxyHeader, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    let socket_type = match (&header.addresses, header.socket_type) {
        (Addresses::Unspecified, _) => UNSPECIFIED,
        (_, SocketType::Stream) => STREAM,
        (_, SocketType::Datagram) => DATAGRAM,
    };
    bytes.put_slice(SIGNATURE);
    bytes.put_u8(if header.command == Command::Local { LOCAL } else { PROXY });
    bytes.put_u8(family(&header.addresses) << 4 | socket_type);
    bytes.put_u16(block_length(header) as u16);
    match &header.addresses {
        Addresses::Unspecified => {}
        Addresses::Internet { source, destination } => {
            for address in [source, destination] {
                match address.ip() {
                    IpAddr::V4(ip) => bytes.put_slice(&ip.octets()),
                    IpAddr::V6(ip) => bytes.put_slice(&ip.octets()),
                }
            }
            bytes.put_u16(source.port());
            bytes.put_u16(destination.port());
        }
        Addresses::Unix { source, destination } => {
            for path in [source, destination] {
                let path = path.as_os_str().as_bytes();
                bytes.put_slice(path);
                bytes.put_bytes(0, PATH_BYTES - path.len());
            }
        }
    }
    bytes.put_slice(header.tlvs.bytes());
    if header.has_checksum {
        bytes.put_u8(kind::CRC32C);
        bytes.put_u16(CHECKSUM_BYTES as u16);
        bytes.put_bytes(0, CHECKSUM_BYTES);
        let checksum = crc32c(&bytes[start..]);
        let at = bytes.len() - CHECKSUM_BYTES;
        bytes[at..].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// Whether the checksum at this place is that of the header, with zeros in this place.
fn is_right(header: &[u8], at: usize) -> bool {
    let (before, rest) = header.split_at(at);
    let (checksum, behind) = rest.split_at(CHECKSUM_BYTES);
    let computed = crc32c_append(crc32c_append(crc32c(before), &[0; CHECKSUM_BYTES]), behind);
    checksum == computed.to_be_bytes()
}
