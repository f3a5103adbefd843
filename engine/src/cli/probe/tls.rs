//! What `ringmx probe --tls` sees of a server's TLS. Nothing is refused for its certificate: what is wrong is told.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use clap::ValueEnum;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, Error, ProtocolVersion, RootCertStore, StreamOwned};
use serde::Serialize;

use super::millis;
use crate::security::{CipherSuite, Version};
use crate::tls::certificate::Facts;
use crate::tls::signatures_by;

const DAY_SECS: i64 = 24 * 3600;

/// When TLS begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum When {
    /// By STARTTLS, after EHLO
    Starttls,
    /// With the first octet, as on port 465
    Implicit,
}

/// A connection, in clear or not.
#[derive(Debug)]
pub(super) enum Wire {
    Clear(TcpStream),
    Secured(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// What there is to say about TLS.
#[derive(Debug, Serialize)]
pub(super) struct Secured {
    pub(super) protocol: &'static str,
    pub(super) cipher: &'static str,
    pub(super) key_exchange: String,
    pub(super) handshake_ms: f64,
    /// The chain leads to an authority that is trusted here, is valid now, and has the name that was asked for.
    pub(super) trusted: bool,
    pub(super) why_not_trusted: Option<String>,
    /// As the server sent it: its own certificate first.
    pub(super) chain: Vec<Shown>,
}

/// One certificate.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    pub(super) subject: String,
    pub(super) issuer: String,
    pub(super) names: Vec<String>,
    pub(super) key: String,
    /// Since 1970, in seconds.
    pub(super) not_before: u64,
    pub(super) not_after: u64,
    /// Until it ends; negative: since.
    pub(super) days: i64,
    pub(super) sha256: String,
    pub(super) weaknesses: Vec<String>,
}

/// Shakes hands as a client that asks for `host`. `authorities`: a PEM file of those that are trusted.
pub(super) fn secure(wire: Wire, host: &str, authorities: &Path) -> Result<(Wire, Secured), String> {
    let Wire::Clear(stream) = wire else { return Err("TLS is active already".to_owned()) };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let judge =
        Arc::new(Judge { trusted: trusted(authorities, &provider), verdict: Mutex::default(), provider });
    let name = ServerName::try_from(host.to_owned()).map_err(|error| format!("`{host}`: {error}"))?;
    let config = ClientConfig::builder_with_provider(Arc::clone(&judge.provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&judge) as _)
        .with_no_client_auth();
    let connection = ClientConnection::new(Arc::new(config), name).map_err(|error| error.to_string())?;
    let began = Instant::now();
    let mut stream = StreamOwned::new(connection, stream);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).map_err(|error| format!("no TLS: {error}"))?;
    }
    let why_not_trusted = judge.verdict.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let connection = &stream.conn;
    let secured = Secured {
        protocol: match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => Version::Tls12.name(),
            _ => Version::Tls13.name(),
        },
        cipher: connection
            .negotiated_cipher_suite()
            .map_or("unknown", |suite| CipherSuite(u16::from(suite.suite())).name()),
        key_exchange: connection
            .negotiated_key_exchange_group()
            .map_or_else(String::new, |group| format!("{:?}", group.name())),
        handshake_ms: millis(began),
        trusted: why_not_trusted.is_none(),
        why_not_trusted,
        chain: connection.peer_certificates().unwrap_or_default().iter().map(|der| show(der)).collect(),
    };
    Ok((Wire::Secured(Box::new(stream)), secured))
}

fn show(der: &[u8]) -> Shown {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    match Facts::of(der) {
        Ok(Facts {
            names,
            subject,
            issuer,
            not_before,
            not_after,
            key_kind,
            fingerprint,
            weaknesses,
            ..
        }) => {
            let left = not_after.as_secs() as i64 - now.as_secs() as i64;
            Shown {
                subject,
                issuer,
                names,
                key: key_kind,
                not_before: not_before.as_secs(),
                not_after: not_after.as_secs(),
                days: left.div_euclid(DAY_SECS),
                sha256: fingerprint.to_string(),
                weaknesses,
            }
        }
        Err(why) => Shown {
            subject: String::new(),
            issuer: String::new(),
            names: Vec::new(),
            key: String::new(),
            not_before: 0,
            not_after: 0,
            days: 0,
            sha256: String::new(),
            weaknesses: vec![why],
        },
    }
}

/// Who judges certificates by the authorities of a file; or why there is nobody.
fn trusted(authorities: &Path, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, String> {
    let path = authorities.display();
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(authorities)
        .map_err(|error| format!("no authorities in {path}: {error}; name a file with --authorities"))?;
    roots.add_parsable_certificates(certificates.flatten());
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|error| format!("no authorities in {path}: {error}; name a file with --authorities"))
}

/// Takes every certificate and keeps what is wrong with it. That the server has its key is checked all the same.
#[derive(Debug)]
struct Judge {
    trusted: Result<Arc<WebPkiServerVerifier>, String>,
    verdict: Mutex<Option<String>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict = self.trusted.clone().and_then(|verifier| {
            verifier
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
                .map_err(|error| error.to_string())
        });
        *self.verdict.lock().unwrap_or_else(PoisonError::into_inner) = verdict.err();
        Ok(ServerCertVerified::assertion())
    }

    signatures_by!(provider);
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Clear(stream) => stream.read(buffer),
            Self::Secured(stream) => stream.read(buffer),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        match self {
            Self::Clear(stream) => stream.write(octets),
            Self::Secured(stream) => stream.write(octets),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Clear(stream) => stream.flush(),
            Self::Secured(stream) => stream.flush(),
        }
    }
}

pub(super) fn write_secured(secured: &Secured, output: &mut impl Write) -> io::Result<()> {
    let Secured { protocol, cipher, key_exchange, handshake_ms, why_not_trusted, chain, .. } = secured;
    writeln!(output, "  TLS         {protocol}, {cipher}, {key_exchange}  ({handshake_ms:.1} ms)")?;
    for (place, Shown { subject, issuer, names, key, days, sha256, weaknesses, .. }) in
        chain.iter().enumerate()
    {
        let what = if place == 0 { "certificate" } else { "issuer     " };
        writeln!(output, "  {what} {} ({})", subject.escape_debug(), key)?;
        if place == 0 {
            writeln!(output, "    names     {}", names.join(", ").escape_debug())?;
            weaknesses.iter().try_for_each(|weakness| writeln!(output, "    it is     {weakness}"))?;
        }
        let ends = if *days < 0 { "ended".to_owned() } else { format!("ends in {days} days") };
        writeln!(output, "    {ends}; issued by {}; SHA-256 {sha256}", issuer.escape_debug())?;
    }
    match why_not_trusted {
        Some(why) => writeln!(output, "  not trusted: {why}"),
        None => writeln!(output, "  trusted"),
    }
}
