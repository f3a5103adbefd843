//! The rounds of a tail: what goes into a flush, and what has become of it.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use tokio::time::Instant;

use super::deferred::Settled;
use super::flush::{Flush, FlushJob, Flushed, FlushedJob, FlushedWriter, unix_us};
use super::job::{Origin, Verdict};
use super::moves::{Move, MoveKind, Moved, Sources, Target};
use super::report::Topic;
use super::tail::{Event, Tail};
use crate::limits::FINISHED_COUNT_MAX;
use crate::store::{AckWriter, DeferError};

/// Between two tries to write acknowledgements, and to write to the log of deferred mail.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);
/// Between two looks for a segment to write deferred mail to: the keeper makes one.
const SEGMENT_INTERVAL: Duration = Duration::from_millis(10);

/// From the start of one flush to that of the next: each is syncs for which the commits of fresh mail wait at the
/// disk. A crash in this time delivers again what was not acknowledged.
const FLUSH_INTERVAL: Duration = Duration::from_millis(20);
/// Finished messages that do not wait for it.
const FLUSH_COUNT: usize = FINISHED_COUNT_MAX / 2;

impl Tail {
    /// Starts a flush for all that is finished, unless one is under way or was started just now.
    pub(super) fn start_flush(&mut self) {
        let now = Instant::now();
        if self.next_flush_at().is_some_and(|at| now < at) && !self.is_stopping() {
            return;
        }
        if self.flushing.is_some() || self.acks_at.is_some_and(|acks_at| now < acks_at) {
            return;
        }
        let log_rests = self.log_rests_until.is_some_and(|until| now < until);
        if !log_rests {
            self.log_rests_until = None;
        }
        let compacts = self.deferred.compacts() && !self.is_stopping();
        let moves_wait = !log_rests && (!self.unmoved.is_empty() || compacts);
        // Until acknowledgements are durable nothing else happens to their messages.
        let acks_only = !self.deferred.is_settled();
        let is_due = !acks_only && (!self.finished.is_empty() || moves_wait);
        if !is_due && self.acks_at.is_none() && !self.segments.owes() {
            return;
        }
        let mut writers = self.segments.lend_unwritten_acks();
        writers.extend(self.deferred.lend_unwritten_acks());
        let (mut jobs, mut moves) = (Vec::new(), Vec::new());
        if !acks_only {
            jobs = self.take_finished(&mut writers);
            moves = if log_rests { Vec::new() } else { self.take_moves(&jobs, &mut writers) };
        }
        self.flushing = Some(jobs.len());
        self.flushed_at = Some(now);
        self.stats.flushes.bump();
        let log = if log_rests { None } else { self.deferred.log.take() };
        let flush = Flush { jobs, moves, log, writers };
        self.tasks.spawn_local(async { Event::Flushed(flush.run().await) });
    }

    /// `None`: nothing has to wait.
    pub(super) fn next_flush_at(&self) -> Option<Instant> {
        self.flushed_at.filter(|_| self.finished.len() < FLUSH_COUNT).map(|at| at + FLUSH_INTERVAL)
    }

    fn take_finished(&mut self, writers: &mut Vec<(u64, AckWriter)>) -> Vec<FlushJob> {
        let finished = std::mem::take(&mut self.finished);
        let mut jobs = Vec::with_capacity(finished.len());
        for job in finished {
            let found = match &job.ticket.origin {
                Origin::Intake(source) => {
                    let sources = Sources { message: source.clone(), update: None };
                    Some((Target::New(source.place()), sources))
                }
                Origin::Deferred(handle) => {
                    self.deferred.sources(*handle).map(|sources| (Target::Known(*handle), sources))
                }
            };
            let Some((target, sources)) = found else { continue };
            if self.lend_acks(sources.message.segment.epoch, writers) {
                jobs.push(FlushJob { job, target, sources });
            } else {
                self.finished.push_back(job);
            }
        }
        jobs
    }

    /// Those of former rounds, then those of compaction.
    fn take_moves(&mut self, jobs: &[FlushJob], writers: &mut Vec<(u64, AckWriter)>) -> Vec<Move> {
        let mut moves: Vec<Move> = Vec::new();
        for entry in std::mem::take(&mut self.unmoved) {
            moves.extend(self.deferred.refresh(entry));
        }
        let targets = jobs.iter().map(|flush| flush.target).chain(moves.iter().map(|entry| entry.target));
        let known = |target| if let Target::Known(handle) = target { Some(handle) } else { None };
        let busy: HashSet<_> = targets.filter_map(known).collect();
        if !self.is_stopping() {
            moves.extend(self.deferred.compaction(&busy));
        }
        let mut ready = Vec::new();
        for entry in moves {
            let epoch = entry.sources.message.segment.epoch;
            if entry.kind == MoveKind::Update || self.lend_acks(epoch, writers) {
                ready.push(entry);
            } else if entry.change.is_some() {
                self.unmoved.push(entry);
            }
        }
        ready
    }

    /// Whether the writer of this segment's acknowledgements is among `writers` now.
    fn lend_acks(&mut self, epoch: u64, writers: &mut Vec<(u64, AckWriter)>) -> bool {
        if writers.iter().any(|(of, _)| *of == epoch) {
            return true;
        }
        let writer = match self.segments.lend_acks(epoch) {
            Some(writer) => Ok(writer),
            None => self.deferred.lend_acks(epoch),
        };
        match writer {
            Ok(writer) => {
                writers.push((epoch, writer));
                true
            }
            Err(error) => {
                self.note_acks_error(&error);
                false
            }
        }
    }

    fn note_acks_error(&mut self, error: &io::Error) {
        self.acks_at = Some(Instant::now() + WRITE_INTERVAL);
        let shard = self.stats.shard;
        self.report.problem(Topic::Acknowledgements, |suppressed_count| {
            tracing::error!(
                shard, %error, suppressed_count,
                "cannot write acknowledgements; delivered mail keeps its place in the spool, and no more is delivered. \
                 Make room there, or see the kernel's log"
            );
        });
    }

    /// Takes in a flush that has ended.
    pub(super) fn on_flushed(&mut self, flushed: Flushed) {
        let Flushed { jobs, moved, log, log_error, writers } = flushed;
        self.flushing = None;
        self.acks_at = None;
        if let Some(mut log) = log {
            self.deferred.note_opened(log.take_opened());
            self.deferred.log = Some(log);
            self.note_log_outcome(log_error);
        }
        let mut durable_epochs = Vec::new();
        for FlushedWriter { epoch, writer, written } in writers {
            let written_count = match written {
                Ok(count) => {
                    durable_epochs.push(epoch);
                    count
                }
                Err(error) => {
                    self.note_acks_error(&error);
                    0
                }
            };
            if let Some(writer) = self.segments.return_acks(epoch, writer, written_count) {
                self.deferred.return_acks(epoch, writer);
            }
        }
        if self.acks_at.is_none() && self.report.is_over(Topic::Acknowledgements) {
            tracing::info!(shard = self.stats.shard, "acknowledgements can be written again");
        }
        let now_unix_us = unix_us();
        for FlushedJob { job, target, epoch, verdict } in jobs {
            if let (Verdict::Held, Target::Known(handle)) = (&verdict, target) {
                self.deferred.rest(handle);
            }
            if let Verdict::Settled(_) = verdict {
                self.settled_content.extend(job.content_file().map(|number| (epoch, number)));
                if let Target::Known(handle) = target {
                    self.deferred.await_acknowledgement(epoch, Settled::Removed(handle));
                }
            }
            self.conclude(&job, &verdict, now_unix_us);
        }
        for moved in moved {
            self.on_moved(moved);
        }
        for epoch in durable_epochs {
            self.deferred.on_acknowledged(epoch);
            let (durable, rest) =
                std::mem::take(&mut self.settled_content).into_iter().partition(|(of, _)| *of == epoch);
            self.settled_content = rest;
            self.idle_content.extend(Vec::into_iter(durable).map(|(_, number)| number));
        }
        self.deferred.retire(self.segments.recovered_is_settled());
    }

    /// Nobody needs these files any more. But while segments of a former run are not settled, a record may stand there
    /// of which a copy was delivered: it names the same file, and until it is acknowledged too nothing else may be in
    /// there.
    pub(super) fn give_content_back(&mut self) {
        if self.segments.recovered_is_settled() {
            self.idle_content.drain(..).for_each(|number| self.segments.give_content_back(number));
        }
        self.segments.give_unnamed_content_back();
    }

    fn on_moved(&mut self, moved: Moved) {
        if let Some((epoch, settled)) = self.deferred.on_moved(&moved) {
            self.deferred.await_acknowledgement(epoch, settled);
        }
        match moved {
            Moved::Done { target: Target::New(_), .. } => self.stats.deferrals.bump(),
            Moved::Done { kind: MoveKind::Copy, .. } => self.stats.compacted.bump(),
            Moved::Done { .. } => {}
            Moved::Not(entry) => self.unmoved.extend(Some(entry).filter(|entry| entry.change.is_some())),
            Moved::Lost(entry) => {
                self.note_lost(&entry.sources);
                if let Target::New(place) = entry.target {
                    self.segments.give_up(place.epoch);
                }
            }
        }
    }

    fn note_log_outcome(&mut self, error: Option<DeferError>) {
        let shard = self.stats.shard;
        let Some(error) = error else {
            self.log_failed_at = None;
            if self.report.is_over(Topic::Deferring) {
                tracing::info!(shard, "mail can be deferred again");
            }
            return;
        };
        let wait = if matches!(error, DeferError::NoSegment) { SEGMENT_INTERVAL } else { WRITE_INTERVAL };
        self.log_rests_until = Some(Instant::now() + wait);
        let failed_at = *self.log_failed_at.get_or_insert_with(Instant::now);
        // The keeper makes one segment after the other; that the next is not there at once is no problem.
        if matches!(error, DeferError::NoSegment) && failed_at.elapsed() < WRITE_INTERVAL {
            return;
        }
        self.report.problem(Topic::Deferring, |suppressed_count| {
            tracing::error!(
                shard, %error, suppressed_count,
                "cannot write undelivered mail to a deferred segment; it keeps its place in the spool and is not tried \
                 again before that"
            );
        });
    }
}
