//! The terms of one listener's TLS, exchanged as a whole while workers read them.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::pki_types::UnixTime;
use rustls::server::NoServerSessionStorage;
use rustls::{CommonState, HandshakeKind, ProtocolVersion, ServerConfig, version};

use super::client::{self, Judge};
use super::resolver::Resolver;
use super::{Certificate, Tickets, TlsError, certificate, provider};
use crate::config::ClientCertificates;
use crate::limits;
use crate::security::{CipherSuite, ClientCertificate, Secured, Security, Version};

/// What new connections of a listener begin with.
#[derive(Debug)]
pub struct Acceptor {
    terms: ArcSwap<Terms>,
    tickets: Arc<Tickets>,
}

/// What a connection keeps to.
#[derive(Debug)]
pub struct Terms {
    pub config: Arc<ServerConfig>,
    judge: Judge,
}

impl Acceptor {
    /// # Errors
    /// When there is no certificate, or the authorities of clients cannot be read.
    pub fn new(certificates: &[Certificate], asked: &ClientCertificates) -> Result<Self, TlsError> {
        let tickets = Arc::new(Tickets::new()?);
        let terms = ArcSwap::from_pointee(terms(certificates, asked, Arc::clone(&tickets))?);
        Ok(Self { terms, tickets })
    }

    /// What the acceptor's terms would be with these certificates; its tickets stay valid.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(super) fn terms_for(
        &self,
        certificates: &[Certificate],
        asked: &ClientCertificates,
    ) -> Result<Terms, TlsError> {
        terms(certificates, asked, Arc::clone(&self.tickets))
    }

    /// For connections that begin from now on; those that there are keep theirs.
    pub(super) fn set_terms(&self, terms: Terms) {
        self.terms.store(Arc::new(terms));
    }

    /// For a new connection; without a lock.
    pub fn terms(&self) -> Arc<Terms> {
        self.terms.load_full()
    }

    pub(super) fn tickets(&self) -> &Tickets {
        &self.tickets
    }
}

impl Terms {
    /// What a connection whose handshake is done has come to.
    pub fn secured(&self, connection: &CommonState, now: Duration) -> Secured {
        let version = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => Version::Tls12,
            _ => Version::Tls13,
        };
        let cipher = connection.negotiated_cipher_suite().map_or(0, |suite| u16::from(suite.suite()));
        let chain = connection.peer_certificates().unwrap_or_default();
        let certificate = chain.first().map(|first| ClientCertificate {
            fingerprint: certificate::fingerprint(first),
            verified: self.judge.verifies(chain, UnixTime::since_unix_epoch(now)),
        });
        let names = chain.first().map_or_else(Vec::new, |first| certificate::dns_names(first));
        Secured {
            security: Security { version, cipher: CipherSuite(cipher), certificate },
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            certificate_names: names.into_iter().map(String::into_boxed_str).collect(),
        }
    }
}

fn terms(
    certificates: &[Certificate],
    asked: &ClientCertificates,
    tickets: Arc<Tickets>,
) -> Result<Terms, TlsError> {
    let library = |error: rustls::Error| TlsError::Library(error.to_string());
    let provider = provider();
    let resolver = Resolver::new(certificates);
    let resolver = resolver.ok_or_else(|| TlsError::Library("there is no certificate".to_owned()))?;
    let (verifier, judge) = client::load(asked, &provider)?;
    let versions = [&version::TLS13, &version::TLS12];
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&versions);
    let builder = builder.map_err(library)?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(resolver));
    config.ticketer = tickets;
    // Tickets do it all; a table of sessions would need a lock.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = limits::TICKETS_COUNT;
    // A client that asks for another protocol was led here by somebody (RFC 9325 §3.7); most ask for none.
    config.alpn_protocols = vec![b"smtp".to_vec(), b"esmtp".to_vec()];
    // Nothing before the handshake is done: it could be played again (RFC 8446 §8).
    config.max_early_data_size = 0;
    Ok(Terms { config: Arc::new(config), judge })
}
