//! `[[certificate]]`, and what `[[listener]]` says of TLS.

use std::path::PathBuf;

use super::one_of;
use crate::config::reader::Section;
use crate::config::{CertificateFiles, ClientCertificates, Listener};
use crate::session::TlsMode;

/// Files that are not there are made.
const SELF_SIGNED: &str = "self-signed";

pub(super) fn certificates(root: &Section<'_>) -> Vec<CertificateFiles> {
    root.sections("certificate").into_iter().filter_map(certificate).collect()
}

fn certificate(section: Section<'_>) -> Option<CertificateFiles> {
    let chain = path(&section, "chain", "chain = \"/etc/ringmx/mx1.pem\"");
    let key = path(&section, "key", "key = \"/etc/ringmx/mx1.key\"");
    let if_missing = section.text("if_missing");
    if let Some(text) = if_missing.as_ref().filter(|text| text.text != SELF_SIGNED) {
        one_of(section.reader, "if_missing", text, &[SELF_SIGNED]);
    }
    section.finish();
    Some(CertificateFiles { chain: chain?, key: key?, self_signed: if_missing.is_some() })
}

fn path(section: &Section<'_>, key: &'static str, example: &str) -> Option<PathBuf> {
    if section.entry(key).is_none() {
        let message = format!("the certificate has no `{key}`");
        section.reader.error_as(
            "missing-key",
            section.span(),
            message,
            format!("write {example}, a PEM file"),
        );
    }
    let text = section.text(key)?;
    Some(section.reader.path(&text.text, text.span))
}

/// `tls` and what belongs to it.
pub(super) fn listener(section: &Section<'_>) -> (TlsMode, ClientCertificates) {
    let reader = section.reader;
    let mode = section.text("tls").and_then(|text| {
        let named = TlsMode::ALL.into_iter().find(|mode| mode.name() == text.text);
        if named.is_none() {
            one_of(reader, "tls", &text, &TlsMode::ALL.map(TlsMode::name));
        }
        named
    });
    let mode = mode.unwrap_or_default();
    let authorities = section.text("client_authorities");
    let asked = section.text("client_certificates");
    let Some(asked) = asked else {
        if let Some(authorities) = authorities {
            let help = "write client_certificates = \"verify\"";
            reader.error_as(
                "key-without-its-other",
                authorities.span,
                "`client_authorities` means nothing by itself",
                help,
            );
        }
        return (mode, ClientCertificates::Off);
    };
    if mode == TlsMode::Off {
        let help = "write tls = \"starttls\", or remove it";
        reader.error_as(
            "key-without-its-other",
            asked.span,
            "`client_certificates` means nothing without TLS",
            help,
        );
    }
    match (asked.text.as_str(), authorities) {
        ("verify", Some(authorities)) => {
            let authorities = reader.path(&authorities.text, authorities.span);
            return (mode, ClientCertificates::Verify { authorities });
        }
        ("verify", None) => {
            let help = "write client_authorities = \"/etc/ringmx/clients.pem\", a PEM file";
            reader.error_as(
                "missing-key",
                asked.span,
                "`client_certificates` = \"verify\" needs `client_authorities`",
                help,
            );
        }
        ("off" | "record", Some(authorities)) => {
            let help = "write client_certificates = \"verify\"";
            reader.error_as(
                "key-without-its-other",
                authorities.span,
                "`client_authorities` is for \"verify\" only",
                help,
            );
        }
        ("record", None) => return (mode, ClientCertificates::Record),
        ("off", None) => {}
        _ => one_of(reader, "client_certificates", &asked, &["off", "record", "verify"]),
    }
    (mode, ClientCertificates::Off)
}

/// A listener with TLS needs a certificate.
pub(super) fn check(root: &Section<'_>, listeners: &[Listener], certificates: &[CertificateFiles]) {
    // One that was not understood may be the one that is missed.
    if !certificates.is_empty() || root.reader.has_errors() {
        return;
    }
    if let Some(listener) = listeners.iter().find(|listener| listener.tls != TlsMode::Off) {
        let (name, mode) = (&listener.name, listener.tls.name());
        let message =
            format!("tls = \"{mode}\" of the listener `{name}` needs a [[certificate]], and there is none");
        root.reader.error_as(
            "certificate-missing",
            root.span(),
            message,
            "add [[certificate]] with chain = \"..\" and key = \"..\"",
        );
    }
}
