//! The octets of messages: a header section and lines that every run writes the same way, or what a file holds.

use std::time::{Duration, SystemTime};

use crate::token::Token;

/// Octets of a body line, CR LF included. RFC 5322 §2.1.1 recommends 78 + CR LF as the most.
pub(crate) const LINE_LEN: usize = 78;
/// Every so many lines begin with a dot, so that transparency (RFC 5321 §4.5.2) is part of every run.
const LINES_PER_DOT: usize = 16;
/// What a line of an 8-bit body has in front, behind its dot: octets above 127, characters of each length of UTF-8.
const WIDE: &str = "äß€😀";

/// What a message says of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heading<'a> {
    pub(crate) reverse_path: &'a str,
    pub(crate) forward_path: &'a str,
    pub(crate) eight_bit: bool,
    pub(crate) now: SystemTime,
}

/// The header section, the empty line included, and where tokens are to be written in it.
pub(crate) fn header_section(heading: &Heading<'_>) -> (Vec<u8>, Vec<usize>) {
    let Heading { reverse_path, forward_path, eight_bit, now } = *heading;
    let token = "0".repeat(Token::LEN);
    let from = if reverse_path.is_empty() { "mailer-daemon@loadgen.invalid" } else { reverse_path };
    let mut text = format!("Date: {}\r\nFrom: <{from}>\r\nTo: <{forward_path}>\r\n", date(now));
    let mut token_at = Vec::new();
    for (before, after) in [("Subject: ", ""), ("Message-ID: <", "@loadgen.invalid>"), ("X-Loadgen: ", "")] {
        text.push_str(before);
        token_at.push(text.len());
        text.push_str(&token);
        text.push_str(after);
        text.push_str("\r\n");
    }
    let (charset, encoding) =
        if eight_bit { ("utf-8", "Content-Transfer-Encoding: 8bit\r\n") } else { ("us-ascii", "") };
    text.push_str(&format!(
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset={charset}\r\n{encoding}\r\n"
    ));
    (text.into_bytes(), token_at)
}

/// How a body of `body_len` octets is made of lines: so many whole ones, and the octets of the one or two behind them,
/// line ends included. `None` for a single octet, which no line is.
pub(crate) fn lines_of(body_len: usize) -> Option<(usize, Vec<usize>)> {
    let (whole, rest) = (body_len / LINE_LEN, body_len % LINE_LEN);
    match rest {
        0 => Some((whole, Vec::new())),
        // One octet cannot be a line: the line before it leaves it two.
        1 if whole > 0 => Some((whole - 1, vec![LINE_LEN - 1, 2])),
        1 => None,
        _ => Some((whole, vec![rest])),
    }
}

/// Writes body lines, the same in every run.
#[derive(Debug)]
pub(crate) struct Lines {
    random: u64,
    index: usize,
    eight_bit: bool,
    /// Lines that begin with a dot get one more (RFC 5321 §4.5.2).
    stuffed: bool,
}

impl Lines {
    pub(crate) fn new(eight_bit: bool, stuffed: bool) -> Self {
        Self { random: 0x9e37_79b9_7f4a_7c15, index: 0, eight_bit, stuffed }
    }

    /// Appends a line of `len` octets, CR LF among them, a stuffed dot not counted.
    pub(crate) fn append(&mut self, out: &mut Vec<u8>, len: usize) {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let dotted = self.index.is_multiple_of(LINES_PER_DOT) && len > 2;
        self.index += 1;
        if dotted && self.stuffed {
            out.push(b'.');
        }
        let end = out.len() + len - 2;
        if dotted {
            out.push(b'.');
        }
        if self.eight_bit && out.len() + WIDE.len() <= end {
            out.extend_from_slice(WIDE.as_bytes());
        }
        while out.len() < end {
            // xorshift64: the text only has to look like one to a compressing store.
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            out.push(ALPHABET[self.random as usize & 63]);
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// A file's octets as lines that end in CR LF (RFC 5321 §2.3.8): LF alone and CR alone become one, and the last line
/// gets its end. With a dot in front of those that begin with one where `stuffed` is asked for. Gives the octets that a
/// server stores, without those dots.
pub(crate) fn append_file(octets: &[u8], stuffed: bool, out: &mut Vec<u8>) -> usize {
    let begin = out.len();
    let mut dots_count = 0;
    let mut rest = octets;
    while !rest.is_empty() {
        let end = memchr::memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
        let (line, behind) = rest.split_at(end);
        if stuffed && line.starts_with(b".") {
            out.push(b'.');
            dots_count += 1;
        }
        out.extend_from_slice(line);
        out.extend_from_slice(b"\r\n");
        rest = match behind {
            [b'\r', b'\n', rest @ ..] | [_, rest @ ..] => rest,
            [] => behind,
        };
    }
    out.len() - begin - dots_count
}

/// RFC 5322 §3.3, in UTC.
fn date(at: SystemTime) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    let secs = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let (days, time) = (secs / 86_400, secs % 86_400);
    let weekday = WEEKDAYS[(days % 7) as usize];
    let (mut year, mut left) = (1970, days);
    let month_lens = |year: u64| {
        let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
    };
    while left >= month_lens(year).iter().sum::<u64>() {
        left -= month_lens(year).iter().sum::<u64>();
        year += 1;
    }
    let mut month = 0;
    while left >= month_lens(year)[month] {
        left -= month_lens(year)[month];
        month += 1;
    }
    let (day, month) = (left + 1, MONTHS[month]);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{weekday}, {day:02} {month} {year} {hour:02}:{minute:02}:{second:02} +0000")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_lengths_add_up_and_no_line_is_one_octet() {
        for body_len in (0..400).filter(|&len| len != 1) {
            let (whole, rest) = lines_of(body_len).expect("a body");
            assert_eq!(whole * LINE_LEN + rest.iter().sum::<usize>(), body_len);
            assert!(rest.iter().all(|&len| len >= 2));
        }
        assert_eq!(lines_of(1), None);
    }

    /// Octet by octet, as a person would: the reference of `append_file`.
    fn normalised(octets: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut index = 0;
        while index < octets.len() {
            match octets[index] {
                b'\r' if octets.get(index + 1) == Some(&b'\n') => index += 1,
                _ => {}
            }
            match octets[index] {
                b'\r' | b'\n' => out.extend_from_slice(b"\r\n"),
                other => out.push(other),
            }
            index += 1;
        }
        if !out.is_empty() && !out.ends_with(b"\r\n") {
            out.extend_from_slice(b"\r\n");
        }
        out
    }

    #[test]
    fn files_become_lines_whatever_their_line_ends() {
        // All texts of six octets of these four.
        for number in 0..4usize.pow(6) {
            let text: Vec<u8> = (0..6).map(|at| b"\r\n.x"[number / 4usize.pow(at) % 4]).collect();
            let mut plain = Vec::new();
            let len = append_file(&text, false, &mut plain);
            assert_eq!((&plain, len), (&normalised(&text), plain.len()), "{}", text.escape_ascii());
            let mut stuffed = b"before".to_vec();
            assert_eq!(append_file(&text, true, &mut stuffed), plain.len());
            let unstuffed: Vec<u8> = stuffed[6..]
                .split_inclusive(|&octet| octet == b'\n')
                .flat_map(|line| line.strip_prefix(b".").unwrap_or(line))
                .copied()
                .collect();
            assert_eq!(unstuffed, plain, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn an_eight_bit_line_is_utf_8() {
        for len in 2..=LINE_LEN {
            let (mut lines, mut out) = (Lines::new(true, true), Vec::new());
            lines.append(&mut out, len);
            let text = String::from_utf8(out).expect("whole characters");
            assert_eq!((text.len(), text.is_ascii()), (len + usize::from(len > 2), len < WIDE.len() + 3));
        }
    }
}
