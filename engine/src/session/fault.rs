//! Why a session says no: faults of the client and errors of ours, and the only place where a cause becomes a reply.

use crate::limits;
use crate::protocol::command::{Malformed, Side};
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
    /// EXPN, and AUTH, BDAT and STARTTLS, which no reply to EHLO announced.
    NotOffered,
    DeclaredTooLarge,
    ContentTooLarge,
    RelayDenied,
    TooManyRecipients,
    EndOfDataLookalike,
    Loop,
    TimedOut,
    TooMany,
    TooManyRefusedRecipients,
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
            Fault::Malformed(malformed) => of_malformed(malformed),
            Fault::LineTooLong => reply::LINE_TOO_LONG,
            Fault::LineEndless => reply::ENDLESS_LINE,
            Fault::TooMany => reply::TOO_MANY_FAULTS,
            Fault::TooManyRefusedRecipients => reply::TOO_MANY_REFUSED_RECIPIENTS,
            Fault::BareNewline => reply::BARE_NEWLINE,
            Fault::HelloFirst => reply::EXPECTED_HELLO,
            Fault::MailFirst => reply::EXPECTED_MAIL,
            Fault::NestedMail => reply::EXPECTED_RCPT_OR_RSET,
            Fault::RecipientFirst => reply::EXPECTED_RCPT,
            Fault::NoValidRecipients => reply::NO_VALID_RECIPIENTS,
            Fault::NotOffered => reply::NOT_IMPLEMENTED,
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
            Error::SpoolFailed => reply::LOCAL_ERROR,
            Error::Stopping => reply::SHUTTING_DOWN,
            Error::Full => reply::FULL,
            Error::SpoolStopped => reply::SPOOL_FAILED,
        }
    }
}

impl Fault {
    /// For log lines and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed(malformed) => name_of(malformed),
            Self::LineTooLong => "line-too-long",
            Self::LineEndless => "line-endless",
            Self::BareNewline => "bare-newline",
            Self::HelloFirst => "hello-first",
            Self::MailFirst => "mail-first",
            Self::NestedMail => "nested-mail",
            Self::RecipientFirst => "recipient-first",
            Self::NoValidRecipients => "no-valid-recipients",
            Self::NotOffered => "not-offered",
            Self::DeclaredTooLarge => "declared-too-large",
            Self::ContentTooLarge => "content-too-large",
            Self::RelayDenied => "relay-denied",
            Self::TooManyRecipients => "too-many-recipients",
            Self::EndOfDataLookalike => "end-of-data-lookalike",
            Self::Loop => "loop",
            Self::TimedOut => "timed-out",
            Self::TooMany => "too-many-faults",
            Self::TooManyRefusedRecipients => "too-many-refused-recipients",
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

impl Budget {
    /// The fault that ends the session, if this one was the last it had.
    pub(super) fn spend(&mut self, fault: Fault) -> Option<Fault> {
        let (count, max, last) = match fault {
            // What an honest sender with an old list, or with many recipients, runs into.
            Fault::RelayDenied => (
                &mut self.refused_recipients_count,
                limits::REFUSED_RECIPIENTS_COUNT_MAX,
                Fault::TooManyRefusedRecipients,
            ),
            Fault::TooManyRecipients | Fault::NoValidRecipients => return None,
            _ => (&mut self.faults_count, limits::FAULTS_COUNT_MAX, Fault::TooMany),
        };
        *count += 1;
        (*count >= max).then_some(last)
    }
}

fn of_malformed(malformed: Malformed) -> Reply {
    match malformed {
        Malformed::UnknownVerb => reply::UNKNOWN_COMMAND,
        Malformed::Syntax => reply::BAD_ARGUMENT,
        Malformed::NonAscii => reply::NON_ASCII,
        Malformed::NonAsciiPath => reply::NON_ASCII_MAILBOX,
        Malformed::HeloName => reply::BAD_HELO_NAME,
        Malformed::ReversePath => reply::BAD_SENDER_SYNTAX,
        Malformed::ForwardPath => reply::BAD_RECIPIENT_SYNTAX,
        Malformed::LocalPartTooLong(Side::Sender) => reply::SENDER_LOCAL_PART_TOO_LONG,
        Malformed::LocalPartTooLong(Side::Recipient) => reply::RECIPIENT_LOCAL_PART_TOO_LONG,
        Malformed::DomainTooLong(Side::Sender) => reply::SENDER_DOMAIN_TOO_LONG,
        Malformed::DomainTooLong(Side::Recipient) => reply::RECIPIENT_DOMAIN_TOO_LONG,
        Malformed::PathTooLong(Side::Sender) => reply::SENDER_PATH_TOO_LONG,
        Malformed::PathTooLong(Side::Recipient) => reply::RECIPIENT_PATH_TOO_LONG,
        Malformed::UnknownParam => reply::UNKNOWN_PARAMETER,
        Malformed::BadParam => reply::BAD_PARAMETER,
        Malformed::DuplicateParam => reply::DUPLICATE_PARAMETER,
        Malformed::UnsupportedBody => reply::UNSUPPORTED_BODY,
        Malformed::ArgumentMissing => reply::ARGUMENT_MISSING,
        Malformed::ArgumentUnexpected => reply::ARGUMENT_UNEXPECTED,
        Malformed::ControlOctet => reply::CONTROL_OCTET,
    }
}

fn name_of(malformed: Malformed) -> &'static str {
    match malformed {
        Malformed::UnknownVerb => "unknown-verb",
        Malformed::Syntax => "syntax",
        Malformed::NonAscii => "non-ascii",
        Malformed::NonAsciiPath => "non-ascii-path",
        Malformed::HeloName => "helo-name",
        Malformed::ReversePath => "reverse-path",
        Malformed::ForwardPath => "forward-path",
        Malformed::LocalPartTooLong(_) => "local-part-too-long",
        Malformed::DomainTooLong(_) => "domain-too-long",
        Malformed::PathTooLong(_) => "path-too-long",
        Malformed::UnknownParam => "unknown-parameter",
        Malformed::BadParam => "bad-parameter",
        Malformed::DuplicateParam => "duplicate-parameter",
        Malformed::UnsupportedBody => "unsupported-body",
        Malformed::ArgumentMissing => "argument-missing",
        Malformed::ArgumentUnexpected => "argument-unexpected",
        Malformed::ControlOctet => "control-octet",
    }
}
