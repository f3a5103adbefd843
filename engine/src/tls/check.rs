//! What `ringmx check` has to say about TLS: errors for what keeps the server from starting, warnings for what is weak,
//! ends soon, or is hardly meant.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::certificate::{Certificate, Facts, Rest};
use super::{TlsError, client, provider, resolver};
use crate::config::{CertificateFiles, Config, Finding, Listener, Severity};
use crate::session::TlsMode;

const SMTP_PORT: u16 = 25;
/// Read by others than owner and group.
const MODE_OF_OTHERS: u32 = 0o007;

/// Reads the files that the configuration names. `now`: since 1970.
pub fn check(config: &Config, now: Duration) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut certificates = Vec::new();
    let is_for_trying = is_for_trying(config);
    for files in &config.certificates {
        if files.self_signed && !files.chain.exists() && !files.key.exists() {
            if !is_for_trying {
                let message =
                    format!("{}: is not there, and will be made self-signed", files.chain.display());
                findings.push(self_signed(message));
            }
            continue;
        }
        match Certificate::load(&files.chain, &files.key, &provider()) {
            Ok(certificate) => {
                findings.extend(remarks(&certificate, files, now));
                if certificate.facts.self_signed && !(files.self_signed && is_for_trying) {
                    let path = files.chain.display();
                    findings.push(self_signed(format!("{path}: the certificate is self-signed")));
                }
                certificates.push(certificate);
            }
            Err(error) => findings.push(refused("certificate-unusable", &error)),
        }
    }
    for listener in &config.listeners {
        findings.extend(of_listener(config, listener, &certificates));
    }
    findings
}

/// Whether only this machine meets the certificates.
fn is_for_trying(config: &Config) -> bool {
    let secured = config.listeners.iter().filter(|listener| listener.tls != TlsMode::Off);
    secured.flat_map(|listener| &listener.bind).all(|address| address.ip().is_loopback())
}

fn warning(code: &'static str, message: String, help: &str) -> Finding {
    let help = (!help.is_empty()).then(|| help.to_owned());
    Finding { severity: Severity::Warning, code, place: None, message, help }
}

fn refused(code: &'static str, error: &TlsError) -> Finding {
    Finding { severity: Severity::Error, code, place: None, message: error.to_string(), help: None }
}

fn self_signed(message: String) -> Finding {
    let help = "get one from an authority: senders that check certificates trust it";
    warning("certificate-self-signed", message, help)
}

fn remarks(certificate: &Certificate, files: &CertificateFiles, now: Duration) -> Vec<Finding> {
    let Facts { not_before, self_signed, weaknesses, .. } = &certificate.facts;
    let path = files.chain.display();
    let weak = |weakness| warning("certificate-weak", format!("{path}: the certificate is {weakness}"), "");
    let mut findings: Vec<Finding> = weaknesses.iter().map(weak).collect();
    match certificate.facts.rest(now) {
        Rest::Ended => {
            let message = format!("{path}: the certificate has ended");
            findings.push(warning("certificate-ended", message, "renew it"));
        }
        Rest::Short(days) => {
            let message = format!("{path}: the certificate ends in {days} days");
            findings.push(warning("certificate-ends-soon", message, "renew it"));
        }
        Rest::Long(_) => {}
    }
    if *not_before > now {
        let message = format!("{path}: the certificate is not valid yet");
        findings.push(warning("certificate-not-yet-valid", message, "look at the clock"));
    }
    if !self_signed && certificate.key.cert.len() == 1 {
        let help =
            "put the issuer's certificate behind it, as most authorities' \"full chain\" files have it";
        let message = format!("{path}: the chain has one certificate only");
        findings.push(warning("certificate-without-issuer", message, help));
    }
    let mode = std::fs::metadata(&files.key).map(|file| file.permissions().mode());
    if mode.is_ok_and(|mode| mode & MODE_OF_OTHERS != 0) {
        let message = format!("{}: the key can be read by everybody", files.key.display());
        let help = "chmod o= it, and take another key if somebody may have read it";
        findings.push(warning("key-readable", message, help));
    }
    findings
}

fn of_listener(config: &Config, listener: &Listener, certificates: &[Certificate]) -> Vec<Finding> {
    let Listener { name, hostname, tls, .. } = listener;
    let mut findings = Vec::new();
    if let Err(error) = client::load(&listener.client_certificates, &provider()) {
        findings.push(refused("authorities-unusable", &error));
    }
    let is_public = listener.bind.iter().any(|address| address.port() == SMTP_PORT);
    match tls {
        TlsMode::Off if !config.certificates.is_empty() && is_public => {
            let message = format!("the listener `{name}` has no TLS: all its mail comes in clear");
            findings.push(warning("tls-off", message, "write tls = \"starttls\""));
        }
        TlsMode::Required if is_public => {
            // RFC 3207 §4.
            let message = format!("tls = \"required\" on port 25 of `{name}` turns senders without TLS away");
            findings.push(warning(
                "tls-required",
                message,
                "write tls = \"starttls\" for an MX of the internet",
            ));
        }
        TlsMode::Implicit if is_public => {
            let message = format!("tls = \"implicit\" on port 25 of `{name}`: no MTA expects it there");
            findings.push(warning(
                "tls-implicit",
                message,
                "write tls = \"starttls\", and bind \"implicit\" to port 465",
            ));
        }
        _ => {}
    }
    let serves = |facts: &Facts| resolver::covers(&facts.names, hostname);
    if *tls != TlsMode::Off
        && !certificates.is_empty()
        && !certificates.iter().any(|certificate| serves(&certificate.facts))
    {
        let message = format!("no certificate has the name `{hostname}` of the listener `{name}`");
        findings.push(warning(
            "certificate-name",
            message,
            "get one for the name that the MX record has, or set `hostname`",
        ));
    }
    findings
}
