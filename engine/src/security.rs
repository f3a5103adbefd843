//! What TLS made of a connection, as the trace field, the envelope, the log and rules tell it.

/// A version of TLS that is served. RFC 8996 deprecates those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

impl Version {
    pub const ALL: [Self; 2] = [Self::Tls12, Self::Tls13];

    pub fn name(self) -> &'static str {
        match self {
            Self::Tls12 => "TLSv1.2",
            Self::Tls13 => "TLSv1.3",
        }
    }

    /// The number on the wire.
    pub fn number(self) -> u16 {
        match self {
            Self::Tls12 => 0x0303,
            Self::Tls13 => 0x0304,
        }
    }
}

/// A cipher suite by its number in IANA's registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CipherSuite(pub u16);

/// Those that are served, and their registered names: all have forward secrecy and authenticated encryption.
const SUITES: [(u16, &str); CipherSuite::COUNT] = [
    (0x1301, "TLS_AES_128_GCM_SHA256"),
    (0x1302, "TLS_AES_256_GCM_SHA384"),
    (0x1303, "TLS_CHACHA20_POLY1305_SHA256"),
    (0xc02b, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
    (0xc02c, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
    (0xc02f, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
    (0xc030, "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"),
    (0xcca8, "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
    (0xcca9, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
];

impl CipherSuite {
    /// How many are served.
    pub const COUNT: usize = 9;

    /// All that are served, in the order of [`index`](Self::index).
    pub fn all() -> impl Iterator<Item = Self> {
        SUITES.iter().map(|(number, _)| Self(*number))
    }

    /// Its place among those that are served.
    pub fn index(self) -> Option<usize> {
        SUITES.iter().position(|(number, _)| *number == self.0)
    }

    /// The version that it belongs to: those of 1.3 name no key exchange (RFC 8446 §B.4).
    pub fn version(self) -> Version {
        if self.0 >> 8 == 0x13 { Version::Tls13 } else { Version::Tls12 }
    }

    /// The registered name; of a number that is not served, `unknown`.
    pub fn name(self) -> &'static str {
        self.index().map_or("unknown", |index| SUITES[index].1)
    }
}

/// SHA-256 of a certificate's DER.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Out of 64 hexadecimal digits; colons between them make no difference.
    pub fn parse(text: &str) -> Option<Self> {
        let mut digits = text.chars().filter(|char| *char != ':').map(|char| char.to_digit(16));
        let mut octets = [0; 32];
        for octet in &mut octets {
            *octet = (digits.next()?? * 16 + digits.next()??) as u8;
        }
        digits.next().is_none().then_some(Self(octets))
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

/// The certificate that a client showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    pub fingerprint: Fingerprint,
    /// It leads to an authority that the listener trusts, and is valid. False: the client has its key, no more.
    pub verified: bool,
}

/// What protects a connection; of a fixed size, for events and envelopes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Security {
    pub version: Version,
    pub cipher: CipherSuite,
    pub certificate: Option<ClientCertificate>,
}

/// TLS is there, and this is all that is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secured {
    pub security: Security,
    /// By a ticket of an earlier session.
    pub resumed: bool,
    /// DNS names of the client's certificate, in lower case. Unless it is verified they are what anybody can write.
    pub certificate_names: Box<[Box<str>]>,
}

const CERTIFICATE_VERIFIED: u8 = 1;

impl Security {
    /// What there may be of a client's certificate: none, one that nobody vouches for, one that is verified.
    pub const CERTIFICATE_STATES: [&str; 3] = ["none", "recorded", "verified"];

    /// The place among [`CERTIFICATE_STATES`](Self::CERTIFICATE_STATES).
    pub fn certificate_state(&self) -> usize {
        match self.certificate {
            None => 0,
            Some(ClientCertificate { verified: false, .. }) => 1,
            Some(ClientCertificate { verified: true, .. }) => 2,
        }
    }

    /// Version and cipher suite, 2 octets each, most significant first; where the client showed a certificate, its
    /// fingerprint and an octet that is 1 if it was verified, else 0.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.version.number().to_be_bytes());
        out.extend_from_slice(&self.cipher.0.to_be_bytes());
        if let Some(ClientCertificate { fingerprint, verified }) = self.certificate {
            out.extend_from_slice(&fingerprint.0);
            out.push(if verified { CERTIFICATE_VERIFIED } else { 0 });
        }
    }

    pub(crate) fn read(value: &[u8]) -> Option<Self> {
        let (version, rest) = value.split_first_chunk::<2>()?;
        let (cipher, rest) = rest.split_first_chunk::<2>()?;
        let version = u16::from_be_bytes(*version);
        let certificate = match rest {
            [] => None,
            [fingerprint @ .., verified @ (0 | CERTIFICATE_VERIFIED)] => {
                let fingerprint = Fingerprint(fingerprint.try_into().ok()?);
                Some(ClientCertificate { fingerprint, verified: *verified == CERTIFICATE_VERIFIED })
            }
            _ => return None,
        };
        Some(Self {
            version: Version::ALL.into_iter().find(|known| known.number() == version)?,
            cipher: CipherSuite(u16::from_be_bytes(*cipher)),
            certificate,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_read() {
        let shown = |verified| Some(ClientCertificate { fingerprint: Fingerprint([7; 32]), verified });
        for certificate in [None, shown(true), shown(false)] {
            for version in Version::ALL {
                let stored = Security { version, cipher: CipherSuite(0x1301), certificate };
                let mut octets = Vec::new();
                stored.write(&mut octets);
                assert_eq!(Security::read(&octets), Some(stored));
                assert_eq!(Security::read(&octets[..octets.len() - 1]), None);
                assert_eq!(Security::read(&[&octets[..], &[2]].concat()), None);
            }
        }
        assert_eq!(Security::read(b"\x03\x02\x13\x01"), None, "no TLS 1.1");
    }

    #[test]
    fn names_are_those_of_the_registry() {
        assert_eq!(CipherSuite(0x1302).name(), "TLS_AES_256_GCM_SHA384");
        assert_eq!(CipherSuite(0x0005).name(), "unknown");
        for cipher in CipherSuite::all() {
            // RFC 8446 has suites without a key exchange in their name.
            let has_exchange = cipher.name().contains("_ECDHE_");
            assert_eq!(cipher.version() == Version::Tls12, has_exchange, "{}", cipher.name());
        }
        assert!(SUITES.iter().all(|(_, name)| name.contains("GCM") || name.contains("POLY1305")));
        assert_eq!(Fingerprint([0xa5; 32]).to_string(), "a5".repeat(32));
    }
}
