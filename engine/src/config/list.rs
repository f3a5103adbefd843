//! Lists in files: one entry a line, `#` begins a comment; millions of lines. What is wrong names file and line.

use std::fs::{File, Metadata};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::reader::{Reader, Text};
use crate::limits::{BAD_LINES_COUNT_MAX, LIST_LINE_LEN_MAX};

const READ_LEN: usize = 1 << 16;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Why a whole file cannot be used; completes a sentence that begins with its name.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    #[error("is no regular file")]
    NotAFile,
    #[error("has a line 1024 octets long or longer, line {0}: it is no list with an entry a line")]
    LineTooLong(usize),
    #[error("was changed or replaced while it was read")]
    Changed,
}

/// Gives every entry to `add`, which says what is wrong with it, if something is: a sentence that begins with the
/// entry. `key` names the list in the configuration.
pub(super) fn read(reader: &Reader, key: &str, path: &Text, mut add: impl FnMut(&str) -> Result<(), String>) {
    let file = reader.path(&path.text, path.span);
    let (mut good_count, mut bad_count) = (0, 0);
    let result = each_line(&file, |number, line| {
        let outcome = match str::from_utf8(line) {
            Ok(line) => {
                let entry = line.split('#').next().unwrap_or_default().trim();
                if entry.is_empty() {
                    return;
                }
                let described = |why| format!("`{}` {why}", entry.escape_debug());
                if entry.contains('\0') { Err("a NUL octet".into()) } else { add(entry).map_err(described) }
            }
            Err(_) => Err("not UTF-8".to_owned()),
        };
        good_count += usize::from(outcome.is_ok());
        if let Err(why) = outcome {
            bad_count += 1;
            if bad_count <= BAD_LINES_COUNT_MAX {
                let message = format!("{}:{number}: {why}", file.display());
                reader.error_as(
                    "bad-entry",
                    path.span,
                    message,
                    "write one entry a line; `#` begins a comment",
                );
            }
        }
    });
    let file = file.display();
    if let Err(why) = result {
        let help = match why {
            Unusable::Changed => "put a new list in place with a rename, and reload once it is there",
            _ => "",
        };
        reader.error_as("unreadable-file", path.span, format!("`{key}`: {file} {why}"), help);
        return;
    }
    if bad_count > BAD_LINES_COUNT_MAX {
        let more = bad_count - BAD_LINES_COUNT_MAX;
        reader.error_as("bad-entry", path.span, format!("{file}: {more} more lines are wrong"), "");
    }
    if good_count + bad_count == 0 {
        reader.error_as(
            "empty-file",
            path.span,
            format!("`{key}`: {file} has no entry"),
            "write one entry a line",
        );
    }
}

/// Calls `on_line` with the number of each line, from 1 on, and its octets without the line end.
fn each_line(path: &Path, mut on_line: impl FnMut(usize, &[u8])) -> Result<(), Unusable> {
    // Opening a pipe would wait for its writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(Unusable::NotAFile);
    }
    let file = File::open(path)?;
    let before = file.metadata()?;
    let mut input = BufReader::with_capacity(READ_LEN, file);
    let mut line: Vec<u8> = Vec::with_capacity(LIST_LINE_LEN_MAX);
    let mut number = 1;
    loop {
        let chunk = input.fill_buf()?;
        if chunk.is_empty() {
            break;
        }
        let end = memchr::memchr(b'\n', chunk);
        let len = end.unwrap_or(chunk.len());
        if line.len() + len >= LIST_LINE_LEN_MAX {
            return Err(Unusable::LineTooLong(number));
        }
        line.extend_from_slice(&chunk[..len]);
        input.consume(len + usize::from(end.is_some()));
        if end.is_some() {
            on_line(number, without_extras(number, &line));
            number += 1;
            line.clear();
        }
    }
    on_line(number, without_extras(number, &line));
    let after = input.get_ref().metadata()?;
    let in_place = std::fs::metadata(path)?;
    if identity(&before) == identity(&after) && identity(&after) == identity(&in_place) {
        Ok(())
    } else {
        Err(Unusable::Changed)
    }
}

/// Without the carriage return of a CRLF, and without the mark that some editors put first.
fn without_extras(number: usize, line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if number == 1 { line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line) } else { line }
}

/// Changes with a file's content, and with the file.
fn identity(metadata: &Metadata) -> (u64, u64, u64, i64, i64) {
    (metadata.dev(), metadata.ino(), metadata.size(), metadata.mtime(), metadata.mtime_nsec())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn lines(octets: &[u8]) -> Result<Vec<(usize, String)>, Unusable> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(octets).unwrap();
        let mut lines = Vec::new();
        each_line(file.path(), |number, line| {
            lines.push((number, String::from_utf8_lossy(line).into_owned()))
        })?;
        Ok(lines)
    }

    #[test]
    fn lines_end_with_lf_crlf_or_the_file() {
        let line = |number, text: &str| (number, text.to_owned());
        assert_eq!(
            lines(b"\xef\xbb\xbfa\r\nb\n\nc").unwrap(),
            [line(1, "a"), line(2, "b"), line(3, ""), line(4, "c")]
        );
        assert_eq!(lines(b"").unwrap(), [line(1, "")]);
        // A line that lies across two reads.
        let long = ["x".repeat(READ_LEN / 900 * 899).as_bytes().chunks(899).collect::<Vec<_>>().join(&b'\n')]
            .concat();
        assert!(lines(&long).unwrap().iter().all(|(_, line)| line.len() <= 899));
    }

    #[test]
    fn a_line_without_end_is_not_read_to_its_end() {
        assert!(matches!(lines(&vec![b'x'; LIST_LINE_LEN_MAX]), Err(Unusable::LineTooLong(1))));
        let file = tempfile::NamedTempFile::new().unwrap();
        // 100 MB of NULs that take no place on the disk.
        file.as_file().set_len(100 << 20).unwrap();
        let error = each_line(file.path(), |_, _| panic!("no line ends")).unwrap_err();
        assert!(matches!(error, Unusable::LineTooLong(1)));
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(each_line(directory.path(), |_, _| ()), Err(Unusable::NotAFile)));
        let missing = each_line(&directory.path().join("x"), |_, _| ());
        assert!(matches!(missing, Err(Unusable::Io(error)) if error.kind() == std::io::ErrorKind::NotFound));
    }

    #[test]
    fn a_file_that_changes_meanwhile_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let (path, other) = (directory.path().join("list"), directory.path().join("new"));
        std::fs::write(&path, "a\nb\n").unwrap();
        let grown = each_line(&path, |number, _| {
            if number == 1 {
                std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"c\n").unwrap();
            }
        });
        assert!(matches!(grown, Err(Unusable::Changed)));
        std::fs::write(&path, "a\n").unwrap();
        let replaced = each_line(&path, |number, _| {
            if number == 1 {
                std::fs::write(&other, "b\n").unwrap();
                std::fs::rename(&other, &path).unwrap();
            }
        });
        assert!(matches!(replaced, Err(Unusable::Changed)));
    }
}
