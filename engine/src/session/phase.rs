//! Where a session stands.

use std::time::Duration;

use crate::session::Transaction;

/// ```text
/// Proxy ──header──> Securing ──handshake──> Greeting ──greet delay over──> Start
/// Idle ──STARTTLS──> Securing ──handshake──> Start
/// Start ──EHLO/HELO──> Idle ──MAIL──> Mail ──DATA──> Body ──end-of-data──> Committing
///                       ^  ^           │ │RCPT     ^  │         │refused        │ committed()
///                       │  └──RSET─────┘<┘     BDAT│  │chunk    │               │
///                       │  └──RSET──────────────> Chunks        │               │
///                       └───────────────────────────────────────┴───────────────┘
/// Proxy, Greeting ──refused by a rule──> TurnedAway
/// Start, Idle, Mail ──fault beyond half a budget──> Tarpit ──time over──> where it was
/// any ──QUIT, time-out, too many faults, stop──> Closing
/// ```
/// What is not asked for is passed at once: `Proxy`, `Securing` ahead of the greeting, `Greeting` and `Tarpit` are
/// there only where they are configured.
/// EHLO and HELO lead to `Idle` from every phase in which commands are read.
#[derive(Debug)]
pub(super) enum Phase {
    /// A proxy has connected, and the header that says for whom has not come.
    Proxy,
    /// The client has connected; our greeting waits, to see whether it does too. `is_early`: it did not.
    Greeting { until: Duration, is_early: bool },
    /// Refused at the greeting: every command but QUIT is answered so (RFC 5321 §3.1).
    TurnedAway,
    /// The TLS handshake is under way: no octet is given to the session. `greet`: it is the first thing, our greeting
    /// comes behind it.
    Securing { until: Duration, greet: bool },
    /// Greeted by us; no EHLO or HELO yet.
    Start,
    /// No transaction.
    Idle,
    /// Between MAIL and DATA.
    Mail(Box<Transaction>),
    /// Between 354 and end-of-data, or within a chunk of BDAT.
    Body(Box<Transaction>),
    /// A client with too many faults is made to wait; input stays unread. `transaction`: of the phase `Mail`.
    Tarpit { until: Duration, transaction: Option<Box<Transaction>> },
    /// Between two chunks of BDAT.
    Chunks(Box<Transaction>),
    /// The message is whole and waits to be durable; input stays unread. `ended_at`: when end-of-data came (monotonic).
    Committing { transaction: Box<Transaction>, ended_at: Duration },
    /// Over: what still comes in is ignored. The word is for the log: what ended it.
    Closing(&'static str),
}

impl Phase {
    /// Moves the phase out; the session enters another one before it returns.
    pub(super) fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Closing(""))
    }

    pub(super) fn transaction(&self) -> Option<&Transaction> {
        match self {
            Self::Mail(transaction)
            | Self::Body(transaction)
            | Self::Chunks(transaction)
            | Self::Committing { transaction, .. } => Some(transaction),
            Self::Tarpit { transaction, .. } => transaction.as_deref(),
            Self::Proxy
            | Self::Securing { .. }
            | Self::Greeting { .. }
            | Self::TurnedAway
            | Self::Start
            | Self::Idle
            | Self::Closing(_) => None,
        }
    }

    pub(super) fn transaction_mut(&mut self) -> Option<&mut Transaction> {
        match self {
            Self::Mail(transaction)
            | Self::Body(transaction)
            | Self::Chunks(transaction)
            | Self::Committing { transaction, .. } => Some(transaction),
            Self::Tarpit { transaction, .. } => transaction.as_deref_mut(),
            Self::Proxy
            | Self::Securing { .. }
            | Self::Greeting { .. }
            | Self::TurnedAway
            | Self::Start
            | Self::Idle
            | Self::Closing(_) => None,
        }
    }

    pub(super) fn into_transaction(self) -> Option<Box<Transaction>> {
        match self {
            Self::Mail(transaction)
            | Self::Body(transaction)
            | Self::Chunks(transaction)
            | Self::Committing { transaction, .. } => Some(transaction),
            Self::Tarpit { transaction, .. } => transaction,
            Self::Proxy
            | Self::Securing { .. }
            | Self::Greeting { .. }
            | Self::TurnedAway
            | Self::Start
            | Self::Idle
            | Self::Closing(_) => None,
        }
    }
}
