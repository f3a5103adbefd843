//! A Maildir, as a mail reader sees it.

use std::io;
use std::path::PathBuf;

use crate::engine::eventually;

#[derive(Clone, Debug)]
pub struct Maildir {
    path: PathBuf,
}

/// A delivered message, taken apart.
#[derive(Clone, Debug)]
pub struct Delivered {
    pub name: String,
    /// In angle brackets.
    pub return_path: Vec<u8>,
    pub delivered_to: Vec<Vec<u8>>,
    pub trace: Vec<u8>,
    /// What the client sent, with LF line ends.
    pub content: Vec<u8>,
}

impl Maildir {
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub fn path(&self) -> &PathBuf {
        &self.path
    }

    /// File names in `new`, sorted; none where there is no Maildir yet.
    pub fn names(&self) -> Vec<String> {
        self.names_in("new")
    }

    pub fn names_in(&self, directory: &str) -> Vec<String> {
        let entries = match std::fs::read_dir(self.path.join(directory)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => panic!("{}: {error}", self.path.display()),
        };
        let name = |entry: io::Result<std::fs::DirEntry>| {
            entry.expect("a readable directory").file_name().into_string().expect("a name in UTF-8")
        };
        let mut names: Vec<String> = entries.map(name).collect();
        names.sort();
        names
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        let path = self.path.join("new").join(name);
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// All messages, once there are `count` of them.
    pub fn wait_for(&self, count: usize) -> Vec<Delivered> {
        let names = eventually(&format!("{count} messages in {}", self.path.display()), || {
            let names = self.names();
            (names.len() >= count).then_some(names)
        });
        assert_eq!(names.len(), count, "more messages than were sent");
        names.into_iter().map(|name| Delivered::parse(&name, &self.read(&name))).collect()
    }
}

impl Delivered {
    pub fn parse(name: &str, file: &[u8]) -> Self {
        let mut lines = file.split_inclusive(|&octet| octet == b'\n');
        let mut at = 0;
        let mut next = || {
            let line = lines.next().unwrap_or_else(|| panic!("{name} is cut short: {}", file.escape_ascii()));
            at += line.len();
            line.strip_suffix(b"\n").expect("a whole line")
        };
        let field = |line: &[u8], field: &[u8]| line.strip_prefix(field).map(<[u8]>::to_vec);
        let return_path = field(next(), b"Return-Path: ").expect("Return-Path comes first");
        let mut delivered_to = Vec::new();
        let mut line = next();
        while let Some(mailbox) = field(line, b"Delivered-To: ") {
            delivered_to.push(mailbox);
            line = next();
        }
        assert!(line.starts_with(b"Received: from "), "{name}: {}", line.escape_ascii());
        let mut trace = [line, b"\n"].concat();
        // The date is the last line, behind `;`.
        while !trace.ends_with(b";\n") {
            trace.extend([next(), b"\n"].concat());
        }
        trace.extend([next(), b"\n"].concat());
        assert!(
            trace
                .split(|&octet| octet == b'\n')
                .skip(1)
                .all(|line| line.is_empty() || line.starts_with(b"\t"))
        );
        Self { name: name.to_owned(), return_path, delivered_to, trace, content: file[at..].to_vec() }
    }
}

/// As a Maildir holds what was sent with CRLF.
pub fn with_lf(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len());
    for line in content.split_inclusive(|&octet| octet == b'\n') {
        match line.strip_suffix(b"\r\n") {
            Some(text) => {
                out.extend_from_slice(text);
                out.push(b'\n');
            }
            None => out.extend_from_slice(line),
        }
    }
    out
}

/// Any line ends become CRLF, and the last line gets one.
pub fn with_crlf(text: &[u8]) -> Vec<u8> {
    let (mut out, mut at) = (Vec::with_capacity(text.len() + text.len() / 20), 0);
    while at < text.len() {
        match &text[at..] {
            [b'\r', b'\n', ..] => {
                out.extend_from_slice(b"\r\n");
                at += 2;
            }
            [b'\r' | b'\n', ..] => {
                out.extend_from_slice(b"\r\n");
                at += 1;
            }
            rest => {
                out.push(rest[0]);
                at += 1;
            }
        }
    }
    if !out.is_empty() && !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out
}
