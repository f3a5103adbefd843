//! Certificates for tests, and a client that speaks TLS. The client is rustls's, the certificates are rcgen's: neither
//! is code of the engine.

use std::fs::Permissions;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned, SupportedProtocolVersion,
};

use crate::client::Client;

/// An authority that nobody but the tests knows.
pub struct Authority {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { params, key, pem }
    }

    /// Writes the authority's certificate.
    pub fn write(&self, dir: &Path) -> PathBuf {
        let path = dir.join("authority.pem");
        std::fs::write(&path, &self.pem).expect("written");
        path
    }

    /// Writes `NAME.pem` and `NAME.key`: a certificate for these names and its key.
    pub fn issue(&self, dir: &Path, file: &str, names: &[&str]) {
        self.issue_until(dir, file, names, 2099);
    }

    /// The same, valid until this year begins.
    pub fn issue_until(&self, dir: &Path, file: &str, names: &[&str], year: i32) {
        let mut params = params_for(names);
        params.not_after = date_time_ymd(year, 1, 1);
        self.sign(dir, file, &params);
    }

    /// The same, valid for so long from now on.
    pub fn issue_for(&self, dir: &Path, file: &str, names: &[&str], rest: Duration) {
        let mut params = params_for(names);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
        params.not_after = date_time_ymd(1970, 1, 1) + now + rest;
        self.sign(dir, file, &params);
    }

    fn sign(&self, dir: &Path, file: &str, params: &CertificateParams) {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let issuer = Issuer::from_params(&self.params, &self.key);
        let chain = params.signed_by(&key, &issuer).expect("a certificate").pem() + &self.pem;
        write_whole(&dir.join(format!("{file}.pem")), &chain);
        write_whole(&dir.join(format!("{file}.key")), &key.serialize_pem());
    }
}

fn params_for(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names.clone()).expect("names");
    params.distinguished_name.push(DnType::CommonName, names.first().map_or("nobody", String::as_str));
    params.not_before = date_time_ymd(2020, 1, 1);
    params
}

/// As ACME clients do it: nobody sees half a file.
fn write_whole(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).expect("written");
    std::fs::set_permissions(&new, Permissions::from_mode(0o600)).expect("a mode");
    std::fs::rename(&new, path).expect("renamed");
}

/// A connection under TLS.
pub type Stream = StreamOwned<ClientConnection, TcpStream>;

/// Of a server with the certificate `NAME.pem` and the key `NAME.key`: `certificate` is the path without the ends.
pub fn server_config(certificate: &Path) -> Arc<ServerConfig> {
    let chain = CertificateDer::pem_file_iter(certificate.with_extension("pem")).expect("a certificate");
    let chain: Vec<_> = chain.map(|certificate| certificate.expect("PEM")).collect();
    let key = PrivateKeyDer::from_pem_file(certificate.with_extension("key")).expect("a key");
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
    Arc::new(config.expect("a certificate and its key"))
}

/// What clients trust: this authority alone.
pub fn client_config(authority: &Path) -> Arc<ClientConfig> {
    client_config_for(authority, rustls::DEFAULT_VERSIONS)
}

/// The same, of a client that speaks these versions only.
pub fn client_config_for(
    authority: &Path,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let der = CertificateDer::from_pem_file(authority).expect("the authority's certificate");
    roots.add(der).expect("an authority");
    let builder = ClientConfig::builder_with_protocol_versions(versions);
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

/// The handshake over a connection on which it is due. Done, or the error.
pub fn secure(stream: TcpStream, config: &Arc<ClientConfig>, name: &str) -> io::Result<Stream> {
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let connection = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, stream);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

/// STARTTLS, and the handshake behind it.
pub fn start_tls(address: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> io::Result<Stream> {
    let mut client = Client::ready(address)?;
    client.say("STARTTLS", 220)?;
    secure(client.stream().try_clone()?, config, name)
}

/// Says a line and reads a reply of one line, or of several: its last line.
pub fn say(stream: &mut Stream, line: &str) -> io::Result<String> {
    stream.write_all(format!("{line}\r\n").as_bytes())?;
    reply(stream)
}

pub fn reply(stream: &mut Stream) -> io::Result<String> {
    loop {
        let mut line = Vec::new();
        let mut octet = [0];
        while !line.ends_with(b"\r\n") {
            stream.read_exact(&mut octet)?;
            line.push(octet[0]);
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if line.as_bytes().get(3) != Some(&b'-') {
            return Ok(line);
        }
    }
}
