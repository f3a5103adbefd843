//! What can go wrong with a delivery, and with starting egress.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::relay::Reply;
use crate::protocol::deferral::{Action, Failure};

/// Why egress cannot start.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    #[error(
        "cannot set up io_uring for the delivery threads: {0}; allow it (sysctl kernel.io_uring_disabled=0, and \
         io_uring_setup in the seccomp profile of a container), raise the memory lock limit, or run Linux 6.1 or later"
    )]
    Ring(io::Error),
    #[error("cannot start a delivery thread: {0}; raise the limits of processes and open files")]
    Thread(io::Error),
    #[error("cannot write the events to {}: {source}; see `path` in [events]", path.display())]
    Events { path: PathBuf, source: io::Error },
}

/// A delivery that did not happen.
#[derive(Debug, thiserror::Error)]
pub(super) enum DeliveryError {
    #[error("cannot {action} {}: {source}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{0}")]
    Relay(RelayError),
}

/// What went wrong at a next hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RelayError {
    /// As the configuration names it; empty for what is wrong on our side.
    pub hop: String,
    pub problem: Problem,
}

/// An enhanced status code: RFC 3463.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Status(pub &'static str);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// It refused something.
    Said(&'static str, Reply),
    /// By HTTP: not with success, with this first line.
    Answered(u16, String),
    Unreachable(String),
    Lost(&'static str, String),
    TimedOut(&'static str, Duration),
    Tls(String),
    Garbled(String),
    /// It cannot take this message as it is.
    Lacks(String, Status),
    /// It failed just now, and is left alone for a while.
    Resting(String),
    /// It has as many messages as it may have, and takes too long.
    Busy,
    /// It has no place for the message now, and will have one.
    Full,
    /// Its content cannot be read from the spool.
    Spool(String),
}

impl Problem {
    pub(super) fn at(self, hop: &str) -> RelayError {
        RelayError { hop: hop.to_owned(), problem: self }
    }
}

impl fmt::Display for RelayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hop = &self.hop;
        match &self.problem {
            Problem::Said(what, reply) => write!(f, "{hop} refused {what}: {}", reply.text()),
            Problem::Answered(code, line) if line.is_empty() => write!(f, "{hop} answered {code}"),
            Problem::Answered(code, line) => write!(f, "{hop} answered {code}: {line}"),
            Problem::Unreachable(why) => write!(f, "cannot reach {hop}: {why}"),
            Problem::Lost(stage, why) => write!(f, "connection to {hop} lost at {stage}: {why}"),
            Problem::TimedOut(stage, time) => write!(f, "{hop} did not go on at {stage} within {time:?}"),
            Problem::Tls(why) => write!(f, "no TLS with {hop}: {why}"),
            Problem::Garbled(what) => write!(f, "{hop} sent {what}"),
            Problem::Lacks(what, _) => write!(f, "{hop} lacks {what}"),
            Problem::Resting(why) => write!(f, "not tried, because of this just before: {why}"),
            Problem::Busy => write!(f, "{hop} is slow, and has as many messages as it may have at once"),
            Problem::Full => write!(f, "{hop} has as many messages as it may have now"),
            Problem::Spool(why) => write!(f, "{why}"),
        }
    }
}

impl RelayError {
    /// Content that cannot be read: nothing that another attempt could not mend.
    pub(super) fn of_spool(error: &DeliveryError) -> Self {
        Problem::Spool(error.to_string()).at("")
    }

    /// Another attempt would end the same.
    pub(super) fn is_permanent(&self) -> bool {
        match &self.problem {
            // RFC 5321 §4.5.3.1.10: too many recipients, in the code of former times.
            Problem::Said("RCPT", Reply { code: 552, .. }) => false,
            Problem::Said("MAIL" | "RCPT" | "DATA" | "the message", reply) => reply.is_permanent(),
            Problem::Lacks(..) | Problem::Answered(406, _) => true,
            _ => false,
        }
    }

    /// Whether the hop itself is in trouble, so that other messages would fare the same.
    pub(super) fn is_of_hop(&self) -> bool {
        match &self.problem {
            Problem::Said(stage, _) => !matches!(*stage, "MAIL" | "RCPT" | "DATA" | "the message"),
            // 500 may be about this message alone.
            Problem::Answered(code, _) => {
                matches!(code, 300..=399 | 401 | 403..=405 | 429 | 501..)
            }
            Problem::Unreachable(_) | Problem::Tls(_) => true,
            Problem::Lost(stage, _) | Problem::TimedOut(stage, _) => *stage == "the greeting",
            Problem::Garbled(_) => false,
            Problem::Lacks(..) | Problem::Resting(_) | Problem::Busy | Problem::Full | Problem::Spool(_) => {
                false
            }
        }
    }

    fn status(&self) -> String {
        match &self.problem {
            Problem::Said(_, reply) => reply.status(),
            Problem::Lacks(_, Status(status)) => (*status).to_owned(),
            Problem::Answered(..) if self.is_permanent() => "5.0.0".to_owned(),
            Problem::Answered(..) => "4.0.0".to_owned(),
            Problem::Unreachable(_) | Problem::Resting(_) => "4.4.1".to_owned(),
            Problem::Lost(..) | Problem::TimedOut(..) | Problem::Busy | Problem::Full => "4.4.2".to_owned(),
            Problem::Tls(_) => "4.7.5".to_owned(),
            Problem::Garbled(_) => "4.5.0".to_owned(),
            Problem::Spool(_) => "4.3.0".to_owned(),
        }
    }
}

impl From<RelayError> for DeliveryError {
    fn from(error: RelayError) -> Self {
        Self::Relay(error)
    }
}

impl DeliveryError {
    /// The next hop was asked nothing, since it has no place now.
    pub(super) fn is_no_attempt(&self) -> bool {
        matches!(self, Self::Relay(RelayError { problem: Problem::Full, .. }))
    }

    /// For `map_err`: the error of doing `action` with `path`.
    pub(super) fn of(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { action, path: path.to_owned(), source }
    }

    pub(super) fn is_permanent(&self) -> bool {
        match self {
            Self::File { .. } => false,
            Self::Relay(error) => error.is_permanent(),
        }
    }

    /// As the sender is told. `is_expired`: it was tried for as long as its route has it tried.
    pub(super) fn failure(&self, is_expired: bool) -> Failure {
        let (status, remote, reason) = match self {
            // Where a mailbox is kept is not for strangers.
            Self::File { .. } => ("4.3.0".to_owned(), String::new(), "mailbox not available".to_owned()),
            Self::Relay(error) => match &error.problem {
                Problem::Said(_, reply) => (reply.status(), error.hop.clone(), reply.text()),
                // No server of mail has said it, and which one did is not for strangers.
                Problem::Answered(_, line) => {
                    let reason = if line.is_empty() { "not accepted" } else { line };
                    (error.status(), String::new(), reason.to_owned())
                }
                _ => (error.status(), error.hop.clone(), error.to_string()),
            },
        };
        // RFC 3463 §3.5: the last attempt's reason says why it never was delivered.
        let status = if is_expired && !self.is_permanent() { "5.4.7".to_owned() } else { status };
        Failure { action: Action::Failed, status, remote, reason }
    }

    /// As the sender is told while it is still tried: RFC 3464 §2.3.4 wants a status of class 4.
    pub(super) fn delay(&self) -> Failure {
        let failure = self.failure(false);
        let status = if failure.status.starts_with('4') { failure.status } else { "4.0.0".to_owned() };
        Failure { action: Action::Delayed, status, ..failure }
    }

    /// What an operator can do about it.
    pub(super) fn remedy(&self) -> &'static str {
        let source = match self {
            Self::File { source, .. } => source,
            Self::Relay(error) => return error.remedy(),
        };
        match source.kind() {
            io::ErrorKind::PermissionDenied => "give the server's user write permission there",
            io::ErrorKind::StorageFull => "make room on that file system",
            io::ErrorKind::QuotaExceeded => "raise the quota, or make room",
            io::ErrorKind::ReadOnlyFilesystem => "mount that file system for writing",
            io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
                "move away the file that stands there"
            }
            io::ErrorKind::InvalidFilename => "choose a shorter path in the route",
            _ => "see the kernel's log for the state of that file system",
        }
    }
}

impl RelayError {
    fn remedy(&self) -> &'static str {
        match &self.problem {
            Problem::Unreachable(_) | Problem::Resting(_) => {
                "see whether it runs, and `next_hop` of the route"
            }
            Problem::Tls(_) => "see its certificate, and `tls` and `authorities` of the route",
            Problem::Busy => "see why it is slow, or raise `connections_max` of the route",
            Problem::Full => "see `connections_max` and `message_rate` of the route",
            Problem::Lacks(..) => "the sender is told; a next hop that offers it would take the mail",
            Problem::Spool(_) => "see the state of the spool's file system",
            Problem::Answered(..) => "see the receiver's log, and `url` and `secret` of the route",
            Problem::Said(..) | Problem::Lost(..) | Problem::TimedOut(..) | Problem::Garbled(_) => {
                "see the next hop's log"
            }
        }
    }
}
