//! The configuration's text as a tree whose every part knows its place: file, line and column.

use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::finding::{Finding, Place, Severity};

/// A part of one of the files. Ordered by file, then by position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span {
    file_index: usize,
    start: usize,
    end: usize,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) span: Span,
    pub(super) value: Value,
}

#[derive(Debug)]
pub(super) enum Value {
    String(String),
    Integer(i64),
    Array(Vec<Node>),
    Table(Table),
    Boolean(bool),
    /// What no key of the configuration takes: `float`, `datetime`, or an integer beyond 64 bits.
    Other(&'static str),
}

#[derive(Debug)]
pub(super) struct Table {
    pub(super) span: Span,
    /// In the order of the text.
    pub(super) entries: Vec<Entry>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_span: Span,
    pub(super) node: Node,
}

impl Value {
    /// What it is, for error messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::String(_) => "a string",
            Self::Integer(_) => "a number",
            Self::Array(_) => "an array",
            Self::Table(_) => "a table",
            Self::Boolean(_) => "true or false",
            Self::Other(kind) => kind,
        }
    }
}

impl Table {
    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }
}

/// A finding whose place is not looked up yet.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) code: &'static str,
    pub(super) severity: Severity,
    pub(super) span: Option<Span>,
    pub(super) message: String,
    pub(super) help: Option<String>,
}

/// Every file read so far; the first is the one that was asked for.
#[derive(Debug, Default)]
pub(super) struct Sources {
    files: Vec<SourceFile>,
}

#[derive(Debug)]
struct SourceFile {
    name: String,
    text: String,
}

impl Sources {
    /// Adds a file and reads its text as TOML; each error of syntax becomes a problem.
    pub(super) fn parse(&mut self, name: String, text: String, problems: &mut Vec<Problem>) -> Table {
        let file_index = self.files.len();
        let (root, errors) = DeTable::parse_recoverable(&text);
        problems.extend(errors.iter().map(|error| Problem {
            code: "not-toml",
            severity: Severity::Error,
            span: error.span().map(|span| Span { file_index, start: span.start, end: span.end }),
            message: error.message().replace('\n', ", ").replace(", expected nothing", ""),
            help: None,
        }));
        let span = whole(file_index);
        let table = convert_table(file_index, span, root.into_inner());
        self.files.push(SourceFile { name, text });
        table
    }

    pub(super) fn file_name(&self, span: Span) -> &str {
        &self.files[span.file_index].name
    }

    /// The directory that relative paths in the file of `span` start from; empty for the current one.
    pub(super) fn directory(&self, span: Span) -> &Path {
        Path::new(self.file_name(span)).parent().unwrap_or_else(|| Path::new(""))
    }

    pub(super) fn place(&self, span: Span) -> Place {
        let SourceFile { name, text } = &self.files[span.file_index];
        let start = floor_boundary(text, span.start);
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let end = floor_boundary(text, span.end).clamp(start, line_end);
        let width = text[start..end].trim_end().chars().count().max(1);
        Place {
            file: name.clone(),
            line: text[..start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            source_line: text[line_start..line_end].trim_end().to_owned(),
            width: if span == whole(span.file_index) { 0 } else { width },
        }
    }

    /// Looks up the places and sorts by them; what has no place comes first.
    pub(super) fn findings(&self, mut problems: Vec<Problem>) -> Vec<Finding> {
        problems.sort_by_key(|problem| problem.span);
        let finding = |problem: Problem| Finding {
            code: problem.code,
            severity: problem.severity,
            place: problem.span.map(|span| self.place(span)),
            message: problem.message,
            help: problem.help,
        };
        problems.into_iter().map(finding).collect()
    }
}

/// The place of what is missing from a file: its very start.
fn whole(file_index: usize) -> Span {
    Span { file_index, start: 0, end: 0 }
}

fn floor_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

fn convert(file_index: usize, spanned: Spanned<DeValue<'_>>) -> Node {
    let Range { start, end } = spanned.span();
    let span = Span { file_index, start, end };
    let value = match spanned.into_inner() {
        DeValue::String(text) => Value::String(text.into_owned()),
        DeValue::Integer(digits) => i64::from_str_radix(digits.as_str(), digits.radix())
            .map_or(Value::Other("a number beyond 64 bits"), Value::Integer),
        DeValue::Float(_) => Value::Other("a number with a fraction"),
        DeValue::Boolean(value) => Value::Boolean(value),
        DeValue::Datetime(_) => Value::Other("a date or time"),
        DeValue::Array(items) => {
            Value::Array(items.into_iter().map(|item| convert(file_index, item)).collect())
        }
        DeValue::Table(table) => Value::Table(convert_table(file_index, span, table)),
    };
    Node { span, value }
}

fn convert_table(file_index: usize, span: Span, table: DeTable<'_>) -> Table {
    let mut entries: Vec<Entry> = table
        .into_iter()
        .map(|(key, value)| {
            let Range { start, end } = key.span();
            let key_span = Span { file_index, start, end };
            Entry { key: key.into_inner().into_owned(), key_span, node: convert(file_index, value) }
        })
        .collect();
    entries.sort_by_key(|entry| entry.key_span);
    Table { span, entries }
}
