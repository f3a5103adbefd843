//! Reads a configuration and what it includes into one tree.
//!
//! Tables are merged and arrays of tables appended, the including file's own entries first, then those of the included
//! files in the order of `include`. A key that two files set is an error, not a question of which one wins.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::finding::Severity;
use super::source::{Entry, Node, Problem, Sources, Span, Table, Value};
use crate::limits::INCLUDED_FILES_COUNT_MAX;

/// A configuration's files while they are read.
#[derive(Debug, Default)]
pub(super) struct Loader {
    pub(super) sources: Sources,
    pub(super) problems: Vec<Problem>,
    /// Canonical paths read so far and where they were included; None for the first file.
    seen: HashMap<PathBuf, Option<Span>>,
    /// From the first file to the one being read.
    chain: Vec<PathBuf>,
}

impl Loader {
    /// Reads the file at `path` and all it includes.
    pub(super) fn load_file(&mut self, path: &Path) -> Option<Table> {
        match read_text(path) {
            Ok(text) => Some(self.load_text(text, &path.to_string_lossy())),
            Err(why) => {
                let message = format!("cannot read the configuration {}: {why}", path.display());
                self.problems.push(Problem {
                    code: "unreadable-file",
                    severity: Severity::Error,
                    span: None,
                    message,
                    help: None,
                });
                None
            }
        }
    }

    /// Reads `text` as the file `name`, and all it includes.
    pub(super) fn load_text(&mut self, text: String, name: &str) -> Table {
        // A text that is in no file is found by its name alone, which is enough to see that it includes itself.
        let canonical = fs::canonicalize(name).unwrap_or_else(|_| PathBuf::from(name));
        self.seen.insert(canonical.clone(), None);
        self.parse(name.to_owned(), text, canonical)
    }

    fn parse(&mut self, name: String, text: String, canonical: PathBuf) -> Table {
        let mut table = self.sources.parse(name, text, &mut self.problems);
        self.chain.push(canonical);
        for (path, span) in self.take_includes(&mut table) {
            if let Some(included) = self.include(&path, span) {
                merge(&mut table, included, self);
            }
        }
        self.chain.pop();
        table
    }

    fn take_includes(&mut self, table: &mut Table) -> Vec<(PathBuf, Span)> {
        let Some(position) = table.entries.iter().position(|entry| entry.key == "include") else {
            return Vec::new();
        };
        let Entry { node, .. } = table.entries.remove(position);
        let items = match node.value {
            Value::Array(items) => items,
            other => vec![Node { span: node.span, value: other }],
        };
        let mut includes = Vec::new();
        for item in items {
            match item.value {
                Value::String(path) => {
                    includes.push((self.sources.directory(item.span).join(path), item.span));
                }
                other => {
                    let message = format!("`include` takes the names of files, but this is {}", other.kind());
                    self.error("wrong-type", item.span, message, r#"write include = ["domains.toml"]"#);
                }
            }
        }
        includes
    }

    fn include(&mut self, path: &Path, span: Span) -> Option<Table> {
        let read = fs::canonicalize(path).map_err(|error| error.to_string());
        let (canonical, text) = match read.and_then(|canonical| Ok((canonical, read_text(path)?))) {
            Ok(read) => read,
            Err(why) => {
                let message = format!("cannot read the included file {}: {why}", path.display());
                self.error(
                    "unreadable-file",
                    span,
                    message,
                    "the name is relative to the file that includes it",
                );
                return None;
            }
        };
        if self.chain.contains(&canonical) {
            let message = format!("{} includes itself", path.display());
            self.error("include-circle", span, message, "remove one include of the circle");
            return None;
        }
        if self.seen.contains_key(&canonical) {
            let message = format!("{} is included a second time", path.display());
            self.error("include-twice", span, message, "include each file once");
            return None;
        }
        if self.seen.len() >= INCLUDED_FILES_COUNT_MAX {
            let message = format!("more than {INCLUDED_FILES_COUNT_MAX} files make up this configuration");
            self.error("too-many-files", span, message, "put more into each file");
            return None;
        }
        self.seen.insert(canonical.clone(), Some(span));
        Some(self.parse(path.to_string_lossy().into_owned(), text, canonical))
    }

    fn error(&mut self, code: &'static str, span: Span, message: String, help: &str) {
        let help = Some(help.to_owned());
        self.problems.push(Problem { code, severity: Severity::Error, span: Some(span), message, help });
    }
}

fn read_text(path: &Path) -> Result<String, String> {
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    String::from_utf8(bytes)
        .map_err(|error| format!("it is not UTF-8 text (at octet {})", error.utf8_error().valid_up_to()))
}

/// Moves the entries of `from` into `into`.
fn merge(into: &mut Table, from: Table, loader: &mut Loader) {
    for entry in from.entries {
        let Some(existing) = into.entries.iter_mut().find(|existing| existing.key == entry.key) else {
            into.entries.push(entry);
            continue;
        };
        match (&mut existing.node.value, entry.node.value) {
            (Value::Table(into), Value::Table(from)) => merge(into, from, loader),
            (Value::Array(into), Value::Array(from)) if are_tables(into) && are_tables(&from) => {
                into.extend(from);
            }
            _ => {
                let place = loader.sources.place(existing.key_span);
                let message = format!("`{}` is already set at {place}", entry.key);
                loader.error("set-twice", entry.key_span, message, "set it in one of the files only");
            }
        }
    }
}

fn are_tables(items: &[Node]) -> bool {
    items.iter().all(|item| matches!(item.value, Value::Table(_)))
}
