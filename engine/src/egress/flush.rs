//! Making deliveries durable and acknowledging them: one round for many messages. While one round is under way the next
//! collects.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use tokio::task::JoinSet;

use super::error::DeliveryError;
use super::job::Job;
use super::maildir::{new_directory, sync_directory};
use crate::store::AckWriter;

/// Directories synced at the same time.
const SYNCS_COUNT_MAX: usize = 64;

/// One round.
#[derive(Debug)]
pub(super) struct Flush {
    pub jobs: Vec<Job>,
    /// By epoch: those of the jobs' segments, and those with entries left.
    pub writers: Vec<(u64, AckWriter)>,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Flushed {
    pub jobs: Vec<Job>,
    pub writers: Vec<FlushedWriter>,
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
    /// Syncs each directory that got a file; only then writes and syncs the acknowledgements of the messages with
    /// nothing left to do.
    pub(super) async fn run(mut self) -> Flushed {
        let synced = sync_directories(&self.jobs).await;
        let attempts = self.jobs.iter_mut().flat_map(|job| &mut job.copies);
        for attempt in attempts.filter(|attempt| attempt.outcome.is_ok()) {
            if let Some(outcome) = synced.get(&attempt.copy.directory) {
                attempt.outcome = outcome.clone();
            }
        }
        for job in &self.jobs {
            let writer = self.writers.iter_mut().find(|(epoch, _)| *epoch == job.ticket.segment.epoch);
            if let (Some((_, writer)), Some(kind)) = (writer, job.ack_kind()) {
                writer.push(job.ticket.offset, job.ticket.meta.id, kind);
            }
        }
        let writers = self.writers;
        // Blocks on the disk: not on the thread that has deliveries to drive.
        let flushing = tokio::task::spawn_blocking(|| writers.into_iter().map(flush).collect());
        let writers = flushing.await.expect("writing acknowledgements does not panic");
        Flushed { jobs: self.jobs, writers }
    }
}

fn flush((epoch, mut writer): (u64, AckWriter)) -> FlushedWriter {
    let count = writer.pending_count();
    let written = writer.flush().map(|()| count);
    FlushedWriter { epoch, writer, written }
}

/// The outcome for each Maildir in which a file was moved to `new`.
async fn sync_directories(jobs: &[Job]) -> HashMap<PathBuf, Synced> {
    let delivered = jobs.iter().flat_map(|job| &job.copies).filter(|attempt| attempt.outcome.is_ok());
    let mut outcomes: HashMap<PathBuf, Synced> = HashMap::new();
    let mut syncs = JoinSet::new();
    let mut maildirs: Vec<&Path> = delivered.map(|attempt| &*attempt.copy.directory).collect();
    maildirs.sort_unstable();
    maildirs.dedup();
    for maildir in maildirs {
        if syncs.len() == SYNCS_COUNT_MAX {
            outcomes.extend(syncs.join_next().await.map(finished));
        }
        let maildir = maildir.to_owned();
        syncs.spawn_local(async move {
            let synced = sync_directory(&new_directory(&maildir)).await;
            (maildir, synced.map_err(Rc::new))
        });
    }
    while let Some(synced) = syncs.join_next().await {
        outcomes.extend([finished(synced)]);
    }
    outcomes
}

fn finished<T>(joined: Result<T, tokio::task::JoinError>) -> T {
    joined.expect("a sync does not panic and is not cancelled")
}
