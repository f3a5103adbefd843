//! The path of a route: text in which `{domain}` and `{local_part}` stand for those of the recipient.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::reader::nearest;

/// A path with places for the recipient's domain and local-part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathTemplate {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Domain,
    Local,
}

const NAMES: &[&str] = &["domain", "local_part"];

impl PathTemplate {
    /// Reads a template.
    ///
    /// # Errors
    /// What is wrong with it, and what to do about it.
    pub fn parse(text: &str) -> Result<Self, (String, String)> {
        if text.is_empty() || text.contains('\0') {
            return Err(("the path is empty or holds a NUL".to_owned(), String::new()));
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let Some((name, after)) = after.split_once('}') else {
                return Err(("a `{` has no `}`".to_owned(), String::new()));
            };
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(match name {
                "domain" => Part::Domain,
                "local_part" => Part::Local,
                _ => {
                    let near = nearest(name, NAMES).unwrap_or("domain");
                    return Err((
                        format!("`{{{name}}}` stands for nothing"),
                        format!("did you mean `{{{near}}}`? There are {{domain}} and {{local_part}}"),
                    ));
                }
            });
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self { parts })
    }

    /// The path for one recipient. Whatever a client put into its local-part or domain stays one file name: the domain
    /// in lower case, the local-part without its quotes, and each octet that means something to a file system (`/`, a
    /// leading `.`, control and 8-bit octets, `%` itself) as `%XX`.
    pub fn expand(&self, local_part: &[u8], domain: &[u8]) -> PathBuf {
        let mut path = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => path.push_str(text),
                Part::Domain => escape(domain.iter().map(u8::to_ascii_lowercase), &mut path),
                Part::Local => escape(unquote(local_part), &mut path),
            }
        }
        PathBuf::from(path)
    }

    /// The directory below which all paths of the template lie.
    pub fn root(&self) -> PathBuf {
        match self.parts.first() {
            Some(Part::Text(text)) if self.parts.len() == 1 => PathBuf::from(text),
            Some(Part::Text(text)) => PathBuf::from(text.rsplit_once('/').map_or("", |(root, _)| root)),
            _ => PathBuf::new(),
        }
    }

    /// The template below `directory`, unless it is absolute.
    pub(super) fn below(mut self, directory: &std::path::Path) -> Self {
        let absolute = matches!(self.parts.first(), Some(Part::Text(text)) if text.starts_with('/'));
        let directory = directory.to_string_lossy();
        if !absolute && !directory.is_empty() {
            if let Some(Part::Text(text)) = self.parts.first_mut() {
                *text = text.trim_start_matches("./").to_owned();
            }
            self.parts.insert(0, Part::Text(format!("{}/", directory.trim_end_matches('/'))));
        }
        // One text at the front keeps `root` simple.
        while let [Part::Text(first), Part::Text(second), ..] = &self.parts[..] {
            self.parts[0] = Part::Text(format!("{first}{second}"));
            self.parts.remove(1);
        }
        self
    }
}

impl std::fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.parts.iter().try_for_each(|part| {
            f.write_str(match part {
                Part::Text(text) => text,
                Part::Domain => "{domain}",
                Part::Local => "{local_part}",
            })
        })
    }
}

/// The octets of a local-part: `"john doe"` and `"john\ doe"` are the same mailbox (RFC 5321 §4.1.2).
fn unquote(local_part: &[u8]) -> impl Iterator<Item = u8> {
    let quoted = local_part.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
    let mut octets = quoted.unwrap_or(local_part).iter().copied();
    std::iter::from_fn(move || match octets.next() {
        Some(b'\\') if quoted.is_some() => octets.next(),
        octet => octet,
    })
}

fn escape(octets: impl Iterator<Item = u8>, path: &mut String) {
    let mut is_first = true;
    for octet in octets {
        let plain = octet.is_ascii_alphanumeric()
            || b"!#$&'*+-=?^_`{|}~@,".contains(&octet)
            || (octet == b'.' && !is_first);
        if plain {
            path.push(char::from(octet));
        } else {
            write!(path, "%{octet:02X}").expect("writing to a String succeeds");
        }
        is_first = false;
    }
    if is_first {
        // Nothing at all would name the directory above.
        path.push('%');
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_recipient_never_leaves_its_place() {
        let template = PathTemplate::parse("/mail/{domain}/{local_part}/Maildir").unwrap();
        for (local_part, domain, path) in [
            ("john", "Example.COM", "/mail/example.com/john/Maildir"),
            ("John.Doe+tag", "a.b", "/mail/a.b/John.Doe+tag/Maildir"),
            ("\"john\"", "a.b", "/mail/a.b/john/Maildir"),
            (r#""jo\"hn doe""#, "a.b", "/mail/a.b/jo%22hn%20doe/Maildir"),
            ("..", "..", "/mail/%2E./%2E./Maildir"),
            ("../../etc", "a", "/mail/a/%2E.%2F..%2Fetc/Maildir"),
            ("%2E", "[192.0.2.1]", "/mail/%5B192.0.2.1%5D/%252E/Maildir"),
            ("\"\"", "[IPv6:::1]", "/mail/%5Bipv6%3A%3A%3A1%5D/%/Maildir"),
            ("\"", "a", "/mail/a/%22/Maildir"),
            ("j\u{f6}\0", "a", "/mail/a/j%C3%B6%00/Maildir"),
        ] {
            assert_eq!(
                template.expand(local_part.as_bytes(), domain.as_bytes()),
                Path::new(path),
                "{local_part}"
            );
        }
    }

    #[test]
    fn roots() {
        for (text, root) in [
            ("/mail", "/mail"),
            ("/mail/{domain}", "/mail"),
            ("/mail/x-{domain}", "/mail"),
            ("{domain}", ""),
            ("box/{local_part}/{domain}", "box"),
        ] {
            assert_eq!(PathTemplate::parse(text).unwrap().root(), Path::new(root), "{text}");
        }
        let below = PathTemplate::parse("box/{domain}").unwrap().below(Path::new("/etc/ringmx"));
        assert_eq!(below.root(), Path::new("/etc/ringmx/box"));
        assert_eq!(below.to_string(), "/etc/ringmx/box/{domain}");
    }

    #[test]
    fn wrong_templates() {
        for text in ["", "a\0", "{", "/mail/{domian}", "{}"] {
            assert!(PathTemplate::parse(text).is_err(), "{text}");
        }
        let (_, help) = PathTemplate::parse("{domian}").unwrap_err();
        assert!(help.contains("`{domain}`"), "{help}");
    }
}
