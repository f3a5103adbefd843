//! Extensions that a server may offer in its reply to EHLO, as far as a run could ask for them.

/// One service extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// RFC 2920.
    Pipelining,
    /// RFC 3207.
    StartTls,
    /// RFC 1870.
    Size,
    /// RFC 3030.
    Chunking,
    /// RFC 6152.
    EightBitMime,
    /// RFC 6531.
    SmtpUtf8,
}

impl Extension {
    pub const ALL: [Self; 6] =
        [Self::Pipelining, Self::StartTls, Self::Size, Self::Chunking, Self::EightBitMime, Self::SmtpUtf8];

    /// As EHLO's reply has it.
    pub fn keyword(self) -> &'static str {
        match self {
            Self::Pipelining => "PIPELINING",
            Self::StartTls => "STARTTLS",
            Self::Size => "SIZE",
            Self::Chunking => "CHUNKING",
            Self::EightBitMime => "8BITMIME",
            Self::SmtpUtf8 => "SMTPUTF8",
        }
    }
}

/// A set of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions(u8);

impl Extensions {
    pub fn add(&mut self, extension: Extension) {
        self.0 |= 1 << extension as u8;
    }

    pub fn has(self, extension: Extension) -> bool {
        self.0 & 1 << extension as u8 != 0
    }

    /// The first of `needed` that is not here.
    pub fn lacks(self, needed: Self) -> Option<Extension> {
        Extension::ALL.into_iter().find(|&extension| needed.has(extension) && !self.has(extension))
    }

    /// Takes down a line of EHLO's reply, its code cut off: the keyword ends at a space.
    pub fn note(&mut self, line: &[u8]) {
        let keyword = line.split(|&octet| octet == b' ').next().unwrap_or_default();
        for extension in Extension::ALL {
            if keyword.eq_ignore_ascii_case(extension.keyword().as_bytes()) {
                self.add(extension);
            }
        }
    }
}

impl FromIterator<Extension> for Extensions {
    fn from_iter<T: IntoIterator<Item = Extension>>(extensions: T) -> Self {
        let mut set = Self::default();
        extensions.into_iter().for_each(|extension| set.add(extension));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_are_whole_words_in_either_case() {
        let mut offered = Extensions::default();
        for line in [&b"mx.example.com"[..], b"size 1000", b"8BITMIME", b"CHUNKINGX", b"XSMTPUTF8"] {
            offered.note(line);
        }
        assert_eq!(offered, Extensions::from_iter([Extension::Size, Extension::EightBitMime]));
        let needed = Extensions::from_iter([Extension::EightBitMime, Extension::SmtpUtf8]);
        assert_eq!(offered.lacks(needed), Some(Extension::SmtpUtf8));
        assert_eq!(offered.lacks(offered), None);
    }
}
