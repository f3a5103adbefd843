//! Names of sessions and messages.
//!
//! A [`SessionId`] is the microsecond in which the session began, made unique on its worker, and the worker's index: it
//! sorts by time and stays unique over restarts. A [`MessageId`] is its session's id and the transaction's number in
//! that session, so that one search for the session finds its messages too. Both are written in Crockford's base 32;
//! the hyphen keeps the whole an atom, as the `id` clause of a trace field wants it (RFC 5321 §4.4).

use std::{fmt, str::FromStr};

use crate::time::Now;

/// Low bits of a [`SessionId`] that hold the worker's index.
const WORKER_BITS: u32 = 8;
/// Characters of a written [`SessionId`]: 64 bits, 5 a character.
pub const SESSION_ID_LEN: usize = 13;
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// One session, unique over workers and restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// One accepted message: `SESSION-N`, N counting the session's transactions from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    pub session: SessionId,
    pub transaction: u32,
}

/// Gives out the session ids of one worker.
#[derive(Debug)]
pub struct SessionIds {
    worker_index: u8,
    /// The microsecond of the last id given out; the next one is greater even if the clock stands still or steps back.
    last_us: u64,
}

impl SessionIds {
    pub fn new(worker_index: u8) -> Self {
        Self { worker_index, last_us: 0 }
    }

    pub fn next(&mut self, now: Now) -> SessionId {
        self.last_us = now.unix_us().max(self.last_us + 1);
        SessionId(self.last_us << WORKER_BITS | u64::from(self.worker_index))
    }
}

impl SessionId {
    /// The id's 13 characters, without an allocation.
    pub fn text(self) -> [u8; SESSION_ID_LEN] {
        std::array::from_fn(|index| {
            let shift = 5 * (SESSION_ID_LEN - 1 - index);
            ALPHABET[(self.0 >> shift) as usize & 31]
        })
    }

    /// When the session began, in microseconds since 1970.
    pub fn began_unix_us(self) -> u64 {
        self.0 >> WORKER_BITS
    }
}

impl MessageId {
    /// Appends what `Display` writes. A worker does so for the trace field and for the 250 of each message.
    pub fn append_to(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.session.text());
        out.push(b'-');
        out.extend_from_slice(itoa::Buffer::new().format(self.transaction).as_bytes());
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.text()).expect("the alphabet is ASCII"))
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.session.fmt(f)?;
        f.write_str("-")?;
        f.write_str(itoa::Buffer::new().format(self.transaction))
    }
}

/// The text is not an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not an id: expected 13 characters of 0-9 A-Z without I, L, O, U, and for a message `-` and a number from 1"
)]
pub struct ParseIdError;

impl FromStr for SessionId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        if text.len() != SESSION_ID_LEN {
            return Err(ParseIdError);
        }
        let mut value = 0u128;
        for byte in text.bytes() {
            let digit = ALPHABET.iter().position(|&c| c == byte.to_ascii_uppercase()).ok_or(ParseIdError)?;
            value = value << 5 | digit as u128;
        }
        u64::try_from(value).map(Self).map_err(|_| ParseIdError)
    }
}

impl FromStr for MessageId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let (session, transaction) = text.split_once('-').ok_or(ParseIdError)?;
        let canonical = transaction.bytes().all(|b| b.is_ascii_digit()) && !transaction.starts_with('0');
        let transaction = transaction.parse().ok().filter(|_| canonical).ok_or(ParseIdError)?;
        Ok(Self { session: session.parse()?, transaction })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn ids_round_trip_and_sort_by_time() {
        let mut ids = SessionIds::new(3);
        let now = Now { monotonic: Duration::ZERO, unix: Duration::from_micros(1_763_780_000_000_000) };
        let (first, second) = (ids.next(now), ids.next(now));
        assert!(first < second);
        assert!(first.to_string() < second.to_string());
        assert_eq!(first.to_string().parse(), Ok(first));
        let message = MessageId { session: second, transaction: 12 };
        assert_eq!(message.to_string().parse(), Ok(message));
        let mut appended = Vec::new();
        message.append_to(&mut appended);
        assert_eq!(appended, message.to_string().into_bytes());
        assert_eq!(first.began_unix_us(), 1_763_780_000_000_000);
    }

    #[test]
    fn what_is_not_an_id_is_refused() {
        for text in ["", "0", "ZZZZZZZZZZZZZ", "00000000000I0", "0000000000000"] {
            assert_eq!(text.parse::<MessageId>(), Err(ParseIdError), "{text}");
        }
        for text in ["0000000000000-0", "0000000000000-+1", "0000000000000-", "0000000000000-01"] {
            assert_eq!(text.parse::<MessageId>(), Err(ParseIdError), "{text}");
        }
    }
}
