//! Why a session says no: faults of the client and errors of ours, and the only place where a cause becomes a reply.

use crate::policy::clients::{Amount, Limit};
use crate::policy::recipient::NotOurs;
use crate::protocol::command::{Malformed, Side};
use crate::protocol::reply::{self, Reply};
use crate::session::SessionLimits;

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
    /// EXPN, and what no reply to EHLO announced: AUTH, STARTTLS where there is none, and BDAT where CHUNKING is
    /// switched off.
    NotOffered,
    /// MAIL, RCPT or DATA between the chunks of BDAT.
    ChunkExpected,
    ChunkEndless,
    DeclaredTooLarge,
    ContentTooLarge,
    RelayDenied,
    /// The domain is served, the mailbox is not there.
    NoMailbox,
    /// A command of a client that was refused at its greeting.
    TurnedAway,
    TooManyRecipients,
    EndOfDataLookalike,
    BareNewlineInContent,
    Loop,
    TimedOut,
    /// The time for all of the content is over.
    ContentTooLong,
    TooMany,
    TooManyRefusedRecipients,
    TooManyCommands,
    TooManyTransactions,
    TooManyRecipientsInSession,
    TooManyOctets,
    /// Something came before the reply that it had to wait for.
    EarlyTalker,
    /// STARTTLS under TLS.
    AlreadySecure,
    /// MAIL in clear where TLS is required.
    NotSecure,
    /// Commands, or what else, in clear behind STARTTLS.
    ClearBehindStartTls,
    /// What the client, or its network, does at a time or in a time.
    Limit(Limit),
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
    /// As many handshakes are under way as the worker takes.
    TlsBusy,
    /// This worker's part of the spool has stopped after a failed write: no use in a session.
    SpoolStopped,
}

impl From<NotOurs> for Fault {
    fn from(why: NotOurs) -> Self {
        match why {
            NotOurs::Domain => Self::RelayDenied,
            NotOurs::Mailbox => Self::NoMailbox,
        }
    }
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
            Fault::ChunkExpected => reply::EXPECTED_BDAT,
            Fault::ChunkEndless => reply::ENDLESS_CHUNK,
            Fault::DeclaredTooLarge | Fault::ContentTooLarge => reply::TOO_LARGE,
            Fault::RelayDenied => reply::RELAY_DENIED,
            Fault::NoMailbox => reply::NO_MAILBOX,
            Fault::TurnedAway => reply::TURNED_AWAY,
            Fault::TooManyRecipients => reply::TOO_MANY_RECIPIENTS,
            Fault::EndOfDataLookalike => reply::END_OF_DATA_LOOKALIKE,
            Fault::BareNewlineInContent => reply::BARE_NEWLINE_IN_CONTENT,
            Fault::Loop => reply::LOOP,
            Fault::TimedOut => reply::TIMED_OUT,
            Fault::ContentTooLong => reply::CONTENT_TOO_LONG,
            Fault::TooManyCommands => reply::TOO_MANY_COMMANDS,
            Fault::TooManyTransactions => reply::TOO_MANY_TRANSACTIONS,
            Fault::TooManyRecipientsInSession => reply::TOO_MANY_RECIPIENTS_IN_SESSION,
            Fault::TooManyOctets => reply::TOO_MANY_OCTETS,
            Fault::EarlyTalker => reply::EARLY_TALKER,
            Fault::AlreadySecure => reply::TLS_ACTIVE,
            Fault::NotSecure => reply::TLS_REQUIRED,
            Fault::ClearBehindStartTls => reply::CLEAR_BEHIND_STARTTLS,
            Fault::Limit(limit) => of_limit(limit),
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
            Error::TlsBusy => reply::TLS_BUSY,
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
            Self::ChunkExpected => "chunk-expected",
            Self::ChunkEndless => "chunk-endless",
            Self::DeclaredTooLarge => "declared-too-large",
            Self::ContentTooLarge => "content-too-large",
            Self::RelayDenied => "relay-denied",
            Self::NoMailbox => "no-mailbox",
            Self::TurnedAway => "turned-away",
            Self::TooManyRecipients => "too-many-recipients",
            Self::EndOfDataLookalike => "end-of-data-lookalike",
            Self::BareNewlineInContent => "bare-newline-in-content",
            Self::Loop => "loop",
            Self::TimedOut => "timed-out",
            Self::ContentTooLong => "content-too-long",
            Self::TooManyCommands => "too-many-commands",
            Self::TooManyTransactions => "too-many-transactions",
            Self::TooManyRecipientsInSession => "too-many-recipients-in-session",
            Self::TooManyOctets => "too-many-octets",
            Self::EarlyTalker => "early-talker",
            Self::AlreadySecure => "already-secure",
            Self::NotSecure => "not-secure",
            Self::ClearBehindStartTls => "clear-behind-starttls",
            Self::Limit(limit) => limit.name(),
            Self::TooMany => "too-many-faults",
            Self::TooManyRefusedRecipients => "too-many-refused-recipients",
        }
    }
}

impl Fault {
    /// Against the protocol, rather than what an honest sender with an old list or with many recipients runs into.
    pub(super) fn is_misconduct(self) -> bool {
        !self.is_refused_recipient() && !matches!(self, Self::TooManyRecipients | Self::NoValidRecipients)
    }

    fn is_refused_recipient(self) -> bool {
        matches!(self, Self::RelayDenied | Self::NoMailbox)
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
            Self::TlsBusy => "tls-busy",
            Self::SpoolStopped => "spool-stopped",
        }
    }
}

/// What a session has spent of its patience since its last accepted message.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Budget {
    faults_count: u16,
    refused_recipients_count: u16,
    commands_count: u32,
}

impl Budget {
    /// The fault that ends the session, if this one was the last it had.
    pub(super) fn spend(&mut self, fault: Fault, limits: &SessionLimits) -> Option<Fault> {
        let (count, max, last) = if fault.is_misconduct() {
            (&mut self.faults_count, limits.faults_max, Fault::TooMany)
        } else if fault.is_refused_recipient() {
            (
                &mut self.refused_recipients_count,
                limits.refused_recipients_max,
                Fault::TooManyRefusedRecipients,
            )
        } else {
            return None;
        };
        *count += 1;
        (*count >= max).then_some(last)
    }

    /// Counts a command; whether it is one too many.
    pub(super) fn spend_command(&mut self, limits: &SessionLimits) -> bool {
        self.commands_count = self.commands_count.saturating_add(1);
        self.commands_count > limits.commands_max
    }

    /// Whether a client that goes on like this is soon at its end.
    pub(super) fn is_half_spent(&self, limits: &SessionLimits) -> bool {
        self.faults_count > limits.faults_max / 2
            || self.refused_recipients_count > limits.refused_recipients_max / 2
    }
}

fn of_limit(limit: Limit) -> Reply {
    match limit {
        Limit::Open(_) => reply::CLIENT_CONNECTIONS,
        Limit::Rate(_, Amount::Connections) => reply::CLIENT_CONNECTION_RATE,
        Limit::Rate(_, Amount::Transactions) => reply::CLIENT_TRANSACTION_RATE,
        Limit::Rate(_, Amount::Recipients) => reply::CLIENT_RECIPIENT_RATE,
        Limit::Rate(_, Amount::Faults) => reply::CLIENT_FAULT_RATE,
        Limit::Rate(_, Amount::Octets) => reply::CLIENT_SIZE_RATE,
        Limit::Rate(_, Amount::Commands) => reply::CLIENT_COMMAND_RATE,
    }
}

fn of_malformed(malformed: Malformed) -> Reply {
    match malformed {
        Malformed::UnknownVerb => reply::UNKNOWN_COMMAND,
        Malformed::Syntax => reply::BAD_ARGUMENT,
        Malformed::NonAscii => reply::NON_ASCII,
        Malformed::NonAsciiPath(Side::Sender) => reply::NON_ASCII_SENDER,
        Malformed::NonAsciiPath(Side::Recipient) => reply::NON_ASCII_RECIPIENT,
        Malformed::NotUtf8 => reply::NOT_UTF8,
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
        Malformed::Chunk => reply::BAD_CHUNK,
    }
}

fn name_of(malformed: Malformed) -> &'static str {
    match malformed {
        Malformed::UnknownVerb => "unknown-verb",
        Malformed::Syntax => "syntax",
        Malformed::NonAscii => "non-ascii",
        Malformed::NonAsciiPath(_) => "non-ascii-path",
        Malformed::NotUtf8 => "not-utf8",
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
        Malformed::Chunk => "bad-chunk",
    }
}
