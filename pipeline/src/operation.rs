//! What travels from the tail to the transport beside messages, in line with them.

use std::net::SocketAddr;

use crate::{Event, Promise};

/// What travels from the tail to the transport beside messages, in line with them. A stage intercepts operations in
/// its [`operate`](crate::Handler::operate).
///
/// A stage that keeps back what is written must keep back operations too, in line with it, or a close and a promise
/// overtake it. [`Hold`](crate::Hold) keeps both.
pub enum Operation {
    /// The socket is to have this local address when it connects.
    Bind(SocketAddr),
    /// The channel is to connect. Comes before [`open`](crate::Handler::open), and only on a client's channel; a stage
    /// that gives an error refuses it, and one that passes on another target leads the channel there.
    Connect(Target),
    /// An orderly close.
    Close,
    /// No more will be written: the other side is to be told so. What it sends is read on.
    CloseOutput,
    /// Resolved when everything written before it has been taken by the kernel.
    Promise(Promise),
    /// A user event.
    Event(Event),
}

/// Where a channel is to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A name that is still to be looked up.
    Name {
        /// The host's name.
        host: String,
        /// The port.
        port: u16,
    },
    /// An address.
    Address(SocketAddr),
}
