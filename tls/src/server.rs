//! TLS for servers.

mod builder;
mod state;

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::server::ClientHello;

pub use builder::{HostBuilder, ServerTlsBuilder};
use state::{Source, State};

use crate::files::Files;
use crate::{ConfigError, HandshakeLimits};

/// Certificates and rules of a server, shared by all workers. A clone is the same one.
///
/// ```no_run
/// # use perihelion_tls::{ClientCertificates, ServerTls};
/// let tls = ServerTls::builder()
///     .certificate("/etc/tls/example.org.pem", "/etc/tls/example.org.key")
///     .alpn(["h2", "http/1.1"])
///     .host("admin.example.org", |host| {
///         host.client_certificates(ClientCertificates::required("/etc/tls/staff.pem"))
///     })
///     .build()?;
///
/// // In a thread of its own, now and then:
/// if tls.has_changed() {
///     if let Err(error) = tls.reload() {
///         eprintln!("the certificates in force stay so: {error}");
///     }
/// }
/// # Ok::<(), perihelion_tls::ConfigError>(())
/// ```
///
/// # Resumption
/// Clients resume sessions with tickets, which only this `ServerTls` can read; it remembers nothing of them itself.
/// They survive a [`reload`](ServerTls::reload). But they are worth nothing under other rules for client certificates:
/// at a host that has its own, or after a reload that found the authorities or revocation lists changed. And where
/// client certificates are asked for, each is verified again at least once an hour, whatever the client resumes.
#[derive(Clone)]
pub struct ServerTls {
    shared: Arc<Shared>,
}

struct Shared {
    /// None for a configuration that did not come from files.
    source: Option<Source>,
    limits: HandshakeLimits,
    /// What is in force.
    state: RwLock<Arc<State>>,
    /// The files as they were when they were last read, with success or not. Held during a reload: there is one at a
    /// time.
    tried: Mutex<Files>,
}

impl ServerTls {
    /// Begins a configuration that is read from files.
    pub fn builder() -> ServerTlsBuilder {
        ServerTlsBuilder::new()
    }

    /// Takes a configuration as it is, but without early data. It can't be read again.
    pub fn from_rustls(mut config: Arc<ServerConfig>) -> Self {
        if config.max_early_data_size > 0 {
            Arc::make_mut(&mut config).max_early_data_size = 0; // nobody would take it, and the handshake not go on
        }
        ServerTls::new(None, HandshakeLimits::default(), State::of(config), Files::default())
    }

    /// Reads all files again. New connections are made with what is in them; open ones go on as they are. Blocks
    /// while it reads: call it outside the workers, or on their pool for blocking calls.
    ///
    /// # Errors
    /// What is wrong with a file, or that the configuration did not come from files. What was in force stays so then:
    /// a file that is only half written does no harm.
    pub fn reload(&self) -> Result<(), ConfigError> {
        let source = self.shared.source.as_ref().ok_or(ConfigError::NotFromFiles)?;
        let mut tried = self.shared.tried.lock().unwrap_or_else(PoisonError::into_inner);
        let mut files = Files::default();
        let state = State::load(source, &mut files, Some(&self.state()));
        *tried = files; // also if it failed, so that it is tried again only when something changes
        *self.shared.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(state?);
        tracing::info!("the certificates and rules of TLS were read again");
        Ok(())
    }

    /// Whether a file looks different from when it was last read, by a reload that failed too: so a broken file is
    /// tried once, until it changes again. Looks at the size, times and inode of each file, but reads none.
    pub fn has_changed(&self) -> bool {
        self.shared.tried.lock().unwrap_or_else(PoisonError::into_inner).have_changed()
    }

    /// The configuration in force, for names that no [`host`](ServerTlsBuilder::host) is for. Whoever makes
    /// connections with it knows no hosts' rules: see [`config_for`](ServerTls::config_for).
    pub fn config(&self) -> Arc<ServerConfig> {
        self.state().default.clone()
    }

    /// The configuration in force for a client that says this. None if
    /// [unknown names are rejected](ServerTlsBuilder::reject_unknown_names) and this is one: then the answer is the
    /// alert `unrecognized_name`.
    pub fn config_for(&self, hello: &ClientHello<'_>) -> Option<Arc<ServerConfig>> {
        self.state().config_for(hello.server_name())
    }

    pub(crate) fn limits(&self) -> HandshakeLimits {
        self.shared.limits
    }

    fn new(source: Option<Source>, limits: HandshakeLimits, state: State, tried: Files) -> Self {
        let (state, tried) = (RwLock::new(Arc::new(state)), Mutex::new(tried));
        ServerTls { shared: Arc::new(Shared { source, limits, state, tried }) }
    }

    fn state(&self) -> Arc<State> {
        self.shared.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
