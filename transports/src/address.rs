//! Addresses as users write them.

use perihelion_pipeline::Target;
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use crate::Error;

/// `tcp://HOST:PORT`, or `HOST:PORT` for short. A host is an IPv4 address, an IPv6 address in brackets, or a name.
///
/// ```
/// # use perihelion_transports::Address;
/// let address: Address = "tcp://[::1]:7000".parse().unwrap();
/// assert_eq!(address.to_string(), "tcp://[::1]:7000");
/// assert!("ftp://localhost:21".parse::<Address>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// `HOST:PORT`.
    authority: String,
}

impl Address {
    /// The host, as it was written: a name or an IP address, an IPv6 address in brackets.
    pub fn host(&self) -> &str {
        self.split().0
    }

    /// Host and port.
    fn split(&self) -> (&str, &str) {
        // It was looked at when it was parsed.
        self.authority.rsplit_once(':').unwrap_or((&self.authority, ""))
    }

    /// The IP addresses that the host has, each with the port. Blocks while a name is looked up.
    ///
    /// # Errors
    /// A name that doesn't resolve.
    pub fn resolve(&self) -> Result<Vec<SocketAddr>, Error> {
        let failed = |cause| Error::Resolve { address: self.clone(), cause };
        let addresses: Vec<SocketAddr> = self.authority.to_socket_addrs().map_err(failed)?.collect();
        if addresses.is_empty() {
            return Err(failed(std::io::Error::other("the name has no address")));
        }
        Ok(addresses)
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = |why| Error::InvalidAddress { address: text.into(), why };
        let authority = match text.split_once("://") {
            Some(("tcp", authority)) => authority,
            Some(_) => return Err(invalid("the scheme is not `tcp`")),
            None => text,
        };
        let (host, port) = authority.rsplit_once(':').ok_or(invalid("there is no port; write HOST:PORT"))?;
        if port.parse::<u16>().is_err() {
            return Err(invalid("the port is no number from 0 to 65535"));
        }
        if host.is_empty() {
            return Err(invalid("there is no host; 0.0.0.0 or [::] is every address of this machine"));
        }
        if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
            return Err(invalid("an IPv6 address stands in brackets: [::1]:7000"));
        }
        Ok(Address { authority: authority.into() })
    }
}

impl From<&Address> for Target {
    fn from(address: &Address) -> Self {
        if let Ok(address) = address.authority.parse() {
            return Target::Address(address);
        }
        let (host, port) = address.split();
        Target::Name { host: host.into(), port: port.parse().unwrap_or(0) }
    }
}

impl From<Target> for Address {
    fn from(target: Target) -> Self {
        match target {
            Target::Address(address) => address.into(),
            Target::Name { host, port } => Address { authority: format!("{host}:{port}") },
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Address { authority: address.to_string() }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tcp://{}", self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_an_address_is_said() {
        for (text, why) in [
            ("udp://localhost:1", "scheme"),
            ("localhost", "port"),
            ("localhost:http", "number"),
            ("localhost:65536", "number"),
            (":80", "host"),
            ("::1:80", "brackets"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(why) && error.contains(text), "{error}");
        }
    }

    #[test]
    fn the_host_is_given_as_it_was_written() {
        for (text, host) in
            [("tcp://example.org:1", "example.org"), ("127.0.0.1:1", "127.0.0.1"), ("[::1]:1", "[::1]")]
        {
            assert_eq!(text.parse::<Address>().unwrap().host(), host);
        }
    }

    #[test]
    fn an_address_is_the_same_as_a_target() {
        for text in ["tcp://127.0.0.1:1", "tcp://[::1]:1", "tcp://localhost:1"] {
            let address: Address = text.parse().unwrap();
            let target = Target::from(&address);
            assert_eq!(matches!(target, Target::Name { .. }), text.contains("localhost"));
            assert_eq!(Address::from(target), address);
        }
    }

    #[test]
    fn both_families_and_names_resolve() {
        for text in ["127.0.0.1:1", "tcp://[::1]:1", "localhost:1"] {
            assert!(text.parse::<Address>().unwrap().resolve().unwrap().iter().all(|a| a.ip().is_loopback()));
        }
    }
}
