//! What TLS needs besides a connection: certificates out of files, the terms of each listener, keys of tickets.
//!
//! - [`certificate`]: a chain and its key, read and checked; names, dates, what is weak.
//! - [`resolver`]: which certificate a client gets, by the name it asks for.
//! - [`client`]: what is asked of clients' certificates; [`signatures`]: what all verifiers have in common.
//! - [`tickets`]: resumption without memory.
//! - [`check`](check()): what is wrong with it before it serves.
//! - [`acceptor`]: all of it for one listener, exchanged as a whole by one atomic store.
//! - [`listeners`]: all listeners; [`renewal`]: their files while the server runs; [`self_signed`]: for trying it out.

pub mod acceptor;
pub mod certificate;
mod check;
mod client;
mod listeners;
mod renewal;
mod resolver;
mod self_signed;
mod signatures;
mod tickets;

use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};

pub use acceptor::{Acceptor, Terms};
pub use certificate::Certificate;
pub use check::check;
pub use listeners::{Certified, ListenersTls};
pub use renewal::{Renewal, Renewed};
pub(crate) use signatures::signatures_by;
pub use tickets::Tickets;

/// Why there is no TLS: what, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {}: {why}", path.display())]
    Unreadable { path: PathBuf, why: String },
    #[error("{}: {why}", path.display())]
    Unusable { path: PathBuf, why: String },
    #[error("{} is not the key of the first certificate in {}; {help}", key.display(), chain.display(),
        help = "name the key that the certificate was requested with")]
    Mismatch { chain: PathBuf, key: PathBuf },
    #[error("TLS: {0}")]
    Library(String),
}

/// The cryptography of all connections.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::security::CipherSuite;

    #[test]
    fn every_suite_that_is_served_has_a_name() {
        let mut served: Vec<usize> = provider()
            .cipher_suites
            .iter()
            .map(|suite| CipherSuite(u16::from(suite.suite())).index().expect("a name"))
            .collect();
        served.sort_unstable();
        assert_eq!(served, (0..CipherSuite::COUNT).collect::<Vec<_>>());
    }
}
