//! Telling the sender of a message what could not be delivered.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::error::DeliveryError;
use super::flush::unix_us;
use super::job::{Content, Failed, Job, Told};
use super::notice::{FailedRecipient, Subject};
use super::plan::Kept;
use super::relay::{Addressee, Body, Hops, Letter};
use crate::config::Relay;
use crate::protocol::envelope::Envelope;
use crate::protocol::params::Notify;
use crate::session::DateCache;
use crate::time::Now;

/// How long a notice is tried, since the first attempt at its message: mail has 5 days, and the notice as many.
const NOTICE_LIFETIME: Duration = Duration::from_secs(10 * 24 * 3600);

impl Job {
    /// Decides for each recipient whose delivery has failed for good who hears of it, and sends the notice.
    pub(super) async fn tell_sender(&mut self, hops: &Hops) {
        let octets = std::mem::take(&mut self.envelope);
        if let Ok(envelope) = Envelope::parse(&octets) {
            self.note_failed(&envelope);
            if !self.failed.is_empty() {
                self.tell(&envelope, hops).await;
            }
        }
        self.envelope = octets;
        if self.failed.iter().any(|failed| matches!(failed.told, Told::Held)) {
            self.kept.get_or_insert(Kept::Undeliverable);
        }
    }

    /// Those of this attempt join those of former ones.
    fn note_failed(&mut self, envelope: &Envelope<'_>) {
        let recipients: Vec<_> = envelope.recipients_with_params().collect();
        for attempt in &self.copies {
            for (position, error) in attempt.permanent() {
                let Some(recipient) = recipients.get(usize::from(position)) else { continue };
                let recipient = FailedRecipient::of(recipient, error.failure(attempt.is_expired));
                self.failed.push(Failed { position, recipient, is_new: true, told: Told::Held });
            }
        }
    }

    async fn tell(&mut self, envelope: &Envelope<'_>, hops: &Hops) {
        // RFC 5321 §6.1: a notice is never the answer to a notice.
        if envelope.reverse_path().is_empty() {
            self.failed.iter_mut().for_each(|failed| failed.told = Told::Nobody("null reverse-path"));
            return;
        }
        let wants = |notify: Option<Notify>| notify.is_none_or(|notify| notify.has(Notify::FAILURE));
        let (wanted, unwanted): (Vec<Failed>, Vec<Failed>) =
            std::mem::take(&mut self.failed).into_iter().partition(|failed| wants(failed.recipient.notify));
        let nobody = |failed| Failed { told: Told::Nobody("its sender wants no notice"), ..failed };
        self.failed = unwanted.into_iter().map(nobody).collect();
        if wanted.is_empty() {
            return;
        }
        let told = match &self.config.bounce {
            None => Err(None),
            Some(bounce) => {
                let sent = self.send_notice(envelope, &wanted, &bounce.relay, hops).await;
                sent.map_err(|error| Some(Rc::new(error)))
            }
        };
        let is_expired = self.ticket.tried_for(unix_us()) >= NOTICE_LIFETIME;
        self.failed.extend(wanted.into_iter().map(|failed| {
            let told = match &told {
                Ok(()) => Told::Sender,
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

    async fn send_notice(
        &self,
        envelope: &Envelope<'_>,
        failed: &[Failed],
        relay: &Arc<Relay>,
        hops: &Hops,
    ) -> Result<(), DeliveryError> {
        let recipients: Vec<FailedRecipient> = failed.iter().map(|failed| failed.recipient.clone()).collect();
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
            ret: envelope.ret(),
            recipients: &recipients,
            now: &date(unix_us()),
            received: &date(self.ticket.meta.received_unix_us),
            content,
            is_whole,
        };
        let notice = subject.write();
        let letter = Letter {
            recipients: vec![Addressee { path: envelope.reverse_path().to_vec(), ..Addressee::default() }],
            smtputf8: !envelope.reverse_path().is_ascii(),
            ..Letter::default()
        };
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
