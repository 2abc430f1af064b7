//! What can go wrong with servers and clients.

use std::io;

use crate::Address;

/// Why a server could not start, or a client not connect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An address that is none.
    #[error("`{address}` is no address: {why}")]
    InvalidAddress {
        /// As written.
        address: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A host that has no address.
    #[error("{address} can't be resolved: {cause}")]
    Resolve {
        /// The address.
        address: Address,
        /// What the resolver said.
        cause: io::Error,
    },
    /// A server's address that can't be had.
    #[error("can't listen on {address}: {cause}{remedy}")]
    Listen {
        /// The address.
        address: Address,
        /// What the operating system said.
        cause: io::Error,
        /// What to do about it; may be empty.
        remedy: &'static str,
    },
    /// A stage of the pipeline has refused to connect.
    #[error("a stage refused to connect to {address}: {cause}")]
    Refused {
        /// The address.
        address: Address,
        /// The stage's error.
        cause: perihelion_pipeline::Error,
    },
    /// A connection that could not be made.
    #[error("can't connect to {address}: {cause}")]
    Connect {
        /// The address.
        address: Address,
        /// What the operating system said to the last attempt.
        cause: io::Error,
    },
    /// An acceptor that has been closed, or whose worker can't hold it.
    #[error("the acceptor on {address} is closed")]
    Closed {
        /// Where it listened.
        address: Address,
    },
    /// The runtime can't be asked.
    #[error(transparent)]
    Runtime(#[from] perihelion_runtime::Error),
}

impl Error {
    pub(crate) fn listen(address: Address, cause: io::Error) -> Self {
        let remedy = match cause.kind() {
            io::ErrorKind::AddrInUse => {
                "; another socket listens there: stop its process, or choose another port"
            }
            io::ErrorKind::AddrNotAvailable => "; no interface of this machine has that address",
            io::ErrorKind::PermissionDenied => "; ports below 1024 need the capability CAP_NET_BIND_SERVICE",
            _ => "",
        };
        Error::Listen { address, cause, remedy }
    }
}
