//! One line of the stream. Its keys are a promise: engine/docs/operations.md has the table.

use std::borrow::Cow;
use std::net::IpAddr;

use serde::{Serialize, Serializer};

use crate::id::MessageId;

/// What has no value is left out.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Line<'a> {
    /// In microseconds since 1970; written as RFC 3339 has it.
    #[serde(serialize_with = "utc")]
    pub time: u64,
    pub event: &'static str,
    #[serde(serialize_with = "as_text")]
    pub id: MessageId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<IpAddr>,
    /// From 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Its position in the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<Cow<'a, str>>,
    /// How many this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipients: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub octets: Option<u64>,
    /// Version and cipher suite, or `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Cow<'a, str>>,
    /// Enhanced, of RFC 3463.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "utc_if_any")]
    pub next_attempt: Option<u64>,
    /// Who knows of a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub told: Option<&'static str>,
    /// What a notice is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub about: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<Cow<'a, str>>,
    /// Since the message was received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
    /// The reverse-path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The recipients that this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Vec<String>>,
}

impl Line<'_> {
    pub(super) fn append_to(&self, out: &mut Vec<u8>) {
        // Nothing in it can fail to be written to memory; half a line would be no line.
        let len = out.len();
        match serde_json::to_writer(&mut *out, self) {
            Ok(()) => out.push(b'\n'),
            Err(_) => out.truncate(len),
        }
    }
}

fn utc<S: Serializer>(unix_us: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    let time = i64::try_from(*unix_us).ok().and_then(|us| jiff::Timestamp::from_microsecond(us).ok());
    serializer.collect_str(&format_args!("{:.6}", time.unwrap_or_default()))
}

fn utc_if_any<S: Serializer>(unix_us: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
    match unix_us {
        Some(unix_us) => utc(unix_us, serializer),
        None => serializer.serialize_none(),
    }
}

fn as_text<S: Serializer>(id: &MessageId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

/// A mailbox for a line: what is not ASCII in it, and what is no text, is escaped as `ringmx spool ls` does.
pub(super) fn mailbox(octets: &[u8]) -> String {
    octets.escape_ascii().to_string()
}

/// What others have said, without the addresses in it.
pub(super) fn without_addresses(text: &str) -> Cow<'_, str> {
    if !text.contains('@') {
        return Cow::Borrowed(text);
    }
    let ends = |c: char| c.is_whitespace() || "<>()[]{}\"',;:".contains(c);
    let words = text.split_inclusive(ends).map(|word| {
        let (word, end) = match word.char_indices().next_back() {
            Some((at, last)) if ends(last) => word.split_at(at),
            _ => (word, ""),
        };
        if word.contains('@') { ["[address]", end] } else { [word, end] }
    });
    Cow::Owned(words.flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::SessionId;

    #[test]
    fn a_line_has_what_is_known_in_a_fixed_order() {
        let id = MessageId { session: SessionId(1_763_780_000_000_000 << 8), transaction: 2 };
        let mut out = Vec::new();
        Line { time: 1_763_780_000_000_100, event: "discarded", id, ..Line::default() }.append_to(&mut out);
        let line = Line {
            time: 1_763_780_000_000_000,
            event: "deferred",
            id,
            attempt: Some(2),
            error: Some("451 \"later\"\n".into()),
            next_attempt: Some(1_763_780_060_000_000),
            age_ms: Some(7),
            to: Some(vec![mailbox(b"\xc3\xa9\"@a")]),
            ..Line::default()
        };
        line.append_to(&mut out);
        let expected = format!(
            "{{\"time\":\"2025-11-22T02:53:20.000100Z\",\"event\":\"discarded\",\"id\":\"{id}\"}}\n\
             {{\"time\":\"2025-11-22T02:53:20.000000Z\",\"event\":\"deferred\",\"id\":\"{id}\",\"attempt\":2,\
             \"error\":\"451 \\\"later\\\"\\n\",\"next_attempt\":\"2025-11-22T02:54:20.000000Z\",\"age_ms\":7,\
             \"to\":[\"\\\\xc3\\\\xa9\\\\\\\"@a\"]}}\n"
        );
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn addresses_in_replies_can_be_left_out() {
        for (text, expected) in [
            ("250 2.0.0 taken", "250 2.0.0 taken"),
            ("550 5.1.1 <a.b@c.example>: unknown", "550 5.1.1 <[address]>: unknown"),
            ("a@b", "[address]"),
            ("to a@b, c@d; e", "to [address], [address]; e"),
            ("\u{e9}@\u{e9} @", "[address] [address]"),
        ] {
            assert_eq!(without_addresses(text), expected);
        }
    }
}
