//! Which certificate a client gets: by the name that it asks for (SNI, RFC 6066 §3), or else the first.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::Certificate;

/// Whether one of the names, perhaps by a wildcard, is this.
pub(super) fn covers(names: &[String], host: &str) -> bool {
    let parent = host.split_once('.').map_or("", |(_, parent)| parent);
    names.iter().any(|name| match name.strip_prefix("*.") {
        Some(wild) => wild.eq_ignore_ascii_case(parent),
        None => name.eq_ignore_ascii_case(host),
    })
}

#[derive(Debug)]
pub(super) struct Resolver {
    /// For who asks for no name, or for one that nobody has.
    default: Arc<CertifiedKey>,
    /// By exact name.
    exact: HashMap<Box<str>, Arc<CertifiedKey>>,
    /// By what stands behind `*.`.
    wildcard: HashMap<Box<str>, Arc<CertifiedKey>>,
}

impl Resolver {
    /// None without a certificate. Of two with the same name the first wins.
    pub(super) fn new(certificates: &[Certificate]) -> Option<Self> {
        let default = Arc::clone(&certificates.first()?.key);
        let (mut exact, mut wildcard) = (HashMap::new(), HashMap::new());
        for Certificate { key, facts, .. } in certificates {
            for name in &facts.names {
                let (table, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut wildcard, parent),
                    None => (&mut exact, name.as_str()),
                };
                table.entry(name.into()).or_insert_with(|| Arc::clone(key));
            }
        }
        Some(Self { default, exact, wildcard })
    }

    /// `name` in lower case. RFC 9525 §6.3: a wildcard stands for one whole label.
    fn find(&self, name: Option<&str>) -> &Arc<CertifiedKey> {
        let named = name.and_then(|name| {
            let parent = || self.wildcard.get(name.split_once('.')?.1);
            self.exact.get(name).or_else(parent)
        });
        named.unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.find(hello.server_name())))
    }
}
