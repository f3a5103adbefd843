//! Which recipients are the server's own.

use std::collections::HashSet;
use std::net::IpAddr;

use crate::limits::DOMAIN_LEN_MAX;
use crate::protocol::path::{Domain, ForwardPath};

/// The recipient domains; immutable once built. Lookups allocate nothing, and take constant time whatever a stranger
/// asks for: the tables are keyed with SipHash and a secret drawn at start.
#[derive(Clone, Debug, Default)]
pub struct Recipients {
    /// In lower case.
    names: HashSet<Box<[u8]>>,
    /// Of address literals, so that `[IPv6:::1]` and `[IPv6:0::1]` are one.
    addresses: HashSet<IpAddr>,
}

/// A listed domain is neither a domain name nor an address literal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is neither a domain name such as example.com nor an address literal such as [192.0.2.1] or [IPv6:2001:db8::1]"
)]
pub struct NotADomain(pub String);

impl Recipients {
    /// Domain names in any case, and address literals. A name with U-labels is one as it is written: whoever wants it
    /// found in its other forms lists them too.
    pub fn new<T: AsRef<str>>(domains: impl IntoIterator<Item = T>) -> Result<Self, NotADomain> {
        let mut recipients = Self::default();
        for text in domains {
            let text = text.as_ref();
            let domain = Domain::parse(text.as_bytes()).map_err(|_| NotADomain(text.to_owned()))?;
            match domain.address() {
                Some(address) => recipients.addresses.insert(address),
                None => recipients.names.insert(domain.as_bytes().to_ascii_lowercase().into()),
            };
        }
        Ok(recipients)
    }

    /// Whether mail for this recipient is accepted: its domain is listed, or it is `<Postmaster>`, which every server
    /// must accept (RFC 5321 §4.5.1). Domains are compared without regard to case (§2.4); U-labels have none (RFC 5890
    /// §2.3.2.1: they are in lower case), but what else is in their label.
    pub fn accepts(&self, path: &ForwardPath<'_>) -> bool {
        let mailbox = match path {
            ForwardPath::Postmaster => return true,
            ForwardPath::Mailbox(mailbox) => mailbox,
        };
        match mailbox.domain {
            Domain::Name(name) => self.has_name(name),
            Domain::Literal(_) => {
                mailbox.domain.address().is_some_and(|address| self.addresses.contains(&address))
            }
        }
    }

    fn has_name(&self, name: &[u8]) -> bool {
        let mut lower = [0; DOMAIN_LEN_MAX];
        let Some(lower) = lower.get_mut(..name.len()) else { return false };
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        self.names.contains(&*lower)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(recipients: &Recipients, path: &str) -> bool {
        let (path, rest) = ForwardPath::parse(path.as_bytes()).expect("a path");
        assert_eq!(rest, b"");
        recipients.accepts(&path)
    }

    #[test]
    fn listed_domains_in_any_case_and_nothing_else() {
        let recipients = Recipients::new(["Example.com", "localhost"]).expect("domains");
        for path in ["<a@example.com>", "<a@EXAMPLE.COM>", "<\"a b\"@localhost>", "<@relay:a@example.com>"] {
            assert!(accepts(&recipients, path), "{path}");
        }
        for path in [
            "<a@example.org>",
            "<a@sub.example.com>",
            "<a@xexample.com>",
            "<a@example.co>",
            "<@example.com:a@example.org>",
            "<\"a@example.com\"@example.org>",
            "<a%example.com@example.org>",
            "<a@[127.0.0.1]>",
        ] {
            assert!(!accepts(&recipients, path), "{path}");
        }
    }

    #[test]
    fn u_labels_are_compared_as_they_are() {
        let recipients = Recipients::new(["b\u{fc}cher.example"]).expect("a domain");
        assert!(accepts(&recipients, "<a@B\u{fc}CHER.example>"));
        for path in ["<a@xn--bcher-kva.example>", "<a@B\u{dc}CHER.example>", "<a@bucher.example>"] {
            assert!(!accepts(&recipients, path), "{path}");
        }
    }

    #[test]
    fn postmaster_is_always_accepted() {
        let none = Recipients::default();
        assert!(accepts(&none, "<Postmaster>"));
        assert!(!accepts(&none, "<postmaster@example.com>"));
    }

    #[test]
    fn address_literals_only_if_listed() {
        let recipients = Recipients::new(["[192.0.2.1]", "[IPv6:2001:db8::1]"]).expect("domains");
        assert!(accepts(&recipients, "<a@[192.0.2.1]>"));
        assert!(accepts(&recipients, "<a@[ipv6:2001:DB8:0::1]>"));
        assert!(!accepts(&recipients, "<a@192.0.2.1>"));
        assert!(!accepts(&recipients, "<a@[192.0.2.2]>"));
        assert!(!accepts(&recipients, "<a@[IPv6:::ffff:192.0.2.1]>"));
    }

    #[test]
    fn what_is_no_domain_is_named() {
        for text in ["", "*", "example.com.", "a@example.com", "[1.2.3]", "b\u{a0}cher.example", "a b"] {
            assert_eq!(Recipients::new([text]).err(), Some(NotADomain(text.to_owned())));
        }
    }
}
