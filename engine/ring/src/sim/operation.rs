//! What is queued or in flight.

use super::world::Place;
use crate::doorbell::{RING, RINGS_LEN};
use crate::{AcceptMode, BlockBuffer, Errno, Fd, Payload, Token};

/// An operation and what belongs to it.
#[derive(Debug)]
pub(super) enum Kind {
    Accept(AcceptMode),
    Recv {
        attempted: bool,
        /// Over with its first completion.
        once: bool,
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
        bytes: BlockBuffer,
        offset: u64,
        durable: bool,
    },
    /// Of all that was written to the file before this number ([`File::writes_count`](super::disk::File)).
    Sync {
        before: u64,
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
            Self::Sync { .. } => "sync",
            Self::Signal => "signal",
            Self::AwaitSignal(_) => "await_signal",
        }
    }

    /// Operations that work on a description keep it alive; the others only look it up.
    pub(super) fn holds_description(&self) -> bool {
        !matches!(self, Self::Close | Self::Cancel(_) | Self::CancelAll)
    }

    /// Writes and syncs go to a worker thread of the kernel, and once begun they go on to their end.
    pub(super) fn is_of_disk(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::Sync { .. })
    }

    /// What goes back to the caller at the end, as the kernel's ring gives back what it held.
    pub(super) fn into_payload(self) -> Payload {
        match self {
            Self::Send { bytes, .. } => Payload::Returned(bytes),
            Self::Write { bytes, .. } => Payload::Written(bytes),
            Self::AwaitSignal(count) => {
                let mut rings = RING.repeat(count as usize);
                rings.resize(RINGS_LEN, 0);
                Payload::Returned(rings)
            }
            _ => Payload::None,
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
