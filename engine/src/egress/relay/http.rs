//! A message by HTTP: one POST with the content as its body, and the envelope in signed header fields.
//!
//! What is spoken is the client's part of HTTP/1.1 (RFC 9112), one request after the other on a connection. It is
//! written here on the parser of the well-known servers, so that content goes out in pieces, with the same waits, on
//! the same connections and with the same care for hops in trouble as by SMTP. An answer is read as far as its first
//! line, and what is unusual about its end costs the connection, not the message.

use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use tokio::time::Instant;

use super::client::{Client, Sent};
use super::letter::{Body, Letter};
use crate::config::HttpTarget;
use crate::egress::error::{Problem, RelayError};
use crate::limits::{HOP_REPLY_TEXT_LEN_MAX, HTTP_ANSWER_FIELDS_COUNT_MAX, HTTP_ANSWER_LEN_MAX};

/// The answer to a request.
#[derive(Debug)]
struct Answer {
    code: u16,
    /// How its body ends.
    end: End,
    /// Another request may follow on the connection.
    keeps: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Length(u64),
    Chunked,
    Closed,
}

impl Client {
    /// One request. The result is one for each recipient, all alike.
    ///
    /// # Errors
    /// The connection cannot be used any more; nobody knows whether the message was taken if that came behind its end.
    pub(super) async fn post(
        &mut self,
        target: &HttpTarget,
        letter: &Letter,
        body: &Body<'_>,
    ) -> Result<Vec<Sent>, RelayError> {
        let (digest, time) = (digest(body).await?, SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default());
        let head = head(target, letter, body.len(), &digest, time.as_secs());
        let answer = match self.write_request(&head, body).await {
            Ok(()) => self.answer().await?,
            // Who refuses a message unread has closed behind the answer.
            Err(error) if matches!(error.problem, Problem::Lost(..)) => {
                self.answer().await.map_err(|_| error)?
            }
            Err(error) => return Err(error),
        };
        let line = self.first_line(&answer).await;
        let outcome = match answer.code {
            200..300 => Ok(format!("{} {line}", answer.code).trim_end().to_owned()),
            code => Err(self.problem(Problem::Answered(code, line))),
        };
        Ok(vec![outcome; letter.recipients.len()])
    }

    async fn write_request(&mut self, head: &[u8], body: &Body<'_>) -> Result<(), RelayError> {
        self.write(head, "the request").await?;
        let mut pieces = body.pieces();
        while let Some(piece) = pieces.next().await? {
            self.write(&piece, "the content").await?;
        }
        Ok(())
    }

    /// The last one: others before it (1xx) only say that there will be one.
    async fn answer(&mut self) -> Result<Answer, RelayError> {
        let until = Instant::now() + self.timeout;
        loop {
            match parse(&self.received) {
                Ok(Some((answer, len))) => {
                    self.received.drain(..len);
                    self.has_replied = true;
                    if answer.code >= 200 {
                        return Ok(answer);
                    }
                }
                Ok(None) => self.receive(until, "the answer", self.timeout).await?,
                Err(garbled) => return Err(self.problem(Problem::Garbled(garbled.to_owned()))),
            }
        }
    }

    /// Of the body. Whatever is wrong with it, the answer counts; but only behind a whole one comes another.
    async fn first_line(&mut self, answer: &Answer) -> String {
        let until = Instant::now() + self.timeout;
        let mut text = Vec::new();
        let is_whole = match answer.end {
            End::Length(len) => self.take_octets(len, until, &mut text).await,
            End::Chunked => self.take_chunks(until, &mut text).await,
            End::Closed => {
                self.take_octets(u64::MAX, until, &mut text).await;
                false
            }
        };
        self.is_spent = !is_whole || !answer.keeps;
        first_line(&text)
    }

    /// Appends so many octets; false where there are not as many, or more than anybody wants to read.
    async fn take_octets(&mut self, len: u64, until: Instant, text: &mut Vec<u8>) -> bool {
        let room = HTTP_ANSWER_LEN_MAX.saturating_sub(text.len());
        let wanted = usize::try_from(len).unwrap_or(usize::MAX).min(room);
        let mut is_there = true;
        while is_there && self.received.len() < wanted {
            is_there = self.receive(until, "the answer", self.timeout).await.is_ok();
        }
        let len_there = wanted.min(self.received.len());
        text.extend(self.received.drain(..len_there));
        len_there as u64 == len
    }

    /// RFC 9112 §7.1.
    async fn take_chunks(&mut self, until: Instant, text: &mut Vec<u8>) -> bool {
        loop {
            match httparse::parse_chunk_size(&self.received) {
                Ok(httparse::Status::Complete((head_len, len))) => {
                    self.received.drain(..head_len);
                    let mut line_end = Vec::new();
                    // Trailer fields would stand in place of the last line end.
                    let is_whole = self.take_octets(len, until, text).await
                        && self.take_octets(2, until, &mut line_end).await
                        && line_end == b"\r\n";
                    if !is_whole || len == 0 {
                        return is_whole;
                    }
                }
                Ok(httparse::Status::Partial) if self.received.len() < HTTP_ANSWER_LEN_MAX => {
                    if self.receive(until, "the answer", self.timeout).await.is_err() {
                        return false;
                    }
                }
                _ => return false,
            }
        }
    }
}

/// The header section at the front of `octets` and its length; `None` while it is not whole.
fn parse(octets: &[u8]) -> Result<Option<(Answer, usize)>, &'static str> {
    let mut fields = [httparse::EMPTY_HEADER; HTTP_ANSWER_FIELDS_COUNT_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let len = match response.parse(octets) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if octets.len() < HTTP_ANSWER_LEN_MAX => return Ok(None),
        Ok(httparse::Status::Partial) => return Err("an answer without end"),
        Err(_) => return Err("something that is no answer of HTTP/1.1"),
    };
    let code = response.code.unwrap_or_default();
    let values = |name: &'static str| {
        let named = response.headers.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
        named.map(|field| field.value.trim_ascii())
    };
    let has = |name, word: &[u8]| {
        let mut words = values(name).flat_map(|value| value.split(|&octet| octet == b','));
        words.any(|found| found.trim_ascii().eq_ignore_ascii_case(word))
    };
    let lengths = values("content-length").map(|value| str::from_utf8(value).ok()?.parse::<u64>().ok());
    let lengths: Vec<Option<u64>> = lengths.collect();
    let end = match &lengths[..] {
        // RFC 9112 §6.3.
        _ if matches!(code, 100..200 | 204 | 304) => End::Length(0),
        _ if has("transfer-encoding", b"chunked") => End::Chunked,
        [Some(len)] => End::Length(*len),
        _ => End::Closed,
    };
    // With both lengths somebody on the way may see another end than we do.
    let is_clear = end != End::Chunked || lengths.is_empty();
    let keeps = response.version == Some(1) && !has("connection", b"close") && is_clear;
    Ok(Some((Answer { code, end, keeps }, len)))
}

/// Printable; empty where there is none.
fn first_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let mut line: String = line.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    line.truncate(line.floor_char_boundary(HOP_REPLY_TEXT_LEN_MAX));
    line
}

/// SHA-256 of the content. What has a file of its own is read for it once more: the signature goes ahead.
async fn digest(body: &Body<'_>) -> Result<String, RelayError> {
    let mut context = Context::new(&SHA256);
    let mut pieces = body.pieces();
    while let Some(piece) = pieces.next().await? {
        context.update(&piece);
    }
    Ok(hex(context.finish().as_ref()))
}

/// Request line and fields. `time`: in seconds since 1970.
fn head(target: &HttpTarget, letter: &Letter, content_len: u64, digest: &str, time: u64) -> Vec<u8> {
    let HttpTarget { authority, path, secret } = target;
    let (id, from) = (&letter.id, encoded(&letter.reverse_path));
    let to: Vec<String> = letter.recipients.iter().map(|recipient| encoded(&recipient.path)).collect();
    let signed = format!("{time}\n{id}\n{from}\n{}\n{digest}", to.join(","));
    let signature = hex(sign(&Key::new(HMAC_SHA256, secret.octets()), signed.as_bytes()).as_ref());
    let mut head = format!(
        "POST {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: ringmx/{}\r\nContent-Type: message/rfc822\r\n\
         Content-Length: {content_len}\r\nRingmx-Id: {id}\r\nRingmx-Mail-From: {from}\r\n",
        env!("CARGO_PKG_VERSION")
    );
    for to in to {
        head.extend(["Ringmx-Rcpt-To: ", &to, "\r\n"]);
    }
    head.extend(["Ringmx-Signature: t=", &time.to_string(), ",v1=", &signature, "\r\n\r\n"]);
    head.into_bytes()
}

/// Percent-encoded (RFC 3986 §2.1), so that no octet of a mailbox ends a field or a list.
fn encoded(mailbox: &[u8]) -> String {
    let is_plain = |octet: &u8| octet.is_ascii_alphanumeric() || b"-._~@+=".contains(octet);
    let encode =
        |octet| if is_plain(&octet) { char::from(octet).to_string() } else { format!("%{octet:02X}") };
    mailbox.iter().copied().map(encode).collect()
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::letter::Addressee;
    use super::*;
    use crate::config::Secret;

    #[test]
    fn a_mailbox_cannot_leave_its_field() {
        let target =
            HttpTarget { authority: "a:80".into(), path: "/in?x=1".into(), secret: Secret::new("key") };
        let to = |path: &[u8]| Addressee { path: path.to_vec(), ..Addressee::default() };
        let letter = Letter {
            id: "0CR73KR44TQ00-1".parse().unwrap(),
            reverse_path: b"\"a\r\nX: y\"@b".to_vec(),
            recipients: vec![to(b"c,d%@e"), to(b"\xc3\xa9@f")],
            ..Letter::default()
        };
        let head = String::from_utf8(head(&target, &letter, 7, "00", 1_763_780_000)).unwrap();
        let lines: Vec<&str> = head.split("\r\n").collect();
        assert_eq!(lines[..2], ["POST /in?x=1 HTTP/1.1", "Host: a:80"]);
        assert_eq!(
            lines[4..9],
            [
                "Content-Length: 7",
                "Ringmx-Id: 0CR73KR44TQ00-1",
                "Ringmx-Mail-From: %22a%0D%0AX%3A%20y%22@b",
                "Ringmx-Rcpt-To: c%2Cd%25@e",
                "Ringmx-Rcpt-To: %C3%A9@f"
            ]
        );
        let signed = "1763780000\n0CR73KR44TQ00-1\n%22a%0D%0AX%3A%20y%22@b\nc%2Cd%25@e,%C3%A9@f\n00";
        let expected = hex(sign(&Key::new(HMAC_SHA256, b"key"), signed.as_bytes()).as_ref());
        assert_eq!(lines[9], format!("Ringmx-Signature: t=1763780000,v1={expected}"));
        assert_eq!(lines[10..], ["", ""]);
        assert!(!format!("{target:?}").contains("key"), "{target:?}");
    }

    #[test]
    fn answers_end_as_they_say() {
        let parsed = |text: &str| parse(text.as_bytes()).unwrap().map(|(answer, _)| answer);
        for (text, code, end, keeps) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, End::Length(2), true),
            ("HTTP/1.1 204 No\r\n\r\n", 204, End::Length(0), true),
            ("HTTP/1.1 200 OK\r\n\r\n", 200, End::Closed, true),
            ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", 200, End::Length(0), false),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nconnection: x, Close\r\n\r\n",
                200,
                End::Length(0),
                false,
            ),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, End::Chunked, true),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
                200,
                End::Chunked,
                false,
            ),
            ("HTTP/1.1 500 No\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n", 500, End::Closed, true),
            ("HTTP/1.1 500 No\r\nContent-Length: -2\r\n\r\n", 500, End::Closed, true),
        ] {
            let answer = parsed(text).unwrap();
            assert_eq!((answer.code, answer.end, answer.keeps), (code, end, keeps), "{text}");
            for len in 0..text.find("\r\n\r\n").unwrap() {
                assert!(parsed(&text[..len]).is_none(), "{text}: {len}");
            }
        }
        assert!(parse(b"250 hello\r\n").is_err());
        assert!(parse(&[b"HTTP/1.1 200 OK\r\nX: ", &[b'x'; HTTP_ANSWER_LEN_MAX][..]].concat()).is_err());
        let fields = |count| [b"HTTP/1.1 200 OK\r\n", &b"X: y\r\n".repeat(count)[..], b"\r\n"].concat();
        assert!(parse(&fields(HTTP_ANSWER_FIELDS_COUNT_MAX)).unwrap().is_some());
        assert!(parse(&fields(HTTP_ANSWER_FIELDS_COUNT_MAX + 1)).is_err());
    }

    #[test]
    fn what_it_says_is_one_printable_line() {
        assert_eq!(first_line(b"\r\n  no \x1b[31mspam\nand more"), "no ?[31mspam");
        assert_eq!(first_line(b""), "");
        assert_eq!(first_line("\u{e9}".repeat(300).as_bytes()).len(), HOP_REPLY_TEXT_LEN_MAX);
    }

    proptest! {
        #[test]
        fn any_octets_are_read_without_panic(octets: Vec<u8>) {
            let _ = parse(&octets);
            let _ = first_line(&octets);
        }
    }
}
