//! Builds a [`Config`] out of the tree, section by section. A value that is wrong is reported and replaced by its
//! default, so that the rest is checked too; the result counts only if nothing was reported as an error.

mod events;
mod limits;
mod listener;
mod names;
mod recipients;
mod relay;
mod replies;
mod route;
mod rule;
mod spool;
mod tls;

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

pub(super) use rule::Rules;

use super::reader::{Reader, Section, Text, nearest};
use super::source::{Span, Table, Value};
use super::value::{Services, parse_bind_with, parse_domain};
use super::{Config, Log, LogFormat, LogLevel, Timeouts};
use crate::limits::WORKERS_COUNT_MAX;
use crate::policy::rules::Hidden;
use crate::protocol::extension::Extensions;

/// A connection from time to time, and soon enough for a monitor that asks each half minute.
const WATCH_INTERVAL_DEFAULT: Duration = Duration::from_secs(10);
const WATCH_INTERVALS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
const DRAIN_DEFAULT: Duration = Duration::from_secs(30);

/// The configuration, and where in the text those parts stand that [`super::analysis`] has something to say about.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) config: Config,
    pub(super) places: Places,
    pub(super) rules: Rules,
    pub(super) hidden_rules: Vec<Hidden>,
}

/// None, or the section's own place, where the text leaves the default.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) root: Span,
    pub(super) hostname: Option<Span>,
    pub(super) workers: Option<Span>,
    pub(super) listeners: Vec<Span>,
    pub(super) spool_path: Option<Span>,
    pub(super) durability: Option<Span>,
    pub(super) routes: Vec<RoutePlaces>,
    pub(super) admin: Option<Span>,
    pub(super) events_path: Option<Span>,
}

#[derive(Debug)]
pub(super) struct RoutePlaces {
    pub(super) route: Span,
    pub(super) deliver: Option<Span>,
    pub(super) path: Option<Span>,
}

pub(super) fn build(reader: &Reader, table: &Table) -> Built {
    let root = Section::new(reader, "", table);
    let place = |key| table.get(key).map(|entry| entry.node.span);
    let place_in = |section, key| match &table.get(section)?.node.value {
        Value::Table(table) => table.get(key).map(|entry| entry.node.span),
        _ => None,
    };
    services(&root);
    let hostname = hostname(&root);
    let workers = root.number("workers", 1..=WORKERS_COUNT_MAX).unwrap_or_else(default_workers);
    let limits = limits::limits(&root, &limits::Limits::default());
    let bounce = relay::bounce(&root);
    // RFC 3461 §5: who offers DSN sends the notices, or hands mail on to who does.
    let offered = if bounce.is_some() { Extensions::WITH_NOTICES } else { Extensions::DEFAULT };
    let (listeners, listener_places) = listener::listeners(&root, &hostname, &limits, offered);
    let certificates = tls::certificates(&root);
    tls::check(&root, &listeners, &certificates);
    let spool = spool::spool(&root, &listeners);
    let recipients = recipients::recipients(&root, &hostname);
    let rules = rule::rules(&root, &listeners);
    let separators = recipients.table.separators();
    let known = route::Known { listeners: &listeners, tags: rules.tags(), separators };
    let (routes, route_places) = route::routes(&root, known);
    route::check_coverage(&root, &recipients, &routes);
    let (rule_set, hidden_rules) = rules.compile(&root, &recipients);
    let config = Config {
        hostname,
        workers,
        user: root.text("user").map(|text| text.text),
        group: group(&root),
        listeners,
        certificates,
        spool,
        recipients,
        rules: Arc::new(rule_set),
        routes,
        bounce,
        admin: admin(&root),
        log: log(&root),
        events: events::events(&root),
        replies: replies::replies(&root),
        timeouts: timeouts(&root),
        watch_interval: watch_interval(&root),
    };
    root.finish();
    let places = Places {
        root: table.span,
        hostname: place("hostname"),
        workers: place("workers"),
        listeners: listener_places,
        spool_path: place_in("spool", "path"),
        durability: place_in("spool", "durability"),
        routes: route_places,
        admin: place_in("admin", "bind"),
        events_path: place_in("events", "path"),
    };
    Built { config, places, rules, hidden_rules }
}

/// Before the first address is read.
fn services(root: &Section<'_>) {
    let (Some(text), reader) = (root.text("services"), root.reader) else { return };
    let path = reader.path(&text.text, text.span);
    match std::fs::read_to_string(&path) {
        Ok(text) => *reader.services.borrow_mut() = Services::Named { path, text },
        Err(why) => {
            let message = format!("cannot read the services in {}: {why}", path.display());
            reader.error_as(
                "unreadable-file",
                text.span,
                message,
                "lines of it are `smtp 25/tcp mail`; without `services`, /etc/services",
            );
        }
    }
}

fn hostname(root: &Section<'_>) -> String {
    let configured = root.text("hostname").and_then(|text| domain(root.reader, "hostname", &text));
    configured.unwrap_or_else(|| {
        let system = rustix::system::uname();
        let valid = system.nodename().to_str().ok().and_then(|name| parse_domain(name).ok());
        valid.unwrap_or_else(|| "localhost".to_owned())
    })
}

pub(super) fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS_COUNT_MAX)
}

fn domain(reader: &Reader, key: &str, text: &Text) -> Option<String> {
    let parsed = parse_domain(&text.text);
    parsed
        .map_err(|why| {
            let message =
                format!("`{key}` takes a domain, and `{}` is none: {why}", text.text.escape_debug());
            reader.error_as("not-a-domain", text.span, message, "");
        })
        .ok()
}

fn admin(root: &Section<'_>) -> Option<SocketAddr> {
    let section = root.section("admin")?;
    if section.entry("bind").is_none() {
        section.reader.error_as(
            "missing-key",
            section.span(),
            "[admin] has no `bind`",
            "write bind = \"127.0.0.1:8025\"",
        );
    }
    let bind = section.text("bind").and_then(|text| address(section.reader, &text));
    section.finish();
    bind
}

fn log(root: &Section<'_>) -> Log {
    let mut log = Log { format: LogFormat::Human, level: LogLevel::Info };
    let Some(section) = root.section("log") else { return log };
    if let Some(text) = section.text("format") {
        match text.text.as_str() {
            "human" => log.format = LogFormat::Human,
            "json" => log.format = LogFormat::Json,
            _ => one_of(section.reader, "format", &text, &["human", "json"]),
        }
    }
    if let Some(text) = section.text("level") {
        use LogLevel::{Debug, Error, Info, Trace, Warn};
        let levels = [Error, Warn, Info, Debug, Trace];
        match levels.into_iter().find(|level| level.name() == text.text) {
            Some(level) => log.level = level,
            None => one_of(section.reader, "level", &text, &levels.map(LogLevel::name)),
        }
    }
    section.finish();
    log
}

fn timeouts(root: &Section<'_>) -> Timeouts {
    let mut timeouts = Timeouts { drain: DRAIN_DEFAULT };
    let Some(section) = root.section("timeouts") else { return timeouts };
    if let Some((drain, _)) = section.duration("drain") {
        timeouts.drain = drain;
    }
    section.finish();
    timeouts
}

fn group(root: &Section<'_>) -> Option<String> {
    let group = root.text("group")?;
    if root.entry("user").is_none() {
        root.reader.error_as("missing-key", group.span, "`group` without `user`", "write the user too");
    }
    Some(group.text)
}

fn watch_interval(root: &Section<'_>) -> Duration {
    let Some(section) = root.section("watch") else { return WATCH_INTERVAL_DEFAULT };
    let interval = section.duration("interval").map(|(interval, span)| {
        if !WATCH_INTERVALS.contains(&interval) {
            let message = "`interval` of [watch] takes 100ms to 1h";
            section.reader.error_as("out-of-range", span, message, "write \"10s\"");
        }
        interval
    });
    section.finish();
    interval.unwrap_or(WATCH_INTERVAL_DEFAULT)
}

fn one_of(reader: &Reader, key: &str, text: &Text, choices: &[&str]) {
    let message = format!("`{key}` cannot be \"{}\"", text.text.escape_debug());
    let quoted: Vec<_> = choices.iter().map(|choice| format!("\"{choice}\"")).collect();
    let help = match nearest(&text.text, choices) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("write one of {}", quoted.join(", ")),
    };
    reader.error_as("unknown-value", text.span, message, help);
}

fn address(reader: &Reader, text: &Text) -> Option<SocketAddr> {
    parse_bind_with(&text.text, &reader.services.borrow())
        .map_err(|why| {
            let message = format!("`{}` is no address to bind to: {why}", text.text.escape_debug());
            let help = "write IP address and port, such as 192.0.2.1:25 or [2001:db8::1]:smtp; \
                        0.0.0.0 and [::] are all addresses";
            reader.error_as("not-an-address", text.span, message, help);
        })
        .ok()
}
