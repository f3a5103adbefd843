//! What a rule does.

use std::time::Duration;

use crate::policy::clients::Rate;
use crate::protocol::reply;

/// Prefix of an IPv4 client that a limit counts as one, unless the rule says otherwise.
pub const LIMIT_PER_IPV4: u8 = 32;
/// The same of an IPv6 client: what one subscriber gets.
pub const LIMIT_PER_IPV6: u8 = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ends the stage. At RCPT the recipient still has to be one of ours.
    Accept,
    /// Only at RCPT: the recipient is taken although it is not one of ours.
    Relay,
    /// A permanent reply.
    Reject(Refusal),
    /// A transient reply.
    Defer(Refusal),
    /// The connection ends without a word.
    Drop,
    /// The client waits; the rules behind are tried.
    Tarpit(Duration),
    /// The message's record has this tag; the rules behind are tried.
    Tag(u8),
    /// Beyond it a transient reply; within it the rules behind are tried.
    Limit(RuleLimit),
}

/// A reply in the operator's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: u16,
    /// As it is sent.
    line: Box<[u8]>,
}

/// What clients may do, counted together for all clients with the same prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleLimit {
    /// Tells the rule from others in the table of clients; the same after a reload that left the rule alone.
    pub key: u64,
    pub prefix_len_ipv4: u8,
    pub prefix_len_ipv6: u8,
    /// Connections, transactions or recipients, as the stage has it.
    pub rate: Option<Rate>,
    /// Only at connect: connections open at the same time.
    pub open_max: Option<u32>,
    pub refusal: Refusal,
}

impl Action {
    /// The name in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Relay => "relay",
            Self::Reject(_) => "reject",
            Self::Defer(_) => "defer",
            Self::Drop => "drop",
            Self::Tarpit(_) => "tarpit",
            Self::Tag(_) => "tag",
            Self::Limit(_) => "limit",
        }
    }

    /// Whether nothing behind it is tried, whatever the circumstances.
    pub fn decides(&self) -> bool {
        match self {
            Self::Accept | Self::Relay | Self::Reject(_) | Self::Defer(_) | Self::Drop => true,
            Self::Tarpit(_) | Self::Tag(_) | Self::Limit(_) => false,
        }
    }

    /// Whether it can turn a client away.
    pub fn refuses(&self) -> bool {
        matches!(self, Self::Reject(_) | Self::Defer(_) | Self::Drop | Self::Limit(_))
    }
}

impl Refusal {
    /// The text is printable ASCII, and fits into a reply line with the codes.
    pub fn new(code: u16, enhanced: &str, text: &str) -> Self {
        Self { code, line: reply::encode_own(code, enhanced, text) }
    }

    /// The whole reply.
    pub fn line(&self) -> &[u8] {
        &self.line
    }

    /// RFC 5321 §3.8: the session ends with it.
    pub fn closes(&self) -> bool {
        self.code == reply::CLOSING_CODE
    }

    /// The reply without its line end, for people.
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(self.line.trim_ascii_end())
    }
}
