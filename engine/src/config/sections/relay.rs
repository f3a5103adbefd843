//! What a section says of the server that mail is handed on to.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::one_of;
use super::route::retry;
use crate::config::reader::{Reader, Section, Text};
use crate::config::source::Span;
use crate::config::value::parse_rate;
use crate::config::{Authorities, Bounce, HttpTarget, NextHop, Relay, RelayProtocol, RelayTls, Secret};
use crate::policy::clients::Rate;

/// Where distributions keep the authorities that they trust.
const AUTHORITIES_DEFAULT: &str = "/etc/ssl/certs/ca-certificates.crt";
/// What RFC 3461 leaves to us; senders' users begin to wonder after half a day's work.
const DELAY_AFTER_DEFAULT: Duration = Duration::from_secs(4 * 3600);
const CONNECTIONS_DEFAULT: usize = 20;
const CONNECTIONS: RangeInclusive<usize> = 1..=1000;
/// RFC 5321 §4.5.3.2.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(300);
/// An answer is worth no longer wait than people behind a browser have.
const HTTP_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
/// The keys that only mean something with `smtp` or `lmtp`, and with `http`.
pub(super) const KEYS: [&str; 3] = ["next_hop", "balance", "tls"];
pub(super) const HTTP_KEYS: [&str; 2] = ["url", "secret"];
/// And those that both take.
pub(super) const SHARED_KEYS: [&str; 4] = ["authorities", "connections_max", "message_rate", "timeout"];

/// None where the section does not say whereto.
pub(super) fn relay(section: &Section<'_>, protocol: RelayProtocol) -> Option<Relay> {
    let reader = section.reader;
    // RFC 2033 §5: LMTP must not be on port 25, and has none of its own.
    let (default_port, example) = match protocol {
        RelayProtocol::Smtp | RelayProtocol::Http(_) => {
            (Some(25), r#"write next_hop = ["mail.internal:25"]"#)
        }
        RelayProtocol::Lmtp => {
            (None, r#"write next_hop = ["unix:/run/dovecot/lmtp"] or ["mail.internal:24"]"#)
        }
    };
    if section.entry("next_hop").is_none() {
        reader.error(section.span(), "it has no `next_hop`", example);
    }
    let hop = |text: &Text| {
        let error = |why| {
            reader.error(text.span, format!("`{}` is no next hop: {why}", text.text.escape_debug()), example);
        };
        NextHop::parse(&text.text, default_port).map_err(error).ok()
    };
    let list = section.texts("next_hop");
    if let Some(list) = list.as_ref().filter(|list| list.is_empty) {
        reader.error(list.span, "`next_hop` is empty", example);
    }
    let next_hops: Vec<NextHop> = list.iter().flat_map(|list| &list.texts).filter_map(hop).collect();
    let authorities = section.text("authorities");
    let tls = section.text("tls").map(|text| match text.text.as_str() {
        "off" => RelayTls::Off,
        "required" => RelayTls::Required,
        "verified" => verified(reader, authorities.as_ref(), text.span),
        other => {
            if other != "opportunistic" {
                one_of(reader, "tls", &text, &RelayTls::NAMES);
            }
            RelayTls::Opportunistic
        }
    });
    let relay = Relay {
        protocol,
        next_hops,
        balance: section.boolean("balance").unwrap_or(false),
        tls: tls.unwrap_or_default(),
        connections_max: connections_max(section),
        message_rate: None,
        timeout: timeout(section, TIMEOUT_DEFAULT),
    };
    Some(relay).filter(|relay| !relay.next_hops.is_empty())
}

/// None where the section does not say whereto.
pub(super) fn http(section: &Section<'_>) -> Option<Relay> {
    let reader = section.reader;
    let example = r#"write url = "https://mail.internal/incoming""#;
    if section.entry("url").is_none() {
        reader.error(section.span(), "delivery by HTTP needs `url`", example);
    }
    let help =
        r#"write secret = { file = "/etc/ringmx/http-secret" }: the receiver checks the signatures with it"#;
    let secret = section.text("secret");
    match &secret {
        Some(secret) if secret.text.is_empty() => reader.error(secret.span, "`secret` is empty", help),
        None if section.entry("secret").is_none() => {
            reader.error(section.span(), "delivery by HTTP needs `secret`", help);
        }
        _ => {}
    }
    let secret = Secret::new(secret.map(|secret| secret.text).unwrap_or_default());
    let (authorities, connections_max) = (section.text("authorities"), connections_max(section));
    let timeout = timeout(section, HTTP_TIMEOUT_DEFAULT);
    let url = section.text("url")?;
    let (is_secure, hop, target) = HttpTarget::parse(&url.text, secret)
        .map_err(|why| {
            let message = format!("`{}` in `url` cannot be posted to: {why}", url.text.escape_debug());
            reader.error_as("not-a-url", url.span, message, example);
        })
        .ok()?;
    Some(Relay {
        protocol: RelayProtocol::Http(Arc::new(target)),
        next_hops: vec![hop],
        balance: false,
        tls: if is_secure { verified(reader, authorities.as_ref(), url.span) } else { RelayTls::Off },
        connections_max,
        message_rate: None,
        timeout,
    })
}

/// `asked_at`: where trust is asked for.
fn verified(reader: &Reader, authorities: Option<&Text>, asked_at: Span) -> RelayTls {
    let (path, span) = match authorities {
        Some(named) => (reader.path(&named.text, named.span), named.span),
        None => (PathBuf::from(AUTHORITIES_DEFAULT), asked_at),
    };
    // Many routes trust the same ones.
    let mut known = reader.authorities.borrow_mut();
    let read = || Authorities::read(&path).map(Arc::new);
    match known.entry(path.clone()).or_insert_with(read) {
        Ok(authorities) => RelayTls::Verified(Arc::clone(authorities)),
        Err(why) => {
            let message = format!("the authorities in {} cannot be used: {why}", path.display());
            let help =
                "name a PEM file with their certificates: authorities = \"/etc/ringmx/internal-ca.pem\"";
            reader.error_as("authorities-unusable", span, message, help);
            RelayTls::Required
        }
    }
}

fn connections_max(section: &Section<'_>) -> usize {
    section.number("connections_max", CONNECTIONS).unwrap_or(CONNECTIONS_DEFAULT)
}

/// Of a route. Notices are few, and nothing of `[bounce]` is counted.
pub(super) fn message_rate(section: &Section<'_>) -> Option<Rate> {
    let text = section.text("message_rate")?;
    let error = |why| {
        let message = format!("`message_rate` is none: {why}");
        section.reader.error_as("not-a-rate", text.span, message, "write \"600/m\", or leave it out");
    };
    parse_rate(&text.text).map_err(error).ok()
}

fn timeout(section: &Section<'_>, default: Duration) -> Duration {
    let Some((timeout, span)) = section.duration("timeout") else { return default };
    if timeout.is_zero() {
        section.reader.error(span, "`timeout` of 0 would wait for nothing", "write \"5m\"");
    }
    timeout
}

/// `[bounce]`: whom the notices of what has become of mail are given to.
pub(super) fn bounce(root: &Section<'_>) -> Option<Bounce> {
    let section = root.section("bounce")?;
    let (relay, retry) = (relay(&section, RelayProtocol::Smtp), retry(&section));
    let delay_after = section.duration("delay_after").map_or(DELAY_AFTER_DEFAULT, |(after, _)| after);
    section.finish();
    Some(Bounce { relay: Arc::new(relay?), delay_after, retry })
}
