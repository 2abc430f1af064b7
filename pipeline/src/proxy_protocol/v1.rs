//! Version 1 (section 2.1): a line of text.

use std::fmt::{self, Display};
use std::net::{IpAddr, SocketAddr};

use super::header::{Addresses, Command, InvalidHeader, Parsed, ProxyHeader, SocketType, Version};

pub(super) const SIGNATURE: &[u8] = b"PROXY";
/// `PROXY UNKNOWN` and the end of the line.
pub(super) const BYTES_MIN: usize = 15;
/// With the end of the line.
pub(super) const BYTES_MAX: usize = 107;

const UNKNOWN: &[u8] = b"PROXY UNKNOWN";

/// Of bytes that begin with the signature.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, InvalidHeader> {
    let Some(length) = line_length(bytes)? else {
        let Some(room @ 1..) = BYTES_MAX.checked_sub(bytes.len()) else {
            return Err(InvalidHeader::Line("has more than 107 bytes"));
        };
        let end = if bytes.ends_with(b"\r") { 1 } else { 2 };
        return Ok(Parsed::NeedMore(end.max(BYTES_MIN.saturating_sub(bytes.len())).min(room)));
    };
    let addresses = parse_line(&bytes[..length - 2])?;
    let header = ProxyHeader::new(Version::V1, Command::Proxy, SocketType::Stream, addresses);
    Ok(Parsed::Header(header, length))
}

/// `None`: the end of the line has not come yet.
fn line_length(bytes: &[u8]) -> Result<Option<usize>, InvalidHeader> {
    let line = &bytes[..bytes.len().min(BYTES_MAX)];
    for at in memchr::memchr_iter(b'\n', line) {
        if line[..at].ends_with(b"\r") {
            return Ok(Some(at + 1));
        }
        // Behind `UNKNOWN` anything may stand, even this.
        if !line.starts_with(UNKNOWN) {
            return Err(InvalidHeader::Line("has a line feed without a carriage return"));
        }
    }
    Ok(None)
}

fn parse_line(line: &[u8]) -> Result<Addresses, InvalidHeader> {
    if line.strip_prefix(UNKNOWN).is_some_and(|rest| rest.is_empty() || rest.starts_with(b" ")) {
        return Ok(Addresses::Unspecified);
    }
    let text = str::from_utf8(line).map_err(|_| InvalidHeader::Line("is not in ASCII"))?;
    let mut fields = text.splitn(6, ' '); // what is too much makes a wrong port
    let mut next = || fields.next().ok_or(InvalidHeader::Line("has too few fields"));
    if next()? != "PROXY" {
        return Err(InvalidHeader::Line("does not begin with \"PROXY \""));
    }
    let family = next()?;
    let (source, destination) = (ip(family, next()?)?, ip(family, next()?)?);
    Ok(Addresses::Internet {
        source: SocketAddr::new(source, port(next()?)?),
        destination: SocketAddr::new(destination, port(next()?)?),
    })
}

/// The standard library takes what the specification allows, and addresses of IPv6 that end like one of IPv4, which
/// HAProxy writes too.
fn ip(family: &str, text: &str) -> Result<IpAddr, InvalidHeader> {
    let ip = match family {
        "TCP4" => text.parse().map(IpAddr::V4),
        "TCP6" => text.parse().map(IpAddr::V6),
        _ => return Err(InvalidHeader::Line("is for none of TCP4, TCP6 and UNKNOWN")),
    };
    ip.map_err(|_| InvalidHeader::Line("has an address that is none of its family"))
}

/// Without the signs and zeros in front that the standard library takes.
fn port(text: &str) -> Result<u16, InvalidHeader> {
    let is_plain = text == "0" || text.starts_with(|c| matches!(c, '1'..='9'));
    text.parse().ok().filter(|_| is_plain).ok_or(InvalidHeader::Line("has a wrong port"))
}

pub(super) fn encode(header: &ProxyHeader, bytes: &mut Vec<u8>) {
    let line = match header.addresses {
        Addresses::Internet { source, destination } => {
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let ports = (source.port(), destination.port());
            format!(
                "PROXY {family} {} {} {} {}\r\n",
                Plain(source.ip()),
                Plain(destination.ip()),
                ports.0,
                ports.1
            )
        }
        _ => "PROXY UNKNOWN\r\n".into(),
    };
    bytes.extend_from_slice(line.as_bytes());
}

/// An address as the specification wants it: the standard library writes some of IPv6 with dots.
struct Plain(IpAddr);

impl Display for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => {
                let [.., high, low] = ip.segments();
                write!(f, "::ffff:{high:x}:{low:x}")
            }
            ip => ip.fmt(f),
        }
    }
}
