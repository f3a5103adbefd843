//! What was measured: counts, histograms, errors by kind.

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::extension::Extension;
use crate::limits::{ERROR_ENTRIES_COUNT_MAX, LATENCY_MAX, TEXT_KEPT_MAX};

/// The intervals that are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Interval {
    /// From connecting to 220.
    Connect,
    /// From the first octet of the TLS handshake to its end.
    Handshake,
    /// From EHLO to its 250.
    Ehlo,
    /// From MAIL to the reply to the last RCPT, one command per round trip.
    Recipients,
    /// From DATA to 354, one command per round trip.
    Data,
    /// From MAIL to 354.
    Envelope,
    /// From the last octet of the content to its 250.
    Final,
    /// From MAIL, or in an open loop from the intended time, to the 250.
    Transaction,
}

impl Interval {
    pub const ALL: [Self; 8] = [
        Self::Connect,
        Self::Handshake,
        Self::Ehlo,
        Self::Recipients,
        Self::Data,
        Self::Envelope,
        Self::Final,
        Self::Transaction,
    ];

    /// As in JSON, and of its file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Handshake => "handshake",
            Self::Ehlo => "ehlo",
            Self::Recipients => "recipients",
            Self::Data => "data",
            Self::Envelope => "envelope",
            Self::Final => "final",
            Self::Transaction => "transaction",
        }
    }

    pub fn description(self) -> &'static str {
        match self {
            Self::Connect => "connect -> 220",
            Self::Handshake => "TLS handshake",
            Self::Ehlo => "EHLO -> 250",
            Self::Recipients => "MAIL, RCPT -> 250",
            Self::Data => "DATA -> 354",
            Self::Envelope => "MAIL -> 354",
            Self::Final => "final dot -> 250",
            Self::Transaction => "whole transaction",
        }
    }
}

/// What can go wrong, on either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    ConnectRefused,
    ConnectTimedOut,
    ConnectFailed,
    NoLocalPort,
    NoDescriptor,
    ConnectionReset,
    ConnectionClosed,
    ConnectionFailed,
    ReplyTimedOut,
    ReplyMalformed,
    ReplyUnexpected,
    ServiceClosing,
    GreetingRefused,
    EhloRefused,
    PipeliningMissing,
    StartTlsMissing,
    SizeMissing,
    ChunkingMissing,
    EightBitMimeMissing,
    SmtpUtf8Missing,
    /// The handshake failed, or a record could not be read.
    TlsFailed,
    MailRefused,
    RecipientRefused,
    DataRefused,
    ContentRefused,
    /// Still under way when the time to end had run out.
    Unfinished,
    /// A connection that failed so often in a row that it was not opened again.
    GivenUp,
}

impl ErrorKind {
    pub fn description(self) -> &'static str {
        match self {
            Self::ConnectRefused => "connection refused",
            Self::ConnectTimedOut => "connecting timed out",
            Self::ConnectFailed => "connecting failed",
            Self::NoLocalPort => "no local port left",
            Self::NoDescriptor => "no descriptor left",
            Self::ConnectionReset => "connection reset by the server",
            Self::ConnectionClosed => "connection closed by the server",
            Self::ConnectionFailed => "connection failed",
            Self::ReplyTimedOut => "no reply in time",
            Self::ReplyMalformed => "malformed reply",
            Self::ReplyUnexpected => "unexpected reply",
            Self::ServiceClosing => "421, the server closes",
            Self::GreetingRefused => "refused at the greeting",
            Self::EhloRefused => "EHLO refused",
            Self::PipeliningMissing => "PIPELINING not offered",
            Self::StartTlsMissing => "STARTTLS not offered, or refused",
            Self::SizeMissing => "SIZE not offered",
            Self::ChunkingMissing => "CHUNKING not offered, and --bdat needs it",
            Self::EightBitMimeMissing => "8BITMIME not offered, and the content needs it",
            Self::SmtpUtf8Missing => "SMTPUTF8 not offered, and --smtputf8 needs it",
            Self::TlsFailed => "TLS failed",
            Self::MailRefused => "MAIL refused",
            Self::RecipientRefused => "recipient refused",
            Self::DataRefused => "DATA refused",
            Self::ContentRefused => "content refused",
            Self::Unfinished => "unfinished at the end",
            Self::GivenUp => "connection given up",
        }
    }
}

impl From<Extension> for ErrorKind {
    /// That a server does not offer it.
    fn from(missing: Extension) -> Self {
        match missing {
            Extension::Pipelining => Self::PipeliningMissing,
            Extension::StartTls => Self::StartTlsMissing,
            Extension::Size => Self::SizeMissing,
            Extension::Chunking => Self::ChunkingMissing,
            Extension::EightBitMime => Self::EightBitMimeMissing,
            Extension::SmtpUtf8 => Self::SmtpUtf8Missing,
        }
    }
}

/// Errors of one kind, and for refusals of one reply code.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorEntry {
    pub kind: ErrorKind,
    /// The reply code; 0 where there was no reply.
    pub code: u16,
    pub count: u64,
    /// What the first of them said.
    pub example: String,
}

/// Errors by kind and reply code: one entry each, so that a run's errors take bounded memory.
#[derive(Clone, Debug, Default)]
pub struct Errors {
    entries: Vec<ErrorEntry>,
}

impl Errors {
    pub fn add(&mut self, kind: ErrorKind, code: u16, text: &[u8]) {
        self.add_many(kind, code, 1, || printable(text));
    }

    fn add_many(&mut self, kind: ErrorKind, code: u16, count: u64, example: impl FnOnce() -> String) {
        let code = if self.entries.len() < ERROR_ENTRIES_COUNT_MAX { code } else { 0 };
        match self.entries.iter_mut().find(|entry| entry.kind == kind && entry.code == code) {
            Some(entry) => entry.count += count,
            None => self.entries.push(ErrorEntry { kind, code, count, example: example() }),
        }
    }

    pub fn total(&self) -> u64 {
        self.entries.iter().map(|entry| entry.count).sum()
    }

    /// The most frequent first.
    pub fn sorted(&self) -> Vec<ErrorEntry> {
        let mut entries = self.entries.clone();
        entries.sort_by(|a, b| b.count.cmp(&a.count).then(a.code.cmp(&b.code)));
        entries
    }

    fn merge(&mut self, other: &Self) {
        for entry in &other.entries {
            self.add_many(entry.kind, entry.code, entry.count, || entry.example.clone());
        }
    }
}

/// A server's text, fit for a terminal and for one line.
pub fn printable(text: &[u8]) -> String {
    let kept = &text[..text.len().min(TEXT_KEPT_MAX)];
    kept.iter().map(|&octet| if (b' '..=b'~').contains(&octet) { char::from(octet) } else { '?' }).collect()
}

/// What one thread measured, or all of them. `started` = `accepted` + `refused` + `in_doubt` + `aborted` at the end.
#[derive(Clone, Debug)]
pub struct Stats {
    histograms: [Histogram<u64>; Interval::ALL.len()],
    pub errors: Errors,
    pub connections_opened: u64,
    /// Transactions begun.
    pub started: u64,
    /// Messages with their 250.
    pub accepted: u64,
    /// Octets of content of these.
    pub accepted_octets: u64,
    pub refused: u64,
    /// End of data sent, connection lost before the reply: stored or not (RFC 1047).
    pub in_doubt: u64,
    /// TLS handshakes, and how many of them were resumed.
    pub handshakes: u64,
    pub handshakes_resumed: u64,
    /// Connection lost before the end of data.
    pub aborted: u64,
    /// Arrivals of an open loop that were due in the run's time and found no free connection.
    pub missed: u64,
    /// When the first transaction began and the last message was accepted, in nanoseconds since the run's start.
    pub first_at: Option<u64>,
    pub last_at: u64,
}

impl Default for Stats {
    fn default() -> Self {
        let highest = LATENCY_MAX.as_nanos() as u64;
        let histogram =
            || Histogram::new_with_bounds(1000, highest, 3).expect("bounds as hdrhistogram wants them");
        Self {
            histograms: std::array::from_fn(|_| histogram()),
            errors: Errors::default(),
            connections_opened: 0,
            started: 0,
            accepted: 0,
            accepted_octets: 0,
            refused: 0,
            in_doubt: 0,
            handshakes: 0,
            handshakes_resumed: 0,
            aborted: 0,
            missed: 0,
            first_at: None,
            last_at: 0,
        }
    }
}

impl Stats {
    pub fn record(&mut self, interval: Interval, ns: u64) {
        self.histograms[interval as usize].saturating_record(ns);
    }

    pub fn histogram(&self, interval: Interval) -> &Histogram<u64> {
        &self.histograms[interval as usize]
    }

    pub fn merge(&mut self, other: &Self) {
        for (histogram, others) in self.histograms.iter_mut().zip(&other.histograms) {
            histogram.add(others).expect("all histograms have the same bounds");
        }
        self.errors.merge(&other.errors);
        self.connections_opened += other.connections_opened;
        self.started += other.started;
        self.accepted += other.accepted;
        self.accepted_octets += other.accepted_octets;
        self.refused += other.refused;
        self.in_doubt += other.in_doubt;
        self.handshakes += other.handshakes;
        self.handshakes_resumed += other.handshakes_resumed;
        self.aborted += other.aborted;
        self.missed += other.missed;
        self.first_at = [self.first_at, other.first_at].into_iter().flatten().min();
        self.last_at = self.last_at.max(other.last_at);
    }

    /// Seconds from the first transaction's beginning to the last acceptance.
    pub fn busy_secs(&self) -> f64 {
        self.last_at.saturating_sub(self.first_at.unwrap_or(self.last_at)) as f64 / 1e9
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_adds_and_keeps_the_outer_times() {
        let (mut a, mut b) = (Stats::default(), Stats::default());
        (a.first_at, a.last_at, a.accepted) = (Some(2_000_000_000), 4_000_000_000, 3);
        (b.first_at, b.last_at, b.accepted) = (Some(1_000_000_000), 3_000_000_000, 4);
        a.record(Interval::Final, 5000);
        b.record(Interval::Final, u64::MAX);
        a.errors.add(ErrorKind::ContentRefused, 452, b"full");
        b.errors.add(ErrorKind::ContentRefused, 452, b"still full");
        b.errors.add(ErrorKind::ContentRefused, 554, b"\x1b[2Jno");
        a.merge(&b);
        a.merge(&Stats::default());
        assert_eq!((a.accepted, a.busy_secs(), a.errors.total()), (7, 3.0, 3));
        assert_eq!(a.histogram(Interval::Final).len(), 2);
        let sorted = a.errors.sorted();
        assert_eq!((sorted[0].count, sorted[0].example.as_str()), (2, "full"));
        assert_eq!(sorted[1].example, "?[2Jno");
    }

    #[test]
    fn errors_take_bounded_memory() {
        let mut errors = Errors::default();
        for code in 0..10_000 {
            errors.add(ErrorKind::MailRefused, code, b"no");
        }
        assert_eq!(errors.total(), 10_000);
        assert!(errors.entries.len() <= ERROR_ENTRIES_COUNT_MAX + 1);
    }

    #[test]
    fn nothing_measured_takes_no_time() {
        assert_eq!(Stats::default().busy_secs(), 0.0);
    }
}
