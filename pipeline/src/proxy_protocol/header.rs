//! The header as a value.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::tlvs::{Tlvs, kind};
use super::{SslInfo, v1, v2};

/// For whom a proxy connects: the header that it sends before everything else.
///
/// ```
/// use perihelion_pipeline::proxy_protocol::{Parsed, ProxyHeader, SocketType, kind};
///
/// let (client, here) = ("192.0.2.7:56324".parse()?, "198.51.100.1:443".parse()?);
/// let header = ProxyHeader::v2(SocketType::Stream, client, here).with_tlv(kind::AUTHORITY, b"example.org")?;
/// let mut bytes = Vec::new();
/// header.encode(&mut bytes);
///
/// let Parsed::Header(parsed, length) = ProxyHeader::parse(&bytes)? else { panic!("it is whole") };
/// assert_eq!(length, bytes.len());
/// assert_eq!((parsed.source(), parsed.authority()), (Some(client), Some("example.org")));
///
/// assert!(matches!(ProxyHeader::parse(b"PROXY TCP4 192.0.2.7 198.5")?, Parsed::NeedMore(2)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    pub(super) version: Version,
    pub(super) command: Command,
    pub(super) socket_type: SocketType,
    pub(super) addresses: Addresses,
    pub(super) tlvs: Tlvs,
    pub(super) has_checksum: bool,
}

/// The version of the protocol that a header is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// Why the connection was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// For the proxy itself, to see whether the server is well. The addresses that count are the connection's own.
    Local,
    /// For somebody else.
    Proxy,
}

/// What the client speaks to the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketType {
    /// TCP or a stream on a Unix socket.
    Stream,
    /// UDP or datagrams on a Unix socket.
    Datagram,
}

/// Who is connected, as far as the proxy says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Addresses {
    /// It doesn't: the addresses that count are the connection's own.
    #[default]
    Unspecified,
    /// Both are of the same family.
    Internet {
        /// The client.
        source: SocketAddr,
        /// To what the client has connected.
        destination: SocketAddr,
    },
    /// Paths of up to 108 bytes. An empty one is a socket without a name; one that begins with a zero byte is not in
    /// the file system ("abstract").
    Unix {
        /// The client.
        source: PathBuf,
        /// To what the client has connected.
        destination: PathBuf,
    },
}

/// What some bytes are the beginning of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Of a header of which so many bytes are missing, at least. When the length is known, which takes 16 bytes of
    /// version 2, it is exact.
    NeedMore(usize),
    /// Of this header, which is so many bytes long.
    Header(ProxyHeader, usize),
}

/// What is no header, and can't become one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvalidHeader {
    /// It begins otherwise.
    NoSignature,
    /// The line of version 1 is wrong: how.
    Line(&'static str),
    /// Version and command of version 2, of which this is none.
    VersionOrCommand(u8),
    /// Address family and type of socket, of which this is none.
    Family(u8),
    /// The length of version 2 has no room for the addresses.
    AddressesCutOff {
        /// The length in the header.
        length: usize,
        /// What the addresses take.
        needed: usize,
    },
    /// A TLV of this kind is cut off, or can't have this value.
    Tlv(u8),
    /// The CRC32c is not that of the header.
    Checksum,
    /// For a header that is made: version 1 has no TLVs.
    TlvInVersion1,
    /// For a header that is made: its addresses and TLVs are longer than 65,535 bytes.
    TooLong,
    /// For a header that is made: the path has more than 108 bytes, or a zero byte in it.
    Path(PathBuf),
}

impl ProxyHeader {
    /// A header in text, for a client over TCP. Where one address is of IPv4 and the other of IPv6, both are written as
    /// IPv6.
    pub fn v1(source: SocketAddr, destination: SocketAddr) -> Self {
        Self::new(Version::V1, Command::Proxy, SocketType::Stream, internet(source, destination))
    }

    /// A binary header. Where one address is of IPv4 and the other of IPv6, both are written as IPv6.
    pub fn v2(socket_type: SocketType, source: SocketAddr, destination: SocketAddr) -> Self {
        Self::new(Version::V2, Command::Proxy, socket_type, internet(source, destination))
    }

    /// A binary header for a client on a Unix socket.
    ///
    /// # Errors
    /// [`InvalidHeader::Path`].
    pub fn v2_unix(
        socket_type: SocketType,
        source: impl Into<PathBuf>,
        destination: impl Into<PathBuf>,
    ) -> Result<Self, InvalidHeader> {
        let (source, destination) = (check_path(source.into())?, check_path(destination.into())?);
        let addresses = Addresses::Unix { source, destination };
        Ok(Self::new(Version::V2, Command::Proxy, socket_type, addresses))
    }

    /// A header for a client whose addresses are not known. In text, it says `UNKNOWN`.
    pub fn unspecified(version: Version) -> Self {
        Self::new(version, Command::Proxy, SocketType::Stream, Addresses::Unspecified)
    }

    /// A binary header for a connection of the proxy's own.
    pub fn local() -> Self {
        Self::new(Version::V2, Command::Local, SocketType::Stream, Addresses::Unspecified)
    }

    pub(super) fn new(
        version: Version,
        command: Command,
        socket_type: SocketType,
        addresses: Addresses,
    ) -> Self {
        let tlvs = Tlvs::default();
        ProxyHeader { version, command, socket_type, addresses, tlvs, has_checksum: false }
    }

    /// Adds a TLV behind those that are there. [`kind`] has the kinds that are registered.
    ///
    /// # Errors
    /// [`InvalidHeader::TlvInVersion1`], [`InvalidHeader::TooLong`], and [`InvalidHeader::Tlv`] for a value that is none
    /// of its kind. A checksum comes from [`with_checksum`](ProxyHeader::with_checksum).
    pub fn with_tlv(mut self, kind: u8, value: &[u8]) -> Result<Self, InvalidHeader> {
        self.tlvs.push(kind, value)?;
        self.check_length()
    }

    /// Adds a CRC32c over the whole header.
    ///
    /// # Errors
    /// [`InvalidHeader::TlvInVersion1`], [`InvalidHeader::TooLong`].
    pub fn with_checksum(mut self) -> Result<Self, InvalidHeader> {
        self.has_checksum = true;
        self.check_length()
    }

    fn check_length(self) -> Result<Self, InvalidHeader> {
        match self.version {
            Version::V1 => Err(InvalidHeader::TlvInVersion1),
            Version::V2 if v2::block_length(&self) > u16::MAX.into() => Err(InvalidHeader::TooLong),
            Version::V2 => Ok(self),
        }
    }

    /// Looks for a header at the beginning of these bytes. What comes behind it doesn't matter. Of version 1 no more
    /// than 107 bytes are looked at; of version 2, [`Parsed::NeedMore`] tells in time how long it is.
    ///
    /// Of a header that gives no addresses ([`Addresses::Unspecified`]), what stands in their place is not looked at; its
    /// TLVs are read if they can be.
    ///
    /// # Errors
    /// [`InvalidHeader`].
    pub fn parse(bytes: &[u8]) -> Result<Parsed, InvalidHeader> {
        match Beginning::of(bytes) {
            Beginning::Header(Version::V1) => v1::parse(bytes),
            Beginning::Header(Version::V2) => v2::parse(bytes),
            Beginning::Unclear { least } => Ok(Parsed::NeedMore(least - bytes.len())),
            Beginning::Other => Err(InvalidHeader::NoSignature),
        }
    }

    /// Appends the header's bytes. Parsed, they are the same header.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        match self.version {
            Version::V1 => v1::encode(self, bytes),
            Version::V2 => v2::encode(self, bytes),
        }
    }

    /// The version that it is written in.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Why the connection was made.
    pub fn command(&self) -> Command {
        self.command
    }

    /// What the client speaks to the proxy. [`SocketType::Stream`] where that is not said.
    pub fn socket_type(&self) -> SocketType {
        self.socket_type
    }

    /// Who is connected.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The client's address; `None` where the proxy gives none, or it is none of the internet.
    pub fn source(&self) -> Option<SocketAddr> {
        match self.addresses {
            Addresses::Internet { source, .. } => Some(source),
            _ => None,
        }
    }

    /// To what the client has connected; `None` like [`source`](ProxyHeader::source).
    pub fn destination(&self) -> Option<SocketAddr> {
        match self.addresses {
            Addresses::Internet { destination, .. } => Some(destination),
            _ => None,
        }
    }

    /// All TLVs but the checksum, each with its kind, as they were sent.
    pub fn tlvs(&self) -> impl Iterator<Item = (u8, &[u8])> {
        self.tlvs.iter()
    }

    /// The value of the first TLV of this kind.
    pub fn tlv(&self, kind: u8) -> Option<&[u8]> {
        self.tlvs().find(|(other, _)| *other == kind).map(|(_, value)| value)
    }

    /// The protocol that the client speaks above TLS (ALPN).
    pub fn alpn(&self) -> Option<&[u8]> {
        self.tlv(kind::ALPN)
    }

    /// The name of the host that the client has asked for: with TLS, its SNI.
    pub fn authority(&self) -> Option<&str> {
        str::from_utf8(self.tlv(kind::AUTHORITY)?).ok()
    }

    /// What the proxy calls the connection, up to 128 bytes.
    pub fn unique_id(&self) -> Option<&[u8]> {
        self.tlv(kind::UNIQUE_ID)
    }

    /// The TLS between the client and the proxy.
    pub fn ssl(&self) -> Option<SslInfo<'_>> {
        SslInfo::parse(self.tlv(kind::SSL)?)
    }

    /// Whether it has a CRC32c, which has been verified.
    pub fn has_checksum(&self) -> bool {
        self.has_checksum
    }
}

/// What bytes begin with.
pub(super) enum Beginning {
    /// The signature of this version.
    Header(Version),
    /// A part of a signature, of a header that has at least so many bytes.
    Unclear { least: usize },
    /// Anything else.
    Other,
}

impl Beginning {
    pub(super) fn of(bytes: &[u8]) -> Self {
        if bytes.starts_with(v1::SIGNATURE) {
            Beginning::Header(Version::V1)
        } else if bytes.starts_with(v2::SIGNATURE) {
            Beginning::Header(Version::V2)
        } else if v1::SIGNATURE.starts_with(bytes) {
            Beginning::Unclear { least: v1::BYTES_MIN }
        } else if v2::SIGNATURE.starts_with(bytes) {
            Beginning::Unclear { least: v2::BYTES_MIN }
        } else {
            Beginning::Other
        }
    }
}

/// In one family, and without what a header has no room for: the flow and the zone of IPv6.
fn internet(source: SocketAddr, destination: SocketAddr) -> Addresses {
    let plain = |address: SocketAddr| match (source, destination) {
        (SocketAddr::V4(_), SocketAddr::V4(_)) => address,
        _ => SocketAddr::new(
            match address.ip() {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().into(),
                ip => ip,
            },
            address.port(),
        ),
    };
    Addresses::Internet { source: plain(source), destination: plain(destination) }
}

/// Zero bytes end a path, but for one that begins an abstract name; at its end they are filling.
fn check_path(path: PathBuf) -> Result<PathBuf, InvalidHeader> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() > v2::PATH_BYTES || v2::path(bytes) != bytes {
        return Err(InvalidHeader::Path(path));
    }
    Ok(path)
}

impl fmt::Display for InvalidHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InvalidHeader::NoSignature => f.write_str("not a header of the PROXY protocol"),
            InvalidHeader::Line(wrong) => write!(f, "a header of the PROXY protocol, version 1, {wrong}"),
            InvalidHeader::VersionOrCommand(byte) => {
                write!(
                    f,
                    "a header of the PROXY protocol has the version and command {byte:#04x}: 0x20 or 0x21 is known"
                )
            }
            InvalidHeader::Family(byte) => {
                write!(f, "a header of the PROXY protocol has the unknown address family {byte:#04x}")
            }
            InvalidHeader::AddressesCutOff { length, needed } => write!(
                f,
                "a header of the PROXY protocol has a length of {length}, but its addresses take {needed} bytes"
            ),
            InvalidHeader::Tlv(kind) => {
                write!(
                    f,
                    "a header of the PROXY protocol has a TLV of kind {kind:#04x} that is cut off or wrong"
                )
            }
            InvalidHeader::Checksum => f.write_str("a header of the PROXY protocol has a wrong checksum"),
            InvalidHeader::TlvInVersion1 => {
                f.write_str("version 1 of the PROXY protocol has no TLVs: make a header of version 2")
            }
            InvalidHeader::TooLong => {
                f.write_str("a header of the PROXY protocol has room for 65,535 bytes of addresses and TLVs")
            }
            InvalidHeader::Path(path) => {
                write!(f, "{path:?} has more than 108 bytes or a zero byte, and no room in a PROXY header")
            }
        }
    }
}

impl std::error::Error for InvalidHeader {}
