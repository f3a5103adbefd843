//! Names as rules and recipient tables list them.

use super::key::Key;
use crate::limits::DOMAIN_LEN_MAX;
use crate::protocol::path::{Domain, Mailbox};

/// What separates the patterns of a list; no name has one.
const SEPARATOR: u8 = b'\n';

/// A listed name, in its form for comparison (see [`Key`]): a mailbox, a domain, all domains below one (`.example.com`,
/// which is not `example.com` itself), or the null reverse-path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern<'a>(pub(super) &'a [u8]);

/// Many of them, in one run of octets: lists have millions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Patterns {
    text: Vec<u8>,
    count: usize,
}

impl<'a> Pattern<'a> {
    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }
}

impl Patterns {
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = Pattern<'_>> {
        self.text.split(|octet| *octet == SEPARATOR).take(self.count).map(Pattern)
    }

    pub fn add_mailbox(&mut self, mailbox: &Mailbox<'_>) {
        self.add(Key::of_mailbox(mailbox).as_bytes());
    }

    pub fn add_domain(&mut self, domain: &Domain<'_>) {
        self.add(Key::of_domain(domain).as_bytes());
    }

    /// All domains that end with a dot and this one; false if there can be none.
    pub fn add_domains_below(&mut self, domain: &Domain<'_>) -> bool {
        let key = Key::of_domain(domain);
        let fits = domain.address().is_none() && key.as_bytes().len() + 2 <= DOMAIN_LEN_MAX;
        if fits {
            self.text.push(b'.');
            self.add(key.as_bytes());
        }
        fits
    }

    pub fn add_null(&mut self) {
        self.add(Key::NULL);
    }

    /// Behind what of it is there already.
    fn add(&mut self, text: &[u8]) {
        self.text.extend_from_slice(text);
        self.text.push(SEPARATOR);
        self.count += 1;
    }
}
