//! What an attempt at a message has come to: counted and logged.

use std::sync::Arc;

use super::flush::unix_us;
use super::job::{Attempt, Job, Verdict};
use super::plan::Kept;
use super::report::Topic;
use super::tail::Tail;
use crate::spool::ack::AckKind;

impl Tail {
    /// Counts and logs what has become of a message.
    pub(super) fn conclude(&mut self, job: Job, verdict: &Verdict) {
        let meta = job.ticket.meta;
        let age_ms = unix_us().saturating_sub(meta.received_unix_us) / 1000;
        for Attempt { copy, octets, outcome } in &job.copies {
            if outcome.is_ok() {
                let (route, octets) = (copy.route_index, *octets);
                self.stats.files.bump();
                self.stats.file_octets.add(octets);
                let attempts = job.ticket.attempts() + 1;
                tracing::info!(id = %meta.id, route, octets, age_ms, attempts, "delivered");
            }
        }
        if job.failures().next().is_some() {
            self.note_failures(&job);
        } else if let Some(kept) = &job.kept {
            self.note_kept(&job, kept);
        } else if matches!(verdict, Verdict::Settled(AckKind::Discarded)) {
            self.stats.discarded.bump();
            tracing::info!(id = %meta.id, age_ms, "discarded: so the route wants it");
        } else {
            self.stats.delivered.bump();
        }
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
    }

    fn note_kept(&mut self, job: &Job, kept: &Kept) {
        let id = job.ticket.meta.id;
        self.stats.kept.bump();
        if !Arc::ptr_eq(&job.config, &self.config) {
            // It was planned before the routes changed, and comes too late to be looked at again with the others.
            self.deferred.read_again();
        }
        match kept {
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
        }
    }
}
