//! A certificate that nobody has signed but itself, for trying things out.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rcgen::{CertificateParams, DnType, KeyPair};

use super::TlsError;
use crate::config::CertificateFiles;

/// Makes chain and key where the configuration wants that and neither is there.
///
/// # Errors
/// With the file that cannot be written.
pub(super) fn ensure(files: &CertificateFiles, hostname: &str) -> Result<(), TlsError> {
    let CertificateFiles { chain, key, self_signed } = files;
    if !self_signed || chain.exists() || key.exists() {
        return Ok(());
    }
    let unmade = |error: rcgen::Error| TlsError::Unusable { path: chain.clone(), why: error.to_string() };
    let pair = KeyPair::generate().map_err(unmade)?;
    let names = vec![hostname.to_owned(), "localhost".to_owned()];
    let mut params = CertificateParams::new(names).map_err(unmade)?;
    params.distinguished_name.push(DnType::CommonName, hostname);
    let certificate = params.self_signed(&pair).map_err(unmade)?;
    // The key first: without it the certificate is of no use, and would be taken for one that is.
    write(key, &pair.serialize_pem())?;
    write(chain, &certificate.pem())?;
    tracing::info!(certificate = %chain.display(), "a self-signed certificate is made; no client trusts it");
    Ok(())
}

/// For the owner alone, and never over another.
fn write(path: &Path, text: &str) -> Result<(), TlsError> {
    let failed = |error: std::io::Error| TlsError::Unusable {
        path: path.to_owned(),
        why: format!("a self-signed certificate cannot be written: {error}"),
    };
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        DirBuilder::new().mode(0o700).recursive(true).create(directory).map_err(failed)?;
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match file {
        Ok(mut file) => file.write_all(text.as_bytes()).map_err(failed),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(failed(error)),
    }
}
