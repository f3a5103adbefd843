//! The extensions of SMTP that the engine knows, and sets of them.

/// One extension by its EHLO keyword.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// RFC 2920.
    Pipelining,
    /// RFC 1870.
    Size,
    /// RFC 6152.
    EightBitMime,
    /// RFC 2034.
    EnhancedStatusCodes,
    /// RFC 6531.
    SmtpUtf8,
    /// RFC 3030.
    Chunking,
    /// RFC 9422.
    Limits,
    /// RFC 3461. Offered by those who can send notices.
    Dsn,
    /// RFC 8689: offered under TLS alone, to those who can send notices.
    RequireTls,
}

impl Extension {
    /// All of them, as they are announced.
    pub const ALL: [Self; 9] = [
        Self::Pipelining,
        Self::Size,
        Self::EightBitMime,
        Self::EnhancedStatusCodes,
        Self::SmtpUtf8,
        Self::Chunking,
        Self::Limits,
        Self::Dsn,
        Self::RequireTls,
    ];

    pub fn keyword(self) -> &'static str {
        match self {
            Self::Pipelining => "PIPELINING",
            Self::Size => "SIZE",
            Self::EightBitMime => "8BITMIME",
            Self::EnhancedStatusCodes => "ENHANCEDSTATUSCODES",
            Self::SmtpUtf8 => "SMTPUTF8",
            Self::Chunking => "CHUNKING",
            Self::Limits => "LIMITS",
            Self::Dsn => "DSN",
            Self::RequireTls => "REQUIRETLS",
        }
    }
}

/// The extensions that a listener offers. What is not offered is refused as if it were not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extensions(u16);

impl Extensions {
    /// What a listener offers unless it is told otherwise: all that needs nothing else.
    pub const DEFAULT: Self =
        Self((1 << Extension::ALL.len()) - 1).without(Extension::Dsn).without(Extension::RequireTls);
    /// The same where there is a way to senders, so that notices reach them.
    pub const WITH_NOTICES: Self = Self::DEFAULT.with(Extension::Dsn).with(Extension::RequireTls);

    pub const fn with(self, extension: Extension) -> Self {
        Self(self.0 | 1 << extension as u16)
    }

    pub const fn without(self, extension: Extension) -> Self {
        Self(self.0 & !(1 << extension as u16))
    }

    pub const fn has(self, extension: Extension) -> bool {
        self.0 & 1 << extension as u16 != 0
    }

    /// In the order of [`Extension::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Extension> {
        Extension::ALL.into_iter().filter(move |&extension| self.has(extension))
    }
}

impl Default for Extensions {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_hold_what_was_put_into_them() {
        for extension in Extension::ALL {
            let without = Extensions::DEFAULT.without(extension);
            assert!(!without.has(extension) && without.with(extension).has(extension));
            let is_default = Extensions::DEFAULT.has(extension);
            assert_eq!(without.iter().count(), 7 - usize::from(is_default));
            assert!(Extensions::WITH_NOTICES.has(extension));
        }
    }
}
