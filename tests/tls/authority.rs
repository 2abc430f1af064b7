//! An authority with a folder of its own, where the files lie that a test needs.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
}

/// A certificate and its key, as PEM files.
pub(crate) struct Identity {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

static SERIAL: AtomicU64 = AtomicU64::new(1);

fn serial() -> u64 {
    SERIAL.fetch_add(1, Ordering::Relaxed)
}

impl Authority {
    pub(crate) fn new() -> Self {
        let serial = serial();
        let folder = std::env::temp_dir().join(format!("perihelion-tls-{}-{serial}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, format!("authority {serial}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Authority { issuer, folder };
        authority.write("ca.pem", &authority.issuer.pem());
        authority
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.file(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Of the authority itself.
    pub(crate) fn ca(&self) -> PathBuf {
        self.file("ca.pem")
    }

    /// For a host or a client of this name.
    pub(crate) fn issue(&self, name: &str) -> Identity {
        self.issue_with(name, |_| ())
    }

    pub(crate) fn issue_expired(&self, name: &str) -> Identity {
        self.issue_with(name, |params| {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        })
    }

    fn issue_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let (mut params, key) = Self::params(name);
        change(&mut params);
        self.save(name, &params.signed_by(&key, &self.issuer).unwrap().pem(), &key)
    }

    pub(crate) fn self_signed(&self, name: &str) -> Identity {
        let (params, key) = Self::params(name);
        self.save(name, &params.self_signed(&key).unwrap().pem(), &key)
    }

    /// A certificate that the authority has revoked, and the list that says so.
    pub(crate) fn issue_revoked(&self, name: &str) -> (Identity, PathBuf) {
        let number = SerialNumber::from(serial() + (1 << 32));
        let identity = self.issue_with(name, |params| params.serial_number = Some(number.clone()));
        let revoked = RevokedCertParams {
            serial_number: number,
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2124, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).unwrap().pem().unwrap();
        (identity, self.write("revoked.pem", &list))
    }

    fn params(name: &str) -> (CertificateParams, KeyPair) {
        let mut params = CertificateParams::new([name.into()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        (params, KeyPair::generate().unwrap())
    }

    fn save(&self, name: &str, cert: &str, key: &KeyPair) -> Identity {
        let serial = serial();
        Identity {
            cert: self.write(&format!("{name}-{serial}.pem"), cert),
            key: self.write(&format!("{name}-{serial}.key"), &key.serialize_pem()),
        }
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
