//! What a handshake may take.

use std::time::Duration;

const TIME_DEFAULT: Duration = Duration::from_secs(10);
const BYTES_DEFAULT: usize = 128 * 1024;

/// What a handshake may take before its channel is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandshakeLimits {
    /// From when the channel is open, or TLS is switched in, to the end of the handshake; 10 seconds by default.
    pub time: Duration,
    /// The bytes that the other side may send until then; 128 KiB by default.
    pub bytes: usize,
}

impl Default for HandshakeLimits {
    fn default() -> Self {
        HandshakeLimits { time: TIME_DEFAULT, bytes: BYTES_DEFAULT }
    }
}
