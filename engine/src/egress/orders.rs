//! What an operator wants done with messages that wait: `ringmx queue`.
//!
//! An order is carried out when its message is looked at next, which it hastens: by the same attempt that anything else
//! happens in, so that what it changes is written and acknowledged in the same ways.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Instant;

use super::job::{Failed, Job, Told};
use super::notice::FailedRecipient;
use super::tail::Tail;
use crate::id::MessageId;
use crate::protocol::deferral::{Failure, Mark};
use crate::protocol::envelope::Envelope;
use crate::spool::commit::Place;

/// What is to be done with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// Try it now.
    Retry,
    /// Keep it in the spool, whatever its routes say.
    Hold,
    /// Let it go its way now, past routes that hold their mail, and with its whole lifetime in front of it.
    Release,
    /// Remove it, and tell nobody.
    Remove,
    /// Give it up, and tell its sender.
    Bounce,
}

/// A message that is meant: where its record stands, and its id, since another may stand there by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    pub shard: u16,
    pub epoch: u64,
    pub offset: u64,
    pub id: MessageId,
}

/// What one shard is asked for.
#[derive(Debug)]
pub(super) struct Order {
    verb: Verb,
    messages: Vec<Named>,
    /// Those that are not known: delivered, being delivered for the first time, or moved.
    answer: SyncSender<Vec<MessageId>>,
}

/// Where a shard's orders are left. Clones lead to the same shard.
#[derive(Clone, Debug)]
pub(super) struct Desk(Sender<Order>);

/// Where a shard finds them.
pub(super) type Inbox = Receiver<Order>;

pub(super) fn desk() -> (Desk, Inbox) {
    let (sender, inbox) = channel();
    (Desk(sender), inbox)
}

impl Desk {
    /// `None` when the shard's thread is gone.
    pub(super) fn leave(&self, verb: Verb, messages: Vec<Named>) -> Option<Receiver<Vec<MessageId>>> {
        let (answer, answered) = sync_channel(1);
        self.0.send(Order { verb, messages, answer }).ok().map(|()| answered)
    }
}

/// Messages that are not known to the shard that was asked; `None` when it does not answer by `until`.
pub(super) fn missed(answer: Option<Receiver<Vec<MessageId>>>, until: Instant) -> Option<Vec<MessageId>> {
    answer?.recv_timeout(until.saturating_duration_since(Instant::now())).ok()
}

impl Tail {
    /// Takes in what was ordered.
    pub(super) fn take_orders(&mut self) {
        while let Ok(Order { verb, messages, answer }) = self.inbox.try_recv() {
            if matches!(verb, Verb::Retry | Verb::Release) {
                self.hops.forgive();
            }
            let place = |named: &Named| (Place { epoch: named.epoch, offset: named.offset }, named.id);
            let missed = self.deferred.order(verb, messages.iter().map(place).collect());
            // Who asked may have gone.
            let _ = answer.send(missed);
        }
    }
}

impl Verb {
    /// What a message is marked with from now on.
    pub(super) fn mark(self, before: Mark) -> Mark {
        match self {
            Self::Hold => Mark::Held,
            Self::Release => Mark::Released,
            Self::Bounce if before == Mark::Held => Mark::None,
            Self::Retry | Self::Remove | Self::Bounce => before,
        }
    }

    /// Of messages with which it is done.
    pub fn name(self) -> &'static str {
        match self {
            Self::Retry => "to be tried now",
            Self::Hold => "held",
            Self::Release => "released",
            Self::Remove => "removed",
            Self::Bounce => "given up",
        }
    }
}

impl Job {
    /// Does what can be done before the attempt. [`Verb::mark`] has had its effect on the plan.
    pub(super) fn obey(&mut self, verb: Verb) {
        tracing::info!(id = %self.ticket.meta.id, "{} by order of the operator", verb.name());
        match verb {
            Verb::Retry | Verb::Hold => {}
            Verb::Release => {
                // Time in quarantine is nobody's fault.
                if let Some(deferral) = &mut self.ticket.deferral {
                    deferral.attempts = 0;
                }
                self.copies.iter_mut().for_each(|attempt| attempt.is_expired = false);
            }
            Verb::Remove => {
                (self.is_removed, self.kept) = (true, None);
                self.copies.clear();
                self.failed.clear();
                self.kept_recipients.clear();
            }
            Verb::Bounce => self.give_up(),
        }
    }

    /// All recipients that are left have failed.
    fn give_up(&mut self) {
        // What cannot be read has no sender who could be told.
        let Ok(envelope) = Envelope::parse(&self.envelope) else { return };
        let given_up = |(position, recipient)| {
            let failure = Failure {
                status: "5.0.0".to_owned(),
                reason: "given up by the operator of this server".to_owned(),
                ..Failure::default()
            };
            let recipient = FailedRecipient::of(&recipient, failure);
            Failed { position, recipient, is_new: true, told: Told::Held }
        };
        let known: Vec<u16> = self.failed.iter().map(|failed| failed.position).collect();
        let all = (0..).zip(envelope.recipients_with_params());
        self.failed.extend(all.filter(|(position, _)| !known.contains(position)).map(given_up));
        self.copies.clear();
        self.kept_recipients.clear();
        self.kept = None;
    }
}
