//! Every phase of a session, and how a client gets it there.

use std::time::Duration;

use ringmx::policy::network::{Network, NetworkSet};
use ringmx::session::{EarlyTalker, Error};

use crate::pair::{Commits, Options, Pair};

/// Where a session stands before a test sends it something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The greeting has been said.
    Start,
    Idle,
    /// As `Idle`, but by HELO.
    Helo,
    /// Behind MAIL.
    Mail,
    /// Behind MAIL and RCPT.
    Recipients,
    /// Behind MAIL and a RCPT that was refused.
    Refused,
    /// Behind the 354.
    Content,
    /// Within a line of content.
    Line,
    /// Within a chunk of BDAT.
    Chunk,
    /// Between two chunks.
    Chunks,
    /// Within a chunk of BDAT that is refused.
    Skipping,
    /// Within a command line that is too long.
    Discarding,
    /// Behind end-of-data, the commit pending.
    Committing,
    /// Two messages on, after EHLO again.
    Used,
    /// The spool has no room.
    NoStorage,
    /// The server stops, a transaction is open.
    Stopping,
    Closed,
    /// A trusted proxy has connected and said nothing.
    Proxy,
    /// The greeting waits; who talks before it is refused.
    Greeting,
    /// The greeting waits; who talks before it is answered behind it.
    Patient,
    /// More than half of the faults are used up, and the next command waits.
    Tarpit,
    /// A rule has refused the client as it connected.
    TurnedAway,
}

pub const PHASES: &[Phase] = &[
    Phase::Start,
    Phase::Idle,
    Phase::Mail,
    Phase::Recipients,
    Phase::Refused,
    Phase::Content,
    Phase::Line,
    Phase::Chunks,
    Phase::Discarding,
    Phase::Committing,
    Phase::Used,
    Phase::NoStorage,
    Phase::Stopping,
    Phase::Closed,
    Phase::Helo,
];

/// Those in which a client is not heard yet, made to wait, or not served.
pub const GUARDED: &[Phase] =
    &[Phase::Proxy, Phase::Greeting, Phase::Patient, Phase::Tarpit, Phase::TurnedAway];

/// Those in which it is counted, not read, what the client sends.
pub const WITHIN_CHUNKS: &[Phase] = &[Phase::Chunk, Phase::Skipping];

/// More than half of what a session may commit (operations.md).
pub const TARPIT_FAULTS_COUNT: usize = 11;

const EHLO: &str = "EHLO client.example\r\n";
const MAIL: &str = "MAIL FROM:<a@example.org>\r\n";
const RCPT: &str = "RCPT TO:<b@example.com>\r\n";
const MESSAGE: &str = "MAIL FROM:<>\r\nRCPT TO:<b@example.com>\r\nDATA\r\nx\r\n.\r\n";

impl Phase {
    /// A session that stands there, its replies read and nothing stored.
    pub fn pair(self, options: &Options) -> Pair {
        let mut pair = Pair::greeted(&self.options(options));
        let long = "x".repeat(3000);
        let said = match self {
            Self::Start => String::new(),
            Self::Idle | Self::NoStorage => EHLO.to_owned(),
            Self::Helo => "HELO client.example\r\n".to_owned(),
            Self::Mail => [EHLO, MAIL].concat(),
            Self::Recipients | Self::Stopping => [EHLO, MAIL, RCPT].concat(),
            Self::Refused => [EHLO, MAIL, "RCPT TO:<b@example.org>\r\n"].concat(),
            Self::Content => [EHLO, MAIL, RCPT, "DATA\r\n"].concat(),
            Self::Line => [EHLO, MAIL, RCPT, "DATA\r\nSubject: x\r\n\r\nbegun"].concat(),
            Self::Chunk => [EHLO, MAIL, RCPT, "BDAT 4019 LAST\r\nSubject: x\r\n\r\nbegun"].concat(),
            Self::Chunks => [EHLO, MAIL, RCPT, "BDAT 12\r\nSubject: x\r\n"].concat(),
            Self::Skipping => [EHLO, "BDAT 4012\r\nSubject: x\r\n"].concat(),
            Self::Discarding => [EHLO, &long].concat(),
            Self::Committing => [EHLO, MESSAGE].concat(),
            Self::Used => [EHLO, MESSAGE, MESSAGE, EHLO].concat(),
            Self::Closed => "QUIT\r\n".to_owned(),
            Self::Proxy | Self::Greeting | Self::Patient | Self::TurnedAway => String::new(),
            Self::Tarpit => [EHLO, &"XYZZY\r\n".repeat(TARPIT_FAULTS_COUNT)].concat(),
        };
        match self {
            Self::Committing => pair.set_commits(Commits::Wait),
            Self::NoStorage => pair.set_storage_error(Some(Error::NoStorage)),
            _ => {}
        }
        pair.send(said.as_bytes());
        if self == Self::Stopping {
            pair.stop();
        }
        pair.replies();
        pair.stored.clear();
        assert_eq!(pair.is_closed(), self == Self::Closed, "{self:?}");
        assert_eq!(pair.is_delayed(), self == Self::Tarpit, "{self:?}");
        pair
    }

    /// The listener that has this phase.
    fn options(self, options: &Options) -> Options {
        let mut options = options.clone();
        let guard = &mut options.guard;
        match self {
            Self::Proxy => guard.proxies = NetworkSet::from_iter([Network::around(options.client.ip(), 32)]),
            Self::Greeting | Self::Patient => {
                guard.greet_delay = Duration::from_secs(5);
                guard.early_talker =
                    if self == Self::Greeting { EarlyTalker::Reject } else { EarlyTalker::Note };
            }
            Self::Tarpit => guard.tarpit = Duration::from_secs(2),
            Self::TurnedAway => options.rules = vec!["stage = \"connect\"; action = \"reject\"".to_owned()],
            _ => {}
        }
        options
    }

    /// Octets of the chunk that are still to come.
    pub fn left_len(self) -> usize {
        if matches!(self, Self::Chunk | Self::Skipping) { 4000 } else { 0 }
    }
}
