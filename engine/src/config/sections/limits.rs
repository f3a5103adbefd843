//! `[limits]`, `[listener.limits]`, and what else a listener's guard is configured by.

use std::time::Duration;

use super::one_of;
use crate::config::reader::Section;
use crate::config::source::Value;
use crate::config::value::{parse_rate, parse_size};
use crate::limits::{self, DELAY_TIME_MOST};
use crate::policy::clients::{ClientLimits, Rate, ScopeLimits};
use crate::policy::network::NetworkSet;
use crate::session::{EarlyTalker, Guard, SessionLimits};

/// Of one IPv4 address or IPv6 /64. The largest senders hold some tens of connections from one address; a hundred is
/// for the small servers that send all of a list at once.
const CLIENT_CONNECTIONS_DEFAULT: u32 = 100;
/// Of one IPv4 /24 or IPv6 /48, which at the largest senders is a hundred servers.
const NETWORK_CONNECTIONS_DEFAULT: u32 = 1000;
const CLIENT_CONNECTION_RATE_DEFAULT: Rate = Rate::new(600, Duration::from_secs(60));
const NETWORK_CONNECTION_RATE_DEFAULT: Rate = Rate::new(6000, Duration::from_secs(60));
/// What breaks the protocol more often is no mail server that works.
const CLIENT_FAULT_RATE_DEFAULT: Rate = Rate::new(300, Duration::from_secs(3600));
const TARPIT_DEFAULT: Duration = Duration::from_secs(1);
const NO_LIMIT: &str = "none";
const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1"];

/// What of a guard may stand in `[limits]` and in `[listener.limits]`.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    unlimited: NetworkSet,
    client: ClientLimits,
    session: SessionLimits,
}

impl Default for Limits {
    fn default() -> Self {
        let loopback = LOOPBACK.map(|network| network.parse().expect("a test parses the built-in networks"));
        Self {
            unlimited: loopback.into_iter().collect(),
            client: ClientLimits {
                client: ScopeLimits {
                    open_max: Some(CLIENT_CONNECTIONS_DEFAULT),
                    connections: Some(CLIENT_CONNECTION_RATE_DEFAULT),
                    faults: Some(CLIENT_FAULT_RATE_DEFAULT),
                    ..ScopeLimits::default()
                },
                network: ScopeLimits {
                    open_max: Some(NETWORK_CONNECTIONS_DEFAULT),
                    connections: Some(NETWORK_CONNECTION_RATE_DEFAULT),
                    ..ScopeLimits::default()
                },
            },
            session: SessionLimits::default(),
        }
    }
}

/// `[limits]` of `section`, or `defaults` for what it leaves out.
pub(super) fn limits(section: &Section<'_>, defaults: &Limits) -> Limits {
    let mut limits = defaults.clone();
    let Some(section) = section.section("limits") else { return limits };
    if section.entry("unlimited").is_some() {
        limits.unlimited = section.networks("unlimited");
    }
    let Limits { client: ClientLimits { client, network }, session, .. } = &mut limits;
    for (key, max) in [
        ("connections_per_client", &mut client.open_max),
        ("connections_per_network", &mut network.open_max),
        ("transactions_per_session", &mut session.transactions_max),
        ("recipients_per_session", &mut session.recipients_max),
    ] {
        set_number(&section, key, max);
    }
    for (key, rate) in [
        ("connection_rate_per_client", &mut client.connections),
        ("connection_rate_per_network", &mut network.connections),
        ("transaction_rate_per_client", &mut client.transactions),
        ("transaction_rate_per_network", &mut network.transactions),
        ("recipient_rate_per_client", &mut client.recipients),
        ("recipient_rate_per_network", &mut network.recipients),
        ("fault_rate_per_client", &mut client.faults),
        ("fault_rate_per_network", &mut network.faults),
        ("command_rate_per_client", &mut client.commands),
        ("command_rate_per_network", &mut network.commands),
        ("size_rate_per_client", &mut client.octets),
        ("size_rate_per_network", &mut network.octets),
    ] {
        let example = if key.starts_with("size") { "10GiB/h" } else { "600/m" };
        set(&section, key, rate, example, parse_rate);
    }
    set(&section, "size_per_session", &mut session.octets_max, "10GiB", parse_size);
    let budgets = [
        ("faults_per_session", &mut session.faults_max, limits::FAULTS_COUNT_MOST),
        ("refused_recipients_per_session", &mut session.refused_recipients_max, limits::FAULTS_COUNT_MOST),
    ];
    for (key, budget, most) in budgets {
        if let Some(number) = section.number(key, 1..=usize::from(most)) {
            *budget = number as u16;
        }
    }
    let commands_range = limits::RECIPIENTS_COUNT_MAX + 2..=u32::MAX as usize;
    if let Some(number) = section.number("commands_without_message", commands_range) {
        session.commands_max = number as u32;
    }
    section.finish();
    limits
}

/// A listener's guard.
pub(super) fn guard(listener: &Section<'_>, defaults: &Limits) -> Guard {
    let Limits { unlimited, client: client_limits, session: session_limits } = limits(listener, defaults);
    let delay = |key, default| match listener.duration(key) {
        Some((delay, span)) if delay > DELAY_TIME_MOST => {
            let message = format!(
                "`{key}` takes up to {} s: clients do not wait for longer",
                DELAY_TIME_MOST.as_secs()
            );
            listener.reader.error_as("out-of-range", span, message, "");
            default
        }
        Some((delay, _)) => delay,
        None => default,
    };
    let data_time_max = match listener.duration("data_total_timeout") {
        Some((Duration::ZERO, span)) => {
            let message = "`data_total_timeout` is 0: no message could be sent";
            listener.reader.error_as("out-of-range", span, message, "write \"2h\"");
            limits::DATA_TIME_MAX
        }
        Some((time, _)) => time,
        None => limits::DATA_TIME_MAX,
    };
    let progress = listener.size("data_progress", 1..=limits::DATA_PROGRESS_MOST.into());
    Guard {
        proxies: listener.networks("proxy_protocol"),
        xclient: listener.networks("xclient"),
        unlimited,
        client_limits,
        session_limits,
        early_talker: early_talker(listener),
        greet_delay: delay("greet_delay", Duration::ZERO),
        tarpit: delay("tarpit", TARPIT_DEFAULT),
        data_progress: progress.map_or(limits::DATA_PROGRESS_LEN, |(octets, _)| octets as u32),
        data_time_max,
    }
}

fn early_talker(listener: &Section<'_>) -> EarlyTalker {
    let Some(text) = listener.text("early_talker") else { return EarlyTalker::Reject };
    match text.text.as_str() {
        "reject" => return EarlyTalker::Reject,
        "close" => return EarlyTalker::Close,
        "note" => return EarlyTalker::Note,
        _ => one_of(listener.reader, "early_talker", &text, &["reject", "close", "note"]),
    }
    EarlyTalker::Reject
}

/// A whole number from 1 on, or `"none"`.
pub(super) fn set_number(section: &Section<'_>, key: &'static str, max: &mut Option<u32>) {
    let Some(entry) = section.entry(key) else { return };
    match &entry.node.value {
        Value::Integer(number) if u32::try_from(*number).is_ok_and(|number| number > 0) => {
            *max = Some(*number as u32);
        }
        Value::String(text) if text == NO_LIMIT => *max = None,
        _ => {
            let message = format!("`{key}` takes a whole number from 1 on, or \"{NO_LIMIT}\"");
            section.reader.error_as("out-of-range", entry.node.span, message, "");
        }
    }
}

/// What `parse` reads, or `"none"`.
fn set<T>(
    section: &Section<'_>,
    key: &'static str,
    limit: &mut Option<T>,
    example: &str,
    parse: fn(&str) -> Result<T, &'static str>,
) {
    let Some(text) = section.text(key) else { return };
    match parse(&text.text) {
        _ if text.text == NO_LIMIT => *limit = None,
        Ok(value) => *limit = Some(value),
        Err(why) => {
            let message = format!("`{key}` cannot be \"{}\": {why}", text.text.escape_debug());
            section.reader.error_as(
                "not-a-limit",
                text.span,
                message,
                format!("write \"{example}\", or \"{NO_LIMIT}\""),
            );
        }
    }
}
