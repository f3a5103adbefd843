//! One message on its way: from the spool to its Maildirs and next hops, then to its acknowledgement or to the deferred
//! mail.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::error::{DeliveryError, Problem};
use super::flush::unix_us;
use super::large::{LargeContent, PIECE_LEN};
use super::maildir;
use super::notice::FailedRecipient;
use super::orders::Verb;
use super::plan::{Copy, Kept, Plan, Way};
use super::relay::{Body, Delivered, Hop, Hops, Place, Sent};
use super::waiting::retry_wait;
use crate::config::{Config, RelayProtocol};
use crate::protocol::deferral::{Action, Deferral, Failure, Mark};
use crate::spool::ack::AckKind;
use crate::spool::content_ref::ContentRef;
use crate::spool::index::Handle;
use crate::spool::record::{Record, RecordMeta};
use crate::store::Segment;

/// Before another look at a message that was put off.
const PUT_OFF_INTERVAL: Duration = Duration::from_secs(1);

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
    pub discards: bool,
    pub content: Content,
    /// Of the content as it is stored.
    pub octets: u64,
    /// Some recipient's sender wants to know of its delivery.
    pub wants_notice: bool,
    /// Recipients whose delivery has ended and whose sender is to be told, of this attempt and of former ones.
    pub failed: Vec<Failed>,
    pub(super) kept_recipients: Vec<u16>,
    /// What an operator has said of it.
    mark: Mark,
    /// The sender knows that it takes long.
    pub(super) delay_told: bool,
    /// By an operator.
    pub(super) is_removed: bool,
    /// Not tried, since a next hop of it has too much to do: no attempt, and soon another.
    is_put_off: bool,
    /// The present one, which may not be the record's.
    pub envelope: Box<[u8]>,
    /// At its next hops, while it is being delivered.
    places: Vec<Place>,
}

/// The content of a message that is being delivered.
#[derive(Debug)]
pub(super) enum Content {
    /// Both are empty where nobody needs them.
    Inline {
        /// With LF line ends, for Maildirs.
        with_lf: Vec<u8>,
        /// As it is stored, with CR LF, for next hops.
        stored: Rc<[u8]>,
    },
    /// Read while it is delivered.
    File(LargeContent),
}

/// What came of a copy for one recipient: what the next hop said to it; or why not. Shared, because what fails often
/// fails for all.
pub(super) type Outcome = Result<Rc<str>, Rc<DeliveryError>>;

/// One copy of the message and how it went.
#[derive(Debug)]
pub(super) struct Attempt {
    pub copy: Copy,
    pub octets: u64,
    /// One for each recipient of the copy, in order; empty before it was tried.
    pub outcomes: Vec<Outcome>,
    /// How the connection was protected.
    pub tls: Option<String>,
    /// Which one of its next hops has taken it.
    pub next_hop: Option<String>,
    /// The next hop tells the sender of its delivery (RFC 3461 §5.2.1).
    pub is_told_by_hop: bool,
    /// It went to its next hop with others.
    pub is_grouped: bool,
    /// It was tried for as long as its route has it tried: what fails now has failed for good.
    pub is_expired: bool,
}

/// A recipient whose delivery has ended, and whose sender is to be told: mostly, it has failed for good.
#[derive(Debug)]
pub(super) struct Failed {
    /// In the envelope.
    pub position: u16,
    pub recipient: FailedRecipient,
    /// In this attempt: the envelope does not say so yet.
    pub is_new: bool,
    pub told: Told,
}

/// Whether the sender knows.
#[derive(Debug)]
pub(super) enum Told {
    Sender,
    /// And why not.
    Nobody(&'static str),
    /// The notice is to be tried again.
    NotYet(Rc<DeliveryError>),
    /// There is no way to tell it.
    Held,
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
    /// Of those the ones whose delivery has failed for good.
    pub failed: Vec<(u16, Failure)>,
    pub since_unix_us: u64,
    /// `None` where no attempt is to follow before the next start.
    pub due_unix_us: Option<u64>,
    pub attempts: u32,
    pub last_error: String,
    pub mark: Mark,
    pub delay_told: bool,
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

    /// Since the first attempt. What was only held was never tried.
    pub(super) fn tried_for(&self) -> Duration {
        let tried = self.deferral.as_ref().filter(|deferral| deferral.attempts > 0);
        let since = |deferral: &Deferral| unix_us().saturating_sub(deferral.since_unix_us);
        tried.map_or(Duration::ZERO, |deferral| Duration::from_micros(since(deferral)))
    }

    pub(super) fn attempts(&self) -> u32 {
        self.deferral.as_ref().map_or(0, |deferral| deferral.attempts)
    }
}

impl Content {
    /// Octets of memory.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Inline { with_lf, stored } => with_lf.len() + stored.len(),
            Self::File(_) => PIECE_LEN,
        }
    }

    /// For a next hop.
    fn body(&self) -> Body<'_> {
        match self {
            Self::Inline { stored, .. } => Body::Memory(stored),
            Self::File(content) => Body::File(content),
        }
    }
}

impl Attempt {
    /// The same for all recipients.
    pub(super) fn set(&mut self, outcome: &Outcome) {
        self.outcomes = vec![outcome.clone(); self.copy.recipients.len()];
    }

    /// What was written is not durable. It is tried again even where its time is over: by now nobody will be told of a
    /// failure, so that none may count as final.
    fn take_back(&mut self, error: &Rc<DeliveryError>) {
        self.is_expired = false;
        self.set(&Err(Rc::clone(error)));
    }

    pub(super) fn delivered_count(&self) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.is_ok()).count()
    }

    pub(super) fn has_failures(&self) -> bool {
        self.outcomes.iter().any(Result::is_err)
    }

    /// Each recipient that was not delivered: its position in the envelope, why, and whether that is final.
    fn errors(&self) -> impl Iterator<Item = (u16, &DeliveryError, bool)> + Clone {
        let outcomes = self.copy.recipients.iter().zip(&self.outcomes);
        outcomes.filter_map(|(&position, outcome)| {
            let error = outcome.as_ref().err()?;
            Some((position, &**error, self.is_expired || error.is_permanent()))
        })
    }

    /// Each recipient that was delivered, as its sender is told.
    pub(super) fn delivered(&self) -> impl Iterator<Item = (u16, Failure)> {
        let outcomes = self.copy.recipients.iter().zip(&self.outcomes);
        outcomes.filter_map(|(&position, outcome)| {
            let reply = outcome.as_ref().ok()?.to_string();
            let (action, remote) = match &self.copy.way {
                Way::Relay { hop, .. } if hop.relay().protocol == RelayProtocol::Smtp => {
                    (Action::Relayed, hop.name())
                }
                Way::Relay { hop, .. } => (Action::Delivered, hop.name()),
                Way::Maildir { .. } => (Action::Delivered, String::new()),
            };
            Some((position, Failure { action, status: "2.0.0".to_owned(), remote, reason: reply }))
        })
    }

    /// Those that are to be tried again.
    pub(super) fn transient(&self) -> impl Iterator<Item = (u16, &DeliveryError)> + Clone {
        self.errors().filter(|(.., is_final)| !is_final).map(|(position, error, _)| (position, error))
    }

    /// Those that are not.
    pub(super) fn permanent(&self) -> impl Iterator<Item = (u16, &DeliveryError)> {
        self.errors().filter(|(.., is_final)| *is_final).map(|(position, error, _)| (position, error))
    }
}

impl Told {
    /// The recipient stays in the envelope.
    fn is_open(&self) -> bool {
        matches!(self, Self::NotYet(_) | Self::Held)
    }
}

impl Job {
    /// `envelope` is the present one. `directory`: of the shard, where content is that has a file of its own.
    pub(super) fn new(
        ticket: Ticket,
        envelope: &[u8],
        record: &Record<'_>,
        config: &Arc<Config>,
        hops: &Hops,
        directory: &Arc<Path>,
        order: Option<Verb>,
    ) -> Box<Self> {
        let Deferral { mark: before, delay_told, .. } = ticket.deferral.clone().unwrap_or_default();
        let mark = order.map_or(before, |verb| verb.mark(before));
        let Plan { mut copies, failed, kept, kept_recipients, discards, wants_notice } =
            Plan::new(envelope, config, hops, mark);
        for copy in &mut copies {
            if let Way::Relay { letter, .. } = &mut copy.way {
                Rc::make_mut(letter).id = ticket.meta.id;
            }
        }
        let has_maildirs = copies.iter().any(|copy| matches!(copy.way, Way::Maildir { .. }));
        let has_relays = copies.iter().any(|copy| matches!(copy.way, Way::Relay { .. }));
        let content = match ContentRef::of(record) {
            Some(content) => Content::File(LargeContent { directory: Arc::clone(directory), content }),
            None => {
                let mut with_lf = Vec::new();
                if has_maildirs {
                    maildir::append_with_lf(record.content, &mut with_lf);
                }
                // A notice returns its beginning.
                let is_wanted = has_relays || wants_notice || !failed.is_empty() || ticket.is_retry();
                let stored = Rc::from(if is_wanted { record.content } else { &[] });
                Content::Inline { with_lf, stored }
            }
        };
        let tried = ticket.tried_for();
        let attempt = |copy: Copy| Attempt {
            is_expired: config.routes.get(copy.route_index).is_some_and(|route| tried >= route.lifetime),
            copy,
            octets: 0,
            outcomes: Vec::new(),
            tls: None,
            next_hop: None,
            is_told_by_hop: false,
            is_grouped: false,
        };
        let known = |(position, recipient)| Failed { position, recipient, is_new: false, told: Told::Held };
        let mut job = Box::new(Self {
            ticket,
            copies: copies.into_iter().map(attempt).collect(),
            kept,
            config: Arc::clone(config),
            discards,
            wants_notice,
            octets: ContentRef::of(record).map_or(record.content.len() as u64, |content| content.len),
            content,
            failed: failed.into_iter().map(known).collect(),
            kept_recipients,
            mark,
            delay_told,
            is_removed: false,
            is_put_off: false,
            envelope: envelope.into(),
            places: Vec::new(),
        });
        if let Some(verb) = order {
            job.obey(verb);
        }
        job
    }

    /// Tries the copies again of which `why` says that they are not durable. Their recipients have not been delivered,
    /// whatever the sender was told or is to be told.
    pub(super) fn take_back<'a>(&mut self, why: impl Fn(&Attempt) -> Option<&'a Rc<DeliveryError>>) {
        for attempt in &mut self.copies {
            let Some(error) = why(attempt) else { continue };
            attempt.take_back(error);
            let is_of = |failed: &Failed| attempt.copy.recipients.contains(&failed.position);
            self.failed.retain(|failed| !is_of(failed));
        }
    }

    /// The number of the file that holds its content, if one does.
    pub(super) fn content_file(&self) -> Option<u32> {
        match &self.content {
            Content::Inline { .. } => None,
            Content::File(content) => Some(content.content.number),
        }
    }

    /// Nothing of it needs to be carried anywhere.
    pub(super) fn is_idle(&self) -> bool {
        self.copies.is_empty() && self.failed.is_empty()
    }

    /// The next hops that it goes to.
    pub(super) fn hops(&self) -> impl Iterator<Item = &Rc<Hop>> {
        self.copies.iter().filter_map(|attempt| match &attempt.copy.way {
            Way::Relay { hop, .. } => Some(hop),
            Way::Maildir { .. } => None,
        })
    }

    /// The first next hop of it that has no place for it now, and will have one.
    pub(super) fn full_hop(&self) -> Option<Rc<Hop>> {
        self.hops().find(|hop| hop.is_full()).cloned()
    }

    /// Leaves all of it to a later time, since this next hop of it has no place for it.
    pub(super) fn put_off(&mut self, full: &Hop) {
        let busy: DeliveryError = Problem::Full.at(&full.name()).into();
        let outcome = Err(Rc::new(busy));
        self.is_put_off = true;
        self.copies.iter_mut().for_each(|attempt| attempt.set(&outcome));
    }

    pub(super) fn take_places(&mut self) {
        self.places = self.hops().map(|hop| Place::take(Rc::clone(hop))).collect();
    }

    /// Makes each copy, one after the other; a failure does not keep the others from being delivered. Then tells the
    /// sender of those that have failed for good.
    pub(super) async fn deliver(mut self: Box<Self>, hops: Rc<Hops>) -> Box<Self> {
        self.deliver_to_maildirs().await;
        self.relay().await;
        self.places.clear();
        let is_no_attempt = |(_, error): (&Copy, &DeliveryError)| error.is_no_attempt();
        self.is_put_off = self.failures().next().is_some() && self.failures().all(is_no_attempt);
        self.tell_sender(&hops).await;
        self
    }

    /// Each into its `new`.
    async fn deliver_to_maildirs(&mut self) {
        let mut name = None;
        let mut bytes = match &mut self.content {
            Content::Inline { with_lf, .. } => std::mem::take(with_lf),
            Content::File(_) => Vec::new(),
        };
        let mut head_len = 0;
        for attempt in &mut self.copies {
            let Way::Maildir { directory, head } = &attempt.copy.way else { continue };
            let new_name = || maildir::file_name(&self.ticket.meta, &self.config.hostname);
            let name = &*name.get_or_insert_with(new_name);
            let delivered = match &self.content {
                Content::File(content) => {
                    Box::pin(maildir::deliver_large(directory, name, head, content)).await
                }
                Content::Inline { .. } => {
                    // The head of the copy before makes room for this one's.
                    bytes.splice(..head_len, head.iter().copied());
                    head_len = head.len();
                    let len = bytes.len() as u64;
                    let delivered;
                    (delivered, bytes) = maildir::deliver(directory, name, bytes).await;
                    delivered.map(|()| len)
                }
            };
            attempt.octets = delivered.as_ref().copied().unwrap_or(0);
            attempt.set(&delivered.map(|_| Rc::from("")).map_err(Rc::new));
        }
    }

    /// Each to its next hop.
    async fn relay(&mut self) {
        let body = self.content.body();
        for attempt in &mut self.copies {
            let Way::Relay { hop, letter } = &attempt.copy.way else { continue };
            let delivered = hop.deliver(letter, body, &self.config.hostname).await;
            let Delivered { sent, tls, next_hop, dsn, is_grouped } = delivered;
            let outcome = |sent: Sent| sent.map(Rc::from).map_err(|error| Rc::new(error.into()));
            attempt.outcomes = sent.into_iter().map(outcome).collect();
            attempt.octets = body.len();
            (attempt.tls, attempt.next_hop) = (tls, next_hop);
            (attempt.is_told_by_hop, attempt.is_grouped) = (dsn, is_grouped);
        }
    }

    /// The copies of which a recipient is to be tried again, with the first reason.
    pub(super) fn failures(&self) -> impl Iterator<Item = (&Copy, &DeliveryError)> + Clone {
        self.copies.iter().filter_map(|attempt| Some((&attempt.copy, attempt.transient().next()?.1)))
    }

    /// The wait before the next attempt; `None` where none is to follow.
    pub(super) fn wait(&self) -> Option<Duration> {
        if self.is_put_off {
            return Some(PUT_OFF_INTERVAL);
        }
        let (routes, failures_count) = (&self.config.routes, self.ticket.attempts() + 1);
        let wait_of = |route_index: usize| {
            retry_wait(routes.get(route_index).map_or(&[], |route| &route.retry), failures_count)
        };
        let waits = self.failures().map(|(copy, _)| wait_of(copy.route_index));
        let is_untold = self.failed.iter().any(|failed| matches!(failed.told, Told::NotYet(_)));
        let bounce = self.config.bounce.as_ref().filter(|_| is_untold);
        waits.chain(bounce.map(|bounce| retry_wait(&bounce.retry, failures_count))).min()
    }

    /// It was left to a later time; nothing was tried that failed.
    pub(super) fn is_put_off(&self) -> bool {
        self.is_put_off
    }

    pub(super) fn verdict(&self, now_unix_us: u64) -> Verdict {
        let wait = self.wait();
        let open = self.failed.iter().filter(|failed| failed.told.is_open());
        if wait.is_none() && self.kept.is_none() && open.clone().next().is_none() {
            return Verdict::Settled(self.kind());
        }
        let before = self.ticket.deferral.as_ref();
        let is_held_already = before.is_some_and(|before| before.due_unix_us.is_none());
        let has_news = self.discards
            || before.is_some_and(|before| before.mark != self.mark)
            || self.failed.iter().any(|failed| failed.is_new || !failed.told.is_open());
        if wait.is_none() && is_held_already && self.copies.is_empty() && !has_news {
            return Verdict::Held;
        }
        let transient =
            self.copies.iter().flat_map(|attempt| attempt.transient().map(|(position, _)| position));
        let failed = open.clone().map(|failed| failed.position);
        let mut stays: Vec<u16> =
            self.kept_recipients.iter().copied().chain(transient).chain(failed).collect();
        stays.sort_unstable();
        let due_unix_us =
            wait.map(|wait| now_unix_us.saturating_add(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX)));
        let new = open.filter(|failed| failed.is_new);
        Verdict::Deferred(Change {
            stays: Some(stays).filter(|stays| !stays.is_empty()),
            failed: new.map(|failed| (failed.position, failed.recipient.failure.clone())).collect(),
            since_unix_us: before
                .filter(|before| before.attempts > 0)
                .map_or(now_unix_us, |before| before.since_unix_us),
            due_unix_us,
            attempts: self.ticket.attempts() + u32::from(wait.is_some() && !self.is_put_off),
            last_error: self.last_error(),
            mark: self.mark,
            delay_told: self.delay_told,
        })
    }

    /// Why the message is still here, or was before this attempt.
    fn last_error(&self) -> String {
        let of_notice = |failed: &Failed| match &failed.told {
            Told::NotYet(error) => Some(format!("no notice to the sender yet: {error}")),
            Told::Held => Some(failed.recipient.failure.reason.clone()),
            Told::Sender | Told::Nobody(_) => None,
        };
        let now = self.failures().next().map(|(_, error)| error.to_string());
        now.or_else(|| self.failed.iter().find_map(of_notice))
            .or_else(|| self.ticket.deferral.as_ref().map(|before| before.last_error.clone()))
            .unwrap_or_default()
    }

    /// Of a message with nothing left to do.
    fn kind(&self) -> AckKind {
        let has_failed = |failed: &Failed| failed.recipient.failure.action == Action::Failed;
        if self.failed.iter().any(has_failed) {
            return AckKind::Failed;
        }
        if self.is_removed {
            return AckKind::Discarded;
        }
        // Copies of an earlier attempt were delivered, or failed: what is tried again is not discarded.
        let delivers = !self.copies.is_empty() || self.ticket.is_retry();
        if delivers { AckKind::Delivered } else { AckKind::Discarded }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::id::MessageId;
    use crate::protocol::envelope::{Envelope, Writer};
    use crate::protocol::params::{Notify, RcptParams};
    use crate::protocol::path::{ForwardPath, Mailbox};
    use crate::spool::index::{Entry, Index, Spot};
    use crate::spool::record::RecordKind;

    #[test]
    fn a_copy_that_is_not_durable_is_tried_again_whatever_its_age() {
        let way = Way::Maildir { directory: "/mail".into(), head: Vec::new() };
        let copy = Copy { recipients: vec![0, 2], route_index: 0, way };
        let mut attempt = Attempt {
            copy,
            octets: 0,
            outcomes: Vec::new(),
            tls: None,
            next_hop: None,
            is_told_by_hop: false,
            is_grouped: false,
            is_expired: true,
        };
        attempt.set(&Ok(Rc::from("")));
        assert_eq!(attempt.transient().count() + attempt.permanent().count(), 0);
        let error = DeliveryError::of("sync", Path::new("/mail/new"))(io::Error::other("a bad disk"));
        attempt.take_back(&Rc::new(error));
        assert_eq!(attempt.transient().map(|(position, _)| position).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(attempt.permanent().count(), 0);
    }

    /// A message for x@a.example, whose only route this is.
    fn job(route: &str, params: &RcptParams<'_>) -> Box<Job> {
        let config = format!(
            "[[listener]]\nbind = [\"127.0.0.1:0\"]\n[recipients]\ndomains = [\"a.example\"]\n[[route]]\n\
             domains = [\"*\"]\n{route}\n"
        );
        let config = Arc::new(Config::parse(&config, "/etc/test.toml").unwrap());
        let mut envelope = Vec::new();
        let mut writer = Writer(&mut envelope);
        writer.reverse_path(None);
        writer.forward_path(&ForwardPath::Mailbox(Mailbox::parse(b"x@a.example").unwrap()));
        writer.rcpt_params(params);
        let meta = RecordMeta { kind: RecordKind::Inline, id: MessageId::default(), received_unix_us: 1 };
        let record =
            Record { meta, envelope: &envelope, content: b"x\r\n", offset_in_segment: 0, encoded_len: 0 };
        let handle = Index::new(0).insert(Entry::new(Spot::new(0, 64, 64))).unwrap();
        let ticket = Ticket { origin: Origin::Deferred(handle), meta, deferral: None };
        let hops = Hops::default();
        Job::new(ticket, &envelope, &record, &config, &hops, &Path::new("/spool").into(), None)
    }

    /// Its route would wait an hour behind a failure, and this is none.
    #[test]
    fn who_is_put_off_is_looked_at_again_soon() {
        let route = "deliver = \"smtp\"\nnext_hop = [\"127.0.0.1:2525\"]\nretry = [\"1h\"]";
        let mut job = job(route, &RcptParams::default());
        let hop = Rc::clone(job.hops().next().unwrap());
        job.put_off(&hop);
        let Verdict::Deferred(change) = job.verdict(2) else { panic!("it stays") };
        let due_unix_us = 2 + u64::try_from(PUT_OFF_INTERVAL.as_micros()).unwrap();
        assert_eq!(
            (change.stays, change.attempts, change.due_unix_us),
            (Some(vec![0]), 0, Some(due_unix_us))
        );
    }

    /// A notice of success that waits would make the recipient's delivery an ended one.
    #[test]
    fn who_is_taken_back_has_no_notice_of_success() {
        let params = RcptParams { notify: Some(Notify::SUCCESS), orcpt: None };
        let mut job = job("deliver = \"maildir\"\npath = \"/mail\"", &params);
        job.copies[0].set(&Ok(Rc::from("")));
        let (position, failure) = job.copies[0].delivered().next().unwrap();
        let parsed = Envelope::parse(&job.envelope).unwrap();
        let recipient = FailedRecipient::of(&parsed.recipients_with_params().next().unwrap(), failure);
        let error = DeliveryError::of("sync", Path::new("/mail/new"))(io::Error::other("a bad disk"));
        let error = Rc::new(error);
        let told = Told::NotYet(Rc::clone(&error));
        job.failed.push(Failed { position, recipient, is_new: true, told });
        job.take_back(|_| Some(&error));
        let Verdict::Deferred(change) = job.verdict(2) else { panic!("it is tried again") };
        assert_eq!((change.stays, change.failed), (Some(vec![0]), vec![]));
    }
}
