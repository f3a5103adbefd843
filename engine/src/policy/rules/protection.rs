//! What a rule asks of TLS, and of the certificate that the client showed.

use crate::security::{Fingerprint, Secured};

/// Conditions on what protects a session; one that is `None` holds for all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Protection {
    /// Whether there is TLS.
    pub tls: Option<bool>,
    pub certificates: Option<Certificates>,
}

/// Certificates of clients: a client needs one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Certificates {
    /// Each that leads to an authority of the listener.
    any_verified: bool,
    /// These, whoever signed them: the handshake has proved that the client has the key. Sorted.
    fingerprints: Vec<Fingerprint>,
    /// Verified ones with one of these DNS names, in lower case; `.example.com` for all names below it.
    names: Vec<Box<str>>,
}

impl Protection {
    pub(super) fn conditions_count(&self) -> usize {
        usize::from(self.tls.is_some()) + usize::from(self.certificates.is_some())
    }

    pub(super) fn holds(&self, secured: Option<&Secured>) -> bool {
        let includes = |list: &Certificates| secured.is_some_and(|secured| list.includes(secured));
        self.tls.is_none_or(|tls| tls == secured.is_some()) && self.certificates.as_ref().is_none_or(includes)
    }

    /// A reason for each condition; `None` where one does not hold.
    pub(super) fn reasons(&self, secured: Option<&Secured>) -> Option<Vec<String>> {
        let mut reasons = Vec::new();
        if let Some(tls) = self.tls {
            reasons.push(if tls { "under TLS".to_owned() } else { "in clear".to_owned() });
        }
        if let Some(certificate) = secured.and_then(|secured| secured.security.certificate)
            && self.certificates.is_some()
        {
            reasons.push(format!("client certificate {} is listed", certificate.fingerprint));
        }
        self.holds(secured).then_some(reasons)
    }
}

impl Certificates {
    /// Adds `verified`, `sha256:` with the SHA-256 of a certificate in hexadecimal, a DNS name, or `.example.com`.
    ///
    /// # Errors
    /// Why it is none of them.
    pub fn add(&mut self, text: &str) -> Result<(), &'static str> {
        if text == "verified" {
            self.any_verified = true;
        } else if let Some(digits) = text.strip_prefix("sha256:") {
            let fingerprint = Fingerprint::parse(digits).ok_or("a SHA-256 has 64 hexadecimal digits")?;
            if let Err(at) = self.fingerprints.binary_search(&fingerprint) {
                self.fingerprints.insert(at, fingerprint);
            }
        } else {
            let is_name = |octet: u8| octet.is_ascii_alphanumeric() || b"-._*".contains(&octet);
            if !text.contains('.') || !text.bytes().all(is_name) {
                return Err("this is no DNS name");
            }
            self.names.push(text.to_ascii_lowercase().into());
        }
        Ok(())
    }

    fn includes(&self, secured: &Secured) -> bool {
        let Some(certificate) = secured.security.certificate else { return false };
        let listed = |name: &str| {
            let is_it = |listed: &str| listed == name || (listed.starts_with('.') && name.ends_with(listed));
            self.names.iter().any(|listed| is_it(listed))
        };
        let by_name = || secured.certificate_names.iter().any(|name| listed(name));
        self.fingerprints.binary_search(&certificate.fingerprint).is_ok()
            || certificate.verified && (self.any_verified || by_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::security::{CipherSuite, ClientCertificate, Security, Version};

    fn secured(certificate: Option<(u8, bool)>, names: &[&str]) -> Secured {
        let certificate = certificate
            .map(|(octet, verified)| ClientCertificate { fingerprint: Fingerprint([octet; 32]), verified });
        let security = Security { version: Version::Tls13, cipher: CipherSuite(0x1302), certificate };
        let certificate_names = names.iter().map(|name| (*name).into()).collect();
        Secured { security, resumed: false, certificate_names }
    }

    fn certificates(listed: &[&str]) -> Protection {
        let mut certificates = Certificates::default();
        listed.iter().for_each(|text| certificates.add(text).unwrap());
        Protection { tls: None, certificates: Some(certificates) }
    }

    #[test]
    fn tls_is_there_or_not() {
        let (any, tls) = (Protection::default(), |tls| Protection { tls: Some(tls), certificates: None });
        let (clear, under) = (None, secured(None, &[]));
        assert!(any.holds(clear) && any.holds(Some(&under)));
        assert!(tls(true).holds(Some(&under)) && !tls(true).holds(clear));
        assert!(tls(false).holds(clear) && !tls(false).holds(Some(&under)));
        assert_eq!(tls(true).reasons(Some(&under)).unwrap(), ["under TLS"]);
        assert_eq!(tls(true).reasons(clear), None);
    }

    #[test]
    fn names_count_for_verified_certificates_only_and_fingerprints_for_all() {
        let fingerprint = format!("sha256:{}", "AB".repeat(32));
        let listed = certificates(&["mx.partner.example", ".below.example", &fingerprint]);
        let holds = |certificate, names: &[&str]| listed.holds(Some(&secured(certificate, names)));
        assert!(holds(Some((1, true)), &["other.example", "mx.partner.example"]));
        assert!(holds(Some((1, true)), &["a.b.below.example"]));
        assert!(holds(Some((0xab, false)), &[]));
        assert!(!holds(Some((1, false)), &["mx.partner.example"]), "anybody can make one");
        assert!(!holds(Some((1, true)), &["below.example", "a.mx.partner.example", "xbelow.example"]));
        assert!(!holds(None, &[]) && !listed.holds(None));
        let verified = certificates(&["verified"]);
        assert!(verified.holds(Some(&secured(Some((1, true)), &[]))));
        assert!(!verified.holds(Some(&secured(Some((1, false)), &["verified"]))));
    }

    #[test]
    fn what_is_no_certificate_is_told() {
        for text in
            ["", "sha256:", "sha256:abc", &format!("sha256:{}x", "a".repeat(63)), "name", "a b.example"]
        {
            assert!(Certificates::default().add(text).is_err(), "{text}");
        }
        let colons = ["ab"; 32].join(":");
        assert_eq!(Fingerprint::parse(&colons), Some(Fingerprint([0xab; 32])));
    }
}
