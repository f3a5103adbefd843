//! One connection of a fleet, and what a fleet is told.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::client::{Client, Pipelining};
use crate::ledger::Ledger;
use crate::pace::Pace;
use crate::secure::Terms;
use crate::workload::Workload;

/// What a fleet is to do.
#[derive(Debug)]
pub struct Orders {
    pub run: u64,
    /// Number of the first connection, which tokens carry.
    pub first_connection: u32,
    pub connections_count: u32,
    pub pipelining: Pipelining,
    /// Where connections come from, in turn; empty: as the kernel chooses.
    pub sources: Vec<IpAddr>,
    /// None: in clear.
    pub tls: Option<Terms>,
    /// Messages after which a connection says goodbye and is opened anew.
    pub messages_per_connection: Option<u64>,
    pub reply_timeout: Duration,
    pub workload: Arc<Workload>,
    pub pace: Pace,
    pub ledger: Option<Ledger>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Vacant,
    Queued,
    Opening,
    Open,
    Closing,
    Retrying,
    Done,
}

#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) client: Client,
    pub(crate) link: Link,
    /// An arrival that waits for this connection to be opened: when it was due, if that is known.
    pub(crate) claimed: Option<Option<u64>>,
    /// Number of the next message.
    pub(crate) number: u64,
    /// Messages begun on the present connection.
    pub(crate) messages_count: u64,
    /// Connections in a row that ended neither in order nor after an accepted message.
    pub(crate) failures_in_a_row: u32,
    /// In the fleet's `idle`, perhaps no longer rightly.
    pub(crate) in_idle: bool,
    /// The handshake behind STARTTLS is due.
    pub(crate) starts_tls: bool,
    /// In the fleet's `sending`.
    pub(crate) in_sending: bool,
}

impl Slot {
    pub(crate) fn new(pipelining: Pipelining, wants_starttls: bool) -> Self {
        Self {
            client: Client::new(pipelining, wants_starttls),
            link: Link::Vacant,
            claimed: None,
            number: 0,
            messages_count: 0,
            failures_in_a_row: 0,
            starts_tls: false,
            in_idle: false,
            in_sending: false,
        }
    }
}
