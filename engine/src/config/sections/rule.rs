//! `[[rule]]`

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use super::limits::set_number;
use super::names::{add_pattern, patterns};
use super::one_of;
use crate::config::list;
use crate::config::reader::Section;
use crate::config::source::Span;
use crate::config::value::parse_rate;
use crate::config::{ClientCertificates, Listener, Recipients};
use crate::limits::{DELAY_TIME_MOST, RULE_TEXT_LEN_MAX, TAG_LEN_MAX, TAGS_COUNT_MAX};
use crate::policy::matcher::Patterns;
use crate::policy::network::Network;
use crate::policy::rules::{
    Action, Certificates, LIMIT_PER_IPV4, LIMIT_PER_IPV6, Protection, Refusal, RuleLimit, RuleSet, RuleSpec,
    Stage,
};
use crate::protocol::reply::{self, Reply};

const DELAY_DEFAULT: Duration = Duration::from_secs(5);
const ACTIONS: [&str; 8] = ["accept", "relay", "reject", "defer", "drop", "tarpit", "tag", "limit"];

/// The rules and what of their texts an analysis needs.
#[derive(Debug)]
pub(in crate::config) struct Rules {
    pub(in crate::config) specs: Vec<RuleSpec>,
    pub(in crate::config) spans: Vec<Span>,
    tags: Vec<Box<str>>,
}

impl Rules {
    /// What rules may give a message.
    pub(super) fn tags(&self) -> &[Box<str>] {
        &self.tags
    }

    /// Compiles them, and reports those that can never match.
    pub(in crate::config) fn compile(
        &self,
        section: &Section<'_>,
        recipients: &Recipients,
    ) -> (RuleSet, Vec<crate::policy::rules::Hidden>) {
        let tags = self.tags.clone();
        RuleSet::compile(&self.specs, tags, &recipients.postmaster_domain).unwrap_or_else(|why| {
            let span = self.spans.first().copied().unwrap_or_else(|| section.span());
            section.reader.error_as(
                "rules-not-compiled",
                span,
                format!("the rules cannot be compiled: {why}"),
                "",
            );
            (RuleSet::default(), Vec::new())
        })
    }
}

pub(super) fn rules(root: &Section<'_>, listeners: &[Listener]) -> Rules {
    let mut rules = Rules { specs: Vec::new(), spans: Vec::new(), tags: Vec::new() };
    for section in root.sections("rule") {
        if let Some(spec) = rule(&section, listeners, &mut rules.tags) {
            rules.specs.push(spec);
            rules.spans.push(section.span());
        }
        section.finish();
    }
    rules
}

/// One rule; `None` where it has no stage or no action.
fn rule(section: &Section<'_>, listeners: &[Listener], tags: &mut Vec<Box<str>>) -> Option<RuleSpec> {
    let stage = stage(section);
    let place = section.reader.sources.place(section.span());
    let mut spec = RuleSpec {
        stage: stage.unwrap_or(Stage::Rcpt),
        client: clients(section),
        listeners: named_listeners(section, listeners),
        helo: names(section, "helo", None, stage, Stage::Helo),
        from: names(section, "from", Some("from_file"), stage, Stage::Mail),
        to: names(section, "to", Some("to_file"), stage, Stage::Rcpt),
        size_over: section.size("size_over", 0..=u64::MAX >> 1).map(|(size, _)| size),
        protection: protection(section, listeners, stage),
        action: Action::Accept,
        place: format!("{}:{}", place.file, place.line).into(),
    };
    if spec.size_over.is_some() {
        known_at(section, "size_over", stage, Stage::Mail);
    }
    let action = action(section, spec.stage, tags);
    spec.action = action?;
    if let Action::Limit(limit) = &mut spec.action {
        // Without the place, which an edit further up changes.
        let mut hasher = DefaultHasher::new();
        (stage, &spec.client, &spec.listeners, &spec.helo, &spec.from, &spec.to, spec.size_over)
            .hash(&mut hasher);
        spec.protection.hash(&mut hasher);
        (limit.prefix_len_ipv4, limit.prefix_len_ipv6, limit.open_max).hash(&mut hasher);
        limit.key = hasher.finish();
    }
    stage.map(|_| spec)
}

fn stage(section: &Section<'_>) -> Option<Stage> {
    let names = Stage::ALL.map(Stage::name);
    let Some(text) = section.text("stage") else {
        if section.entry("stage").is_none() {
            section.reader.error_as(
                "missing-key",
                section.span(),
                "the rule has no `stage`",
                "write stage = \"connect\"",
            );
        }
        return None;
    };
    let named = Stage::ALL.into_iter().find(|stage| stage.name() == text.text);
    if named.is_none() {
        one_of(section.reader, "stage", &text, &names);
    }
    named
}

/// An error where what a condition asks for is not known yet.
fn known_at(section: &Section<'_>, key: &'static str, stage: Option<Stage>, from: Stage) {
    if let (Some(stage), Some(entry)) = (stage, section.entry(key))
        && stage < from
    {
        let message = format!("`{key}` is not known at stage \"{}\"", stage.name());
        section.reader.error_as(
            "wrong-stage",
            entry.key_span,
            message,
            format!("write stage = \"{}\" or later", from.name()),
        );
    }
}

fn clients(section: &Section<'_>) -> Option<Vec<Network>> {
    let mut found = section.texts("client").map(|list| {
        if list.is_empty {
            let help = "leave `client` out for all clients";
            section.reader.error_as(
                "empty-list",
                list.span,
                "`client` is empty: the rule would never match",
                help,
            );
        }
        list.texts.iter().filter_map(|text| section.network("client", text)).collect::<Vec<Network>>()
    });
    if let Some(path) = section.text("client_file") {
        let networks = found.get_or_insert_default();
        list::read(section.reader, "client_file", &path, |entry| {
            networks.push(entry.parse().map_err(|why| format!("is no network: {why}"))?);
            Ok(())
        });
    }
    found
}

fn named_listeners(section: &Section<'_>, listeners: &[Listener]) -> Option<Vec<Box<str>>> {
    let list = section.texts("listener")?;
    let names: Vec<&str> = listeners.iter().map(|listener| listener.name.as_str()).collect();
    for text in list.texts.iter().filter(|text| !names.contains(&text.text.as_str())) {
        one_of(section.reader, "listener", text, &names);
    }
    Some(list.texts.into_iter().map(|text| text.text.into()).collect())
}

/// What it asks of TLS: known from the EHLO on that follows the handshake.
fn protection(section: &Section<'_>, listeners: &[Listener], stage: Option<Stage>) -> Protection {
    known_at(section, "tls", stage, Stage::Helo);
    known_at(section, "client_certificate", stage, Stage::Helo);
    let certificates = section.texts("client_certificate").map(|list| {
        let reader = section.reader;
        if list.is_empty {
            let help = "leave `client_certificate` out for all clients";
            reader.error_as(
                "empty-list",
                list.span,
                "`client_certificate` is empty: the rule would never match",
                help,
            );
        } else if listeners.iter().all(|it| it.client_certificates == ClientCertificates::Off) {
            let message = "no listener asks for certificates: the rule would never match";
            reader.error_as(
                "condition-never-met",
                list.span,
                message,
                "write client_certificates = \"record\" or \"verify\" at one",
            );
        }
        let mut certificates = Certificates::default();
        for text in &list.texts {
            if let Err(why) = certificates.add(&text.text) {
                let message = format!("`client_certificate` cannot be `{}`: {why}", text.text.escape_debug());
                let help = "write \"verified\", \"sha256:..\", \"mx.example.com\" or \".example.com\"";
                reader.error_as("not-a-certificate", text.span, message, help);
            }
        }
        certificates
    });
    Protection { tls: section.boolean("tls"), certificates }
}

/// The names of a condition, those of its file too.
fn names(
    section: &Section<'_>,
    key: &'static str,
    file_key: Option<&'static str>,
    stage: Option<Stage>,
    known_from: Stage,
) -> Option<Patterns> {
    known_at(section, key, stage, known_from);
    let mut found = patterns(section, key);
    let Some(file_key) = file_key else { return found };
    known_at(section, file_key, stage, known_from);
    if let Some(path) = section.text(file_key) {
        let patterns = found.get_or_insert_default();
        list::read(section.reader, file_key, &path, |entry| add_pattern(patterns, key, entry));
    }
    found
}

fn action(section: &Section<'_>, stage: Stage, tags: &mut Vec<Box<str>>) -> Option<Action> {
    let reader = section.reader;
    let Some(text) = section.text("action") else {
        if section.entry("action").is_none() {
            reader.error_as(
                "missing-key",
                section.span(),
                "the rule has no `action`",
                "write action = \"accept\"",
            );
        }
        return None;
    };
    Some(match text.text.as_str() {
        "accept" => Action::Accept,
        "relay" => {
            if stage != Stage::Rcpt {
                let help = "write stage = \"rcpt\": each recipient is relayed or not";
                reader.error_as("wrong-stage", text.span, "`relay` is an action of stage \"rcpt\"", help);
            }
            Action::Relay
        }
        "reject" => Action::Reject(refusal(section, stage, 5)),
        "defer" => Action::Defer(refusal(section, stage, 4)),
        "drop" => Action::Drop,
        "tarpit" => Action::Tarpit(delay(section)),
        "tag" => Action::Tag(tag(section, tags)?),
        "limit" => Action::Limit(limit(section, stage)),
        _ => {
            one_of(reader, "action", &text, &ACTIONS);
            return None;
        }
    })
}

fn delay(section: &Section<'_>) -> Duration {
    match section.duration("delay") {
        Some((delay, span)) if delay > DELAY_TIME_MOST || delay.is_zero() => {
            let most = DELAY_TIME_MOST.as_secs();
            let message =
                format!("`delay` takes more than 0 and up to {most} s: clients do not wait for longer");
            section.reader.error_as("out-of-range", span, message, "write \"5s\"");
            DELAY_DEFAULT
        }
        Some((delay, _)) => delay,
        None => DELAY_DEFAULT,
    }
}

fn tag(section: &Section<'_>, tags: &mut Vec<Box<str>>) -> Option<u8> {
    let reader = section.reader;
    let Some(text) = section.text("tag") else {
        reader.error_as("missing-key", section.span(), "the rule has no `tag`", "write tag = \"partner\"");
        return None;
    };
    let is_word = |octet: u8| octet.is_ascii_alphanumeric() || b"-_.".contains(&octet);
    if text.text.is_empty() || text.text.len() > TAG_LEN_MAX || !text.text.bytes().all(is_word) {
        let message = format!("`tag` takes 1 to {TAG_LEN_MAX} letters, digits, `-`, `_` and `.`");
        reader.error_as("bad-name", text.span, message, "");
        return None;
    }
    let known = tags.iter().position(|tag| **tag == *text.text);
    if known.is_none() && tags.len() == TAGS_COUNT_MAX {
        let message = format!("there can be {TAGS_COUNT_MAX} different tags, and this is one more");
        reader.error_as("too-many-tags", text.span, message, "");
        return None;
    }
    Some(known.unwrap_or_else(|| {
        tags.push(text.text.into());
        tags.len() - 1
    }) as u8)
}

fn limit(section: &Section<'_>, stage: Stage) -> RuleLimit {
    let reader = section.reader;
    let rate = section.text("rate").and_then(|text| {
        parse_rate(&text.text)
            .map_err(|why| {
                reader.error_as("not-a-rate", text.span, format!("`rate` is none: {why}"), "write \"60/m\"")
            })
            .ok()
    });
    let mut open_max = None;
    set_number(section, "connections", &mut open_max);
    if let Some(entry) = section.entry("connections").filter(|_| stage != Stage::Connect) {
        let help = "write stage = \"connect\", or `rate`";
        reader.error_as(
            "wrong-stage",
            entry.key_span,
            "`connections` are counted at stage \"connect\"",
            help,
        );
    }
    if section.entry("rate").is_none() && section.entry("connections").is_none() {
        let help = "write rate = \"60/m\", or connections = 10 at stage \"connect\"";
        reader.error_as("missing-key", section.span(), "the rule limits nothing", help);
    }
    let per = |key, most: u8, default| {
        section.number(key, 0..=usize::from(most)).map_or(default, |bits| bits as u8)
    };
    RuleLimit {
        key: 0,
        prefix_len_ipv4: per("per_ipv4", 32, LIMIT_PER_IPV4),
        prefix_len_ipv6: per("per_ipv6", 128, LIMIT_PER_IPV6),
        rate,
        open_max,
        refusal: refusal(section, stage, 4),
    }
}

/// The reply of a rule that refuses for good (`class` 5) or for now (4).
fn refusal(section: &Section<'_>, stage: Stage, class: u8) -> Refusal {
    let reader = section.reader;
    let (permitted, default) = match (stage, class) {
        (Stage::Connect, 5) => (reply::REJECT_CODES_AT_CONNECT, &reply::RULE_REJECTS_CLIENT),
        (Stage::Connect, _) => (reply::DEFER_CODES_AT_CONNECT, &reply::RULE_DEFERS_CLIENT),
        (_, 5) => (reply::REJECT_CODES, &reply::RULE_REJECTS),
        (_, _) => (reply::DEFER_CODES, &reply::RULE_DEFERS),
    };
    let code = code(section, stage, permitted).unwrap_or(default.code);
    let enhanced = section.text("enhanced").and_then(|text| {
        let is_valid = is_enhanced(&text.text, class);
        if !is_valid {
            let message = format!("`enhanced` takes a status code of RFC 3463 that begins with {class}");
            reader.error_as("bad-status-code", text.span, message, format!("write \"{}\"", default.enhanced));
        }
        is_valid.then_some(text.text)
    });
    let text = section.text("text").and_then(|text| {
        let is_printable = text.text.bytes().all(|octet| matches!(octet, b' '..=b'~'));
        let is_valid = is_printable && (1..=RULE_TEXT_LEN_MAX).contains(&text.text.len());
        if !is_valid {
            let message = format!("`text` takes 1 to {RULE_TEXT_LEN_MAX} printable ASCII characters");
            reader.error_as("bad-text", text.span, message, "");
        }
        is_valid.then_some(text.text)
    });
    let Reply { enhanced: default_enhanced, text: default_text, .. } = *default;
    Refusal::new(
        code,
        enhanced.as_deref().unwrap_or(default_enhanced),
        text.as_deref().unwrap_or(default_text),
    )
}

fn code(section: &Section<'_>, stage: Stage, permitted: &[u16]) -> Option<u16> {
    let entry = section.entry("code")?;
    let code = section.number("code", 400..=599)? as u16;
    if permitted.contains(&code) {
        return Some(code);
    }
    let codes: Vec<String> = permitted.iter().map(u16::to_string).collect();
    let message = format!("this rule of stage \"{}\" cannot reply {code}", stage.name());
    section.reader.error_as(
        "bad-status-code",
        entry.node.span,
        message,
        format!("write {}", codes.join(" or ")),
    );
    None
}

/// RFC 3463 §2: `status-code = class "." subject "." detail`, of one to three digits the last two.
fn is_enhanced(text: &str, class: u8) -> bool {
    let is_number =
        |part: &str| (1..=3).contains(&part.len()) && part.bytes().all(|octet| octet.is_ascii_digit());
    let parts: Vec<&str> = text.split('.').collect();
    matches!(parts[..], [first, subject, detail]
        if first == class.to_string() && is_number(subject) && is_number(detail))
}
