//! TLS of one connection: octets of the wire in and out, plaintext out and in. The server's certificate is not checked:
//! what is measured is the server, and it may have any.

use std::io::{self, Read, Write};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, HandshakeKind, SignatureScheme,
    SupportedProtocolVersion, version,
};

/// When TLS begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// RFC 3207.
    StartTls,
    /// RFC 8314 §3.3.
    AtOnce,
}

/// What all connections have in common.
#[derive(Clone, Debug)]
pub struct Terms {
    pub begin: Begin,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Terms {
    /// `resume`: by tickets of former connections, where the server gives some; otherwise each handshake is a full one.
    ///
    /// # Errors
    /// When `name` is no host name.
    pub fn new(begin: Begin, name: &str, resume: bool, tls_1_2: bool) -> Result<Self, String> {
        let name = ServerName::try_from(name.to_owned()).map_err(|error| format!("{name}: {error}"))?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let versions: &[&SupportedProtocolVersion] =
            if tls_1_2 { &[&version::TLS12] } else { &[&version::TLS13] };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(|error| error.to_string())?;
        let mut config = builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth();
        config.resumption =
            if resume { Resumption::in_memory_sessions(1 << 16) } else { Resumption::disabled() };
        Ok(Self { begin, config: Arc::new(config), name })
    }
}

/// One connection's TLS.
#[derive(Debug)]
pub struct Secure {
    connection: ClientConnection,
    began_at: u64,
    done: bool,
}

/// What octets of the server's came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    None,
    /// The handshake is done, just now.
    Done {
        took_ns: u64,
        resumed: bool,
    },
}

impl Secure {
    /// # Errors
    /// Of the library, in words.
    pub fn begin(terms: &Terms, now: u64) -> Result<Box<Self>, String> {
        let connection = ClientConnection::new(Arc::clone(&terms.config), terms.name.clone());
        let mut connection = connection.map_err(|error| error.to_string())?;
        // One send of the fleet is at most that long.
        connection.set_buffer_limit(None);
        Ok(Box::new(Self { connection, began_at: now, done: false }))
    }

    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Takes octets of the wire, appends plaintext to `plain`.
    ///
    /// # Errors
    /// When there is no TLS, or no more, in words.
    pub fn receive(&mut self, mut octets: &[u8], now: u64, plain: &mut Vec<u8>) -> Result<Progress, String> {
        let words = |error: &dyn std::fmt::Display| error.to_string();
        while !octets.is_empty() {
            self.connection.read_tls(&mut octets).map_err(|error| words(&error))?;
            self.connection.process_new_packets().map_err(|error| words(&error))?;
            match self.connection.reader().read_to_end(plain) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(words(&error)),
            }
        }
        if self.done || self.connection.is_handshaking() {
            return Ok(Progress::None);
        }
        self.done = true;
        let resumed = self.connection.handshake_kind() == Some(HandshakeKind::Resumed);
        Ok(Progress::Done { took_ns: now.saturating_sub(self.began_at), resumed })
    }

    pub fn has_output(&self) -> bool {
        self.connection.wants_write()
    }

    /// Appends to `wire` what is to be sent: `plain` behind what the handshake has to say.
    pub fn transmit(&mut self, plain: &[u8], wire: &mut Vec<u8>) {
        // Writing into memory does not fail.
        drop(self.connection.writer().write_all(plain));
        while self.connection.wants_write() {
            drop(self.connection.write_tls(wire));
        }
    }
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
