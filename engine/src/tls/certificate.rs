//! A certificate chain and its key, out of PEM files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use super::TlsError;
use crate::limits::{self, PEM_FILE_LEN_MAX};
use crate::security::Fingerprint;

/// RFC 9325 §4.5 and the CA/Browser Forum's requirements: shorter RSA keys are weak.
const RSA_BITS_LEAST: usize = 2048;
const DAY_SECS: u64 = 24 * 3600;

/// One `[[certificate]]`, read.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// Of the chain's file.
    pub path: PathBuf,
    pub key: Arc<CertifiedKey>,
    pub facts: Facts,
}

/// How much longer a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    Ended,
    /// So many whole days, which is no longer than [`limits::CERTIFICATE_TIME_LEAST`].
    Short(u64),
    Long(u64),
}

/// What can be said of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// DNS names in lower case, A-labels; a wildcard as `*.example.com`.
    pub names: Vec<String>,
    pub subject: String,
    pub issuer: String,
    /// Since 1970.
    pub not_before: Duration,
    pub not_after: Duration,
    /// `ECDSA 256`, `RSA 2048`.
    pub key_kind: String,
    pub fingerprint: Fingerprint,
    pub self_signed: bool,
    /// What is wrong with it, though it works.
    pub weaknesses: Vec<String>,
}

impl Facts {
    /// `now`: since 1970.
    pub(super) fn rest(&self, now: Duration) -> Rest {
        // RFC 5280 §4.1.2.5: its last moment is one of its own.
        let Some(rest) = self.not_after.checked_sub(now) else { return Rest::Ended };
        let days = rest.as_secs() / DAY_SECS;
        if rest <= limits::CERTIFICATE_TIME_LEAST { Rest::Short(days) } else { Rest::Long(days) }
    }
}

impl Certificate {
    /// Reads both files and checks that they belong together.
    ///
    /// # Errors
    /// With the file, and what to do about it.
    pub fn load(chain: &Path, key: &Path, provider: &CryptoProvider) -> Result<Self, TlsError> {
        let unusable = |path: &Path, why: String| TlsError::Unusable { path: path.to_owned(), why };
        let certificates = read_chain(chain)?;
        let mut facts = Facts::of(&certificates[0]).map_err(|why| unusable(chain, why))?;
        facts.weaknesses.extend(gap(&certificates).map_err(|why| unusable(chain, why))?);
        let private = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| {
            let help =
                "it must hold one private key, not encrypted, between -----BEGIN PRIVATE KEY----- lines";
            unusable(key, format!("no private key: {error}; {help}"))
        })?;
        let signing = provider.key_provider.load_private_key(private);
        let signing = signing.map_err(|error| unusable(key, format!("the key cannot be used: {error}")))?;
        let certified = CertifiedKey::new(certificates, signing);
        match certified.keys_match() {
            // A key that cannot tell its public half is none of those that are loaded here.
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(_) => {
                return Err(TlsError::Mismatch { chain: chain.to_owned(), key: key.to_owned() });
            }
        }
        Ok(Self { path: chain.to_owned(), key: Arc::new(certified), facts })
    }
}

/// The certificates of a file, at least one.
///
/// # Errors
/// With the file.
pub(super) fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unusable = |why: String| TlsError::Unusable { path: path.to_owned(), why };
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    let certificates = certificates.map_err(|error| unusable(format!("not PEM: {error}")))?;
    if certificates.is_empty() {
        let help = "it must hold the server's certificate and behind it those of its issuers, in PEM";
        return Err(unusable(format!("no certificate in it; {help}")));
    }
    Ok(certificates)
}

/// Where a chain is none: RFC 8446 §4.4.2 has each certificate certify the one before it. Clients that look no further
/// do not find the way to their authority.
///
/// # Errors
/// Why one of them is no certificate.
fn gap(certificates: &[CertificateDer<'_>]) -> Result<Option<String>, String> {
    let parsed: Result<Vec<_>, String> = certificates
        .iter()
        .map(|der| match X509Certificate::from_der(der) {
            Ok((_, certificate)) => Ok(certificate),
            Err(error) => Err(format!("not a certificate: {error}")),
        })
        .collect();
    let parsed = parsed?;
    let is_gap = |pair: &[X509Certificate<'_>]| pair[0].issuer() != pair[1].subject();
    Ok(parsed.windows(2).position(is_gap).map(|index| {
        let (of, issuer) = (index + 2, parsed[index].issuer());
        format!(
            "no chain: certificate {of} of the file is not that of {issuer}, who issued the one before it"
        )
    }))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    use std::io::Read;
    let unreadable = |why: String| TlsError::Unreadable { path: path.to_owned(), why };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| unreadable(error.to_string()))?;
    file.take(PEM_FILE_LEN_MAX + 1).read_to_end(&mut bytes).map_err(|error| unreadable(error.to_string()))?;
    if bytes.len() as u64 > PEM_FILE_LEN_MAX {
        return Err(unreadable(format!("it is longer than {PEM_FILE_LEN_MAX} octets")));
    }
    Ok(bytes)
}

pub(super) fn fingerprint(der: &[u8]) -> Fingerprint {
    Fingerprint(digest(&SHA256, der).as_ref().try_into().expect("SHA-256 has 32 octets"))
}

/// DNS names of a certificate, in lower case; none where it is not understood.
pub(super) fn dns_names(der: &[u8]) -> Vec<String> {
    X509Certificate::from_der(der).map_or_else(|_| Vec::new(), |(_, certificate)| names(&certificate))
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    };
    extension.value.general_names.iter().filter_map(name).collect()
}

impl Facts {
    /// # Errors
    /// Why it is no certificate.
    pub fn of(der: &[u8]) -> Result<Self, String> {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|error| format!("not a certificate: {error}"))?;
        let secs = |time: i64| Duration::from_secs(u64::try_from(time).unwrap_or_default());
        let (key_kind, key_weakness) = key_kind(&certificate);
        let self_signed = certificate.subject() == certificate.issuer();
        let mut weaknesses: Vec<String> = key_weakness.into_iter().collect();
        let signature = certificate.signature_algorithm.algorithm.to_id_string();
        if SHA1_SIGNATURES.contains(&signature.as_str()) {
            weaknesses.push("signed with SHA-1, which can be forged".to_owned());
        }
        let names = names(&certificate);
        if names.is_empty() {
            weaknesses.push("without a DNS name (subjectAltName), so that no client can check it".to_owned());
        }
        Ok(Self {
            names,
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            not_before: secs(certificate.validity().not_before.timestamp()),
            not_after: secs(certificate.validity().not_after.timestamp()),
            key_kind,
            fingerprint: fingerprint(der),
            self_signed,
            weaknesses,
        })
    }
}

/// sha1WithRSAEncryption, ecdsa-with-SHA1, dsa-with-sha1, and MD5's.
const SHA1_SIGNATURES: &[&str] =
    &["1.2.840.113549.1.1.5", "1.2.840.10045.4.1", "1.2.840.10040.4.3", "1.2.840.113549.1.1.4"];

fn key_kind(certificate: &X509Certificate<'_>) -> (String, Option<String>) {
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => {
            let bits = key.key_size();
            let weak = (bits < RSA_BITS_LEAST)
                .then(|| format!("an RSA key of {bits} bits, which is weak; take {RSA_BITS_LEAST} or ECDSA"));
            (format!("RSA {bits}"), weak)
        }
        Ok(PublicKey::EC(point)) => (format!("ECDSA {}", point.key_size()), None),
        _ => ("Ed25519 or other".to_owned(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_certificate_certifies_the_one_before() {
        let issue = |name: &str, issuer: Option<(&rcgen::CertificateParams, &rcgen::KeyPair)>| {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::new(vec![format!("{name}.example")]).unwrap();
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            let certificate = match issuer {
                None => params.self_signed(&key),
                Some((issuer, key_of)) => params.signed_by(&key, &rcgen::Issuer::from_params(issuer, key_of)),
            };
            (certificate.unwrap().der().clone(), params, key)
        };
        let (root, root_params, root_key) = issue("root", None);
        let (middle, middle_params, middle_key) = issue("middle", Some((&root_params, &root_key)));
        let (leaf, ..) = issue("leaf", Some((&middle_params, &middle_key)));
        for whole in [&[&leaf][..], &[&leaf, &middle], &[&leaf, &middle, &root]] {
            let chain: Vec<_> = whole.iter().map(|&der| der.clone()).collect();
            assert_eq!(gap(&chain), Ok(None));
        }
        for (broken, of) in
            [(&[&leaf, &root][..], 2), (&[&leaf, &root, &middle], 2), (&[&leaf, &middle, &leaf], 3)]
        {
            let chain: Vec<_> = broken.iter().map(|&der| der.clone()).collect();
            let why = gap(&chain).unwrap().expect("a gap");
            assert!(why.contains(&format!("certificate {of} of the file is not that of CN=")), "{why}");
        }
        assert!(gap(&[leaf, CertificateDer::from(vec![1, 2, 3])]).is_err());
    }

    #[test]
    fn a_file_that_is_no_chain_is_not_read_to_its_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (len, is_read) in [(PEM_FILE_LEN_MAX, true), (PEM_FILE_LEN_MAX + 1, false)] {
            file.as_file().set_len(len).unwrap();
            let why = read(file.path()).err().map(|error| error.to_string());
            assert_eq!(why.is_none_or(|why| !why.contains("longer than 1048576 octets")), is_read);
        }
    }

    #[test]
    fn a_certificate_of_21_days_and_less_is_warned_of() {
        let mut params = rcgen::CertificateParams::new(vec!["mx.example".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2030, 1, 22);
        let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let facts = Facts::of(certificate.der()).unwrap();
        let end = facts.not_after;
        assert_eq!(end, Duration::from_secs(1_895_270_400));
        let (second, days) = (Duration::from_secs(1), |count: u64| Duration::from_secs(count * 24 * 3600));
        for (now, rest) in [
            (end - days(22), Rest::Long(22)),
            (end - days(21) - second, Rest::Long(21)),
            (end - days(21), Rest::Short(21)),
            (end - days(21) + second, Rest::Short(20)),
            (end - second, Rest::Short(0)),
            (end, Rest::Short(0)),
            (end + second, Rest::Ended),
        ] {
            assert_eq!(facts.rest(now), rest, "{now:?}");
        }
    }
}
