//! `[[route]]`

use std::sync::Arc;
use std::time::Duration;

use super::names::each_spelling;
use super::{RoutePlaces, domain, one_of, relay};
use crate::config::reader::{Section, Text};
use crate::config::{
    Conditions, Deliver, DomainPattern, Listener, PathTemplate, Recipients, Relay, RelayProtocol, Route,
};
use crate::policy::matcher::Key;
use crate::protocol::path::Mailbox;

/// Keys beside `domains` that say which mail a route takes.
const CONDITIONS: [&str; 3] = ["mailboxes", "listener", "tag"];

/// RFC 5321 §4.5.4.1 wants 30 minutes and more between attempts in the long run.
const RETRY_DEFAULT: [Duration; 3] =
    [Duration::from_secs(60), Duration::from_secs(5 * 60), Duration::from_secs(30 * 60)];
/// RFC 5321 §4.5.4.1: 4 to 5 days at least.
const LIFETIME_DEFAULT: Duration = Duration::from_secs(5 * 24 * 3600);

/// What the conditions of routes may name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    pub listeners: &'a [Listener],
    pub tags: &'a [Box<str>],
    /// Octets that begin a subaddress.
    pub separators: &'a [u8],
}

pub(super) fn routes(root: &Section<'_>, known: Known<'_>) -> (Vec<Route>, Vec<RoutePlaces>) {
    root.sections("route").into_iter().map(|section| route(section, known)).unzip()
}

fn route(section: Section<'_>, known: Known<'_>) -> (Route, RoutePlaces) {
    let place = |key| section.entry(key).map(|entry| entry.node.span);
    let places = RoutePlaces { route: section.span(), deliver: place("deliver"), path: place("path") };
    let route = Route {
        domains: domains(&section),
        conditions: conditions(&section, known),
        deliver: deliver(&section).unwrap_or(Deliver::Hold),
        retry: retry(&section),
        lifetime: section.duration("lifetime").map_or(LIFETIME_DEFAULT, |(lifetime, _)| lifetime),
    };
    section.finish();
    (route, places)
}

fn domains(section: &Section<'_>) -> Vec<DomainPattern> {
    let reader = section.reader;
    let help = r#"write domains = ["*"] for all of them"#;
    if section.entry("domains").is_none() {
        if CONDITIONS.iter().any(|key| section.entry(key).is_some()) {
            return vec![DomainPattern::Any];
        }
        reader.error(section.span(), "the route has no `domains`", help);
    }
    let Some(list) = section.texts("domains") else { return Vec::new() };
    if list.is_empty {
        reader.error(list.span, "`domains` is empty: the route takes no mail", help);
    }
    let pattern = |text: &Text| match text.text.as_str() {
        "*" => Some(DomainPattern::Any),
        _ => domain(reader, "domains", text).map(DomainPattern::Exact),
    };
    list.texts.iter().filter_map(pattern).collect()
}

fn conditions(section: &Section<'_>, known: Known<'_>) -> Conditions {
    let reader = section.reader;
    let texts = |key: &'static str| {
        let list = section.texts(key)?;
        if list.is_empty {
            let message = format!("`{key}` is empty: the route takes no mail");
            reader.error(list.span, message, format!("leave `{key}` out for all"));
        }
        Some(list.texts)
    };
    let mut conditions = Conditions { separators: known.separators.into(), ..Conditions::default() };
    for text in texts("mailboxes").unwrap_or_default() {
        let add = |mailbox: &Mailbox<'_>| {
            conditions.mailboxes.insert(Key::of_mailbox(mailbox).as_bytes().into());
        };
        if let Err(why) = each_spelling(&text.text, add) {
            let message = format!("`{}` in `mailboxes` {why}", text.text.escape_debug());
            reader.error_as("not-a-mailbox", text.span, message, "");
        }
    }
    let listeners: Vec<&str> = known.listeners.iter().map(|listener| listener.name.as_str()).collect();
    let tags: Vec<&str> = known.tags.iter().map(|tag| &**tag).collect();
    for text in texts("listener").unwrap_or_default() {
        if !listeners.contains(&text.text.as_str()) {
            one_of(reader, "listener", &text, &listeners);
        }
        conditions.listeners.push(text.text);
    }
    for text in texts("tag").unwrap_or_default() {
        if !tags.contains(&text.text.as_str()) {
            let message = format!("no rule gives the tag \"{}\"", text.text.escape_debug());
            let help = "write a [[rule]] with action = \"tag\" and this tag";
            reader.error_as("condition-never-met", text.span, message, help);
        }
        conditions.tags.push(text.text);
    }
    conditions
}

pub(super) fn retry(section: &Section<'_>) -> Vec<Duration> {
    let Some(list) = section.texts("retry") else { return RETRY_DEFAULT.to_vec() };
    if list.is_empty {
        section.reader.error(list.span, "`retry` is empty", r#"write retry = ["1m", "5m", "30m"]"#);
    }
    let wait = |text: &Text| {
        let wait = section.duration_of("retry", text)?;
        if wait.is_zero() {
            section.reader.error(text.span, "a wait of 0 would try without end", "write \"1m\"");
        }
        Some(wait)
    };
    list.texts.iter().filter_map(wait).collect()
}

fn deliver(section: &Section<'_>) -> Option<Deliver> {
    let reader = section.reader;
    let path = section.text("path");
    let Some(deliver) = section.text("deliver") else {
        if section.entry("deliver").is_none() {
            let help = r#"write deliver = "smtp", "lmtp", "http", "maildir", "discard" or "hold""#;
            reader.error(section.span(), "the route has no `deliver`", help);
        }
        return None;
    };
    let protocol = match deliver.text.as_str() {
        "smtp" => Some(RelayProtocol::Smtp),
        "lmtp" => Some(RelayProtocol::Lmtp),
        _ => None,
    };
    let (is_http, is_carried) = (deliver.text == "http", deliver.text == "http" || protocol.is_some());
    let by_mail = r#"deliver = "smtp" or "lmtp""#;
    for (keys, is_meant, by) in [
        (&relay::KEYS[..], protocol.is_some(), by_mail),
        (&relay::HTTP_KEYS, is_http, r#"deliver = "http""#),
        (&relay::SHARED_KEYS, is_carried, by_mail),
    ] {
        for entry in keys.iter().filter(|_| !is_meant).filter_map(|key| section.entry(key)) {
            let message = format!("`{}` means nothing to deliver = \"{}\"", entry.key, deliver.text);
            reader.error(entry.node.span, message, format!("remove it, or write {by}"));
        }
    }
    let without_path = match deliver.text.as_str() {
        "maildir" => {
            let Some(path) = path else {
                let help = r#"write path = "/var/mail/ringmx" or path = "/var/mail/{domain}/{local_part}""#;
                reader.error(deliver.span, "delivery to a Maildir needs `path`", help);
                return None;
            };
            let template = PathTemplate::parse(&path.text)
                .map_err(|(message, help)| reader.error(path.span, format!("`path`: {message}"), help));
            let directory = reader.path("", path.span);
            return template.ok().map(|template| Deliver::Maildir { path: template.below(&directory) });
        }
        "http" => Deliver::Relay(paced(section, relay::http(section))?),
        "discard" => Deliver::Discard,
        "hold" => Deliver::Hold,
        _ => match protocol {
            Some(protocol) => Deliver::Relay(paced(section, relay::relay(section, protocol))?),
            None => {
                let choices = ["smtp", "lmtp", "http", "maildir", "discard", "hold"];
                one_of(reader, "deliver", &deliver, &choices);
                return None;
            }
        },
    };
    if let Some(path) = path {
        let message = format!("`path` means nothing to deliver = \"{}\"", deliver.text);
        reader.error(path.span, message, "remove it, or write deliver = \"maildir\"");
    }
    Some(without_path)
}

/// A next hop that gets so many messages a time.
fn paced(section: &Section<'_>, relay: Option<Relay>) -> Option<Arc<Relay>> {
    let message_rate = relay::message_rate(section);
    relay.map(|relay| Arc::new(Relay { message_rate, ..relay }))
}

/// Mail that is accepted has to go somewhere.
pub(super) fn check_coverage(root: &Section<'_>, recipients: &Recipients, routes: &[Route]) {
    let help = "add [[route]] with domains = [\"*\"] and deliver = \"maildir\" or \"hold\"";
    if root.entry("route").is_none() {
        root.reader.error(root.span(), "no [[route]]: accepted mail would go nowhere", help);
    }
    // A route that was not understood may be the one that is missed.
    if root.reader.has_errors() {
        return;
    }
    let lost = recipients.domains.iter().filter(|domain| !routes.iter().any(|route| route.takes_all(domain)));
    let lost: Vec<_> = lost.map(String::as_str).collect();
    let (Some(first), count) = (lost.first(), lost.len()) else { return };
    let more = if count > 1 { format!(" and {} more", count - 1) } else { String::new() };
    let message = format!("no [[route]] takes all mail of {first}{more}");
    root.reader.error(root.span(), message, help);
}
