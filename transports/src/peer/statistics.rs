//! What a peer has done.

use std::fmt;
use std::time::Duration;

/// What a peer has done. A copy of numbers: taking it allocates nothing.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PeerStatistics {
    /// Frames that were received.
    pub frames_in: u64,
    /// Frames that were encoded to be sent.
    pub frames_out: u64,
    /// Bytes that the transport has delivered, those of stages below the frames included.
    pub bytes_in: u64,
    /// Bytes that the kernel has taken, those of stages below the frames included.
    pub bytes_out: u64,
    /// Frames that wait to be received.
    pub unread_frames: usize,
    /// Frames that wait to be sent.
    pub unsent_frames: usize,
    /// Frames that nobody wanted, such as replies to requests that were given up; and those that were sent to a
    /// [group](super::PeerGroup) and for which the other side was too slow.
    pub dropped: u64,
    /// Requests that wait for their replies.
    pub requests: usize,
    /// How long the connection has been open, or was.
    pub alive: Duration,
    /// How long ago bytes moved.
    pub idle: Duration,
}

impl fmt::Display for PeerStatistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PeerStatistics { frames_in, frames_out, bytes_in, bytes_out, alive, .. } = self;
        write!(
            f,
            "{frames_in} frames and {bytes_in} bytes in, {frames_out} frames and {bytes_out} bytes out, in {alive:.0?}"
        )?;
        if self.dropped > 0 {
            write!(f, "; {} frames were dropped", self.dropped)?;
        }
        Ok(())
    }
}
