use crate::HandshakeLimits;
use rustls::ClientConfig;
use std::sync::Arc;
use std::time::Duration;
/// x
#[derive(Clone)]
pub struct ClientTls(Arc<ClientConfig>);
impl ClientTls {
    /// x
    pub fn from_rustls(config: Arc<ClientConfig>) -> Self {
        ClientTls(config)
    }
    pub(crate) fn config(&self) -> &Arc<ClientConfig> {
        &self.0
    }
    pub(crate) fn limits(&self) -> HandshakeLimits {
        HandshakeLimits { time: Duration::from_secs(10), bytes: 128 << 10 }
    }
}
