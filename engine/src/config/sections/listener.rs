//! `[[listener]]`

use std::net::SocketAddr;
use std::time::Duration;

use super::limits::{Limits, guard};
use super::{address, durability};
use crate::config::Listener;
use crate::config::reader::Section;
use crate::config::source::Span;

const NAME_LEN_MAX: usize = 32;
pub(super) const MAX_MESSAGE_SIZE_DEFAULT: u64 = 50 << 20;
/// RFC 5321 §4.5.3.1.7: at least 64K octets.
const MAX_MESSAGE_SIZE_LEAST: u64 = 64 << 10;
const MAX_MESSAGE_SIZE_MOST: u64 = 1 << 30;
/// RFC 5321 §4.5.3.2.7 for commands, and more than the 3 minutes of §4.5.3.2.5 for content.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5 * 60);
const CONNECTIONS_MAX_DEFAULT: usize = 16 << 10;
const CONNECTIONS_MAX_MOST: usize = 1 << 20;

pub(super) fn listeners(root: &Section<'_>, limits: &Limits) -> (Vec<Listener>, Vec<Span>) {
    let mut listeners: Vec<Listener> = Vec::new();
    let mut places = Vec::new();
    let sections = root.sections("listener");
    if sections.is_empty() {
        let help = "add [[listener]] with bind = [\"0.0.0.0:25\", \"[::]:25\"]";
        root.reader.error(root.span(), "no [[listener]]: there is no address to receive mail at", help);
    }
    for section in sections {
        let (span, reader) = (section.span(), section.reader);
        let listener = listener(section, listeners.len() + 1, limits);
        for earlier in &listeners {
            if earlier.name == listener.name {
                let message = format!("a second listener of the name `{}`", listener.name);
                reader.error(span, message, "give each its own `name`");
            }
            let shared = listener.bind.iter().find(|bind| bind.port() != 0 && earlier.bind.contains(bind));
            if let Some(shared) = shared {
                let message = format!("the listener `{}` binds {shared} already", earlier.name);
                reader.error(span, message, "give each address to one listener");
            }
        }
        listeners.push(listener);
        places.push(span);
    }
    (listeners, places)
}

fn listener(section: Section<'_>, number: usize, limits: &Limits) -> Listener {
    let reader = section.reader;
    let name = section.text("name").map(|text| {
        let of_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if !(1..=NAME_LEN_MAX).contains(&text.text.len()) || !text.text.bytes().all(of_word) {
            let message = format!("`name` takes 1 to {NAME_LEN_MAX} letters, digits, `-` and `_`");
            reader.error(text.span, message, "");
        }
        text.text
    });
    let timeout = |key| match section.duration(key) {
        Some((Duration::ZERO, span)) => {
            reader.error(span, format!("`{key}` is 0: every session would end at once"), "write \"5m\"");
            TIMEOUT_DEFAULT
        }
        Some((timeout, _)) => timeout,
        None => TIMEOUT_DEFAULT,
    };
    let size = section.size("max_message_size", MAX_MESSAGE_SIZE_LEAST..=MAX_MESSAGE_SIZE_MOST);
    let listener = Listener {
        name: name.unwrap_or_else(|| format!("listener-{number}")),
        bind: bind(&section),
        max_message_size: size.map_or(MAX_MESSAGE_SIZE_DEFAULT, |(size, _)| size),
        command_timeout: timeout("command_timeout"),
        data_timeout: timeout("data_timeout"),
        connections_max: section
            .number("connections_max", 1..=CONNECTIONS_MAX_MOST)
            .unwrap_or(CONNECTIONS_MAX_DEFAULT),
        guard: guard(&section, limits),
        durability: section.text("durability").map(|text| durability(reader, &text)),
    };
    section.finish();
    listener
}

fn bind(section: &Section<'_>) -> Vec<SocketAddr> {
    let reader = section.reader;
    let help = r#"write bind = ["0.0.0.0:25", "[::]:25"]"#;
    if section.entry("bind").is_none() {
        reader.error(section.span(), "the listener has no `bind`", help);
    }
    let Some(list) = section.texts("bind") else { return Vec::new() };
    if list.is_empty {
        reader.error(list.span, "`bind` is empty: the listener has no address", help);
    }
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for text in &list.texts {
        let Some(address) = address(reader, text) else { continue };
        if address.port() != 0 && addresses.contains(&address) {
            reader.error(text.span, format!("{address} is there twice"), "remove one");
        }
        addresses.push(address);
    }
    addresses
}
