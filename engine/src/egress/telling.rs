//! Telling the sender of a message what has become of it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::error::DeliveryError;
use super::flush::unix_us;
use super::job::{Attempt, Content, Failed, Job, Told};
use super::notice::{FailedRecipient, Subject};
use super::plan::Kept;
use super::relay::{Addressee, Body, Hops, Letter};
use crate::config::Relay;
use crate::limits::NOTICE_TIME_MAX;
use crate::protocol::deferral::{Action, Failure};
use crate::protocol::envelope::Envelope;
use crate::protocol::params::Notify;
use crate::session::DateCache;
use crate::time::Now;

impl Job {
    /// Decides for each recipient whose delivery has ended who hears of it, and sends the notices.
    pub(super) async fn tell_sender(&mut self, hops: &Hops) {
        let has_news = self.wants_notice || self.copies.iter().any(Attempt::has_failures);
        if !has_news && self.failed.is_empty() {
            return;
        }
        let octets = std::mem::take(&mut self.envelope);
        if let Ok(envelope) = Envelope::parse(&octets) {
            self.note_ended(&envelope);
            for action in [Action::Failed, Action::Delivered, Action::Relayed] {
                self.tell(action, &envelope, hops).await;
            }
            self.tell_of_delay(&envelope, hops).await;
        }
        self.envelope = octets;
        if self.failed.iter().any(|failed| matches!(failed.told, Told::Held)) {
            self.kept.get_or_insert(Kept::Undeliverable);
        }
    }

    /// Those of this attempt join those of former ones: all that have failed, and of those that are delivered the ones
    /// of which the sender wants to know and nobody else will tell it (RFC 3461 §5.2).
    fn note_ended(&mut self, envelope: &Envelope<'_>) {
        let recipients: Vec<_> = envelope.recipients_with_params().collect();
        for attempt in &self.copies {
            let failed =
                attempt.permanent().map(|(position, error)| (position, error.failure(attempt.is_expired)));
            let delivered = attempt.delivered().filter(|_| !attempt.is_told_by_hop);
            let delivered = delivered.filter(|(position, _)| {
                let recipient = recipients.get(usize::from(*position));
                recipient.and_then(|it| it.params.notify).is_some_and(|notify| notify.has(Notify::SUCCESS))
            });
            for (position, failure) in failed.chain(delivered) {
                let Some(recipient) = recipients.get(usize::from(position)) else { continue };
                let recipient = FailedRecipient::of(recipient, failure);
                self.failed.push(Failed { position, recipient, is_new: true, told: Told::Held });
            }
        }
    }

    /// Of all recipients of which there is this to tell.
    async fn tell(&mut self, action: Action, envelope: &Envelope<'_>, hops: &Hops) {
        let (mine, others): (Vec<Failed>, Vec<Failed>) = std::mem::take(&mut self.failed)
            .into_iter()
            .partition(|failed| failed.recipient.failure.action == action);
        self.failed = others;
        if mine.is_empty() {
            return;
        }
        // RFC 5321 §6.1: a notice is never the answer to a notice.
        if envelope.reverse_path().is_empty() {
            let nobody = |failed| Failed { told: Told::Nobody("null reverse-path"), ..failed };
            self.failed.extend(mine.into_iter().map(nobody));
            return;
        }
        let wants = |notify: Option<Notify>| {
            action != Action::Failed || notify.is_none_or(|notify| notify.has(Notify::FAILURE))
        };
        let (wanted, unwanted): (Vec<Failed>, Vec<Failed>) =
            mine.into_iter().partition(|failed| wants(failed.recipient.notify));
        let nobody = |failed| Failed { told: Told::Nobody("its sender wants no notice"), ..failed };
        self.failed.extend(unwanted.into_iter().map(nobody));
        if wanted.is_empty() {
            return;
        }
        let recipients: Vec<FailedRecipient> = wanted.iter().map(|failed| failed.recipient.clone()).collect();
        let told = match &self.config.bounce {
            None => Err(None),
            Some(bounce) => {
                let sent = self.send_notice(action, envelope, &recipients, &bounce.relay, hops);
                let sent = Box::pin(sent).await;
                sent.map_err(|error| Some(Rc::new(error)))
            }
        };
        let is_expired = self.ticket.tried_for() >= NOTICE_TIME_MAX;
        self.failed.extend(wanted.into_iter().map(|failed| {
            let told = match &told {
                Ok(()) => Told::Sender,
                // Good news is not worth holding the mail for.
                Err(None) if action != Action::Failed => Told::Nobody("no [bounce]"),
                Err(None) => Told::Held,
                Err(Some(error)) if error.is_permanent() => {
                    Told::Nobody("the notice to its sender was refused")
                }
                Err(Some(_)) if is_expired => Told::Nobody("the notice found no way to its sender"),
                Err(Some(error)) => Told::NotYet(Rc::clone(error)),
            };
            Failed { told, ..failed }
        }));
    }

    /// Once a message, and only who wants to know (RFC 3461 §4.1). A notice that is not taken is tried again with the
    /// message.
    async fn tell_of_delay(&mut self, envelope: &Envelope<'_>, hops: &Hops) {
        let Some(bounce) = &self.config.bounce else { return };
        let tried = self.ticket.tried_for();
        if self.delay_told || tried < bounce.delay_after || envelope.reverse_path().is_empty() {
            return;
        }
        let waiting: Vec<(u16, Failure)> = self
            .copies
            .iter()
            .flat_map(Attempt::transient)
            .map(|(position, error)| (position, error.delay()))
            .collect();
        let all: Vec<_> = envelope.recipients_with_params().collect();
        let wants = |(position, failure): (u16, Failure)| {
            let recipient = all.get(usize::from(position))?;
            let notify = recipient.params.notify?;
            notify.has(Notify::DELAY).then(|| FailedRecipient::of(recipient, failure))
        };
        let recipients: Vec<FailedRecipient> = waiting.into_iter().filter_map(wants).collect();
        if recipients.is_empty() {
            return;
        }
        let relay = Arc::clone(&bounce.relay);
        let sent = Box::pin(self.send_notice(Action::Delayed, envelope, &recipients, &relay, hops)).await;
        // One that was refused is given up.
        self.delay_told = sent.is_ok() || sent.is_err_and(|error| error.is_permanent());
    }

    async fn send_notice(
        &self,
        action: Action,
        envelope: &Envelope<'_>,
        recipients: &[FailedRecipient],
        relay: &Arc<Relay>,
        hops: &Hops,
    ) -> Result<(), DeliveryError> {
        let first_piece;
        let (content, is_whole) = match &self.content {
            Content::Inline { stored, .. } => (&stored[..], true),
            Content::File(content) => {
                first_piece = content.pieces().next().await?.unwrap_or_default();
                (&first_piece[..], false)
            }
        };
        let subject = Subject {
            hostname: &self.config.hostname,
            id: &self.ticket.meta.id.to_string(),
            sender: envelope.reverse_path(),
            envid: envelope.envid(),
            ret: envelope.ret().filter(|_| !envelope.requiretls()),
            recipients,
            action,
            now: &date(unix_us()),
            received: &date(self.ticket.meta.received_unix_us),
            content,
            is_whole,
        };
        let notice = subject.write();
        let letter = Rc::new(Letter {
            recipients: vec![Addressee { path: envelope.reverse_path().to_vec(), ..Addressee::default() }],
            smtputf8: !envelope.reverse_path().is_ascii(),
            // RFC 8689 §5: what was not to be seen is not to be seen in a notice either.
            requiretls: envelope.requiretls(),
            ..Letter::default()
        });
        let notice = Rc::from(notice);
        let body = Body::Memory(&notice);
        let delivered = hops.of(relay).deliver(&letter, body, &self.config.hostname).await;
        match delivered.sent.into_iter().next() {
            Some(Err(error)) => Err(error.into()),
            _ => Ok(()),
        }
    }
}

fn date(unix_us: u64) -> String {
    let now = Now { monotonic: Duration::ZERO, unix: Duration::from_micros(unix_us) };
    DateCache::default().rfc5322(now).to_owned()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::path::Path;

    use super::super::job::{Origin, Ticket};
    use super::*;
    use crate::config::Config;
    use crate::id::MessageId;
    use crate::protocol::deferral::{Deferral, Fate};
    use crate::protocol::envelope::Writer;
    use crate::protocol::path::{ForwardPath, Mailbox};
    use crate::spool::index::{Entry, Index, Spot};
    use crate::spool::record::{Record, RecordKind, RecordMeta};

    /// What came of a notice that nobody takes, so long after the first attempt.
    async fn told_after(time: Duration) -> Told {
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = format!(
            "[[listener]]\nbind = [\"127.0.0.1:0\"]\n[recipients]\ndomains = [\"a.example\"]\n[[route]]\n\
             domains = [\"*\"]\ndeliver = \"hold\"\n[bounce]\nnext_hop = [\"{nobody}\"]\n"
        );
        let config = Arc::new(Config::parse(&config, "/etc/test.toml").unwrap());
        let (mut fresh, mut envelope) = (Vec::new(), Vec::new());
        let mut writer = Writer(&mut fresh);
        writer.reverse_path(Some(&Mailbox::parse(b"sender@s.example").unwrap()));
        writer.forward_path(&ForwardPath::Mailbox(Mailbox::parse(b"x@a.example").unwrap()));
        let since_unix_us = unix_us() - u64::try_from(time.as_micros()).unwrap();
        let deferral = Deferral { since_unix_us, attempts: 1, ..Deferral::default() };
        let failure = Failure { status: "5.1.1".to_owned(), ..Failure::default() };
        deferral.rewrite(&fresh, |_| Fate::Failed(&failure), &mut envelope);
        let meta = RecordMeta { kind: RecordKind::Inline, id: MessageId::default(), received_unix_us: 1 };
        let record =
            Record { meta, envelope: &envelope, content: b"x\r\n", offset_in_segment: 0, encoded_len: 0 };
        let handle = Index::new(0).insert(Entry::new(Spot::new(0, 64, 64))).unwrap();
        let deferral = Deferral::read(&envelope);
        assert!(deferral.is_some());
        let ticket = Ticket { origin: Origin::Deferred(handle), meta, deferral };
        let (hops, spool) = (Hops::default(), Path::new("/spool").into());
        let mut job = Job::new(ticket, &envelope, &record, &config, &hops, &spool, None);
        job.tell_sender(&hops).await;
        assert_eq!(job.failed.len(), 1);
        job.failed.remove(0).told
    }

    #[tokio::test]
    async fn a_notice_that_nobody_takes_is_tried_for_its_time() {
        let minute = Duration::from_secs(60);
        let told = told_after(NOTICE_TIME_MAX - minute).await;
        assert!(matches!(told, Told::NotYet(_)), "{told:?}");
        let told = told_after(NOTICE_TIME_MAX).await;
        assert!(matches!(told, Told::Nobody("the notice found no way to its sender")), "{told:?}");
    }
}
