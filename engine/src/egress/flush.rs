//! Making deliveries durable, deferring what was not delivered, and acknowledging: one round for many messages. While
//! one round is under way the next collects.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::SystemTime;

use tokio::task::JoinSet;

use super::error::DeliveryError;
use super::job::{Attempt, Job, Verdict};
use super::maildir::{new_directory, sync_directory};
use super::moves::{self, Move, MoveKind, Moved, Sources, Target};
use super::plan::Way;
use crate::limits::DIRECTORY_SYNCS_COUNT_MAX;
use crate::spool::ack::AckKind;
use crate::store::{AckWriter, DeferError, DeferredLog};

/// One round.
#[derive(Debug)]
pub(super) struct Flush {
    pub jobs: Vec<FlushJob>,
    /// Those of former rounds that failed, and of compaction.
    pub moves: Vec<Move>,
    /// `None` while the log rests after an error.
    pub log: Option<DeferredLog>,
    /// By epoch: those of all records that this round may settle or move, and those with entries left.
    pub writers: Vec<(u64, AckWriter)>,
}

#[derive(Debug)]
pub(super) struct FlushJob {
    pub job: Box<Job>,
    pub target: Target,
    pub sources: Sources,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Flushed {
    pub jobs: Vec<FlushedJob>,
    pub moved: Vec<Moved>,
    pub log: Option<DeferredLog>,
    pub log_error: Option<DeferError>,
    pub writers: Vec<FlushedWriter>,
}

#[derive(Debug)]
pub(super) struct FlushedJob {
    pub job: Box<Job>,
    pub target: Target,
    /// The record that a [`Verdict::Settled`] is about to be acknowledged at.
    pub epoch: u64,
    pub verdict: Verdict,
}

#[derive(Debug)]
pub(super) struct FlushedWriter {
    pub epoch: u64,
    pub writer: AckWriter,
    /// Entries that are durable now, those of former rounds included.
    pub written: io::Result<usize>,
}

type Synced = Result<(), Rc<DeliveryError>>;

impl Flush {
    /// Syncs each directory that got a file; only then writes and syncs what is to be deferred; only then the
    /// acknowledgements of the records with nothing left to do, and of those that have a successor.
    pub(super) async fn run(mut self) -> Flushed {
        let synced = sync_directories(&self.jobs).await;
        for FlushJob { job, .. } in &mut self.jobs {
            job.take_back(|attempt| {
                written_to(attempt).and_then(|directory| synced.get(directory)?.as_ref().err())
            });
        }
        let now_unix_us = unix_us();
        let mut jobs = Vec::with_capacity(self.jobs.len());
        let Self { mut moves, mut log, mut writers, .. } = self;
        for FlushJob { job, target, sources } in self.jobs {
            let verdict = job.verdict(now_unix_us);
            let (epoch, offset) = (sources.message.segment.epoch, sources.message.offset);
            match &verdict {
                Verdict::Settled(kind) => {
                    if let Some((_, writer)) = writers.iter_mut().find(|(of, _)| *of == epoch) {
                        writer.push(offset, job.ticket.meta.id, *kind);
                    }
                }
                Verdict::Deferred(change) => {
                    let kind = match target {
                        Target::New(_) => MoveKind::Copy,
                        Target::Known(_) => MoveKind::Update,
                    };
                    moves.push(Move { target, sources, kind, change: Some(change.clone()) });
                }
                Verdict::Held => {}
            }
            jobs.push(FlushedJob { job, target, epoch, verdict });
        }
        // What a delivery waits for goes first.
        moves.sort_by_key(|entry| entry.change.is_none());
        // Blocks on the disk: not on the thread that has deliveries to drive.
        let write = move || {
            let (moved, log_error) = match &mut log {
                Some(log) => moves::run(moves, log),
                None => (moves.into_iter().map(Moved::Not).collect(), None),
            };
            acknowledge_moved(&moved, &mut writers);
            (moved, log, log_error, writers.into_iter().map(flush).collect())
        };
        let written = tokio::task::spawn_blocking(write).await;
        let (moved, log, log_error, writers) = written.expect("writing to the spool does not panic");
        Flushed { jobs, moved, log, log_error, writers }
    }
}

/// The copies are durable: what they were made of counts no longer.
fn acknowledge_moved(moved: &[Moved], writers: &mut [(u64, AckWriter)]) {
    for moved in moved {
        if let Moved::Done { kind: MoveKind::Copy, from, id, .. } = moved
            && let Some((_, writer)) = writers.iter_mut().find(|(epoch, _)| *epoch == from.epoch)
        {
            writer.push(from.offset, *id, AckKind::Moved);
        }
    }
}

fn flush((epoch, mut writer): (u64, AckWriter)) -> FlushedWriter {
    let count = writer.pending_count();
    let written = writer.flush().map(|()| count);
    FlushedWriter { epoch, writer, written }
}

/// Microseconds since 1970.
pub(super) fn unix_us() -> u64 {
    let elapsed = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_micros());
    u64::try_from(elapsed).unwrap_or(u64::MAX)
}

/// The outcome for each Maildir in which a file was moved to `new`.
async fn sync_directories(jobs: &[FlushJob]) -> HashMap<PathBuf, Synced> {
    let attempts = jobs.iter().flat_map(|flush| &flush.job.copies);
    let mut maildirs: Vec<&Path> = attempts.filter_map(written_to).collect();
    maildirs.sort_unstable();
    maildirs.dedup();
    let sync = |maildir: PathBuf| async move {
        let synced = sync_directory(&new_directory(&maildir)).await;
        (maildir, synced.map_err(Rc::new))
    };
    let syncs = maildirs.into_iter().map(|maildir| sync(maildir.to_owned()));
    side_by_side(DIRECTORY_SYNCS_COUNT_MAX, syncs).await.into_iter().collect()
}

/// Runs all of them, so many at the same time, and gives what they end with, in the order in which they end.
async fn side_by_side<T: 'static>(
    count_max: usize,
    tasks: impl Iterator<Item = impl Future<Output = T> + 'static>,
) -> Vec<T> {
    let (mut running, mut ended) = (JoinSet::new(), Vec::new());
    for task in tasks {
        if running.len() == count_max {
            ended.extend(running.join_next().await.map(finished));
        }
        running.spawn_local(task);
    }
    while let Some(task) = running.join_next().await {
        ended.push(finished(task));
    }
    ended
}

/// The Maildir in which the attempt has put a file.
fn written_to(attempt: &Attempt) -> Option<&Path> {
    match &attempt.copy.way {
        Way::Maildir { directory, .. } if attempt.delivered_count() > 0 => Some(directory),
        _ => None,
    }
}

fn finished<T>(joined: Result<T, tokio::task::JoinError>) -> T {
    joined.expect("a sync does not panic and is not cancelled")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::task::{LocalSet, yield_now};

    use super::*;

    #[tokio::test]
    async fn so_many_syncs_are_under_way_at_once() {
        const COUNT: usize = 3 * DIRECTORY_SYNCS_COUNT_MAX;
        let (now, most) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let task = |number: usize| {
            let (now, most) = (Rc::clone(&now), Rc::clone(&most));
            async move {
                now.set(now.get() + 1);
                most.set(most.get().max(now.get()));
                for _ in 0..number % 7 + 1 {
                    yield_now().await;
                }
                now.set(now.get() - 1);
                number
            }
        };
        let all = side_by_side(DIRECTORY_SYNCS_COUNT_MAX, (0..COUNT).map(task));
        let mut ended = LocalSet::new().run_until(all).await;
        ended.sort_unstable();
        assert_eq!(ended, (0..COUNT).collect::<Vec<_>>(), "each has ended once");
        assert_eq!((most.get(), now.get()), (DIRECTORY_SYNCS_COUNT_MAX, 0));
    }
}
