//! `[[listener]]`

use std::net::SocketAddr;
use std::time::Duration;

use super::limits::{Limits, guard};
use super::spool::durability;
use super::{address, domain, one_of, tls};
use crate::config::Listener;
use crate::config::reader::Section;
use crate::config::source::Span;
use crate::limits::{
    BANNER_LEN_MAX, CONNECTIONS_COUNT_MOST, DOMAIN_LEN_MAX, LISTENER_NAME_LEN_MAX, MESSAGE_SIZE_MOST,
    PORTS_COUNT_MAX, REPLY_LINE_LEN_MAX,
};
use crate::policy::newline::BareNewline;
use crate::protocol::extension::{Extension, Extensions};

pub(super) const MAX_MESSAGE_SIZE_DEFAULT: u64 = 50 << 20;
/// RFC 5321 §4.5.3.1.7: at least 64K octets.
const MAX_MESSAGE_SIZE_LEAST: u64 = 64 << 10;
/// RFC 5321 §4.5.3.2.7 for commands, and more than the 3 minutes of §4.5.3.2.5 for content.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5 * 60);
const CONNECTIONS_MAX_DEFAULT: usize = 16 << 10;

// `220 NAME BANNER` CR LF
const _: () = assert!(4 + DOMAIN_LEN_MAX + 1 + BANNER_LEN_MAX + 2 <= REPLY_LINE_LEN_MAX);

/// `offered`: what each listener offers unless it is told otherwise.
pub(super) fn listeners(
    root: &Section<'_>,
    hostname: &str,
    limits: &Limits,
    offered: Extensions,
) -> (Vec<Listener>, Vec<Span>) {
    let mut listeners: Vec<Listener> = Vec::new();
    let mut places = Vec::new();
    let sections = root.sections("listener");
    if sections.is_empty() {
        let help = "add [[listener]] with bind = [\"0.0.0.0:25\", \"[::]:25\"]";
        root.reader.error_as(
            "missing-section",
            root.span(),
            "no [[listener]]: there is no address to receive mail at",
            help,
        );
    }
    for section in sections {
        let (span, reader) = (section.span(), section.reader);
        let listener = listener(section, listeners.len() + 1, hostname, limits, offered);
        for earlier in &listeners {
            if earlier.name == listener.name {
                let message = format!("a second listener of the name `{}`", listener.name);
                reader.error_as("duplicate-listener", span, message, "give each its own `name`");
            }
            let shared = listener.bind.iter().find(|bind| bind.port() != 0 && earlier.bind.contains(bind));
            if let Some(shared) = shared {
                let message = format!("the listener `{}` binds {shared} already", earlier.name);
                reader.error_as("duplicate-address", span, message, "give each address to one listener");
            }
        }
        listeners.push(listener);
        places.push(span);
        let count: usize = listeners.iter().map(|listener| listener.bind.len()).sum();
        if count > PORTS_COUNT_MAX {
            let message = format!("{count} addresses to listen on, and there can be {PORTS_COUNT_MAX}");
            reader.error_as("too-many-addresses", span, message, "bind [::] or 0.0.0.0 in place of many");
            break;
        }
    }
    (listeners, places)
}

fn listener(
    section: Section<'_>,
    number: usize,
    hostname: &str,
    limits: &Limits,
    offered: Extensions,
) -> Listener {
    let reader = section.reader;
    let name = section.text("name").map(|text| {
        let of_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if !(1..=LISTENER_NAME_LEN_MAX).contains(&text.text.len()) || !text.text.bytes().all(of_word) {
            let message = format!("`name` takes 1 to {LISTENER_NAME_LEN_MAX} letters, digits, `-` and `_`");
            reader.error_as("bad-name", text.span, message, "");
        }
        text.text
    });
    let timeout = |key| match section.duration(key) {
        Some((Duration::ZERO, span)) => {
            reader.error_as(
                "out-of-range",
                span,
                format!("`{key}` is 0: every session would end at once"),
                "write \"5m\"",
            );
            TIMEOUT_DEFAULT
        }
        Some((timeout, _)) => timeout,
        None => TIMEOUT_DEFAULT,
    };
    let size = section.size("max_message_size", MAX_MESSAGE_SIZE_LEAST..=MESSAGE_SIZE_MOST);
    let (tls, client_certificates) = tls::listener(&section);
    let listener = Listener {
        name: name.unwrap_or_else(|| format!("listener-{number}")),
        bind: bind(&section),
        exclusive: exclusive(&section),
        hostname: section
            .text("hostname")
            .and_then(|text| domain(reader, "hostname", &text))
            .unwrap_or_else(|| hostname.to_owned()),
        banner: banner(&section),
        extensions: extensions(&section, offered),
        bare_newline: bare_newline(&section),
        bare_newline_exclude: section.networks("bare_newline_exclude"),
        max_message_size: size.map_or(MAX_MESSAGE_SIZE_DEFAULT, |(size, _)| size),
        command_timeout: timeout("command_timeout"),
        data_timeout: timeout("data_timeout"),
        connections_max: section
            .number("connections_max", 1..=CONNECTIONS_COUNT_MOST)
            .unwrap_or(CONNECTIONS_MAX_DEFAULT),
        tls,
        client_certificates,
        guard: guard(&section, limits),
        durability: section.text("durability").map(|text| durability(reader, &text)),
    };
    section.finish();
    listener
}

/// `exclusive`, and what `v6only` says of it: one address is one family's.
fn exclusive(section: &Section<'_>) -> bool {
    if section.boolean("v6only") == Some(false) {
        let span = section.entry("v6only").map_or_else(|| section.span(), |entry| entry.node.span);
        let message = "`v6only` cannot be false: an IPv6 address takes no IPv4 here, so that nobody else's \
                       IPv4 socket can be in its way";
        section.reader.error_as("not-available", span, message, "bind both: [\"0.0.0.0:25\", \"[::]:25\"]");
    }
    section.boolean("exclusive").unwrap_or(true)
}

/// What stands behind the name in the greeting.
fn banner(section: &Section<'_>) -> Option<String> {
    let text = section.text("banner")?;
    let printable = text.text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    if printable && (1..=BANNER_LEN_MAX).contains(&text.text.trim().len()) {
        return Some(text.text.trim().to_owned());
    }
    let message = format!("`banner` takes one line of 1 to {BANNER_LEN_MAX} ASCII characters");
    section.reader.error_as(
        "bad-text",
        text.span,
        message,
        "the host's name stands before it: write \"ESMTP\"",
    );
    None
}

fn extensions(section: &Section<'_>, offered: Extensions) -> Extensions {
    let (mut extensions, reader) = (offered, section.reader);
    for text in section.texts("disable_extensions").map_or_else(Vec::new, |list| list.texts) {
        let named = Extension::ALL.into_iter().find(|it| it.keyword().eq_ignore_ascii_case(&text.text));
        match named {
            Some(Extension::EnhancedStatusCodes) => {
                let message = "ENHANCEDSTATUSCODES cannot be disabled: every reply carries its code";
                reader.error_as("extension-needed", text.span, message, "");
            }
            Some(extension) => extensions = extensions.without(extension),
            None => {
                one_of(reader, "disable_extensions", &text, &Extension::ALL.map(Extension::keyword));
            }
        }
    }
    // RFC 6531 §3.1: who offers SMTPUTF8 offers 8BITMIME.
    if extensions.has(Extension::SmtpUtf8) && !extensions.has(Extension::EightBitMime) {
        let span =
            section.entry("disable_extensions").map_or_else(|| section.span(), |entry| entry.node.span);
        reader.error_as(
            "extension-needed",
            span,
            "SMTPUTF8 needs 8BITMIME, which is disabled",
            "disable \"SMTPUTF8\" too",
        );
    }
    extensions
}

fn bare_newline(section: &Section<'_>) -> BareNewline {
    let Some(text) = section.text("bare_newline") else { return BareNewline::default() };
    let named = BareNewline::ALL.into_iter().find(|choice| choice.name() == text.text);
    if named.is_none() {
        one_of(section.reader, "bare_newline", &text, &BareNewline::ALL.map(BareNewline::name));
    }
    named.unwrap_or_default()
}

fn bind(section: &Section<'_>) -> Vec<SocketAddr> {
    let reader = section.reader;
    let help = r#"write bind = ["0.0.0.0:25", "[::]:25"]"#;
    if section.entry("bind").is_none() {
        reader.error_as("missing-key", section.span(), "the listener has no `bind`", help);
    }
    let Some(list) = section.texts("bind") else { return Vec::new() };
    if list.is_empty {
        reader.error_as("empty-list", list.span, "`bind` is empty: the listener has no address", help);
    }
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for text in &list.texts {
        let Some(address) = address(reader, text) else { continue };
        if address.port() != 0 && addresses.contains(&address) {
            reader.error_as(
                "duplicate-address",
                text.span,
                format!("{address} is there twice"),
                "remove one",
            );
        }
        addresses.push(address);
    }
    addresses
}
