//! What is queued or in flight.

use super::world::Place;
use crate::{AcceptMode, Errno, Fd, Token};

/// An operation and what belongs to it.
#[derive(Debug)]
pub(super) enum Kind {
    Accept(AcceptMode),
    Recv {
        attempted: bool,
    },
    Send {
        bytes: Vec<u8>,
        sent_len: usize,
        done_len: usize,
    },
    Close,
    Cancel(Token),
    CancelAll,
    Write {
        bytes: Vec<u8>,
        offset: u64,
        durable: bool,
    },
    Signal,
    /// With the count that was taken.
    AwaitSignal(u64),
}

impl Kind {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Accept(_) => "accept",
            Self::Recv { .. } => "recv",
            Self::Send { .. } => "send",
            Self::Close => "close",
            Self::Cancel(_) => "cancel",
            Self::CancelAll => "cancel_all",
            Self::Write { .. } => "write",
            Self::Signal => "signal",
            Self::AwaitSignal(_) => "await_signal",
        }
    }

    /// Operations that work on a description keep it alive; the others only look it up.
    pub(super) fn holds_description(&self) -> bool {
        !matches!(self, Self::Close | Self::Cancel(_) | Self::CancelAll)
    }

    /// The octets that go back to the caller at the end, as the kernel's ring gives back what it held.
    pub(super) fn into_held(self) -> Option<Vec<u8>> {
        match self {
            Self::Send { bytes, .. } | Self::Write { bytes, .. } => Some(bytes),
            Self::Signal => Some(1u64.to_ne_bytes().to_vec()),
            Self::AwaitSignal(count) => Some(count.to_ne_bytes().to_vec()),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cancelled {
    No,
    /// Ends at its next attempt.
    Now,
    /// Attempts once more, then ends.
    AfterAttempt,
}

/// An operation that has been submitted and has not ended.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) token: Token,
    pub(super) fd: Fd,
    pub(super) kind: Kind,
    /// Referred to until the end.
    pub(super) description: Option<usize>,
    /// Where in the list of events the next attempt is. When none, the operation waits for its description to change.
    pub(super) scheduled: Option<Place>,
    pub(super) cancelled: Cancelled,
    /// Decided at submission.
    pub(super) outcome: Option<Result<u32, Errno>>,
}
