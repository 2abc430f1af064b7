//! Authorities, files and handshakes.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::{env, fs, process};

use perihelion_tls::{ClientTls, ServerTls};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod,
    KeyPair, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::Acceptor;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, HandshakeKind, ServerConfig,
    ServerConnection, SignatureScheme,
};

/// A folder for the files of one test.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("perihelion-tls-config-{}-{number}", process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, contents).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A certificate and its key, in files.
pub(crate) struct Pair {
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) der: CertificateDer<'static>,
    pub(crate) key_pair: KeyPair,
}

impl Pair {
    pub(crate) fn server(&self) -> ServerTls {
        ServerTls::builder().certificate(&self.chain, &self.key).build().unwrap()
    }

    /// Gets the contents of another, and another size: clocks of file systems are slow.
    pub(crate) fn replace(&self, other: &Pair) {
        for (to, from) in [(&self.chain, &other.chain), (&self.key, &other.key)] {
            fs::write(to, fs::read_to_string(from).unwrap() + "\n# replaced\n").unwrap();
        }
    }

    fn write(folder: &Folder, stem: &str, certificate: &rcgen::Certificate, key_pair: KeyPair) -> Self {
        let chain = folder.write(&format!("{stem}.pem"), certificate.pem());
        let key = folder.write(&format!("{stem}.key"), key_pair.serialize_pem());
        Pair { chain, key, der: certificate.der().clone(), key_pair }
    }
}

pub(crate) struct Authority {
    pub(crate) file: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(folder: &Folder, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let file = folder.write(&format!("{name}.pem"), params.self_signed(&key).unwrap().pem());
        Authority { file, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn issue(&self, folder: &Folder, stem: &str, names: &[&str]) -> Pair {
        self.issue_with(folder, stem, names, KeyPair::generate().unwrap(), |_| {})
    }

    pub(crate) fn issue_with(
        &self,
        folder: &Folder,
        stem: &str,
        names: &[&str],
        key: KeyPair,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Pair {
        let mut params = params(names);
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Pair::write(folder, stem, &certificate, key)
    }

    /// A list that revokes the certificates with these serial numbers, to be renewed in that year.
    pub(crate) fn revoke(&self, serials: &[u64], next_year: i32) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(next_year, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    pub(crate) fn client(&self) -> ClientTls {
        ClientTls::builder().roots(&self.file).build().unwrap()
    }

    /// A client with a certificate.
    pub(crate) fn client_with(&self, pair: &Pair) -> ClientTls {
        ClientTls::builder().roots(&self.file).certificate(&pair.chain, &pair.key).build().unwrap()
    }
}

pub(crate) fn self_signed(folder: &Folder, stem: &str, names: &[&str]) -> Pair {
    let key = KeyPair::generate().unwrap();
    let certificate = params(names).self_signed(&key).unwrap();
    Pair::write(folder, stem, &certificate, key)
}

fn params(names: &[&str]) -> CertificateParams {
    CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap()
}

/// Two sides after a handshake.
#[derive(Debug)]
pub(crate) struct Met {
    pub(crate) client: ClientConnection,
    pub(crate) server: ServerConnection,
}

impl Met {
    /// The certificate that the server has shown.
    pub(crate) fn server_certificate(&self) -> CertificateDer<'static> {
        self.client.peer_certificates().unwrap()[0].clone().into_owned()
    }

    pub(crate) fn is_resumed(&self) -> bool {
        self.client.handshake_kind() == Some(HandshakeKind::Resumed)
    }
}

#[derive(Debug)]
pub(crate) enum Refused {
    ByClient(Error),
    ByServer(Error),
    UnknownName,
}

/// A handshake with the configuration that is for the client's name.
pub(crate) fn meet(server: &ServerTls, client: &ClientTls, name: &str) -> Result<Met, Refused> {
    let mut client = connection(client, name);
    let mut acceptor = Acceptor::default();
    acceptor.read_tls(&mut Cursor::new(sent(&mut client))).unwrap();
    let accepted = acceptor.accept().unwrap().expect("the hello is there");
    let config = server.config_for(&accepted.client_hello()).ok_or(Refused::UnknownName)?;
    let server = accepted.into_connection(config).map_err(|(error, _alert)| Refused::ByServer(error))?;
    shake_hands(client, server)
}

/// A handshake with this configuration.
pub(crate) fn meet_config(server: Arc<ServerConfig>, client: &ClientTls, name: &str) -> Result<Met, Refused> {
    shake_hands(connection(client, name), ServerConnection::new(server).unwrap())
}

fn connection(client: &ClientTls, name: &str) -> ClientConnection {
    ClientConnection::new(client.config().clone(), name.to_owned().try_into().unwrap()).unwrap()
}

fn sent(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// Goes on until neither has anything to say, so that tickets have arrived too.
fn shake_hands(mut client: ClientConnection, mut server: ServerConnection) -> Result<Met, Refused> {
    while client.wants_write() || server.wants_write() {
        let bytes = sent(&mut client);
        let mut bytes = &bytes[..];
        while !bytes.is_empty() {
            server.read_tls(&mut bytes).unwrap();
            server.process_new_packets().map_err(Refused::ByServer)?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut bytes = &bytes[..];
        while !bytes.is_empty() {
            client.read_tls(&mut bytes).unwrap();
            client.process_new_packets().map_err(Refused::ByClient)?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(Met { client, server })
}

/// Takes any certificate that a signature of these algorithms goes with, and notes what is stapled to it.
#[derive(Debug)]
pub(crate) struct Observer {
    pub(crate) algorithms: WebPkiSupportedAlgorithms,
    pub(crate) stapled: Mutex<Vec<u8>>,
}

impl Observer {
    pub(crate) fn new(algorithms: WebPkiSupportedAlgorithms) -> Arc<Self> {
        Arc::new(Observer { algorithms, stapled: Mutex::default() })
    }

    pub(crate) fn client(self: &Arc<Self>) -> ClientTls {
        let mut config = ClientConfig::clone(
            ClientTls::builder().danger_accept_any_certificate().build().unwrap().config(),
        );
        config.dangerous().set_certificate_verifier(self.clone());
        ClientTls::from_rustls(Arc::new(config))
    }
}

impl ServerCertVerifier for Observer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        ocsp_response.clone_into(&mut self.stapled.lock().unwrap());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// What is wrong, as users read it; each of the files has to be named in it.
pub(crate) fn message<T>(result: Result<T, perihelion_tls::ConfigError>, files: &[&Path]) -> String {
    let message = result.err().expect("an error").to_string();
    for file in files {
        assert!(message.contains(&file.display().to_string()), "{message}");
    }
    message
}
