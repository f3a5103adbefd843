//! Takes values out of the tree: each with its type checked, each wrong one a problem with its place, and every key
//! that nobody asked for an error that names the key which was meant.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Authorities;
use super::finding::Severity;
use super::source::{Entry, Node, Problem, Sources, Span, Table, Value};
use super::value::{Services, format_size, parse_duration, parse_size};
use crate::limits::SECRET_LEN_MAX;
use crate::policy::network::{Network, NetworkSet};

/// Jaro-Winkler similarity from which on an unknown key is taken for a slip of the known one.
const SIMILARITY_MIN: f64 = 0.8;

/// A text of the configuration and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Text {
    pub(super) text: String,
    pub(super) span: Span,
}

/// An array of texts.
#[derive(Debug)]
pub(super) struct Texts {
    /// Those that are texts.
    pub(super) texts: Vec<Text>,
    /// As written, wrong ones counted.
    pub(super) is_empty: bool,
    pub(super) span: Span,
}

#[derive(Debug)]
pub(super) struct Reader {
    pub(super) sources: Sources,
    problems: RefCell<Vec<Problem>>,
    /// Where names of ports are looked up.
    pub(super) services: RefCell<Services>,
    /// By file, each read once.
    pub(super) authorities: RefCell<HashMap<PathBuf, Result<Arc<Authorities>, String>>>,
}

/// One table while its keys are taken; [`Section::finish`] reports those that were not.
#[derive(Debug)]
pub(super) struct Section<'a> {
    pub(super) reader: &'a Reader,
    /// Empty for the top level.
    name: &'static str,
    table: &'a Table,
    known: RefCell<Vec<&'static str>>,
}

impl Reader {
    pub(super) fn new(sources: Sources) -> Self {
        Self {
            sources,
            problems: RefCell::default(),
            services: RefCell::default(),
            authorities: RefCell::default(),
        }
    }

    /// An error of a route.
    pub(super) fn error(&self, span: Span, message: impl Into<String>, help: impl Into<String>) {
        self.error_as("bad-route", span, message, help);
    }

    pub(super) fn error_as(
        &self,
        code: &'static str,
        span: Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.report(Severity::Error, code, span, message.into(), help.into());
    }

    pub(super) fn warn_as(
        &self,
        code: &'static str,
        span: Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.report(Severity::Warning, code, span, message.into(), help.into());
    }

    fn report(&self, severity: Severity, code: &'static str, span: Span, message: String, help: String) {
        let help = Some(help).filter(|help| !help.is_empty());
        self.problems.borrow_mut().push(Problem { code, severity, span: Some(span), message, help });
    }

    pub(super) fn has_errors(&self) -> bool {
        self.problems.borrow().iter().any(|problem| problem.severity == Severity::Error)
    }

    pub(super) fn into_findings(self) -> Vec<super::Finding> {
        self.sources.findings(self.problems.into_inner())
    }

    /// The text of a node that may also be `{ env = "NAME" }` or `{ file = "PATH" }`.
    pub(super) fn text(&self, what: &str, node: &Node) -> Option<Text> {
        let text = match &node.value {
            Value::String(text) => text.clone(),
            Value::Table(table) => self.indirect_text(what, table)?,
            other => {
                let message = format!("`{what}` takes a string, but this is {}", other.kind());
                self.error_as("wrong-type", node.span, message, "put it between double quotes");
                return None;
            }
        };
        Some(Text { text, span: node.span })
    }

    fn indirect_text(&self, what: &str, table: &Table) -> Option<String> {
        let [Entry { key, key_span, node: Node { span, value: Value::String(source) } }] = &table.entries[..]
        else {
            let help = r#"write "text", { env = "NAME" } or { file = "PATH" }"#;
            self.error_as("wrong-type", table.span, format!("`{what}` takes a string"), help);
            return None;
        };
        let read = match key.as_str() {
            "env" => std::env::var(source)
                .map_err(|error| format!("the environment variable {source} for `{what}`: {error}")),
            "file" => {
                let path = self.path(source, *span);
                read_secret(&path)
                    .map_err(|why| format!("cannot read {} for `{what}`: {why}", path.display()))
            }
            _ => {
                let help = r#"write { env = "NAME" } or { file = "PATH" }"#;
                self.error_as(
                    "unknown-source",
                    *key_span,
                    format!("`{what}` cannot come from `{key}`"),
                    help,
                );
                return None;
            }
        };
        read.map_err(|message| self.error_as("unreadable-value", *span, message, "")).ok()
    }

    /// A path of the configuration; a relative one starts at the directory of the file it stands in.
    pub(super) fn path(&self, path: &str, span: Span) -> PathBuf {
        // Without the `.` of `./name` in the middle.
        self.sources.directory(span).join(path).components().collect()
    }

    /// The node as a table of the section `name`.
    fn section<'a>(&'a self, name: &'static str, node: &'a Node) -> Option<Section<'a>> {
        let Value::Table(table) = &node.value else {
            let message = format!("`{name}` is a table, but this is {}", node.value.kind());
            self.error_as("wrong-type", node.span, message, format!("write [{name}] and its keys below"));
            return None;
        };
        Some(Section::new(self, name, table))
    }
}

impl<'a> Section<'a> {
    pub(super) fn new(reader: &'a Reader, name: &'static str, table: &'a Table) -> Self {
        Self { reader, name, table, known: RefCell::default() }
    }

    /// Where the section begins.
    pub(super) fn span(&self) -> Span {
        self.table.span
    }

    pub(super) fn entry(&self, key: &'static str) -> Option<&'a Entry> {
        let mut known = self.known.borrow_mut();
        if !known.contains(&key) {
            known.push(key);
        }
        self.table.get(key)
    }

    pub(super) fn entries(&self) -> &'a [Entry] {
        &self.table.entries
    }

    pub(super) fn text(&self, key: &'static str) -> Option<Text> {
        self.entry(key).and_then(|entry| self.reader.text(key, &entry.node))
    }

    /// The texts of an array. What is wrong with one of them leaves the others.
    pub(super) fn texts(&self, key: &'static str) -> Option<Texts> {
        let node = &self.entry(key)?.node;
        let Value::Array(items) = &node.value else {
            let message = format!("`{key}` takes an array of strings, but this is {}", node.value.kind());
            self.reader.error_as("wrong-type", node.span, message, "put it between [ and ]");
            return None;
        };
        let texts = items.iter().filter_map(|item| self.reader.text(key, item)).collect();
        Some(Texts { texts, is_empty: items.is_empty(), span: node.span })
    }

    /// An array of networks; empty where it is not there.
    pub(super) fn networks(&self, key: &'static str) -> NetworkSet {
        let texts = self.texts(key).map_or_else(Vec::new, |list| list.texts);
        texts.iter().filter_map(|text| self.network(key, text)).collect()
    }

    /// One of an array of networks.
    pub(super) fn network(&self, key: &str, text: &Text) -> Option<Network> {
        let parsed = text.text.parse::<Network>();
        parsed
            .map_err(|why| {
                let message = format!("`{}` in `{key}` is no network: {why}", text.text.escape_debug());
                self.reader.error_as("not-a-network", text.span, message, "");
            })
            .ok()
    }

    /// A whole number of the range.
    pub(super) fn number(&self, key: &'static str, range: RangeInclusive<usize>) -> Option<usize> {
        let node = &self.entry(key)?.node;
        let (least, most) = (range.start(), range.end());
        let number = match node.value {
            Value::Integer(number) => usize::try_from(number).ok().filter(|number| range.contains(number)),
            _ => None,
        };
        if number.is_none() {
            let message = format!("`{key}` takes a whole number from {least} to {most}");
            self.reader.error_as("out-of-range", node.span, message, "");
        }
        number
    }

    /// A size in octets: `"50MiB"`, or a number.
    pub(super) fn boolean(&self, key: &'static str) -> Option<bool> {
        let node = &self.entry(key)?.node;
        if let Value::Boolean(value) = node.value {
            return Some(value);
        }
        self.reader.error_as(
            "wrong-type",
            node.span,
            format!("`{key}` takes true or false, without quotes"),
            "",
        );
        None
    }

    pub(super) fn size(&self, key: &'static str, range: RangeInclusive<u64>) -> Option<(u64, Span)> {
        let node = &self.entry(key)?.node;
        let parsed = match node.value {
            Value::Integer(number) => u64::try_from(number).map_err(|_| "it is below 0"),
            _ => parse_size(&self.reader.text(key, node)?.text),
        };
        let (least, most) = (format_size(*range.start()), format_size(*range.end()));
        match parsed {
            Ok(size) if range.contains(&size) => return Some((size, node.span)),
            Ok(_) => {
                let message = format!("`{key}` takes {least} to {most}");
                self.reader.error_as("out-of-range", node.span, message, "");
            }
            Err(why) => {
                let message = format!("`{key}` takes a size: {why}");
                self.reader.error_as(
                    "not-a-size",
                    node.span,
                    message,
                    r#"write a number and its unit, such as "50MiB""#,
                );
            }
        }
        None
    }

    pub(super) fn duration(&self, key: &'static str) -> Option<(Duration, Span)> {
        let node = &self.entry(key)?.node;
        let text = match node.value {
            // The unit is not guessed: seconds here and milliseconds there have cost many a night.
            Value::Integer(number) => Text { text: number.to_string(), span: node.span },
            _ => self.reader.text(key, node)?,
        };
        Some((self.duration_of(key, &text)?, node.span))
    }

    pub(super) fn duration_of(&self, key: &str, text: &Text) -> Option<Duration> {
        parse_duration(&text.text)
            .map_err(|why| {
                let message = format!("`{key}` takes a time: {why}");
                self.reader.error_as(
                    "not-a-time",
                    text.span,
                    message,
                    r#"write numbers and their units, such as "5m" or "1h30m""#,
                );
            })
            .ok()
    }

    pub(super) fn section(&self, name: &'static str) -> Option<Self> {
        self.entry(name).and_then(|entry| self.reader.section(name, &entry.node))
    }

    /// The tables of an array of tables, `[[name]]`.
    pub(super) fn sections(&self, name: &'static str) -> Vec<Self> {
        let Some(entry) = self.entry(name) else { return Vec::new() };
        let Value::Array(items) = &entry.node.value else {
            let message = format!("`{name}` may be there several times, so it is written [[{name}]]");
            self.reader.error_as(
                "wrong-type",
                entry.key_span,
                message,
                format!("write [[{name}]] with two brackets on each side"),
            );
            return Vec::new();
        };
        items.iter().filter_map(|item| self.reader.section(name, item)).collect()
    }

    /// Reports every key that was not asked for.
    pub(super) fn finish(self) {
        let known = self.known.borrow();
        for entry in &self.table.entries {
            if known.contains(&entry.key.as_str()) {
                continue;
            }
            let place = if self.name.is_empty() { String::new() } else { format!(" in `{}`", self.name) };
            let help = match nearest(&entry.key, &known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the keys here are {}", known.join(", ")),
            };
            let message = format!("unknown key `{}`{place}", entry.key);
            self.reader.error_as("unknown-key", entry.key_span, message, help);
        }
    }
}

/// The one of `known` that `word` was most likely meant to be.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let similarity =
        |candidate: &str| strsim::jaro_winkler(&word.to_ascii_lowercase(), &candidate.to_ascii_lowercase());
    known
        .iter()
        .map(|&candidate| (similarity(candidate), candidate))
        .filter(|&(similarity, _)| similarity >= SIMILARITY_MIN)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

/// A file's text without its line end: editors add one that does not belong to the secret.
fn read_secret(path: &std::path::Path) -> Result<String, String> {
    let mut text = String::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(SECRET_LEN_MAX + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > SECRET_LEN_MAX {
        return Err(format!("it is longer than {SECRET_LEN_MAX} octets"));
    }
    let trimmed =
        text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
    Ok(trimmed.to_owned())
}
