//! Certificates that are renewed by somebody else while the server runs: the files are looked at, and read when they
//! are others than before. By polling: it sees what inotify does not, a symbolic link of a directory above that is
//! exchanged, and costs a few system calls.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::listeners::{self, Certified, ListenersTls};
use super::{TlsError, self_signed};
use crate::config::Config;
use crate::limits::TICKET_KEY_TIME_MAX;

/// What tells a file from the one that was there before: where it is, when it and its name were changed, its length.
type Stamp = Option<(u64, u64, i64, i64, i64, i64, u64)>;

/// Looks after the certificates of all listeners.
#[derive(Debug)]
pub struct Renewal {
    config: Config,
    tls: Arc<ListenersTls>,
    /// Of the files when they were last read.
    read: Vec<Stamp>,
    /// Of the files at the last look.
    seen: Vec<Stamp>,
    rotate_at: Instant,
}

/// What the files of a configuration hold, and which state of them that is.
#[derive(Debug)]
pub struct Renewed {
    config: Config,
    stamps: Vec<Stamp>,
    pub certified: Certified,
}

impl Renewal {
    /// With nothing to look after yet. Makes the certificates that the configuration wants made.
    ///
    /// # Errors
    /// With the file, and what to do about it.
    pub fn begin(config: &Config, now: Instant) -> Result<Self, TlsError> {
        config.certificates.iter().try_for_each(|files| self_signed::ensure(files, &config.hostname))?;
        let (read, seen, rotate_at) = (Vec::new(), Vec::new(), now + TICKET_KEY_TIME_MAX);
        Ok(Self { config: config.without_lists(), tls: Arc::default(), read, seen, rotate_at })
    }

    /// What it looks after.
    pub fn tls(&self) -> &Arc<ListenersTls> {
        &self.tls
    }

    /// Reads the files of a configuration.
    ///
    /// # Errors
    /// As [`ListenersTls::prepare`]. Those of the former stay in use, and are looked after.
    pub fn prepare(&self, config: &Config) -> Result<Renewed, TlsError> {
        // What changes while it is read is seen by the next look.
        let stamps = stamps(config);
        let certified = self.tls.prepare(config)?;
        Ok(Renewed { config: config.without_lists(), stamps, certified })
    }

    /// Puts it to use, and looks after its files from now on.
    pub fn commit(&mut self, Renewed { config, stamps, certified }: Renewed) {
        self.tls.commit(certified);
        (self.read, self.seen) = (stamps.clone(), stamps);
        self.config = config;
    }

    /// To be called several times a second. Files that have changed are read once they stay as they are from one call
    /// to the next: a chain and its key are written one after the other.
    pub fn look(&mut self, now: Instant) {
        let stamps = stamps(&self.config);
        let settled = stamps == self.seen;
        self.seen = stamps;
        if settled && self.seen != self.read {
            match self.prepare(&self.config) {
                Ok(renewed) => {
                    self.commit(renewed);
                    tracing::info!("certificates are read again: new connections get them");
                }
                Err(error) => {
                    // Once for each change.
                    self.read = self.seen.clone();
                    tracing::error!(%error, "certificates cannot be read again: those that there are stay in use");
                }
            }
        }
        if now >= self.rotate_at {
            self.rotate_at = now + TICKET_KEY_TIME_MAX;
            if let Err(error) = self.tls.rotate_tickets() {
                tracing::error!(%error, "the keys of TLS tickets stay as they are");
            }
        }
    }
}

fn stamps(config: &Config) -> Vec<Stamp> {
    listeners::files(config).map(stamp).collect()
}

fn stamp(path: &Path) -> Stamp {
    let file = std::fs::metadata(path).ok()?;
    let (modified, changed) = ((file.mtime(), file.mtime_nsec()), (file.ctime(), file.ctime_nsec()));
    Some((file.dev(), file.ino(), modified.0, modified.1, changed.0, changed.1, file.len()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{CertificateParams, KeyPair};
    use rustls::server::ProducesTickets as _;

    use super::*;

    fn write(directory: &Path, name: &str) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
        std::fs::write(directory.join("mx.pem"), certificate.pem()).unwrap();
        std::fs::write(directory.join("mx.key"), key.serialize_pem()).unwrap();
    }

    fn configuration(directory: &Path) -> Config {
        let text = format!(
            "hostname = \"mx.example\"\n[[listener]]\nname = \"mx\"\nbind = [\"127.0.0.1:0\"]\ntls = \"starttls\"\n\
             [[certificate]]\nchain = \"{0}/mx.pem\"\nkey = \"{0}/mx.key\"\n\
             [recipients]\ndomains = [\"example.com\"]\n[[route]]\ndomains = [\"*\"]\ndeliver = \"hold\"\n",
            directory.display()
        );
        Config::parse(&text, "mx.toml").unwrap()
    }

    /// The server looks so often that this is within `CERTIFICATE_RENEWAL_TIME_MAX`.
    #[test]
    fn a_change_is_in_use_at_the_second_look() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        write(path, "first.example");
        let config = configuration(path);
        let now = Instant::now();
        let mut renewal = Renewal::begin(&config, now).unwrap();
        let renewed = renewal.prepare(&config).unwrap();
        renewal.commit(renewed);
        let names = |renewal: &Renewal| renewal.tls().certificates()[0].1.names.clone();
        renewal.look(now);
        assert_eq!((names(&renewal), renewal.tls().renewals_count()), (vec!["first.example".to_owned()], 1));
        write(path, "second.example");
        renewal.look(now);
        assert_eq!(names(&renewal), ["first.example"], "it may not be all of it");
        renewal.look(now);
        assert_eq!((names(&renewal), renewal.tls().renewals_count()), (vec!["second.example".to_owned()], 2));
        renewal.look(now);
        assert_eq!(renewal.tls().renewals_count(), 2, "once for each change");
    }

    #[test]
    fn a_key_seals_tickets_for_its_time() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), "mx.example");
        let config = configuration(directory.path());
        let now = Instant::now();
        let mut renewal = Renewal::begin(&config, now).unwrap();
        let renewed = renewal.prepare(&config).unwrap();
        let acceptor = renewed.certified.of("mx").unwrap();
        renewal.commit(renewed);
        let ticket = acceptor.tickets().encrypt(b"x").unwrap();
        let second = Duration::from_secs(1);
        for keys_count in 1..=2 {
            let at = now + keys_count * TICKET_KEY_TIME_MAX;
            renewal.look(at - second);
            assert!(acceptor.tickets().decrypt(&ticket).is_some(), "with {keys_count} keys");
            renewal.look(at);
        }
        assert_eq!(acceptor.tickets().decrypt(&ticket), None);
    }
}
