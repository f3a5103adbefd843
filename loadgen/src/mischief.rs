//! Clients that misbehave, in a chosen share, beside those that are measured: what each kind does, and what came of it.
//!
//! They have a thread and a ring of their own. Nothing of theirs is in the counts and histograms of the run, and none
//! of their messages is one that was accepted; only the generator's CPU is that of all.

mod gang;

use serde::Serialize;

pub use self::gang::{Gang, Plan};

/// How a client misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Gets as far as content, and then sends an octet now and then, for ever.
    Drip,
    /// Connects and never says anything.
    HalfOpen,
    /// Resets the connection in the midst of content.
    Rst,
    /// Speaks before the 220.
    Early,
    /// Asks for one long reply behind the other, and reads none.
    NeverReads,
    /// Sends content to its end and is gone before the 250.
    Vanish,
}

impl Kind {
    pub const ALL: [Self; 6] =
        [Self::Drip, Self::HalfOpen, Self::Rst, Self::Early, Self::NeverReads, Self::Vanish];

    /// As on the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Drip => "drip",
            Self::HalfOpen => "half-open",
            Self::Rst => "rst",
            Self::Early => "early",
            Self::NeverReads => "never-reads",
            Self::Vanish => "vanish",
        }
    }

    /// What was done where it is counted as done.
    pub fn description(self) -> &'static str {
        match self {
            Self::Drip => "dripped content",
            Self::HalfOpen => "connected and said nothing",
            Self::Rst => "reset in content",
            Self::Early => "spoke before the 220",
            Self::NeverReads => "left replies unread until the server stopped reading",
            Self::Vanish => "gone before the 250, so in doubt",
        }
    }
}

/// Kinds with their shares of all connections, in per cent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shares(Vec<(Kind, f64)>);

impl Shares {
    /// `drip=5,vanish=0.5`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut shares: Vec<(Kind, f64)> = Vec::new();
        for part in text.split(',') {
            let (name, percent) =
                part.split_once('=').ok_or_else(|| format!("`{part}` is not KIND=PERCENT"))?;
            let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
                format!("`{name}` is no kind: use {}", Kind::ALL.map(Kind::name).join(", "))
            })?;
            let percent = percent.parse().ok().filter(|percent| *percent > 0.0 && *percent < 100.0);
            let percent =
                percent.ok_or_else(|| format!("`{part}`: more than 0 and less than 100 per cent"))?;
            if shares.iter().any(|(other, _)| *other == kind) {
                return Err(format!("`{name}` stands there twice"));
            }
            shares.push((kind, percent));
        }
        Ok(Self(shares))
    }

    /// How many of so many connections misbehave, by kind: at least one of each, and one is left that does not.
    pub fn of(&self, connections_count: u32) -> Result<Vec<(Kind, u32)>, String> {
        let count = |percent: f64| ((f64::from(connections_count) * percent / 100.0).round() as u32).max(1);
        let counts: Vec<_> = self.0.iter().map(|&(kind, percent)| (kind, count(percent))).collect();
        let sum: u64 = counts.iter().map(|&(_, count)| u64::from(count)).sum();
        if sum < u64::from(connections_count) {
            return Ok(counts);
        }
        Err(format!(
            "--misbehave: {sum} of {connections_count} connections would misbehave, and one at least has not to"
        ))
    }
}

/// What came of the clients of one kind.
#[derive(Clone, Debug, Serialize)]
pub struct Tally {
    pub kind: Kind,
    /// Clients at once, each with one connection behind the other.
    pub clients: u32,
    pub connections_opened: u64,
    /// What they were there for.
    pub done: u64,
    /// A reply of 4yz or 5yz, at the greeting or later, before it was done or after.
    pub refused: u64,
    /// The server closed or reset the connection.
    pub ended_by_server: u64,
    /// Could not connect, or got a reply that is none.
    pub failed: u64,
}

impl Tally {
    fn new(kind: Kind, clients: u32) -> Self {
        Self { kind, clients, connections_opened: 0, done: 0, refused: 0, ended_by_server: 0, failed: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_all_connections_and_leave_one() {
        let shares = Shares::parse("drip=10,vanish=0.5").expect("shares");
        assert_eq!(shares.of(1000), Ok(vec![(Kind::Drip, 100), (Kind::Vanish, 5)]));
        assert_eq!(shares.of(3), Ok(vec![(Kind::Drip, 1), (Kind::Vanish, 1)]));
        assert!(shares.of(2).is_err());
        for text in ["", "drip", "drip=0", "drip=100", "drip=x", "dripp=1", "drip=1,drip=2"] {
            assert!(Shares::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_kind_has_one_name() {
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).expect("a word"), kind.name());
        }
    }
}
