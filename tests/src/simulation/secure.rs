//! The certificate of simulated servers, and what their clients trust.

use std::sync::{Arc, OnceLock};

use rcgen::{CertificateParams, KeyPair, PKCS_ED25519, SerialNumber};
use ringmx::config::ClientCertificates;
use ringmx::tls::{Acceptor, Certificate};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};

/// One for all runs. Made anew in each process; as long as in any other.
static CERTIFICATE: OnceLock<(Certificate, CertificateDer<'static>)> = OnceLock::new();

/// Both sides of one machine's TLS.
#[derive(Debug)]
pub struct Secure {
    pub acceptor: Arc<Acceptor>,
    /// By version; clients of one of them resume each other's sessions.
    configs: [Arc<ClientConfig>; 2],
}

impl Default for Secure {
    fn default() -> Self {
        let (certificate, der) = CERTIFICATE.get_or_init(certificate);
        let acceptor = Acceptor::new(std::slice::from_ref(certificate), &ClientCertificates::Off);
        let configs = [&TLS12, &TLS13].map(|version| {
            let mut roots = RootCertStore::empty();
            roots.add(der.clone()).expect("an authority");
            let builder = ClientConfig::builder_with_protocol_versions(&[version]);
            Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
        });
        Self { acceptor: Arc::new(acceptor.expect("a certificate")), configs }
    }
}

impl Secure {
    /// By turns for each version.
    pub fn config(&self, client_index: usize) -> Arc<ClientConfig> {
        Arc::clone(&self.configs[client_index % 2])
    }
}

/// Signatures of Ed25519 are all of one length, which those of ECDSA are not.
fn certificate() -> (Certificate, CertificateDer<'static>) {
    let directory = tempfile::tempdir().expect("a directory");
    let (chain, key) = (directory.path().join("mx.pem"), directory.path().join("mx.key"));
    let pair = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
    let mut params = CertificateParams::new(vec!["mx.example".to_owned()]).expect("a name");
    params.serial_number = Some(SerialNumber::from(1));
    std::fs::write(&chain, params.self_signed(&pair).expect("a certificate").pem()).expect("written");
    std::fs::write(&key, pair.serialize_pem()).expect("written");
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let certificate = Certificate::load(&chain, &key, &provider).expect("it can be used");
    (certificate, CertificateDer::from_pem_file(&chain).expect("a certificate"))
}
