//! Which recipients are the server's own.

use crate::policy::matcher::{Key, NameTable};
use crate::protocol::path::{Domain, ForwardPath, Mailbox};

/// A listed name's number is made of these.
const DOMAIN: u16 = 1;
/// A domain that takes every local-part.
const CATCH_ALL: u16 = 2;
const MAILBOX: u16 = 4;
/// RFC 5321 §4.5.1: in every domain.
const POSTMASTER: &[u8] = b"postmaster";

/// The recipients; immutable once built. Lookups allocate nothing, and take constant time whatever a stranger asks for.
#[derive(Debug, Default)]
pub struct Recipients {
    table: NameTable,
    has_mailboxes: bool,
    /// What begins a subaddress; see [`Key::without_subaddress`].
    separators: Box<[u8]>,
}

/// Why a recipient is none of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotOurs {
    /// Nor is its domain.
    Domain,
    Mailbox,
}

/// A listed domain is neither a domain name nor an address literal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is neither a domain name such as example.com nor an address literal such as [192.0.2.1] or \
     [IPv6:2001:db8::1]"
)]
pub struct NotADomain(pub String);

impl Recipients {
    /// Domains of which every mailbox is taken.
    ///
    /// # Errors
    /// See [`add_domain`](Self::add_domain).
    pub fn new<T: AsRef<str>>(domains: impl IntoIterator<Item = T>) -> Result<Self, NotADomain> {
        let mut recipients = Self::default();
        domains.into_iter().try_for_each(|domain| recipients.add_domain(domain.as_ref(), true))?;
        Ok(recipients)
    }

    /// `separators`: octets of a local-part that begin a subaddress, such as `+` (RFC 5233); none where there are no
    /// subaddresses.
    pub fn with_separators(separators: &str) -> Self {
        Self { separators: separators.as_bytes().into(), ..Self::default() }
    }

    /// What begins a subaddress.
    pub fn separators(&self) -> &[u8] {
        &self.separators
    }

    /// A domain name in any case, or an address literal; with every mailbox in it, or those that are listed. A name
    /// with U-labels is one as it is written: whoever wants it found in its other forms lists them too.
    ///
    /// # Errors
    /// It is neither.
    pub fn add_domain(&mut self, text: &str, is_catch_all: bool) -> Result<(), NotADomain> {
        let domain = Domain::parse(text.as_bytes()).map_err(|_| NotADomain(text.to_owned()))?;
        let flags = if is_catch_all { DOMAIN | CATCH_ALL } else { DOMAIN };
        self.add(Key::of_domain(&domain).as_bytes(), flags);
        Ok(())
    }

    /// A mailbox; false if its domain has not been listed before.
    pub fn add_mailbox(&mut self, mailbox: &Mailbox<'_>) -> bool {
        let key = Key::of_mailbox(mailbox);
        let is_ours = self.table.get(key.domain()).is_some();
        if is_ours {
            self.has_mailboxes = true;
            self.add(key.as_bytes(), MAILBOX);
        }
        is_ours
    }

    /// No more are to come.
    pub fn shrink(&mut self) {
        self.table.shrink();
    }

    /// How many domains and mailboxes there are.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Octets of memory.
    pub fn memory_len(&self) -> usize {
        self.table.memory_len()
    }

    /// Whether mail for this recipient is taken: its domain is listed, and takes every mailbox or this one, or the
    /// mailbox without its subaddress. `<Postmaster>` always is, and the postmaster of each domain (RFC 5321 §4.5.1).
    /// Domains are compared without regard to case (§2.4), and so are local-parts; U-labels have none (RFC 5890
    /// §2.3.2.1: they are in lower case), but what else is in their label.
    ///
    /// # Errors
    /// What of it is not ours.
    pub fn check(&self, path: &ForwardPath<'_>) -> Result<(), NotOurs> {
        let ForwardPath::Mailbox(mailbox) = path else { return Ok(()) };
        let key = Key::of_mailbox(mailbox);
        let domain = self.table.get(key.domain()).ok_or(NotOurs::Domain)?;
        let is_ours = domain & CATCH_ALL > 0
            || key.local_part() == Some(POSTMASTER)
            || (self.has_mailboxes && self.has_mailbox(&key));
        if is_ours { Ok(()) } else { Err(NotOurs::Mailbox) }
    }

    fn has_mailbox(&self, key: &Key) -> bool {
        let is_listed = |key: &Key| self.table.get(key.as_bytes()).is_some();
        is_listed(key) || key.without_subaddress(&self.separators).is_some_and(|key| is_listed(&key))
    }

    fn add(&mut self, name: &[u8], flags: u16) {
        let (position, _) = self.table.insert(name, 0);
        self.table.set_number(position, self.table.number(position) | flags);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(recipients: &Recipients, path: &str) -> Result<(), NotOurs> {
        let (path, rest) = ForwardPath::parse(path.as_bytes()).expect("a path");
        assert_eq!(rest, b"");
        recipients.check(&path)
    }

    #[test]
    fn listed_domains_in_any_case_and_nothing_else() {
        let recipients = Recipients::new(["Example.com", "localhost"]).expect("domains");
        for path in ["<a@example.com>", "<a@EXAMPLE.COM>", "<\"a b\"@localhost>", "<@relay:a@example.com>"] {
            assert_eq!(check(&recipients, path), Ok(()), "{path}");
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
            assert_eq!(check(&recipients, path), Err(NotOurs::Domain), "{path}");
        }
    }

    #[test]
    fn u_labels_are_compared_as_they_are() {
        let recipients = Recipients::new(["b\u{fc}cher.example"]).expect("a domain");
        assert_eq!(check(&recipients, "<a@B\u{fc}CHER.example>"), Ok(()));
        for path in ["<a@xn--bcher-kva.example>", "<a@B\u{dc}CHER.example>", "<a@bucher.example>"] {
            assert!(check(&recipients, path).is_err(), "{path}");
        }
    }

    #[test]
    fn postmaster_is_always_accepted() {
        let none = Recipients::default();
        assert_eq!(check(&none, "<Postmaster>"), Ok(()));
        assert_eq!(check(&none, "<postmaster@example.com>"), Err(NotOurs::Domain));
        let mut closed = Recipients::default();
        closed.add_domain("example.com", false).expect("a domain");
        assert_eq!(check(&closed, "<PostMaster@example.com>"), Ok(()));
        assert_eq!(check(&closed, "<a@example.com>"), Err(NotOurs::Mailbox));
    }

    #[test]
    fn address_literals_only_if_listed() {
        let recipients = Recipients::new(["[192.0.2.1]", "[IPv6:2001:db8::1]"]).expect("domains");
        assert_eq!(check(&recipients, "<a@[192.0.2.1]>"), Ok(()));
        assert_eq!(check(&recipients, "<a@[ipv6:2001:DB8:0::1]>"), Ok(()));
        for path in ["<a@192.0.2.1>", "<a@[192.0.2.2]>", "<a@[IPv6:::ffff:192.0.2.1]>"] {
            assert_eq!(check(&recipients, path), Err(NotOurs::Domain), "{path}");
        }
    }

    #[test]
    fn listed_mailboxes_and_their_subaddresses() {
        let mut recipients = Recipients::with_separators("+");
        recipients.add_domain("a.example", false).expect("a domain");
        recipients.add_domain("all.example", true).expect("a domain");
        let mut add =
            |text: &str| recipients.add_mailbox(&Mailbox::parse(text.as_bytes()).expect("a mailbox"));
        assert!(add("Jane.Doe@A.example") && add("x+y@a.example") && add("\"odd one\"@a.example"));
        assert!(!add("jane@other.example"));
        for path in [
            "<jane.doe@a.example>",
            "<JANE.DOE@a.example>",
            "<jane.doe+lists@a.example>",
            "<\"jane.doe\"@a.example>",
            "<x+y@a.example>",
            "<\"odd one\"@a.example>",
            "<anybody@all.example>",
        ] {
            assert_eq!(check(&recipients, path), Ok(()), "{path}");
        }
        for path in ["<jane@a.example>", "<x@a.example>", "<x+z@a.example>", "<+jane.doe@a.example>"] {
            assert_eq!(check(&recipients, path), Err(NotOurs::Mailbox), "{path}");
        }
    }

    #[test]
    fn what_is_no_domain_is_named() {
        for text in ["", "*", "example.com.", "a@example.com", "[1.2.3]", "b\u{a0}cher.example", "a b"] {
            assert_eq!(Recipients::new([text]).err(), Some(NotADomain(text.to_owned())));
        }
    }
}
