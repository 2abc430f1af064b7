use rustls::ServerConfig;
use rustls::server::ClientHello;
use std::sync::Arc;
use std::time::Duration;
/// x
#[derive(Clone, Copy, Debug)]
pub struct HandshakeLimits {
    /// x
    pub time: Duration,
    /// x
    pub bytes: usize,
}
/// x
#[derive(Clone)]
pub struct ServerTls(Arc<ServerConfig>);
impl ServerTls {
    /// x
    pub fn from_rustls(config: Arc<ServerConfig>) -> Self {
        ServerTls(config)
    }
    pub(crate) fn config_for(&self, _hello: &ClientHello<'_>) -> Arc<ServerConfig> {
        self.0.clone()
    }
    pub(crate) fn limits(&self) -> HandshakeLimits {
        HandshakeLimits { time: Duration::from_secs(10), bytes: 128 << 10 }
    }
}
