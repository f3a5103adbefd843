//! What becomes of a message after an attempt: it is delivered, waits for the next attempt, or is kept.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::flush::Flushed;
use super::job::{Attempt, Job};
use super::plan::Kept;
use super::report::Topic;
use super::tail::Tail;
use super::waiting::retry_wait;

/// Between two tries to write acknowledgements.
const ACKS_WAIT: Duration = Duration::from_secs(1);

impl Tail {
    /// Takes in a flush that has ended.
    pub(super) fn on_flushed(&mut self, flushed: Flushed) {
        self.flushing = None;
        self.acks_at = None;
        for flushed in flushed.writers {
            let written_count = flushed.written.unwrap_or_else(|error| {
                self.acks_at = Some(Instant::now() + ACKS_WAIT);
                self.report.problem(Topic::Acknowledgements, |suppressed_count| {
                    tracing::error!(
                        shard = self.stats.shard, %error, suppressed_count,
                        "cannot write acknowledgements; delivered mail keeps its place in the spool, and no more \
                         is delivered. Make room there, or see the kernel's log"
                    );
                });
                0
            });
            self.segments.return_acks(flushed.epoch, flushed.writer, written_count);
        }
        if self.acks_at.is_none() && self.report.is_over(Topic::Acknowledgements) {
            tracing::info!(shard = self.stats.shard, "acknowledgements can be written again");
        }
        let now_unix_us = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_micros());
        let now_unix_us = u64::try_from(now_unix_us).unwrap_or(u64::MAX);
        for job in flushed.jobs {
            self.conclude(job, now_unix_us);
        }
    }

    /// What is to become of a message after an attempt.
    fn conclude(&mut self, mut job: Job, now_unix_us: u64) {
        let meta = job.ticket.meta;
        let age_ms = now_unix_us.saturating_sub(meta.received_unix_us) / 1000;
        for Attempt { copy, octets, outcome } in &job.copies {
            if outcome.is_ok() {
                let (route, octets) = (copy.route_index, *octets);
                self.stats.files.bump();
                self.stats.file_octets.add(octets);
                let attempts = job.ticket.failures_count + 1;
                tracing::info!(id = %meta.id, route, octets, age_ms, attempts, "delivered");
            }
        }
        if job.copies.iter().any(|attempt| attempt.outcome.is_err()) {
            self.defer(job);
        } else if let Some(kept) = job.kept.take() {
            self.keep(&job, &kept);
        } else if job.discards && job.copies.is_empty() && job.ticket.pending.is_none() {
            self.stats.discarded.bump();
            tracing::info!(id = %meta.id, age_ms, "discarded: so the route wants it");
        } else {
            self.stats.delivered.bump();
        }
    }

    /// Lets a message wait for its next attempt at what failed.
    fn defer(&mut self, job: Job) {
        let Job { mut ticket, copies, .. } = job;
        self.stats.failed_attempts.bump();
        ticket.failures_count += 1;
        let failed =
            copies.iter().filter_map(|attempt| Some((&attempt.copy, attempt.outcome.as_ref().err()?)));
        let routes = &self.config.routes;
        let wait_of = |route_index: usize| {
            retry_wait(routes.get(route_index).map_or(&[], |route| &route.retry), ticket.failures_count)
        };
        let wait = failed
            .clone()
            .map(|(copy, _)| wait_of(copy.route_index))
            .min()
            .unwrap_or_else(|| wait_of(usize::MAX));
        for (copy, error) in failed.clone() {
            self.report.problem(Topic::Route(copy.route_index), |suppressed_count| {
                tracing::warn!(
                    id = %ticket.meta.id, route = copy.route_index, %error, retry_in_secs = wait.as_secs(),
                    suppressed_count, "delivery failed, the message stays in the spool: {}", error.remedy()
                );
            });
        }
        ticket.pending = Some(failed.map(|(copy, _)| copy.index).collect());
        self.waiting.push(Instant::now() + wait, ticket);
    }

    fn keep(&mut self, job: &Job, kept: &Kept) {
        let id = job.ticket.meta.id;
        self.stats.kept.bump();
        self.segments.keep(job.ticket.segment.epoch);
        match kept {
            Kept::ByRoute(route) => {
                tracing::info!(%id, route, "kept in the spool: the route holds its mail")
            }
            Kept::NoRoute(domain) => self.report.problem(Topic::NoRoute, |suppressed_count| {
                tracing::warn!(
                    %id, domain, suppressed_count,
                    "kept in the spool: no route takes this domain any more. Add one and start again"
                );
            }),
            Kept::Unreadable(error) => self.report.problem(Topic::Envelope, |suppressed_count| {
                let path = job.ticket.segment.path.display();
                tracing::error!(
                    %id, %path, offset = job.ticket.offset, %error, suppressed_count,
                    "kept in the spool: its envelope cannot be read"
                );
            }),
        }
    }
}
