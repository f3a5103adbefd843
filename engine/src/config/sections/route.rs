//! `[[route]]`

use std::time::Duration;

use super::{RoutePlaces, domain, one_of, relay};
use crate::config::reader::{Section, Text};
use crate::config::{Deliver, DomainPattern, PathTemplate, Recipients, RelayProtocol, Route};

/// RFC 5321 §4.5.4.1 wants 30 minutes and more between attempts in the long run.
const RETRY_DEFAULT: [Duration; 3] =
    [Duration::from_secs(60), Duration::from_secs(5 * 60), Duration::from_secs(30 * 60)];
/// RFC 5321 §4.5.4.1: 4 to 5 days at least.
const LIFETIME_DEFAULT: Duration = Duration::from_secs(5 * 24 * 3600);

pub(super) fn routes(root: &Section<'_>) -> (Vec<Route>, Vec<RoutePlaces>) {
    root.sections("route").into_iter().map(route).unzip()
}

fn route(section: Section<'_>) -> (Route, RoutePlaces) {
    let place = |key| section.entry(key).map(|entry| entry.node.span);
    let places = RoutePlaces { route: section.span(), deliver: place("deliver"), path: place("path") };
    let route = Route {
        domains: domains(&section),
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
            let help = r#"write deliver = "smtp", "lmtp", "maildir", "discard" or "hold""#;
            reader.error(section.span(), "the route has no `deliver`", help);
        }
        return None;
    };
    let protocol = match deliver.text.as_str() {
        "smtp" => Some(RelayProtocol::Smtp),
        "lmtp" => Some(RelayProtocol::Lmtp),
        _ => None,
    };
    for key in relay::KEYS.into_iter().filter(|_| protocol.is_none()) {
        if let Some(entry) = section.entry(key) {
            let message = format!("`{key}` means nothing to deliver = \"{}\"", deliver.text);
            reader.error(entry.node.span, message, "remove it, or write deliver = \"smtp\" or \"lmtp\"");
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
        "discard" => Deliver::Discard,
        "hold" => Deliver::Hold,
        _ => match protocol.and_then(|protocol| relay::relay(section, protocol)) {
            Some(relay) => Deliver::Relay(relay),
            None => {
                if protocol.is_none() {
                    one_of(reader, "deliver", &deliver, &["smtp", "lmtp", "maildir", "discard", "hold"]);
                }
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
    let lost = recipients.domains.iter().filter(|domain| !routes.iter().any(|route| route.matches(domain)));
    let lost: Vec<_> = lost.map(String::as_str).collect();
    let (Some(first), count) = (lost.first(), lost.len()) else { return };
    let more = if count > 1 { format!(" and {} more", count - 1) } else { String::new() };
    let message = format!("no [[route]] takes the mail of {first}{more}");
    root.reader.error(root.span(), message, help);
}
