//! The files that a configuration is read from, and whether they have changed since.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustls_pki_types::pem::{Error, PemObject};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use crate::ConfigError;

/// Reads files, and remembers what they looked like when it did, also those that it could not read.
#[derive(Default)]
pub(crate) struct Files {
    seen: HashMap<PathBuf, Option<Stamp>>,
}

/// What a file looks like from outside. A file that is not there has none.
#[derive(PartialEq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    /// Seconds and nanoseconds. It also changes with the permissions, and can't be set back.
    changed: (i64, i64),
}

impl Files {
    pub(crate) fn read(&mut self, file: &Path) -> Result<Vec<u8>, ConfigError> {
        // Before its contents, so that a change between the two is found later.
        self.seen.entry(file.to_owned()).or_insert_with(|| Stamp::of(file));
        fs::read(file).map_err(|cause| ConfigError::unreadable(file, cause))
    }

    /// Whether a file that was read looks different now. Reads none.
    pub(crate) fn have_changed(&self) -> bool {
        self.seen.iter().any(|(file, stamp)| Stamp::of(file) != *stamp)
    }

    /// At least one.
    pub(crate) fn certificates(&mut self, file: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
        let certificates = all(file, &self.read(file)?)?;
        if certificates.is_empty() {
            return Err(ConfigError::NoCertificate { file: file.to_owned() });
        }
        Ok(certificates)
    }

    /// At least one.
    pub(crate) fn revocation_lists(
        &mut self,
        file: &Path,
    ) -> Result<Vec<CertificateRevocationListDer<'static>>, ConfigError> {
        let lists: Vec<CertificateRevocationListDer<'_>> = all(file, &self.read(file)?)?;
        if lists.is_empty() {
            return Err(ConfigError::NoRevocationList { file: file.to_owned() });
        }
        for list in &lists {
            webpki::OwnedCertRevocationList::from_der(list)
                .map_err(|cause| ConfigError::unparsable(file, cause))?;
        }
        Ok(lists)
    }

    /// The first one in the file.
    pub(crate) fn private_key(&mut self, file: &Path) -> Result<PrivateKeyDer<'static>, ConfigError> {
        let text = self.read(file)?;
        match PrivateKeyDer::from_pem_slice(&text) {
            Ok(key) => Ok(key),
            Err(_) if is_encrypted(&text) => Err(ConfigError::EncryptedKey { file: file.to_owned() }),
            Err(Error::NoItemsFound) => Err(ConfigError::NoPrivateKey { file: file.to_owned() }),
            Err(cause) => Err(ConfigError::unparsable(file, cause)),
        }
    }
}

impl Stamp {
    fn of(file: &Path) -> Option<Self> {
        let metadata = fs::metadata(file).ok()?;
        Some(Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

fn all<T: PemObject>(file: &Path, text: &[u8]) -> Result<Vec<T>, ConfigError> {
    T::pem_slice_iter(text).collect::<Result<_, _>>().map_err(|cause| ConfigError::unparsable(file, cause))
}

/// By the line that PKCS #8 begins with, or the header of older keys.
fn is_encrypted(text: &[u8]) -> bool {
    text.split(|byte| *byte == b'\n').any(|line| {
        line.starts_with(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
            || line.starts_with(b"Proc-Type: 4,ENCRYPTED")
    })
}
