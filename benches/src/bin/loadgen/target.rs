//! What is loaded: an address, with TLS or without.

use perihelion::prelude::Address;
use std::fmt;
use std::str::FromStr;

use crate::own_server;

/// `tcp://HOST:PORT` or `tls://HOST:PORT`; without either, TCP.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: Address,
    pub(crate) tls: bool,
    /// As it was written, an IPv6 address in brackets.
    pub(crate) host: String,
}

impl Target {
    /// The server of `--self`.
    pub(crate) fn own(address: Address, tls: bool) -> Self {
        Target { address, tls, host: own_server::NAME.into() }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (tls, authority) = match text.split_once("://") {
            Some(("tcp", authority)) => (false, authority),
            Some(("tls", authority)) => (true, authority),
            Some(_) => return Err("the scheme is neither tcp nor tls: tls://HOST:PORT".into()),
            None => (false, text),
        };
        let address = authority.parse().map_err(|error: perihelion::transports::Error| error.to_string())?;
        // The address has been looked at, so there is a port.
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host).into();
        Ok(Target { address, tls, host })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address.to_string();
        match address.strip_prefix("tcp://") {
            Some(authority) if self.tls => write!(f, "tls://{authority}"),
            _ => f.write_str(&address),
        }
    }
}
