//! What can go wrong with servers and clients.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::{Address, ChannelHandle, Mode};

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
    /// Middleware has ended before it has handed the connection on.
    #[error("middleware has given up the connection to {address}: {cause}")]
    GivenUp {
        /// The address.
        address: Address,
        /// What middleware ended with.
        cause: perihelion_pipeline::Error,
    },
    /// A connection that could not be made.
    #[error("can't connect to {address}: {}", causes(.address, .attempts, *.untried))]
    Connect {
        /// The address.
        address: Address,
        /// What became of each of its IP addresses that was tried.
        attempts: Vec<FailedAttempt>,
        /// How many more IP addresses it has. Of many only the first are tried, as long as there is time.
        untried: usize,
    },
    /// An acceptor with middleware.
    #[error(
        "the acceptor on {address} takes no middleware: the task that accepts a connection wraps its life"
    )]
    Middleware {
        /// The address.
        address: Address,
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

/// An address that could not be connected to.
#[derive(Debug)]
pub struct FailedAttempt {
    /// The address.
    pub address: SocketAddr,
    /// What the operating system said, or that the time was up.
    pub cause: io::Error,
}

/// `IP:PORT: CAUSE` for each, but for the one that was asked for.
fn causes(asked: &Address, attempts: &[FailedAttempt], untried: usize) -> String {
    let cause = |attempt: &FailedAttempt| match Address::from(attempt.address) == *asked {
        true => attempt.cause.to_string(),
        false => format!("{}: {}", attempt.address, attempt.cause),
    };
    let mut causes: Vec<String> = attempts.iter().map(cause).collect();
    if untried > 0 {
        causes.push(format!("{untried} more not tried"));
    }
    causes.join("; ")
}

/// What can go wrong on a connection that has been made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// It is closed.
    #[error("the connection is closed{}", because(reason))]
    Closed {
        /// Why, unless in order.
        reason: Option<String>,
    },
    /// A task waits for what comes next already: only one may.
    #[error("another task receives from this connection already")]
    ReceivePending,
    /// The frames that wait to be sent are as many as there may be: `channel.unsent_frames_max`.
    #[error("the queue of frames to be sent is full")]
    QueueFull,
    /// A request with this identifier waits for its reply already.
    #[error("a request with the same identifier waits for its reply")]
    DuplicateRequest,
    /// The reply has not come in time: `channel.request_ms`.
    #[error("there was no reply within {0:?}")]
    NoReply(Duration),
    /// What was asked for needs the other mode.
    #[error("{what} needs a peer in another mode: call `set_mode(Mode::{needs:?})` before")]
    WrongMode {
        /// What was asked for.
        what: &'static str,
        /// The mode that it needs.
        needs: Mode,
    },
    /// There are as many connections as a [limit](crate::middleware::ConnectionLimit) allows.
    #[error("there are as many connections as there may be: {max}")]
    NoPlace {
        /// The limit.
        max: usize,
    },
    /// The peer's bytes are read by somebody else for now: see [`Peer::detach`](crate::Peer::detach).
    #[error("the peer is detached: its bytes are read by somebody else")]
    Detached,
}

fn because(reason: &Option<String>) -> String {
    reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"))
}

impl ConnectionError {
    pub(crate) fn closed(channel: &ChannelHandle) -> Self {
        ConnectionError::Closed { reason: channel.0.reason() }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connect_that_failed_names_every_attempt() {
        let text = |asked: &str, attempts: &[&str], untried| {
            let failed = |address: &&str| FailedAttempt {
                address: address.parse().unwrap(),
                cause: io::Error::other("no"),
            };
            let attempts = attempts.iter().map(failed).collect();
            Error::Connect { address: asked.parse().unwrap(), attempts, untried }.to_string()
        };
        assert_eq!(text("[::1]:1", &["[::1]:1"], 0), "can't connect to tcp://[::1]:1: no");
        assert_eq!(text("host:1", &["127.0.0.1:1"], 0), "can't connect to tcp://host:1: 127.0.0.1:1: no");
        assert_eq!(
            text("host:1", &["[::1]:1", "127.0.0.1:1"], 3),
            "can't connect to tcp://host:1: [::1]:1: no; 127.0.0.1:1: no; 3 more not tried"
        );
    }
}
