//! Why a session says no: faults of the client and errors of ours, and the only place where a cause becomes a reply.

use crate::limits;
use crate::protocol::command::Malformed;
use crate::protocol::reply::{self, Reply};

/// The client did something that RFC 5321 or our policy does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Malformed(Malformed),
    LineTooLong,
    LineEndless,
    BareNewline,
    HelloFirst,
    MailFirst,
    NestedMail,
    RecipientFirst,
    NoValidRecipients,
    ExpnRefused,
    AuthNotOffered,
    ChunkingNotOffered,
    TlsNotOffered,
    DeclaredTooLarge,
    ContentTooLarge,
    RelayDenied,
    TooManyRecipients,
    EndOfDataLookalike,
    Loop,
    TimedOut,
    TooMany,
}

/// The client did nothing wrong, and it can try again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The spool has no room.
    NoStorage,
    /// The sessions of this worker hold all the memory that content may take.
    NoMemory,
    /// Writing to the spool failed.
    SpoolFailed,
    /// The server is being stopped.
    Stopping,
    /// The worker has no room for another connection.
    Full,
    /// This worker's part of the spool has stopped after a failed write: no use in a session.
    SpoolStopped,
}

impl From<Fault> for Reply {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Malformed(malformed) => reply::of_malformed(malformed),
            Fault::LineTooLong => reply::LINE_TOO_LONG,
            Fault::LineEndless | Fault::TooMany => reply::TOO_MANY_FAULTS,
            Fault::BareNewline => reply::BARE_NEWLINE,
            Fault::HelloFirst => reply::HELLO_FIRST,
            Fault::MailFirst => reply::MAIL_FIRST,
            Fault::NestedMail => reply::NESTED_MAIL,
            Fault::RecipientFirst => reply::RECIPIENT_FIRST,
            Fault::NoValidRecipients => reply::NO_VALID_RECIPIENTS,
            Fault::ExpnRefused => reply::EXPN_REFUSED,
            Fault::AuthNotOffered => reply::AUTH_NOT_OFFERED,
            Fault::ChunkingNotOffered => reply::CHUNKING_NOT_OFFERED,
            Fault::TlsNotOffered => reply::TLS_NOT_OFFERED,
            Fault::DeclaredTooLarge | Fault::ContentTooLarge => reply::TOO_LARGE,
            Fault::RelayDenied => reply::RELAY_DENIED,
            Fault::TooManyRecipients => reply::TOO_MANY_RECIPIENTS,
            Fault::EndOfDataLookalike => reply::END_OF_DATA_LOOKALIKE,
            Fault::Loop => reply::LOOP,
            Fault::TimedOut => reply::TIMED_OUT,
        }
    }
}

impl From<Error> for Reply {
    fn from(error: Error) -> Self {
        match error {
            Error::NoStorage | Error::NoMemory => reply::NO_STORAGE,
            Error::SpoolFailed => reply::SPOOL_FAILED,
            Error::Stopping => reply::STOPPING,
            Error::Full => reply::FULL,
            Error::SpoolStopped => reply::SPOOL_STOPPED,
        }
    }
}

impl Fault {
    /// For log lines and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed(malformed) => malformed.name(),
            Self::LineTooLong => "line-too-long",
            Self::LineEndless => "line-endless",
            Self::BareNewline => "bare-newline",
            Self::HelloFirst => "hello-first",
            Self::MailFirst => "mail-first",
            Self::NestedMail => "nested-mail",
            Self::RecipientFirst => "recipient-first",
            Self::NoValidRecipients => "no-valid-recipients",
            Self::ExpnRefused => "expn-refused",
            Self::AuthNotOffered => "auth-not-offered",
            Self::ChunkingNotOffered => "chunking-not-offered",
            Self::TlsNotOffered => "tls-not-offered",
            Self::DeclaredTooLarge => "declared-too-large",
            Self::ContentTooLarge => "content-too-large",
            Self::RelayDenied => "relay-denied",
            Self::TooManyRecipients => "too-many-recipients",
            Self::EndOfDataLookalike => "end-of-data-lookalike",
            Self::Loop => "loop",
            Self::TimedOut => "timed-out",
            Self::TooMany => "too-many-faults",
        }
    }
}

impl Error {
    /// For log lines and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoStorage => "no-storage",
            Self::NoMemory => "no-memory",
            Self::SpoolFailed => "spool-failed",
            Self::Stopping => "stopping",
            Self::Full => "full",
            Self::SpoolStopped => "spool-stopped",
        }
    }
}

/// What a session has spent of its patience since its last accepted message.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Budget {
    faults_count: u16,
    refused_recipients_count: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    Some,
    None,
}

impl Budget {
    pub(super) fn spend(&mut self, fault: Fault) -> Left {
        let (count, max) = match fault {
            // What an honest sender with an old list, or with many recipients, runs into.
            Fault::RelayDenied => (&mut self.refused_recipients_count, limits::REFUSED_RECIPIENTS_COUNT_MAX),
            Fault::TooManyRecipients => return Left::Some,
            _ => (&mut self.faults_count, limits::FAULTS_COUNT_MAX),
        };
        *count += 1;
        if *count < max { Left::Some } else { Left::None }
    }
}
