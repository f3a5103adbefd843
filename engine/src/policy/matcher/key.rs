//! Names in the one form in which they are compared.

use std::io::Write as _;

use crate::limits::{DOMAIN_LEN_MAX, LOCAL_PART_LEN_MAX};
use crate::protocol::path::{Domain, LocalPart, Mailbox};

const KEY_LEN_MAX: usize = LOCAL_PART_LEN_MAX + 1 + DOMAIN_LEN_MAX;

/// A mailbox, a domain, a suffix of domains (`.example.com`) or the null reverse-path, without what makes no
/// difference: ASCII letters are in lower case, a local-part has no quotes that it can do without (RFC 5321 §4.1.2:
/// `"a"@b` and `a@b` are one mailbox), an address literal is spelled in one way.
///
/// Case in a local-part is the receiving host's affair (§2.4): here it makes no difference.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    bytes: [u8; KEY_LEN_MAX],
    len: u16,
    /// Where the domain begins; above 0 in a mailbox.
    domain_at: u16,
}

impl Key {
    /// What no mailbox and no domain is.
    pub const NULL: &[u8] = b"<>";

    pub fn of_mailbox(mailbox: &Mailbox<'_>) -> Self {
        let mut key = Self { bytes: [0; KEY_LEN_MAX], len: 0, domain_at: 0 };
        match mailbox.local_part {
            LocalPart::DotString(text) => key.append(text),
            LocalPart::Quoted(text) => {
                let mut octets = text.get(1..text.len() - 1).unwrap_or_default().iter();
                while let Some(mut octet) = octets.next() {
                    if *octet == b'\\' {
                        octet = octets.next().unwrap_or(octet);
                    }
                    key.append(&[*octet]);
                }
            }
        }
        key.append(b"@");
        key.domain_at = key.len;
        key.append_domain(&mailbox.domain);
        key
    }

    pub fn of_domain(domain: &Domain<'_>) -> Self {
        let mut key = Self { bytes: [0; KEY_LEN_MAX], len: 0, domain_at: 0 };
        key.append_domain(domain);
        key
    }

    /// Of a `<Postmaster>` without a domain.
    pub fn of_postmaster(domain: &str) -> Self {
        let mut key = Self::of_text(b"postmaster@");
        key.domain_at = key.len;
        key.append(domain.as_bytes());
        key
    }

    /// What is neither a mailbox nor a domain.
    pub fn of_text(text: &[u8]) -> Self {
        let mut key = Self { bytes: [0; KEY_LEN_MAX], len: 0, domain_at: 0 };
        key.append(text);
        key
    }

    /// All of it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// A mailbox's domain; all of what is none.
    pub fn domain(&self) -> &[u8] {
        &self.bytes[usize::from(self.domain_at)..usize::from(self.len)]
    }

    /// What stands before the `@` of a mailbox.
    pub fn local_part(&self) -> Option<&[u8]> {
        let at = usize::from(self.domain_at).checked_sub(1)?;
        Some(&self.bytes[..at])
    }

    /// The mailbox without what its local-part has from the first of the `separators` on; `None` where it has none, or
    /// nothing before it.
    pub fn without_subaddress(&self, separators: &[u8]) -> Option<Self> {
        let local_part = self.local_part()?;
        let at = local_part.iter().position(|octet| separators.contains(octet)).filter(|at| *at > 0)?;
        let mut key = Self { bytes: [0; KEY_LEN_MAX], len: 0, domain_at: 0 };
        key.append(&local_part[..at]);
        key.append(b"@");
        key.domain_at = key.len;
        key.append(self.domain());
        Some(key)
    }

    fn append_domain(&mut self, domain: &Domain<'_>) {
        match domain.address() {
            None => self.append(domain.as_bytes()),
            Some(address) => {
                let mut rest = &mut self.bytes[usize::from(self.len)..];
                let before = rest.len();
                write!(rest, "[{address}]").expect("an address is shorter than a domain may be");
                self.len += (before - rest.len()) as u16;
            }
        }
    }

    /// What is too long is cut: the grammar lets nothing through that is.
    fn append(&mut self, text: &[u8]) {
        let start = usize::from(self.len);
        let end = (start + text.len()).min(KEY_LEN_MAX);
        let place = &mut self.bytes[start..end];
        place.copy_from_slice(&text[..end - start]);
        place.make_ascii_lowercase();
        self.len = end as u16;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(mailbox: &str) -> String {
        let mailbox = Mailbox::parse(mailbox.as_bytes()).expect("a mailbox");
        String::from_utf8(Key::of_mailbox(&mailbox).as_bytes().to_vec()).expect("UTF-8")
    }

    #[test]
    fn what_makes_no_difference_is_left_out() {
        for (mailbox, expected) in [
            ("A.b@Example.COM", "a.b@example.com"),
            ("\"A\"@b", "a@b"),
            ("\"a\\b\\\"@c\"@d", "ab\"@c@d"),
            ("\"\"@b", "@b"),
            ("a@[192.0.2.1]", "a@[192.0.2.1]"),
            ("a@[IPv6:2001:DB8:0::1]", "a@[2001:db8::1]"),
            ("\u{c9}@b", "\u{c9}@b"),
        ] {
            assert_eq!(key(mailbox), expected);
        }
    }

    #[test]
    fn the_longest_mailbox_fits() {
        let domain = ["x".repeat(63), "x".repeat(63), "x".repeat(63), "x".repeat(63)].join(".");
        let mailbox = format!("{}@{domain}", "l".repeat(LOCAL_PART_LEN_MAX));
        assert_eq!(key(&mailbox), mailbox);
        assert_eq!(mailbox.len(), KEY_LEN_MAX);
    }

    #[test]
    fn subaddresses() {
        let without = |mailbox: &str, separators: &str| {
            let key = Key::of_mailbox(&Mailbox::parse(mailbox.as_bytes()).expect("a mailbox"));
            let key = key.without_subaddress(separators.as_bytes())?;
            assert_eq!(key.domain(), b"b.c");
            Some(String::from_utf8(key.as_bytes().to_vec()).expect("UTF-8"))
        };
        assert_eq!(without("a+x+y@b.c", "+"), Some("a@b.c".to_owned()));
        assert_eq!(without("a-x+y@b.c", "+-"), Some("a@b.c".to_owned()));
        for (mailbox, separators) in [("a@b.c", "+"), ("+x@b.c", "+"), ("a+x@b.c", ""), ("\"+\"@b.c", "+")] {
            assert_eq!(without(mailbox, separators), None, "{mailbox}");
        }
    }
}
