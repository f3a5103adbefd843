//! One message on its way: from the spool to its Maildirs, then to its acknowledgement or to the deferred mail.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::error::DeliveryError;
use super::large::{LargeContent, PIECE_LEN};
use super::maildir;
use super::plan::{Kept, MaildirCopy, Plan};
use super::waiting::retry_wait;
use crate::config::Config;
use crate::protocol::deferral::Deferral;
use crate::spool::ack::AckKind;
use crate::spool::content_ref::ContentRef;
use crate::spool::index::Handle;
use crate::spool::record::{Record, RecordMeta};
use crate::store::Segment;

/// A record in its segment.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub segment: Arc<Segment>,
    pub offset: u64,
}

/// Where a message came from, and what becomes of it there.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// Its first attempt.
    Intake(Source),
    /// A later one. The records may move meanwhile: ask the index.
    Deferred(Handle),
}

/// What is known of a message that is being delivered.
#[derive(Debug)]
pub(super) struct Ticket {
    pub origin: Origin,
    pub meta: RecordMeta,
    /// Attempts so far, and when the first ended; `None` for a message never tried.
    pub deferral: Option<Deferral>,
}

/// A message that is being delivered.
#[derive(Debug)]
pub(super) struct Job {
    pub ticket: Ticket,
    pub copies: Vec<Attempt>,
    pub kept: Option<Kept>,
    /// What it was planned by: the routes of `copies` are its.
    pub config: Arc<Config>,
    kept_recipients: Vec<u16>,
    pub discards: bool,
    pub content: Content,
}

/// The content of a message that is being delivered.
#[derive(Debug)]
pub(super) enum Content {
    /// With LF line ends; empty where there is nothing to deliver, or no more.
    Inline(Vec<u8>),
    /// Read while it is delivered.
    File(LargeContent),
}

impl Content {
    /// Octets of memory.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Inline(content) => content.len(),
            Self::File(_) => PIECE_LEN,
        }
    }
}

/// One copy of the message and how it went.
#[derive(Debug)]
pub(super) struct Attempt {
    pub copy: MaildirCopy,
    pub octets: u64,
    /// Shared: one directory's failed sync fails all that went there.
    pub outcome: Result<(), Rc<DeliveryError>>,
}

/// What is to become of a message's record after an attempt.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It is done with.
    Settled(AckKind),
    /// Some recipients are left.
    Deferred(Change),
    /// Nothing has changed for a message that is held.
    Held,
}

/// What an attempt has changed in a message's envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// Positions of the recipients that are left, ascending; `None` is all: of an envelope that cannot be read, too.
    pub stays: Option<Vec<u16>>,
    pub since_unix_us: u64,
    /// `None` where no attempt is to follow before the next start.
    pub due_unix_us: Option<u64>,
    pub attempts: u32,
    pub last_error: String,
}

impl Ticket {
    /// For a record of the intake, which was never tried.
    pub(super) fn fresh(segment: &Arc<Segment>, record: &Record<'_>) -> Self {
        let source = Source { segment: Arc::clone(segment), offset: record.offset_in_segment };
        Self { origin: Origin::Intake(source), meta: record.meta, deferral: None }
    }

    pub(super) fn is_retry(&self) -> bool {
        matches!(self.origin, Origin::Deferred(_))
    }

    pub(super) fn attempts(&self) -> u32 {
        self.deferral.as_ref().map_or(0, |deferral| deferral.attempts)
    }
}

impl Job {
    /// `envelope` is the present one, which may not be the record's. `directory`: of the shard, where content is that
    /// has a file of its own.
    pub(super) fn new(
        ticket: Ticket,
        envelope: &[u8],
        record: &Record<'_>,
        config: &Arc<Config>,
        directory: &Arc<Path>,
    ) -> Self {
        let Plan { copies, kept, kept_recipients, discards } = Plan::new(envelope, config);
        let content = match ContentRef::of(record) {
            Some(content) => Content::File(LargeContent { directory: Arc::clone(directory), content }),
            None => {
                let mut with_lf = Vec::new();
                if !copies.is_empty() {
                    maildir::append_with_lf(record.content, &mut with_lf);
                }
                Content::Inline(with_lf)
            }
        };
        let copies = copies.into_iter().map(|copy| Attempt { copy, octets: 0, outcome: Ok(()) }).collect();
        Self { ticket, copies, kept, config: Arc::clone(config), kept_recipients, discards, content }
    }

    /// The number of the file that holds its content, if one does.
    pub(super) fn content_file(&self) -> Option<u32> {
        match &self.content {
            Content::Inline(_) => None,
            Content::File(content) => Some(content.content.number),
        }
    }

    /// Writes each copy into its `new`, one after the other; a failure does not keep the others from being delivered.
    pub(super) async fn deliver(mut self) -> Self {
        let name = maildir::file_name(&self.ticket.meta, &self.config.hostname);
        let mut bytes = match &mut self.content {
            Content::Inline(bytes) => std::mem::take(bytes),
            Content::File(content) => {
                for Attempt { copy, octets, outcome } in &mut self.copies {
                    let delivered = maildir::deliver_large(&copy.directory, &name, &copy.head, content).await;
                    *outcome = delivered.map(|len| *octets = len).map_err(Rc::new);
                }
                return self;
            }
        };
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

    /// The copies that were not delivered, with the reasons.
    pub(super) fn failures(&self) -> impl Iterator<Item = (&MaildirCopy, &DeliveryError)> + Clone {
        self.copies.iter().filter_map(|attempt| Some((&attempt.copy, &**attempt.outcome.as_ref().err()?)))
    }

    /// The wait before the next attempt; `None` where none is to follow.
    pub(super) fn wait(&self) -> Option<Duration> {
        let (routes, failures_count) = (&self.config.routes, self.ticket.attempts() + 1);
        let wait_of = |route_index: usize| {
            retry_wait(routes.get(route_index).map_or(&[], |route| &route.retry), failures_count)
        };
        self.failures().map(|(copy, _)| wait_of(copy.route_index)).min()
    }

    pub(super) fn verdict(&self, now_unix_us: u64) -> Verdict {
        let wait = self.wait();
        if wait.is_none() && self.kept.is_none() {
            // Copies of an earlier attempt were delivered, or failed: what is tried again is not discarded.
            let delivers = !self.copies.is_empty() || self.ticket.is_retry();
            return Verdict::Settled(if delivers { AckKind::Delivered } else { AckKind::Discarded });
        }
        let before = self.ticket.deferral.as_ref();
        let is_held_already = before.is_some_and(|before| before.due_unix_us.is_none());
        if wait.is_none() && is_held_already && self.copies.is_empty() && !self.discards {
            return Verdict::Held;
        }
        let failed = self.failures();
        let stays = (self.kept_recipients.iter().copied())
            .chain(failed.clone().flat_map(|(copy, _)| copy.recipients.iter().copied()));
        let mut stays: Vec<u16> = stays.collect();
        stays.sort_unstable();
        let due_unix_us =
            wait.map(|wait| now_unix_us.saturating_add(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX)));
        Verdict::Deferred(Change {
            stays: Some(stays).filter(|stays| !stays.is_empty()),
            since_unix_us: before.map_or(now_unix_us, |before| before.since_unix_us),
            due_unix_us,
            attempts: self.ticket.attempts() + u32::from(wait.is_some()),
            last_error: match (self.failures().next(), before) {
                (Some((_, error)), _) => error.to_string(),
                (None, Some(before)) => before.last_error.clone(),
                (None, None) => String::new(),
            },
        })
    }
}
