//! What a section says of the server that mail is handed on to.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::one_of;
use super::route::retry;
use crate::config::reader::{Section, Text};
use crate::config::{Bounce, HttpTarget, NextHop, Relay, RelayProtocol, RelayTls, Secret};

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
pub(super) const SHARED_KEYS: [&str; 3] = ["authorities", "connections_max", "timeout"];

/// None where the section does not say whereto.
pub(super) fn relay(section: &Section<'_>, protocol: RelayProtocol) -> Option<Arc<Relay>> {
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
    let tls = section.text("tls").and_then(|text| {
        let named = RelayTls::ALL.into_iter().find(|tls| tls.name() == text.text);
        if named.is_none() {
            one_of(reader, "tls", &text, &RelayTls::ALL.map(RelayTls::name));
        }
        named
    });
    let relay = Relay {
        protocol,
        next_hops,
        balance: section.boolean("balance").unwrap_or(false),
        tls: tls.unwrap_or_default(),
        authorities: authorities(section),
        connections_max: connections_max(section),
        timeout: timeout(section, TIMEOUT_DEFAULT),
    };
    Some(relay).filter(|relay| !relay.next_hops.is_empty()).map(Arc::new)
}

/// None where the section does not say whereto.
pub(super) fn http(section: &Section<'_>) -> Option<Arc<Relay>> {
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
    let (authorities, connections_max) = (authorities(section), connections_max(section));
    let timeout = timeout(section, HTTP_TIMEOUT_DEFAULT);
    let url = section.text("url")?;
    let (is_secure, hop, target) = HttpTarget::parse(&url.text, secret)
        .map_err(|why| {
            let message = format!("`{}` in `url` cannot be posted to: {why}", url.text.escape_debug());
            reader.error_as("not-a-url", url.span, message, example);
        })
        .ok()?;
    Some(Arc::new(Relay {
        protocol: RelayProtocol::Http(Arc::new(target)),
        next_hops: vec![hop],
        balance: false,
        tls: if is_secure { RelayTls::Verified } else { RelayTls::Off },
        authorities,
        connections_max,
        timeout,
    }))
}

fn authorities(section: &Section<'_>) -> PathBuf {
    let path = section.text("authorities").map(|text| section.reader.path(&text.text, text.span));
    path.unwrap_or_else(|| PathBuf::from(AUTHORITIES_DEFAULT))
}

fn connections_max(section: &Section<'_>) -> usize {
    section.number("connections_max", CONNECTIONS).unwrap_or(CONNECTIONS_DEFAULT)
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
    Some(Bounce { relay: relay?, delay_after, retry })
}
