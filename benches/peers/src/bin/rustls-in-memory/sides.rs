//! A client and a server in one thread, and their handshake.

use std::sync::Arc;

use peers::tls;
use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::Error;
use crate::half::Half;
use crate::meter::Stopwatch;

/// The name that the certificate is for.
const NAME: &str = "localhost";

/// Who talks to whom.
pub struct Sides {
    server: Arc<ServerConfig>,
    /// Resumes sessions.
    pub client: Arc<ClientConfig>,
    /// Does not.
    pub forgetful_client: Arc<ClientConfig>,
}

/// A connection after its handshake.
pub struct Pair {
    pub server: Box<UnbufferedServerConnection>,
    pub client: UnbufferedClientConnection,
}

impl Sides {
    pub fn new() -> Result<Self, Error> {
        let made = rcgen::generate_simple_self_signed([NAME.into()])?;
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let certificate = made.cert.der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone())?;
        let mut client = ClientConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let resuming = Arc::new(client.clone());
        client.resumption = Resumption::disabled();
        let server = tls::server_config(vec![certificate], key.into())?;
        Ok(Sides { server, client: resuming, forgetful_client: Arc::new(client) })
    }

    /// Connects, up to where both have received everything, and times the server.
    pub fn connect(
        &self,
        client: &Arc<ClientConfig>,
        watch: &mut Stopwatch,
    ) -> Result<Pair, Error> {
        let name = ServerName::try_from(NAME)?;
        let mut client = UnbufferedClientConnection::new(Arc::clone(client), name)?;
        let mut server = watch
            .time(|| UnbufferedServerConnection::new(Arc::clone(&self.server)).map(Box::new))?;
        let (mut to_server, mut to_client, mut data) = (Vec::new(), Vec::new(), Vec::new());
        client.receive(&mut [], &mut data, &mut to_server)?;
        while !to_server.is_empty() {
            watch.time(|| server.receive(&mut to_server, &mut data, &mut to_client))?;
            to_server.clear();
            client.receive(&mut to_client, &mut data, &mut to_server)?;
            to_client.clear();
        }
        assert!(data.is_empty() && !server.is_handshaking() && !client.is_handshaking());
        Ok(Pair { server, client })
    }
}
