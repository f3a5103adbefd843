//! One record on its way: from the spool to its Maildirs, then to its acknowledgement.

use std::rc::Rc;
use std::sync::Arc;

use super::error::DeliveryError;
use super::maildir;
use super::plan::{Kept, MaildirCopy, Plan};
use crate::config::Config;
use crate::spool::ack::AckKind;
use crate::spool::record::{Record, RecordMeta};
use crate::store::Segment;

/// What is known of a record between two attempts: small, since thousands may wait.
#[derive(Debug)]
pub(super) struct Ticket {
    pub segment: Arc<Segment>,
    /// [`Record::offset_in_segment`].
    pub offset: u64,
    pub meta: RecordMeta,
    /// Attempts of which some delivery failed.
    pub failures_count: u32,
    /// The copies still to be delivered; `None` is all.
    pub pending: Option<Box<[usize]>>,
}

/// A record that is being delivered.
#[derive(Debug)]
pub(super) struct Job {
    pub ticket: Ticket,
    pub copies: Vec<Attempt>,
    pub kept: Option<Kept>,
    pub discards: bool,
    /// The content with LF line ends; empty where there is nothing to deliver, or no more.
    pub content: Vec<u8>,
}

/// One copy of the message and how it went.
#[derive(Debug)]
pub(super) struct Attempt {
    pub copy: MaildirCopy,
    pub octets: u64,
    /// Shared: one directory's failed sync fails all that went there.
    pub outcome: Result<(), Rc<DeliveryError>>,
}

impl Ticket {
    /// For a record that was never tried.
    pub(super) fn new(segment: &Arc<Segment>, record: &Record<'_>) -> Self {
        Self {
            segment: Arc::clone(segment),
            offset: record.offset_in_segment,
            meta: record.meta,
            failures_count: 0,
            pending: None,
        }
    }
}

impl Job {
    pub(super) fn new(ticket: Ticket, record: &Record<'_>, config: &Config) -> Self {
        let Plan { copies, kept, discards } = Plan::new(record.envelope, config, ticket.pending.as_deref());
        let mut content = Vec::new();
        if !copies.is_empty() {
            maildir::append_with_lf(record.content, &mut content);
        }
        let copies = copies.into_iter().map(|copy| Attempt { copy, octets: 0, outcome: Ok(()) }).collect();
        Self { ticket, copies, kept, discards, content }
    }

    /// Writes each copy into its `new`, one after the other; a failure does not keep the others from being delivered.
    pub(super) async fn deliver(mut self, hostname: &str) -> Self {
        let name = maildir::file_name(&self.ticket.meta, hostname);
        let mut bytes = std::mem::take(&mut self.content);
        let mut head_len = 0;
        for Attempt { copy, octets, outcome } in &mut self.copies {
            // The head of the copy before makes room for this one's.
            bytes.splice(..head_len, copy.head.iter().copied());
            head_len = copy.head.len();
            *octets = bytes.len() as u64;
            let delivered;
            (delivered, bytes) = maildir::deliver(&copy.directory, &name, bytes).await;
            *outcome = delivered.map_err(Rc::new);
        }
        self
    }

    /// How the record is to be acknowledged; `None` while something keeps it.
    pub(super) fn ack_kind(&self) -> Option<AckKind> {
        let failed = self.copies.iter().any(|attempt| attempt.outcome.is_err());
        // Copies of an earlier attempt were delivered, or the ticket would not be a retry's.
        let delivers = !self.copies.is_empty() || self.ticket.pending.is_some();
        match (&self.kept, failed) {
            (None, false) if delivers => Some(AckKind::Delivered),
            (None, false) => Some(AckKind::Discarded),
            _ => None,
        }
    }
}
