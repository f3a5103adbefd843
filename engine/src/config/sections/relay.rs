//! What a section says of the server that mail is handed on to.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::one_of;
use super::route::retry;
use crate::config::reader::{Section, Text};
use crate::config::{Bounce, NextHop, Relay, RelayProtocol, RelayTls};

/// Where distributions keep the authorities that they trust.
const AUTHORITIES_DEFAULT: &str = "/etc/ssl/certs/ca-certificates.crt";
const CONNECTIONS_DEFAULT: usize = 20;
const CONNECTIONS: RangeInclusive<usize> = 1..=1000;
/// RFC 5321 §4.5.3.2.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(300);
/// The keys that only mean something here.
pub(super) const KEYS: [&str; 6] =
    ["next_hop", "balance", "tls", "authorities", "connections_max", "timeout"];

/// None where the section does not say whereto.
pub(super) fn relay(section: &Section<'_>, protocol: RelayProtocol) -> Option<Arc<Relay>> {
    let reader = section.reader;
    // RFC 2033 §5: LMTP must not be on port 25, and has none of its own.
    let (default_port, example) = match protocol {
        RelayProtocol::Smtp => (Some(25), r#"write next_hop = ["mail.internal:25"]"#),
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
    let timeout = section.duration("timeout").map(|(timeout, span)| {
        if timeout.is_zero() {
            reader.error(span, "`timeout` of 0 would wait for nothing", "write \"5m\"");
        }
        timeout
    });
    let authorities = section.text("authorities").map(|text| reader.path(&text.text, text.span));
    let relay = Relay {
        protocol,
        next_hops,
        balance: section.boolean("balance").unwrap_or(false),
        tls: tls.unwrap_or_default(),
        authorities: authorities.unwrap_or_else(|| PathBuf::from(AUTHORITIES_DEFAULT)),
        connections_max: section.number("connections_max", CONNECTIONS).unwrap_or(CONNECTIONS_DEFAULT),
        timeout: timeout.unwrap_or(TIMEOUT_DEFAULT),
    };
    Some(relay).filter(|relay| !relay.next_hops.is_empty()).map(Arc::new)
}

/// `[bounce]`: whom the notices of mail that could not be delivered are given to.
pub(super) fn bounce(root: &Section<'_>) -> Option<Bounce> {
    let section = root.section("bounce")?;
    let (relay, retry) = (relay(&section, RelayProtocol::Smtp), retry(&section));
    section.finish();
    Some(Bounce { relay: relay?, retry })
}
