//! Where a session stands.

use std::time::Duration;

use crate::session::Transaction;

/// ```text
/// Start ──EHLO/HELO──> Idle ──MAIL──> Mail ──DATA──> Body ──end-of-data──> Committing
///                       ^  ^           │ │RCPT                │refused        │ committed()
///                       │  └──RSET─────┘<┘                    │               │
///                       └─────────────────────────────────────┴───────────────┘
/// any ──QUIT, time-out, too many faults, stop──> Closing
/// ```
/// EHLO and HELO lead to `Idle` from every phase in which commands are read.
#[derive(Debug)]
pub(super) enum Phase {
    /// Greeted by us; no EHLO or HELO yet.
    Start,
    /// No transaction.
    Idle,
    /// Between MAIL and DATA.
    Mail(Box<Transaction>),
    /// Between 354 and end-of-data.
    Body(Box<Transaction>),
    /// The message is whole and waits to be durable; input stays unread. `ended_at`: when end-of-data came (monotonic).
    Committing { transaction: Box<Transaction>, ended_at: Duration },
    /// Over: what still comes in is ignored.
    Closing,
}

impl Phase {
    /// Moves the phase out; the session enters another one before it returns.
    pub(super) fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Closing)
    }

    pub(super) fn transaction(&self) -> Option<&Transaction> {
        match self {
            Self::Mail(transaction) | Self::Body(transaction) | Self::Committing { transaction, .. } => {
                Some(transaction)
            }
            Self::Start | Self::Idle | Self::Closing => None,
        }
    }

    pub(super) fn transaction_mut(&mut self) -> Option<&mut Transaction> {
        match self {
            Self::Mail(transaction) | Self::Body(transaction) | Self::Committing { transaction, .. } => {
                Some(transaction)
            }
            Self::Start | Self::Idle | Self::Closing => None,
        }
    }

    pub(super) fn into_transaction(self) -> Option<Box<Transaction>> {
        match self {
            Self::Mail(transaction) | Self::Body(transaction) | Self::Committing { transaction, .. } => {
                Some(transaction)
            }
            Self::Start | Self::Idle | Self::Closing => None,
        }
    }
}
