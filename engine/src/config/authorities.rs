//! Whose certificates of next hops are trusted: a file of the authorities', read with the configuration, so that a
//! reload reads it again, and what is wrong with it leaves the old configuration in force.

use std::fmt;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::limits::PEM_FILE_LEN_MAX;

/// What a file of authorities held when it was read. Two of the same content are equal, so that next hops that trust
/// others than before are others.
#[derive(Clone)]
pub struct Authorities {
    path: PathBuf,
    roots: Arc<RootCertStore>,
    digest: [u8; SHA256_OUTPUT_LEN],
}

impl Authorities {
    /// Reads a PEM file. Certificates in it that are none of an authority are passed over, as long as one is: the
    /// collections of distributions have such.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn read(path: &Path) -> Result<Self, String> {
        let mut pem = Vec::new();
        let file = File::open(path).map_err(|error| error.to_string())?;
        file.take(PEM_FILE_LEN_MAX + 1).read_to_end(&mut pem).map_err(|error| error.to_string())?;
        if pem.len() as u64 > PEM_FILE_LEN_MAX {
            return Err(format!("it is longer than {PEM_FILE_LEN_MAX} octets"));
        }
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        let certificates = certificates.map_err(|error| format!("it is not PEM: {error}"))?;
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates);
        if roots.is_empty() {
            return Err("it has no certificate of an authority".to_owned());
        }
        let digest = digest(&SHA256, &pem).as_ref().try_into().expect("SHA-256 has 32 octets");
        Ok(Self { path: path.to_owned(), roots: Arc::new(roots), digest })
    }

    /// For who verifies.
    pub fn roots(&self) -> &Arc<RootCertStore> {
        &self.roots
    }
}

impl PartialEq for Authorities {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Authorities {}

impl Hash for Authorities {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest.hash(state);
    }
}

impl fmt::Debug for Authorities {
    /// Two that differ look different: configurations are compared by how they look.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authorities({:?}, {:02x?})", self.path, &self.digest[..8])
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn authority() -> String {
        let key = KeyPair::generate().unwrap();
        CertificateParams::new(vec![]).unwrap().self_signed(&key).unwrap().pem()
    }

    #[test]
    fn one_certificate_is_enough_and_what_is_cut_off_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("authorities.pem");
        let read = |content: &str| {
            std::fs::write(&path, content).unwrap();
            Authorities::read(&path)
        };
        let (one, other) = (authority(), authority());
        // Base64 of what is no certificate.
        let none = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let first = read(&one).unwrap();
        assert_eq!(
            (first.roots().len(), read(&format!("{one}{none}{other}")).unwrap().roots().len()),
            (1, 2)
        );
        let (again, second) = (read(&one).unwrap(), read(&other).unwrap());
        assert!(first == again && first != second && format!("{first:?}") != format!("{second:?}"));
        for (content, why) in [
            (String::new(), "it has no certificate of an authority"),
            (none.to_owned(), "it has no certificate of an authority"),
            (format!("{one}{}", &other[..other.len() / 2]), "it is not PEM: "),
            (format!("{one}{}", " ".repeat(PEM_FILE_LEN_MAX as usize)), "it is longer than 1048576 octets"),
        ] {
            let error = read(&content).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(Authorities::read(&path).unwrap_err().contains("No such file"));
    }
}
