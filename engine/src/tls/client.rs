//! What is asked of clients' certificates. They are optional: who shows none, or one that nobody knows, is served, and
//! rules may tell them apart.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DistinguishedName, Error, RootCertStore};

use super::{TlsError, certificate, signatures_by};
use crate::config::ClientCertificates;

/// Judges certificates of clients when the handshake is done.
#[derive(Clone, Debug)]
pub(super) struct Judge(Option<Arc<dyn ClientCertVerifier>>);

impl Judge {
    /// Whether it leads to a trusted authority and is valid now.
    pub(super) fn verifies(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> bool {
        match (&self.0, chain) {
            (Some(verifier), [first, others @ ..]) => verifier.verify_client_cert(first, others, now).is_ok(),
            _ => false,
        }
    }
}

/// Takes any certificate whose key the client has: the handshake must not fail for one that is not trusted, since the
/// mail would then come in clear.
#[derive(Debug)]
struct Asks {
    provider: Arc<CryptoProvider>,
    /// Names of the trusted authorities, so that a client with several certificates can choose.
    hints: Vec<DistinguishedName>,
}

/// What the handshake asks for (None: nothing), and who judges what comes.
pub(super) fn load(
    asked: &ClientCertificates,
    provider: &Arc<CryptoProvider>,
) -> Result<(Option<Arc<dyn ClientCertVerifier>>, Judge), TlsError> {
    let (hints, judge) = match asked {
        ClientCertificates::Off => return Ok((None, Judge(None))),
        ClientCertificates::Record => (Vec::new(), None),
        ClientCertificates::Verify { authorities } => {
            let verifier = verifier(authorities, provider)?;
            (verifier.root_hint_subjects().to_vec(), Some(verifier))
        }
    };
    Ok((Some(Arc::new(Asks { provider: Arc::clone(provider), hints })), Judge(judge)))
}

fn verifier(
    authorities: &Path,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let unusable = |why: String| TlsError::Unusable { path: authorities.to_owned(), why };
    let mut roots = RootCertStore::empty();
    for der in certificate::read_chain(authorities)? {
        roots.add(der).map_err(|error| unusable(format!("not an authority's certificate: {error}")))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|error| unusable(error.to_string()))
}

impl ClientCertVerifier for Asks {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    signatures_by!(provider);
}
