//! Rust source as text: enough of the language to tell code from comments and strings, and tests from the rest.
//!
//! It is a scanner, not a parser: it knows comments, literals, braces and `use` trees, which is all the rules need.

use std::path::{Path, PathBuf};

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace")
}

/// All files below `dir` but for build results, hidden directories and what cargo-fuzz finds, sorted.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
            let entry = entry.expect("a readable directory");
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = entry.file_type().expect("a file type");
            if kind.is_dir() && !is_skipped(&name) {
                dirs.push(entry.path());
            } else if kind.is_file() && !is_skipped(&name) {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

fn is_skipped(name: &str) -> bool {
    let hidden = name.starts_with('.') && name != ".ci";
    hidden || matches!(name, "target" | "corpus" | "artifacts" | "proptest-regressions" | "ringmx-data")
}

/// One Rust file.
#[derive(Debug)]
pub struct Source {
    /// From the root of the workspace, with `/`.
    pub path: String,
    pub text: String,
    /// The text with comments and the insides of literals blanked; every octet keeps its place.
    pub code: String,
    /// Where each string literal begins (octet in the text, behind its quote) and what stands between its quotes.
    pub strings: Vec<(usize, String)>,
    /// Lines of `#[cfg(test)]` items, from 1, inclusive.
    test_lines: Vec<(usize, usize)>,
}

impl Source {
    pub fn new(path: &str, text: String) -> Self {
        let (code, strings) = blank(&text);
        let test_lines = if is_test_file(path) { vec![(1, usize::MAX)] } else { test_items(&code) };
        Self { path: path.to_owned(), text, code, strings, test_lines }
    }

    /// All Rust files of the workspace.
    pub fn all() -> Vec<Self> {
        let rust = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "rs");
        let read = |path: PathBuf| {
            let text =
                std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            Self::new(&relative(&path), text)
        };
        files(workspace()).into_iter().filter(rust).map(read).collect()
    }

    /// From 1.
    pub fn line_of(&self, at: usize) -> usize {
        line_of(&self.text, at)
    }

    /// The line belongs to tests.
    pub fn is_test(&self, line: usize) -> bool {
        self.test_lines.iter().any(|&(first, last)| (first..=last).contains(&line))
    }

    pub fn lines_count_without_tests(&self) -> usize {
        (1..=self.text.lines().count()).filter(|&line| !self.is_test(line)).count()
    }

    /// Name, first line and length in lines of each function with a body.
    pub fn functions(&self) -> Vec<(String, usize, usize)> {
        let mut found = Vec::new();
        for at in words(&self.code, "fn") {
            let rest = &self.code[at + 2..];
            let name: String =
                rest.trim_start().chars().take_while(|&c| c.is_alphanumeric() || c == '_').collect();
            // A body, not the `;` of a declaration; `fn(..)` is a type.
            let Some(open) =
                rest.find(['{', ';']).filter(|&open| !name.is_empty() && rest[open..].starts_with('{'))
            else {
                continue;
            };
            let open = at + 2 + open;
            let (first, last) = (self.line_of(at), self.line_of(closing(&self.code, open)));
            found.push((name, first, last + 1 - first));
        }
        found
    }

    /// Every path of two or more names in the code with its line: `use` trees written out, and paths used in place.
    pub fn paths(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        let mut in_use = vec![false; self.code.len()];
        for at in words(&self.code, "use") {
            let Some(end) = self.code[at..].find(';') else { continue };
            in_use[at..at + end].fill(true);
            for path in expand(&self.code[at + 3..at + end]) {
                found.push((self.line_of(at), path));
            }
        }
        let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        let mut at = 0;
        while let Some(start) = self.code[at..].find(is_path).map(|start| at + start) {
            let len = self.code[start..].find(|c| !is_path(c)).unwrap_or(self.code.len() - start);
            let path = self.code[start..start + len].trim_end_matches(':');
            if path.contains("::") && !in_use[start] {
                found.push((self.line_of(start), path.to_owned()));
            }
            at = start + len;
        }
        found
    }
}

/// From the root of the workspace.
pub fn relative(path: &Path) -> String {
    let path = path.strip_prefix(workspace()).unwrap_or(path);
    path.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// Unit tests in a file of their own, integration tests and benches.
fn is_test_file(path: &str) -> bool {
    let in_test_dir = path.split('/').any(|part| matches!(part, "tests" | "benches"));
    in_test_dir || path.ends_with("_tests.rs") || path.ends_with("/tests.rs")
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().filter(|&&octet| octet == b'\n').count() + 1
}

/// Where `word` stands as a whole word.
pub fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |&at| !code[..at].ends_with(is_word) && !code[at + word.len()..].starts_with(is_word))
}

/// The place of the brace that closes the one at `open`; the end of the code if none does.
fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0usize;
    for (at, octet) in code.bytes().enumerate().skip(open) {
        match octet {
            b'{' => depth += 1,
            b'}' if depth == 1 => return at,
            b'}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

/// Lines of items under `#[cfg(test)]`.
fn test_items(code: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (at, attribute) in code.match_indices("#[cfg(test)]") {
        let rest = at + attribute.len();
        let Some(end) = code[rest..].find(['{', ';']).map(|end| rest + end) else { continue };
        let last = if code[end..].starts_with('{') { closing(code, end) } else { end };
        found.push((line_of(code, at), line_of(code, last)));
    }
    found
}

/// `a::{b, c::{d, e as f}}` becomes `a::b`, `a::c::d`, `a::c::e`.
fn expand(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        let path = tree.split(" as ").next().unwrap_or_default();
        return vec![path.split_whitespace().collect()];
    };
    let (prefix, inner) = (tree[..open].trim(), &tree[open + 1..tree.rfind('}').unwrap_or(tree.len())]);
    let (mut depth, mut start, mut found) = (0usize, 0, Vec::new());
    for (at, octet) in inner.bytes().enumerate().chain([(inner.len(), b',')]) {
        match octet {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b',' if depth == 0 => {
                let branch = inner[start..at].trim();
                start = at + 1;
                if !branch.is_empty() {
                    found.extend(expand(branch).into_iter().map(|path| format!("{prefix}{path}")));
                }
            }
            _ => {}
        }
    }
    found
}

/// Blanks comments and the insides of literals.
fn blank(text: &str) -> (String, Vec<(usize, String)>) {
    let bytes = text.as_bytes();
    let (mut code, mut strings) = (bytes.to_vec(), Vec::new());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let after_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
        // What is skipped, and where in it the blanked part lies.
        let (len, inside) = if rest.starts_with(b"//") {
            let len = rest.iter().position(|&octet| octet == b'\n').unwrap_or(rest.len());
            (len, 0..len)
        } else if rest.starts_with(b"/*") {
            let len = block_comment_len(rest);
            (len, 0..len)
        } else if let Some((prefix, hashes)) = raw_string(rest).filter(|_| !after_word) {
            let close = [b"\"", &b"#".repeat(hashes)[..]].concat();
            let len = find(&rest[prefix..], &close).unwrap_or(rest.len() - prefix);
            (prefix + len + close.len(), prefix..prefix + len)
        } else if rest[0] == b'"' {
            let len = string_len(rest, b'"');
            (len, 1..len - 1)
        } else if rest[0] == b'\'' && is_char_literal(rest) {
            let len = string_len(rest, b'\'');
            (len, 1..len - 1)
        } else {
            at += 1;
            continue;
        };
        if rest[0] != b'/' && rest[0] != b'\'' {
            strings.push((at + inside.start, text[at + inside.start..at + inside.end].to_owned()));
        }
        for octet in &mut code[at + inside.start..(at + inside.end).min(bytes.len())] {
            if *octet != b'\n' {
                *octet = b' ';
            }
        }
        at += len;
    }
    (String::from_utf8(code).expect("whole characters are blanked"), strings)
}

/// Octets before the first of the content, and the number of `#`.
fn raw_string(rest: &[u8]) -> Option<(usize, usize)> {
    let from_r = rest.strip_prefix(b"b").unwrap_or(rest).strip_prefix(b"r")?;
    let hashes = from_r.iter().take_while(|&&octet| octet == b'#').count();
    (from_r.get(hashes) == Some(&b'"')).then(|| (rest.len() - from_r.len() + hashes + 1, hashes))
}

fn block_comment_len(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// With both quotes.
fn string_len(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// `'a'` and `'\n'`, not the lifetime `'a`.
fn is_char_literal(rest: &[u8]) -> bool {
    match rest.get(1) {
        Some(b'\\') => true,
        Some(&octet) if octet < 128 => rest.get(2) == Some(&b'\''),
        _ => true,
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r##"//! use crate::server;
use crate::{id::{A, B as C}, limits};
fn f<'a>(x: &'a str) -> char { let _ = "crate::cli { \" "; let _ = r#"a "b" }"#; crate::stats::g('}') }
/* fn no() { /* nested */ } */
#[cfg(test)]
mod tests {
    use crate::main;
    fn t() {}
}
fn last() {
    b"550 no"
}
"##;

    #[test]
    fn code_is_told_from_comments_and_strings() {
        let source = Source::new("engine/src/x.rs", TEXT.to_owned());
        let strings: Vec<&str> = source.strings.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(strings, ["crate::cli { \\\" ", "a \"b\" }", "550 no"]);
        assert_eq!(source.code.len(), TEXT.len());
        assert!(!source.code.contains("server") && !source.code.contains("nested"));
    }

    #[test]
    fn paths_are_written_out() {
        let source = Source::new("engine/src/x.rs", TEXT.to_owned());
        let paths = source.paths();
        let paths: Vec<(usize, &str)> = paths.iter().map(|(line, path)| (*line, path.as_str())).collect();
        assert_eq!(
            paths,
            [
                (2, "crate::id::A"),
                (2, "crate::id::B"),
                (2, "crate::limits"),
                (7, "crate::main"),
                (3, "crate::stats::g"),
            ]
        );
    }

    #[test]
    fn functions_and_tests_have_lines() {
        let source = Source::new("engine/src/x.rs", TEXT.to_owned());
        let functions = source.functions();
        assert_eq!(functions, [("f".into(), 3, 1), ("t".into(), 8, 1), ("last".into(), 10, 3)]);
        assert!(source.is_test(8) && !source.is_test(10));
        assert_eq!(source.lines_count_without_tests(), 7);
    }
}
