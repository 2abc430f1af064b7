//! What a server's files say, put together.

use std::collections::hash_map::Entry;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert};
use rustls::{KeyLog, ServerConfig};

use super::builder::HostBuilder;
use crate::ConfigError;
use crate::certificates::{CertificateFiles, Certificates, Resolver};
use crate::client_certificates::{ClientCertificates, ClientRules};
use crate::files::Files;
use crate::names::Names;
use crate::provider::{Versions, check_protocols, provider};
use crate::tickets::TicketKeys;

const NO_NAME: &str = "no client can ask for this name; it has to be as in DNS, with letters outside ASCII as xn--, \
                       or begin with *. and have no other wildcard";

/// Where everything comes from.
pub(crate) struct Source {
    pub(crate) certificates: Vec<CertificateFiles>,
    pub(crate) rejects_unknown_names: bool,
    pub(crate) clients: ClientCertificates,
    pub(crate) protocols: Vec<Vec<u8>>,
    pub(crate) hosts: Vec<(String, HostBuilder)>,
    pub(crate) versions: Versions,
    /// How many are sent after a full handshake of TLS 1.3. With none, there is no resumption.
    pub(crate) tickets: usize,
    pub(crate) key_log: Option<Arc<dyn KeyLog>>,
}

/// A configuration that can be in force.
pub(crate) struct State {
    pub(crate) default: Arc<ServerConfig>,
    hosts: Names<Arc<ServerConfig>>,
    /// The certificates whose names are known, if others are rejected.
    known: Option<Arc<Certificates>>,
    ticket_keys: TicketKeys,
}

impl State {
    /// Reads all files. Tickets that were made before stay good where the rules are the same.
    pub(crate) fn load(
        source: &Source,
        files: &mut Files,
        before: Option<&State>,
    ) -> Result<Self, ConfigError> {
        if source.certificates.is_empty() {
            return Err(ConfigError::NoCertificateGiven);
        }
        let provider = provider();
        let mut maker = Maker { source, provider: &provider, before, ticket_keys: TicketKeys::default() };
        let certificates = Arc::new(Certificates::load(&source.certificates, files, &provider)?);
        let rules = source.clients.load(files, &provider)?;
        let resolver = |rejects_unknown_names| {
            Arc::new(Resolver { certificates: certificates.clone(), rejects_unknown_names })
        };
        let default = maker.config(&rules, resolver(source.rejects_unknown_names), &source.protocols)?;
        let mut hosts = Names::new();
        for (name, host) in &source.hosts {
            let wrong = |cause| ConfigError::Host { name: name.clone(), cause };
            let Entry::Vacant(entry) = hosts.entry(name).ok_or_else(|| wrong(NO_NAME))? else {
                return Err(wrong("there are rules for this name already"));
            };
            let rules = match &host.clients {
                Some(clients) => clients.load(files, &provider)?,
                None => rules.clone(),
            };
            let resolver = match &host.certificates[..] {
                [] => resolver(false),
                own => Arc::new(Resolver {
                    certificates: Arc::new(Certificates::load(own, files, &provider)?),
                    rejects_unknown_names: false,
                }),
            };
            let protocols = host.protocols.as_ref().unwrap_or(&source.protocols);
            entry.insert(maker.config(&rules, resolver, protocols)?);
        }
        let known = source.rejects_unknown_names.then_some(certificates);
        Ok(State { default, hosts, known, ticket_keys: maker.ticket_keys })
    }

    /// One for all names.
    pub(crate) fn of(config: Arc<ServerConfig>) -> Self {
        State { default: config, hosts: Names::new(), known: None, ticket_keys: TicketKeys::default() }
    }

    pub(crate) fn config_for(&self, name: Option<&str>) -> Option<Arc<ServerConfig>> {
        if let Some(host) = name.and_then(|name| self.hosts.find(name).next()) {
            return Some(host.clone());
        }
        match (name, &self.known) {
            (Some(name), Some(known)) if !known.are_for(name) => None,
            _ => Some(self.default.clone()),
        }
    }
}

/// Makes configurations that differ only by name.
struct Maker<'a> {
    source: &'a Source,
    provider: &'a Arc<CryptoProvider>,
    before: Option<&'a State>,
    ticket_keys: TicketKeys,
}

impl Maker<'_> {
    fn config(
        &mut self,
        rules: &ClientRules,
        resolver: Arc<dyn ResolvesServerCert>,
        protocols: &[Vec<u8>],
    ) -> Result<Arc<ServerConfig>, ConfigError> {
        check_protocols(protocols)?;
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(self.source.versions)
            .map_err(ConfigError::setup)?
            .with_client_cert_verifier(rules.verifier.clone())
            .with_cert_resolver(resolver);
        config.alpn_protocols = protocols.to_vec();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = self.source.tickets;
        if self.source.tickets > 0 {
            let before = self.before.map(|state| &state.ticket_keys);
            config.ticketer = self.ticket_keys.get(rules, before).map_err(ConfigError::setup)?;
        }
        if let Some(key_log) = &self.source.key_log {
            config.key_log = key_log.clone();
        }
        Ok(Arc::new(config))
    }
}
