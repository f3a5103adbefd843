//! Framing of command lines.

use memchr::memchr;

use super::scan::{CR, LF};
use crate::limits::COMMAND_LINE_LEN_MAX;

/// What stands at the beginning of the received octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framed<'a> {
    /// One command line, its CRLF taken off. `consumed` counts it.
    Line { line: &'a [u8], consumed: usize },
    /// An LF without CR before it. RFC 5321 §2.3.8: a server must not take it for a line end, so what stands before it
    /// is never run; nor is what stands behind it, which a client may have been made to send as part of an argument.
    /// `consumed` counts the LF.
    BareNewline { consumed: usize },
    /// No line end within [`COMMAND_LINE_LEN_MAX`] octets: throw them away up to [`discard`]'s end, then answer once.
    TooLong,
    /// More input is needed.
    Incomplete,
}

/// Takes the next command line off `input`.
///
/// RFC 5321 §2.3.8: `CRLF`. A CR elsewhere in the line stays in it and the parser refuses it.
pub fn next(input: &[u8]) -> Framed<'_> {
    let window = &input[..input.len().min(COMMAND_LINE_LEN_MAX)];
    match memchr(LF, window) {
        Some(end) if window[..end].ends_with(&[CR]) => {
            Framed::Line { line: &window[..end - 1], consumed: end + 1 }
        }
        Some(end) => Framed::BareNewline { consumed: end + 1 },
        None if window.len() == COMMAND_LINE_LEN_MAX => Framed::TooLong,
        None => Framed::Incomplete,
    }
}

/// What [`discard`] threw away of an over-long line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discarded {
    /// The rest of the line, its CRLF included.
    ToEnd(usize),
    /// Octets up to a bare LF, and with it.
    ToBareNewline(usize),
    /// All but a CR that the next octet is needed for.
    All(usize),
}

/// Octets of an over-long line to throw away. Where it stopped at [`All`](Discarded::All) the next input begins with
/// what was left, so that a CR and its LF are seen together.
pub fn discard(input: &[u8]) -> Discarded {
    match memchr(LF, input) {
        Some(end) if input[..end].ends_with(&[CR]) => Discarded::ToEnd(end + 1),
        Some(end) => Discarded::ToBareNewline(end + 1),
        None => Discarded::All(input.len() - usize::from(input.ends_with(&[CR]))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_with_crlf_only() {
        assert_eq!(next(b"NOOP\r\nQUIT"), Framed::Line { line: b"NOOP", consumed: 6 });
        assert_eq!(next(b"\r\n"), Framed::Line { line: b"", consumed: 2 });
        assert_eq!(next(b"NOOP\nQUIT\r\n"), Framed::BareNewline { consumed: 5 });
        assert_eq!(next(b"\nQUIT\r\n"), Framed::BareNewline { consumed: 1 });
        assert_eq!(next(b"NO\rOP\r\n"), Framed::Line { line: b"NO\rOP", consumed: 7 });
        assert_eq!(next(b"NOOP\r\r\n"), Framed::Line { line: b"NOOP\r", consumed: 7 });
        for incomplete in [&b""[..], b"N", b"NOOP\r", b"NO\rOP"] {
            assert_eq!(next(incomplete), Framed::Incomplete);
        }
    }

    #[test]
    fn the_longest_line_is_taken_and_one_octet_more_is_not() {
        let mut line = vec![b'x'; COMMAND_LINE_LEN_MAX - 2];
        line.extend(b"\r\n");
        assert_eq!(
            next(&line),
            Framed::Line { line: &line[..COMMAND_LINE_LEN_MAX - 2], consumed: COMMAND_LINE_LEN_MAX }
        );
        assert_eq!(next(&line[..COMMAND_LINE_LEN_MAX - 1]), Framed::Incomplete);
        line.insert(0, b'x');
        assert_eq!(next(&line), Framed::TooLong);
        assert_eq!(next(&vec![0; 1 << 20]), Framed::TooLong);
    }

    #[test]
    fn discarding_stops_behind_the_line_end() {
        assert_eq!(discard(b"xxx\r\nNOOP\r\n"), Discarded::ToEnd(5));
        assert_eq!(discard(b"xxx\nNOOP\r\n"), Discarded::ToBareNewline(4));
        assert_eq!(discard(b"x\rx"), Discarded::All(3));
        assert_eq!(discard(b"xxx\r"), Discarded::All(3));
        assert_eq!(discard(b"\r\n"), Discarded::ToEnd(2));
        assert_eq!(discard(b""), Discarded::All(0));
    }
}
