//! What is wrong with a configuration, said so that it can be put right: where, what, why, and what to do.

use std::fmt;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// The configuration works, but hardly as its author means it.
    Warning,
}

/// A place in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Place {
    /// As it was named on the command line or in `include`.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The line's text, to show it beside the message.
    #[serde(skip)]
    pub source_line: String,
    /// Characters of `source_line` from `column` on that the finding is about; 0 where it is about the whole file.
    #[serde(skip)]
    pub width: usize,
}

/// One error or warning.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// Stays the same from version to version, for programs.
    pub code: &'static str,
    pub severity: Severity,
    /// None where it is about the whole, such as a file that cannot be read.
    pub place: Option<Place>,
    /// What and why, in one line.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// All errors of a configuration, in the order of its files and lines; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    pub findings: Vec<Finding>,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.width {
            0 => f.write_str(&self.file),
            _ => write!(f, "{}:{}:{}", self.file, self.line, self.column),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        write!(f, "{}: {}", self.severity, self.message)?;
        if let Some(place) = self.place.as_ref().filter(|place| place.width > 0) {
            write!(f, "\n{:5} | {}", place.line, place.source_line)?;
            // Tabs are repeated so that the marks stand below what they mark, however wide a tab is shown.
            let before = place.source_line.chars().take(place.column - 1);
            let indent: String = before.map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            write!(f, "\n      | {indent}{}", "^".repeat(place.width))?;
        }
        match &self.help {
            Some(help) => write!(f, "\n  help: {help}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, finding) in self.findings.iter().enumerate() {
            write!(f, "{}{finding}", if index == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}
