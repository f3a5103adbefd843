//! What an attempt at a message has come to: counted and logged.

use std::sync::Arc;

use super::job::{Attempt, Failed, Job, Told, Verdict};
use super::plan::{Kept, Way};
use super::report::Topic;
use super::tail::Tail;
use crate::protocol::deferral::Action;
use crate::spool::ack::AckKind;

impl Tail {
    /// Counts and logs what has become of a message.
    pub(super) fn conclude(&mut self, job: &Job, verdict: &Verdict, now_unix_us: u64) {
        let meta = job.ticket.meta;
        let age_ms = now_unix_us.saturating_sub(meta.received_unix_us) / 1000;
        job.copies.iter().for_each(|attempt| self.note_delivered(job, attempt, age_ms));
        job.failed.iter().for_each(|failed| self.note_failed(job, failed));
        if let Some(events) = &self.events {
            events.tell_attempt(job, verdict);
        }
        if job.is_put_off() {
            self.note_put_off(job);
        } else if job.wait().is_some() {
            self.note_failures(job);
        } else if let Some(kept) = &job.kept {
            self.note_kept(job, kept);
        } else if job.is_removed {
            self.stats.discarded.bump();
        } else if matches!(verdict, Verdict::Settled(AckKind::Discarded)) {
            self.stats.discarded.bump();
            tracing::info!(id = %meta.id, age_ms, "discarded: so the route wants it");
        } else if matches!(verdict, Verdict::Settled(AckKind::Failed)) {
            self.stats.failed.bump();
        } else {
            self.stats.delivered.bump();
        }
    }

    fn note_delivered(&self, job: &Job, attempt: &Attempt, age_ms: u64) {
        let recipients = attempt.delivered_count();
        if recipients == 0 {
            return;
        }
        let (id, attempts) = (job.ticket.meta.id, job.ticket.attempts() + 1);
        let (route, octets) = (attempt.copy.route_index, attempt.octets);
        match &attempt.copy.way {
            Way::Maildir { .. } => {
                self.stats.files.bump();
                self.stats.file_octets.add(octets);
                tracing::info!(%id, route, octets, age_ms, attempts, "delivered");
            }
            Way::Relay { hop, .. } => {
                self.stats.relayed.bump();
                self.stats.grouped.add(u64::from(attempt.is_grouped));
                let reply = attempt.outcomes.iter().find_map(|outcome| outcome.as_deref().ok());
                let name = || hop.name();
                let next_hop = attempt.next_hop.clone().unwrap_or_else(name);
                let tls = attempt.tls.as_deref().unwrap_or("off");
                tracing::info!(
                    %id, route, next_hop, reply, tls, recipients, octets, age_ms, attempts, "delivered"
                );
            }
        }
    }

    /// Recipients' addresses are not for the log.
    fn note_failed(&self, job: &Job, failed: &Failed) {
        let (id, attempts) = (job.ticket.meta.id, job.ticket.attempts() + 1);
        let failure = &failed.recipient.failure;
        if failure.action != Action::Failed {
            let (action, is_told) = (failure.action.name(), matches!(failed.told, Told::Sender));
            tracing::info!(%id, action, is_told, "its sender is told what became of a recipient");
            self.stats.notices.add(u64::from(is_told));
            return;
        }
        let (status, next_hop, reason) = (&failure.status, &failure.remote, &failure.reason);
        let told = match &failed.told {
            Told::Sender => "its sender",
            Told::Nobody(why) => why,
            Told::NotYet(_) | Told::Held if !failed.is_new => return,
            Told::NotYet(_) => "its sender, soon",
            Told::Held => "nobody: the message is held",
        };
        tracing::warn!(%id, status, next_hop, reason, attempts, told, "cannot be delivered to a recipient");
        if matches!(failed.told, Told::Sender) {
            self.stats.notices.bump();
        }
    }

    /// It is no failure: a line now and then, so that who looks for the mail of a hop knows where it is.
    fn note_put_off(&mut self, job: &Job) {
        self.stats.put_off.bump();
        let Some((copy, error)) = job.failures().next() else { return };
        self.report.problem(Topic::Full(copy.route_index), |suppressed_count| {
            tracing::info!(
                id = %job.ticket.meta.id, route = copy.route_index, why = %error, suppressed_count,
                "put off, the next hop has no place for more: {}", error.remedy()
            );
        });
    }

    fn note_failures(&mut self, job: &Job) {
        self.stats.failed_attempts.bump();
        let retry_in_secs = job.wait().unwrap_or_default().as_secs();
        for (copy, error) in job.failures() {
            self.report.problem(Topic::Route(copy.route_index), |suppressed_count| {
                tracing::warn!(
                    id = %job.ticket.meta.id, route = copy.route_index, %error, retry_in_secs, suppressed_count,
                    "delivery failed, the message stays in the spool: {}", error.remedy()
                );
            });
        }
        let notice_error = job.failed.iter().find_map(|failed| match &failed.told {
            Told::NotYet(error) => Some(error),
            _ => None,
        });
        if let Some(error) = notice_error {
            self.report.problem(Topic::Notices, |suppressed_count| {
                tracing::warn!(
                    id = %job.ticket.meta.id, %error, retry_in_secs, suppressed_count,
                    "a notice to a sender was not sent, and is tried again: {}", error.remedy()
                );
            });
        }
    }

    fn note_kept(&mut self, job: &Job, kept: &Kept) {
        let id = job.ticket.meta.id;
        self.stats.kept.bump();
        if !Arc::ptr_eq(&job.config, &self.config) {
            // It was planned before the routes changed, and comes too late to be looked at again with the others.
            self.deferred.read_again();
        }
        match kept {
            Kept::ByOperator => tracing::info!(%id, "kept in the spool by order of the operator"),
            Kept::ByRoute(route) => {
                tracing::info!(%id, route, "kept in the spool: the route holds its mail")
            }
            Kept::NoRoute(domain) => self.report.problem(Topic::NoRoute, |suppressed_count| {
                tracing::warn!(
                    %id, domain, suppressed_count,
                    "kept in the spool: no route takes this domain any more. Add one and reload"
                );
            }),
            Kept::Unreadable(error) => self.report.problem(Topic::Envelope, |suppressed_count| {
                tracing::error!(%id, %error, suppressed_count, "kept in the spool: its envelope cannot be read");
            }),
            Kept::Undeliverable => self.report.problem(Topic::Undeliverable, |suppressed_count| {
                tracing::error!(
                    %id, suppressed_count,
                    "kept in the spool: it cannot be delivered, and its sender cannot be told. Add [bounce] and reload"
                );
            }),
        }
    }
}
