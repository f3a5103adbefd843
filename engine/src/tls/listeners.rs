//! The TLS of all listeners, and what is known of it while the server runs.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;

use super::certificate::{Certificate, Facts, Rest};
use super::{Acceptor, Terms, TlsError, provider};
use crate::config::{CertificateFiles, ClientCertificates, Config, Listener};
use crate::session::TlsMode;

/// All acceptors, by listener.
#[derive(Debug, Default)]
pub struct ListenersTls {
    acceptors: ArcSwap<Vec<ListenerTls>>,
    status: ArcSwap<Vec<(String, Facts)>>,
    is_stale: AtomicBool,
    renewals_count: AtomicU64,
}

#[derive(Clone, Debug)]
struct ListenerTls {
    name: String,
    acceptor: Arc<Acceptor>,
}

/// What the files of a configuration hold, on its way to be used.
#[derive(Debug)]
pub struct Certified {
    listeners: Vec<(ListenerTls, Terms)>,
    certificates: Vec<Certificate>,
}

impl Certified {
    /// None where the listener has none.
    pub fn of(&self, listener: &str) -> Option<Arc<Acceptor>> {
        let found = self.listeners.iter().find(|(known, _)| known.name == listener);
        found.map(|(known, _)| Arc::clone(&known.acceptor))
    }
}

impl ListenersTls {
    /// Reads the files of a configuration. Nothing changes yet.
    ///
    /// # Errors
    /// With the file, and what to do about it. What is in use is [stale](Self::is_stale) from then on.
    pub fn prepare(&self, config: &Config) -> Result<Certified, TlsError> {
        let known = self.acceptors.load_full();
        let certified = load_certificates(config).and_then(|certificates| {
            let listener = |listener: &Listener| {
                let Listener { name, client_certificates, .. } = listener;
                let acceptor = match known.iter().find(|known| known.name == *name) {
                    Some(known) => Arc::clone(&known.acceptor),
                    None => Arc::new(Acceptor::new(&certificates, client_certificates)?),
                };
                let terms = acceptor.terms_for(&certificates, client_certificates)?;
                Ok((ListenerTls { name: name.clone(), acceptor }, terms))
            };
            let listeners: Result<Vec<_>, TlsError> = secured(config).map(listener).collect();
            Ok(Certified { listeners: listeners?, certificates })
        });
        self.is_stale.store(certified.is_err(), Ordering::Release);
        certified
    }

    /// Connections that begin from now on get what was prepared; those that there are stay as they are, and so do the
    /// tickets of each listener.
    pub fn commit(&self, Certified { listeners, certificates }: Certified) {
        let set_terms = |(listener, terms): (ListenerTls, Terms)| {
            listener.acceptor.set_terms(terms);
            listener
        };
        self.acceptors.store(Arc::new(listeners.into_iter().map(set_terms).collect()));
        self.set_status(&certificates);
        self.renewals_count.fetch_add(1, Ordering::Relaxed);
    }

    /// From now on new keys seal the tickets.
    ///
    /// # Errors
    /// When the system gives no random numbers; then the keys stay as they are.
    pub fn rotate_tickets(&self) -> Result<(), TlsError> {
        self.acceptors.load().iter().try_for_each(|listener| listener.acceptor.tickets().rotate())
    }

    /// Path and facts of each certificate in use.
    pub fn certificates(&self) -> Arc<Vec<(String, Facts)>> {
        self.status.load_full()
    }

    /// Whether the files hold something that could not be used, so that older certificates still serve.
    pub fn is_stale(&self) -> bool {
        self.is_stale.load(Ordering::Acquire)
    }

    /// How often certificates were read, the first time included.
    pub fn renewals_count(&self) -> u64 {
        self.renewals_count.load(Ordering::Relaxed)
    }

    fn set_status(&self, certificates: &[Certificate]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        for Certificate { path, facts, .. } in certificates {
            log(path, facts, now);
        }
        let status =
            |certificate: &Certificate| (certificate.path.display().to_string(), certificate.facts.clone());
        self.status.store(Arc::new(certificates.iter().map(status).collect()));
    }
}

fn log(path: &Path, facts: &Facts, now: Duration) {
    let (certificate, names) = (path.display(), facts.names.join(" "));
    match facts.rest(now) {
        Rest::Ended => tracing::warn!(%certificate, names, "a certificate has ended: renew it"),
        Rest::Short(days) => tracing::warn!(%certificate, names, days, "a certificate ends soon: renew it"),
        Rest::Long(days) => tracing::info!(%certificate, names, days, "certificate"),
    }
}

fn secured(config: &Config) -> impl Iterator<Item = &Listener> {
    config.listeners.iter().filter(|listener| listener.tls != TlsMode::Off)
}

/// Every certificate of the configuration, in its order.
///
/// # Errors
/// Of the first that cannot be used.
pub(super) fn load_certificates(config: &Config) -> Result<Vec<Certificate>, TlsError> {
    let provider = provider();
    let load = |files: &CertificateFiles| Certificate::load(&files.chain, &files.key, &provider);
    config.certificates.iter().map(load).collect()
}

/// The files that all of it is read from.
pub(super) fn files(config: &Config) -> impl Iterator<Item = &Path> {
    let certificates = config.certificates.iter().flat_map(|files| [&*files.chain, &*files.key]);
    let authorities = config.listeners.iter().filter_map(|listener| match &listener.client_certificates {
        ClientCertificates::Verify { authorities } => Some(&**authorities),
        ClientCertificates::Off | ClientCertificates::Record => None,
    });
    certificates.chain(authorities)
}
