//! What a server has done.

use std::fmt;

/// What a server has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerReport {
    /// Connections that were accepted.
    pub connections: u64,
    /// Of these, those that are open.
    pub open: u64,
    /// Connections that were refused. Those that were neither let in nor refused when the server stopped are in no
    /// number.
    pub refused: u64,
    /// Why they were refused.
    pub refusals: Refusals,
    /// Messages that were handled: frames that codecs made.
    pub messages: u64,
    /// Messages that were sent: frames that codecs encoded.
    pub messages_out: u64,
    /// Bytes that were received, those of TLS included. Of relays: that went from clients to the target.
    pub bytes_in: u64,
    /// Bytes that were sent, those of TLS included. Of relays: that went from the target to clients.
    pub bytes_out: u64,
    /// Connections that were reset when the time to drain was over.
    pub aborted: u64,
}

/// Why connections were refused, and how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// A filter did not want them, or panicked.
    pub unwanted: u64,
    /// A filter took longer than `server.filter_ms`.
    pub undecided: u64,
    /// Their address had `server.connections_per_address_max`, or could not be told since they were broken already.
    pub address_full: u64,
    /// There was no place, with `server.when_full = "refuse"`.
    pub full: u64,
    /// There was no place within `server.wait_ms`.
    pub late: u64,
}

impl Refusals {
    /// All of them.
    pub fn total(&self) -> u64 {
        let Refusals { unwanted, undecided, address_full, full, late } = self;
        unwanted + undecided + address_full + full + late
    }
}

impl fmt::Display for ServerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "served {} connections", self.connections)?;
        match self.messages {
            // Bytes that are nobody's messages, as those of a relay.
            0 if self.bytes_in + self.bytes_out > 0 => {
                write!(f, ", {} bytes in and {} bytes out", self.bytes_in, self.bytes_out)?;
            }
            messages => write!(f, " and {messages} messages")?,
        }
        if self.refused > 0 {
            write!(f, "; {} connections were refused", self.refused)?;
        }
        if self.aborted > 0 {
            write!(f, "; {} connections were reset when the time to drain was over", self.aborted)?;
        }
        Ok(())
    }
}
