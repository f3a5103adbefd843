//! A reply of a next hop: RFC 5321 §4.2.

use crate::limits::{HOP_REPLY_LEN_MAX, HOP_REPLY_TEXT_LEN_MAX};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::egress) struct Reply {
    /// 200 to 599.
    pub code: u16,
    /// Printable ASCII and UTF-8, without codes and line ends.
    pub lines: Vec<String>,
}

/// Octets that are no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::egress) enum Garbled {
    #[error("a line that is no reply")]
    Form,
    #[error("a reply whose lines have different codes")]
    Codes,
    #[error("a reply without end")]
    Endless,
}

impl Reply {
    /// The reply at the front of `octets` and its length; `None` while it is not whole.
    pub(in crate::egress) fn parse(octets: &[u8]) -> Result<Option<(Self, usize)>, Garbled> {
        let mut reply = Self { code: 0, lines: Vec::new() };
        let mut at = 0;
        while let Some(len) = memchr::memchr(b'\n', &octets[at..]) {
            let line = &octets[at..at + len];
            at += len + 1;
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let (code, rest) = line.split_at_checked(3).ok_or(Garbled::Form)?;
            let code = str::from_utf8(code).ok().and_then(|code| code.parse().ok());
            let code = code.filter(|code| (200..600).contains(code)).ok_or(Garbled::Form)?;
            if reply.code != 0 && reply.code != code {
                return Err(Garbled::Codes);
            }
            reply.code = code;
            let (is_last, text) = match rest.split_first() {
                None => (true, rest),
                Some((b' ', text)) => (true, text),
                Some((b'-', text)) => (false, text),
                Some(_) => return Err(Garbled::Form),
            };
            reply.lines.push(printable(text));
            if is_last {
                return Ok(Some((reply, at)));
            }
        }
        if octets.len() > HOP_REPLY_LEN_MAX { Err(Garbled::Endless) } else { Ok(None) }
    }

    pub(in crate::egress) fn is_positive(&self) -> bool {
        self.code < 400
    }

    /// Not to be tried again: RFC 5321 §4.2.1.
    pub(in crate::egress) fn is_permanent(&self) -> bool {
        self.code >= 500
    }

    /// The enhanced status code: the reply's own (RFC 3463), or what its class says.
    pub(in crate::egress) fn status(&self) -> String {
        let own = self.lines.first().and_then(|line| line.split(' ').next()).filter(|word| is_status(word));
        own.map_or_else(|| format!("{}.0.0", self.code / 100), str::to_owned)
    }

    /// In one line.
    pub(in crate::egress) fn text(&self) -> String {
        let mut text = self.code.to_string();
        for line in &self.lines {
            text.push(' ');
            text.push_str(line);
        }
        text.truncate(text.floor_char_boundary(HOP_REPLY_TEXT_LEN_MAX));
        text
    }
}

fn is_status(word: &str) -> bool {
    let mut parts = word.split('.');
    let is_number = |part: Option<&str>| {
        part.is_some_and(|part| {
            (1..=3).contains(&part.len()) && part.bytes().all(|octet| octet.is_ascii_digit())
        })
    };
    matches!(parts.next(), Some("2" | "4" | "5"))
        && is_number(parts.next())
        && is_number(parts.next())
        && parts.next().is_none()
}

fn printable(text: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(text).into_owned();
    if text.contains(char::is_control) {
        text = text.replace(char::is_control, "?");
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn replies_are_read_as_they_come() {
        let whole = b"250-mx.example\r\n250-SIZE 1000\r\n250 PIPELINING\r\n354 go on\r\n";
        for len in 0..whole.len() - 13 {
            assert_eq!(Reply::parse(&whole[..len]), Ok(None), "{len}");
        }
        let (reply, len) = Reply::parse(whole).unwrap().unwrap();
        assert_eq!((reply.code, reply.lines.len()), (250, 3));
        let (reply, _) = Reply::parse(&whole[len..]).unwrap().unwrap();
        assert_eq!((reply.code, reply.text().as_str()), (354, "354 go on"));
        assert_eq!(Reply::parse(b"220\r\n").unwrap().unwrap().0.text(), "220 ");
        let long = ["550 ".as_bytes(), &[b'x'; 2 * HOP_REPLY_TEXT_LEN_MAX], b"\r\n"].concat();
        assert_eq!(Reply::parse(&long).unwrap().unwrap().0.text().len(), HOP_REPLY_TEXT_LEN_MAX);
    }

    #[test]
    fn the_status_is_the_replys_own_or_its_class() {
        let status = |line: &str| Reply::parse(line.as_bytes()).unwrap().unwrap().0.status();
        assert_eq!(status("550 5.1.1 nobody\r\n"), "5.1.1");
        assert_eq!(status("550-5.7.26 one\r\n550 5.7.26 two\r\n"), "5.7.26");
        assert_eq!(status("451 try later\r\n"), "4.0.0");
        assert_eq!(status("550 5.1.1.1 nobody\r\n"), "5.0.0");
    }

    #[test]
    fn what_is_no_reply_is_said_to_be_none() {
        for (octets, garbled) in [
            (&b"hello\r\n"[..], Garbled::Form),
            (b"25\r\n", Garbled::Form),
            (b"150 no\r\n", Garbled::Form),
            (b"250_x\r\n", Garbled::Form),
            (b"250-a\r\n251 b\r\n", Garbled::Codes),
        ] {
            assert_eq!(Reply::parse(octets), Err(garbled), "{octets:?}");
        }
        assert_eq!(Reply::parse(&b"250-x\r\n".repeat(20_000)), Err(Garbled::Endless));
        assert_eq!(Reply::parse(&[b'2'; 70_000]), Err(Garbled::Endless));
    }

    proptest! {
        #[test]
        fn any_octets_are_read_without_panic(octets: Vec<u8>) {
            let _ = Reply::parse(&octets).map(|reply| reply.map(|(reply, _)| (reply.text(), reply.status())));
        }
    }
}
