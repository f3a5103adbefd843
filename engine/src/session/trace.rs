//! The trace field that every message gets (RFC 5321 §4.4), and how many it already has.

use std::net::{IpAddr, Ipv4Addr};

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use jiff::tz::TimeZone;

use crate::id::MessageId;
use crate::limits;
use crate::security::{ClientCertificate, Security};
use crate::time::Now;

/// What our trace field says.
#[derive(Debug)]
pub(super) struct Received<'a> {
    pub(super) helo: &'a [u8],
    pub(super) client: IpAddr,
    pub(super) hostname: &'a str,
    pub(super) protocol: Protocol,
    pub(super) security: Option<Security>,
    pub(super) id: MessageId,
    pub(super) date: &'a str,
}

/// What the message came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// After HELO.
    Smtp,
    /// After EHLO. RFC 3848.
    Esmtp,
    /// After EHLO, under TLS. RFC 3848.
    EsmtpS,
    /// With SMTPUTF8. RFC 6531 §4.3.
    Utf8Smtp,
    /// With SMTPUTF8, under TLS. RFC 6531 §4.3.
    Utf8SmtpS,
}

/// `Received: from HELO ([ADDRESS]) by HOSTNAME with ESMTP id ID; DATE`, folded; under TLS with a `tls` clause behind
/// the id (RFC 8314 §4.3), which names the cipher suite, and the version and the client's certificate as a comment.
/// Without a `for` clause: it would tell one recipient of the others.
pub(super) fn write_received(out: &mut Vec<u8>, received: &Received<'_>) {
    out.extend_from_slice(b"Received: from ");
    out.extend_from_slice(received.helo);
    out.extend_from_slice(b" ([");
    // RFC 5321 §4.1.3: IPv6 literals carry a tag. An IPv4 client on an IPv6 socket is an IPv4 client.
    match received.client.to_canonical() {
        IpAddr::V4(client) => append_ipv4(out, client),
        IpAddr::V6(client) => {
            out.extend_from_slice(b"IPv6:");
            write_display(out, &client);
        }
    }
    out.extend_from_slice(b"])\r\n\tby ");
    out.extend_from_slice(received.hostname.as_bytes());
    out.extend_from_slice(match received.protocol {
        Protocol::Smtp => &b" with SMTP id "[..],
        Protocol::Esmtp => b" with ESMTP id ",
        Protocol::EsmtpS => b" with ESMTPS id ",
        Protocol::Utf8Smtp => b" with UTF8SMTP id ",
        Protocol::Utf8SmtpS => b" with UTF8SMTPS id ",
    });
    received.id.append_to(out);
    if let Some(security) = &received.security {
        write_security(out, security);
    }
    out.extend_from_slice(b";\r\n\t");
    out.extend_from_slice(received.date.as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn write_security(out: &mut Vec<u8>, security: &Security) {
    out.extend_from_slice(b"\r\n\ttls ");
    out.extend_from_slice(security.cipher.name().as_bytes());
    out.extend_from_slice(b" (");
    out.extend_from_slice(security.version.name().as_bytes());
    if let Some(ClientCertificate { fingerprint, verified }) = &security.certificate {
        out.extend_from_slice(if *verified {
            b"\r\n\tclient certificate verified, SHA-256 "
        } else {
            &b"\r\n\tclient certificate not verified, SHA-256 "[..]
        });
        write_display(out, fingerprint);
    }
    out.push(b')');
}

/// What `Display` writes. Most clients have such an address, and each message is told of one.
fn append_ipv4(out: &mut Vec<u8>, client: Ipv4Addr) {
    let mut number = itoa::Buffer::new();
    for (index, octet) in client.octets().into_iter().enumerate() {
        if index > 0 {
            out.push(b'.');
        }
        out.extend_from_slice(number.format(octet).as_bytes());
    }
}

fn write_display(out: &mut Vec<u8>, value: &impl std::fmt::Display) {
    use std::io::Write;
    write!(out, "{value}").expect("writing to a Vec does not fail");
}

/// Counts the Received fields of a header section that comes in pieces; ends one above the limit (RFC 5321 §6.3).
#[derive(Debug, Default)]
pub(super) struct ReceivedFields {
    count: usize,
    line: Line,
}

/// What is known of the line that the next octet belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// So many octets of the field's name have come, and nothing else.
    Name(usize),
    /// An empty line so far: a CR.
    Cr,
    /// Anything else: its end is looked for.
    Rest,
    /// The header section is over, or enough has been counted.
    Over,
}

impl Default for Line {
    fn default() -> Self {
        Self::Name(0)
    }
}

impl ReceivedFields {
    const NAME: &[u8] = b"received:";

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The next piece of content, whose line ends are CR LF.
    pub(super) fn look_at(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() && self.line != Line::Over {
            let byte = bytes[at];
            self.line = match self.line {
                Line::Name(0) if byte == b'\r' => Line::Cr,
                Line::Name(len) if byte.to_ascii_lowercase() == Self::NAME[len] => self.name(len + 1),
                Line::Cr if byte == b'\n' => Line::Over,
                // Looked at again, should it be the line's end.
                Line::Name(_) | Line::Cr => {
                    self.line = Line::Rest;
                    continue;
                }
                Line::Rest => match memchr::memchr(b'\n', &bytes[at..]) {
                    Some(end) => {
                        at += end;
                        Line::Name(0)
                    }
                    None => return,
                },
                Line::Over => return,
            };
            at += 1;
        }
    }

    fn name(&mut self, len: usize) -> Line {
        if len < Self::NAME.len() {
            return Line::Name(len);
        }
        self.count += 1;
        if self.count > limits::RECEIVED_FIELDS_COUNT_MAX { Line::Over } else { Line::Rest }
    }
}

/// The date of the present second, formatted once a second.
#[derive(Debug, Default)]
pub struct DateCache {
    unix_secs: i64,
    text: String,
}

impl DateCache {
    /// `Sun, 22 Nov 2026 03:15:00 +0000` (RFC 5322 §3.3).
    pub fn rfc5322(&mut self, now: Now) -> &str {
        let unix_secs = i64::try_from(now.unix.as_secs()).unwrap_or(i64::MAX);
        if self.text.is_empty() || unix_secs != self.unix_secs {
            let zoned = Timestamp::from_second(unix_secs).unwrap_or(Timestamp::MAX).to_zoned(TimeZone::UTC);
            self.text.clear();
            // Years beyond 9999 have no RFC 5322 date; then the field ends in an empty one.
            let _ = DateTimePrinter::new().print_zoned(&zoned, &mut self.text);
            self.unix_secs = unix_secs;
        }
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::security::{CipherSuite, Fingerprint, Version};

    fn now(unix_secs: u64) -> Now {
        Now { monotonic: Duration::ZERO, unix: Duration::from_secs(unix_secs) }
    }

    #[test]
    fn the_field_is_exact() {
        let mut date = DateCache::default();
        let mut out = Vec::new();
        let client = "::ffff:192.0.2.7".parse().expect("an address");
        let (helo, id) = (&b"client.example"[..], MessageId { transaction: 2, ..MessageId::default() });
        let (hostname, date) = ("mx1.example.com", date.rfc5322(now(1_795_317_300)));
        let protocol = Protocol::Esmtp;
        let mut received = Received { helo, client, hostname, protocol, security: None, id, date };
        write_received(&mut out, &received);
        let text = "Received: from client.example ([192.0.2.7])\r\n\tby mx1.example.com with ESMTP id \
                    0000000000000-2;\r\n\tSun, 22 Nov 2026 03:15:00 +0000\r\n";
        assert_eq!(String::from_utf8_lossy(&out), text);

        let certificate = ClientCertificate { fingerprint: Fingerprint([0xab; 32]), verified: true };
        let (version, cipher) = (Version::Tls13, CipherSuite(0x1302));
        received.security = Some(Security { version, cipher, certificate: Some(certificate) });
        received.protocol = Protocol::EsmtpS;
        out.clear();
        write_received(&mut out, &received);
        let text = format!(
            "Received: from client.example ([192.0.2.7])\r\n\tby mx1.example.com with ESMTPS id \
             0000000000000-2\r\n\ttls TLS_AES_256_GCM_SHA384 (TLSv1.3\r\n\tclient certificate verified, \
             SHA-256 {});\r\n\tSun, 22 Nov 2026 03:15:00 +0000\r\n",
            "ab".repeat(32)
        );
        assert_eq!(String::from_utf8_lossy(&out), text);
    }

    #[test]
    fn addresses_are_as_displayed() {
        for client in [[0, 0, 0, 0], [192, 0, 2, 7], [10, 20, 100, 99], [255; 4]] {
            let mut out = Vec::new();
            append_ipv4(&mut out, client.into());
            assert_eq!(String::from_utf8_lossy(&out), Ipv4Addr::from(client).to_string());
        }
    }

    #[test]
    fn dates_change_with_the_second() {
        let mut date = DateCache::default();
        assert_eq!(date.rfc5322(now(0)), "Thu, 1 Jan 1970 00:00:00 +0000");
        assert_eq!(date.rfc5322(now(1)), "Thu, 1 Jan 1970 00:00:01 +0000");
    }

    fn count(pieces: &[&[u8]]) -> usize {
        let mut fields = ReceivedFields::default();
        pieces.iter().for_each(|piece| fields.look_at(piece));
        fields.count()
    }

    #[test]
    fn only_fields_of_the_header_section_count() {
        assert_eq!(count(&[b"Received: a\r\nSubject: b\r\nRECEIVED: c\r\n\r\nReceived: d\r\n"]), 2);
        assert_eq!(count(&[b"Subject: x\r\n Received: folded\r\nReceived:"]), 1);
        assert_eq!(count(&[b"\r\nReceived: body\r\n"]), 0);
        assert_eq!(count(&[&b"Received: a\r\n".repeat(500)]), limits::RECEIVED_FIELDS_COUNT_MAX + 1);
    }

    /// Each line by itself, from the whole content.
    fn naive(content: &str) -> usize {
        let header = content.split("\r\n").take_while(|line| !line.is_empty());
        header.filter(|line| line.to_ascii_lowercase().starts_with("received:")).count()
    }

    proptest! {
        #[test]
        fn fields_are_counted_in_pieces_as_in_one(
            lines in prop::collection::vec("(rece|received|Received:|reCeiVed: |x|\r|)", 0..12),
            cuts in prop::collection::vec(0..100usize, 0..6),
        ) {
            let content: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut < content.len()).collect();
            cuts.extend([0, content.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &content.as_bytes()[cut[0]..cut[1]]).collect();
            // A bare CR is not in stored content; a line that is one is not the empty line.
            prop_assert_eq!(count(&pieces), naive(&content));
        }
    }
}
