//! Reading replies: RFC 5321 §4.2, checked more strictly than a client that only wants its mail through would.

use memchr::memchr;

use crate::limits::{REPLY_LINE_LEN_MAX, REPLY_LINES_COUNT_MAX};

/// What is wrong with the octets a server sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("a reply line without a three-digit code")]
    Code,
    #[error("a reply code followed by neither a space, a hyphen nor the line's end")]
    Separator,
    #[error("a reply line that ends in LF without CR")]
    BareNewline,
    #[error("a reply line longer than {REPLY_LINE_LEN_MAX} octets")]
    LineTooLong,
    #[error("a reply of more than {REPLY_LINES_COUNT_MAX} lines")]
    TooManyLines,
    #[error("a multi-line reply whose lines have different codes")]
    CodesDiffer,
}

/// One line of a reply; its text is [`Reader::text`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    pub code: u16,
    /// The reply ends with this line.
    pub last: bool,
}

/// Turns received octets into reply lines; resumable at any octet.
#[derive(Debug, Default)]
pub struct Reader {
    /// The line being read, or the last one read; without CR LF once it is complete.
    line: Vec<u8>,
    /// `line` was handed out and is cleared before the next octet is added.
    complete: bool,
    /// The code and number of the lines so far of a reply that goes on.
    continued: Option<(u16, usize)>,
}

impl Reader {
    /// Forgets a half-read reply: for a new connection.
    pub fn reset(&mut self) {
        self.line.clear();
        self.complete = false;
        self.continued = None;
    }

    /// Reads the next line and moves `input` behind it; `None` when `input` is used up.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Line>, Malformed> {
        if input.is_empty() {
            return Ok(None);
        }
        if self.complete {
            self.line.clear();
            self.complete = false;
        }
        let end = memchr(b'\n', input);
        let taken_len = end.map_or(input.len(), |end| end + 1);
        if self.line.len() + taken_len > REPLY_LINE_LEN_MAX {
            return Err(Malformed::LineTooLong);
        }
        self.line.extend_from_slice(&input[..taken_len]);
        *input = &input[taken_len..];
        if end.is_none() {
            return Ok(None);
        }
        if !self.line.ends_with(b"\r\n") {
            return Err(Malformed::BareNewline);
        }
        self.line.truncate(self.line.len() - 2);
        self.complete = true;
        let line = parse(&self.line)?;
        self.follow(line)?;
        Ok(Some(line))
    }

    /// The text of the line that [`next`](Self::next) gave last, without code and separator.
    pub fn text(&self) -> &[u8] {
        if self.complete { self.line.get(4..).unwrap_or_default() } else { &[] }
    }

    /// RFC 5321 §4.2.1: all lines of one reply carry the same code.
    fn follow(&mut self, line: Line) -> Result<(), Malformed> {
        let lines_count = match self.continued {
            Some((code, _)) if code != line.code => return Err(Malformed::CodesDiffer),
            Some((_, count)) => count + 1,
            None => 1,
        };
        if lines_count > REPLY_LINES_COUNT_MAX {
            return Err(Malformed::TooManyLines);
        }
        self.continued = if line.last { None } else { Some((line.code, lines_count)) };
        Ok(())
    }
}

/// RFC 5321 §4.2: `Reply-code = %x32-35 %x30-35 %x30-39`.
fn parse(line: &[u8]) -> Result<Line, Malformed> {
    let [hundreds @ b'2'..=b'5', tens @ b'0'..=b'5', ones @ b'0'..=b'9', rest @ ..] = line else {
        return Err(Malformed::Code);
    };
    let code = 100 * u16::from(hundreds - b'0') + 10 * u16::from(tens - b'0') + u16::from(ones - b'0');
    match rest.first() {
        None | Some(b' ') => Ok(Line { code, last: true }),
        Some(b'-') => Ok(Line { code, last: false }),
        Some(_) => Err(Malformed::Separator),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(pieces: &[&[u8]]) -> Result<Vec<(Line, Vec<u8>)>, Malformed> {
        let mut reader = Reader::default();
        let mut lines = Vec::new();
        for piece in pieces {
            let mut input = *piece;
            while let Some(line) = reader.next(&mut input)? {
                lines.push((line, reader.text().to_vec()));
            }
        }
        Ok(lines)
    }

    #[test]
    fn the_same_lines_whatever_the_split() {
        let stream =
            b"220 mx ESMTP\r\n250-mx\r\n250-PIPELINING\r\n250 SIZE 1000\r\n354\r\n250 2.0.0 queued\r\n";
        let whole = read_all(&[stream]).expect("well-formed");
        assert_eq!(whole.len(), 6);
        assert_eq!(whole[2], (Line { code: 250, last: false }, b"PIPELINING".to_vec()));
        assert_eq!(whole[4], (Line { code: 354, last: true }, b"".to_vec()));
        for split in 0..=stream.len() {
            assert_eq!(read_all(&[&stream[..split], &stream[split..]]).as_ref(), Ok(&whole));
        }
        let single: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(read_all(&single), Ok(whole));
    }

    #[test]
    fn each_malformation_has_its_name() {
        let long = vec![b'2'; REPLY_LINE_LEN_MAX + 1];
        let many = b"250-x\r\n".repeat(REPLY_LINES_COUNT_MAX + 1);
        let cases: [(&[u8], Malformed); 9] = [
            (b"HTTP/1.1 400 Bad Request\r\n", Malformed::Code),
            (b"\r\n", Malformed::Code),
            (b"25\r\n", Malformed::Code),
            (b"199 no\r\n", Malformed::Code),
            (b"250_ok\r\n", Malformed::Separator),
            (b"250 ok\n", Malformed::BareNewline),
            (b"250-a\r\n550 b\r\n", Malformed::CodesDiffer),
            (&long, Malformed::LineTooLong),
            (&many, Malformed::TooManyLines),
        ];
        for (stream, malformed) in cases {
            assert_eq!(read_all(&[stream]), Err(malformed), "{}", stream.escape_ascii());
        }
    }

    #[test]
    fn a_new_connection_starts_clean() {
        let mut reader = Reader::default();
        assert_eq!(reader.next(&mut &b"250-half\r\n25"[..]).map(|line| line.is_some()), Ok(true));
        reader.reset();
        assert_eq!(reader.text(), b"");
        assert_eq!(reader.next(&mut &b"220 mx\r\n"[..]), Ok(Some(Line { code: 220, last: true })));
    }
}
