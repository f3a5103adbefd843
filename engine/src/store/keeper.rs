//! The keeper: a thread that has segments ready before workers need them, and takes delivered ones back.
//!
//! A worker takes a segment from a queue and never waits: when none is ready (a full disk), it answers 452
//! until one is.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use rustix::io::Errno;

use super::acks::note_complete;
use super::content::{ContentFiles, ContentKeeper, content_path};
use super::error::StoreError;
use super::handles::{Done, KeeperState, Nudge, Returned, ShardFeed, ShardHandles};
use super::open::SpoolOptions;
use super::retention::{Retained, RetainedFile, RetainedKind};
use super::root::Lock;
use super::segment::{Fate, Segment};
use super::stock::{ShardPlan, Spare, Stock};
use super::storage::Room;

/// Between two tries after an error.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Between two files that are given up for want of room: the room is looked at in between.
const ROOM_INTERVAL: Duration = Duration::from_millis(200);
/// Between two looks where nothing nudges.
const IDLE_INTERVAL: Duration = Duration::from_secs(60);

/// The running keeper, and with it the lock on the spool. Stops when dropped: after the workers and egress.
#[derive(Debug)]
pub struct Keeper {
    state: Arc<KeeperState>,
    nudge: Nudge,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    _content: ContentKeeper,
    _lock: Lock,
}

struct Task {
    shards: Vec<Stock>,
    done: Receiver<Returned>,
    retained: Retained,
    /// Files were last given up then for want of room.
    given_up_at: Option<Instant>,
    segment_size: u64,
    state: Arc<KeeperState>,
    stop: Arc<AtomicBool>,
}

impl Keeper {
    pub(super) fn start(
        lock: Lock,
        options: &SpoolOptions,
        plans: Vec<ShardPlan>,
        (content, content_files): (ContentKeeper, Vec<ContentFiles>),
    ) -> Result<(Self, Vec<ShardHandles>, Vec<ShardFeed>), StoreError> {
        let storage = Arc::clone(content.storage());
        let (state, nudge) = (Arc::new(KeeperState::new(storage)), Nudge::default());
        let stop = Arc::new(AtomicBool::new(false));
        let (done_sender, done) = channel();
        let (mut shards, mut handles, mut feeds) = (Vec::new(), Vec::new(), Vec::new());
        let mut retained = Vec::new();
        for (plan, files) in plans.into_iter().zip(content_files) {
            let number = plan.dir.shard;
            retained.extend(plan.delivered.iter().map(|&(spare, since)| RetainedFile {
                shard: number,
                kind: RetainedKind::Segment(spare),
                since,
            }));
            let done = Done::new(number, done_sender.clone(), nudge.clone());
            let (shard, feed) = Stock::new(plan, files, options, done, &nudge, &state);
            if shard.active {
                let (ready, loans) = (Arc::clone(&shard.ready), Arc::clone(shard.dir.loans()));
                let (content, nudge) = (shard.content.clone(), nudge.clone());
                let state = Arc::clone(&state);
                handles.push(ShardHandles { shard: number, ready, content, nudge, loans, state });
            }
            shards.push(shard);
            feeds.push(feed);
        }
        let segment_size = options.segment_size;
        let retained = Retained::new(options.retention, retained);
        let mut task = Task {
            shards,
            done,
            retained,
            given_up_at: None,
            segment_size,
            state: Arc::clone(&state),
            stop: Arc::clone(&stop),
        };
        let thread = std::thread::Builder::new().name("keeper".into()).spawn(move || task.run());
        let thread = thread.map_err(StoreError::io("start a thread for", &options.path))?;
        nudge.set_thread(thread.thread().clone());
        Ok((
            Self { state, nudge, stop, thread: Some(thread), _content: content, _lock: lock },
            handles,
            feeds,
        ))
    }

    pub fn state(&self) -> &Arc<KeeperState> {
        &self.state
    }

    /// Wakes the keeper: a worker has taken a segment.
    pub fn nudge(&self) {
        self.nudge.nudge();
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.nudge.nudge();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Task {
    /// Takes back what is done, makes what is missing, waits for the next nudge when nothing is.
    fn run(&mut self) {
        while !self.stop.load(Ordering::Acquire) {
            // Before each pass: under a steady load there is always something to make, and it is made of what
            // came back.
            self.take_all_back();
            let now = SystemTime::now();
            while let Some(file) = self.retained.pop_due(now) {
                self.reuse(file);
            }
            let wait = match self.make_missing() {
                Ok(true) => continue,
                Ok(false) => IDLE_INTERVAL,
                Err(_) => RETRY_INTERVAL,
            };
            for shard in &mut self.shards {
                while shard.read_one(self.segment_size, &self.state) {}
            }
            let wait = wait.min(self.make_room());
            self.drop_surplus();
            std::thread::park_timeout(self.retained.due_in(now).map_or(wait, |due_in| wait.min(due_in)));
        }
        // What came back last is noted, so that the next start need not read it.
        self.take_all_back();
    }

    fn take_all_back(&mut self) {
        while let Ok(returned) = self.done.try_recv() {
            match returned {
                Returned::Segment(segment) => self.take_back(&segment),
                Returned::Content { shard, number } => {
                    let Some(owner) = self.shards.iter().find(|other| other.dir.shard == shard) else {
                        continue;
                    };
                    let len = content_path(&owner.dir.path, number).metadata().map_or(0, |file| file.len());
                    let (kind, since) = (RetainedKind::Content { number, len }, SystemTime::now());
                    self.retained.push(RetainedFile { shard, kind, since });
                }
            }
        }
    }

    fn take_back(&mut self, segment: &Segment) {
        let Some(shard) = self.shards.iter_mut().find(|shard| shard.dir.shard == segment.shard) else {
            return;
        };
        let path = segment.path.display();
        match segment.fate() {
            Fate::SetAside => match shard.dir.set_aside(segment.number) {
                Ok(aside) => {
                    self.state.set_aside.bump();
                    tracing::error!(path = %aside.display(), "kept a damaged segment; `ringmx spool verify` names the damage");
                }
                Err(error) => tracing::error!(%path, %error, "cannot set a damaged segment aside"),
            },
            Fate::Recycle => {
                if let Err(error) = note_complete(&segment.ack_path(), segment.epoch) {
                    tracing::warn!(%path, %error, "cannot note that a segment is delivered; the next start reads it again");
                }
                let kind = RetainedKind::Segment(Spare::of(segment));
                self.retained.push(RetainedFile { shard: segment.shard, kind, since: SystemTime::now() });
            }
            Fate::Delete => shard.delete(segment.number, segment.epoch, &self.state),
        }
    }

    /// Hands a file out again that was retained.
    fn reuse(&mut self, RetainedFile { shard, kind, .. }: RetainedFile) {
        let Some(shard) = self.shards.iter_mut().find(|other| other.dir.shard == shard) else { return };
        match kind {
            RetainedKind::Segment(spare) => shard.take_spare(spare, self.segment_size, &self.state),
            RetainedKind::Content { number, .. } => shard.content.delivered(number),
        }
    }

    /// Makes one segment for each shard that misses some; returns whether any was made. Deferred segments come first:
    /// with one at hand what holds the intake's segments can be moved out of them.
    fn make_missing(&mut self) -> io::Result<bool> {
        let mut made = false;
        let mut outcome = Ok(());
        let mut given_up = Vec::new();
        for shard in &mut self.shards {
            match shard.make_next(self.segment_size, &self.state) {
                Ok(next) => made |= next,
                Err(error) => {
                    if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
                        given_up.extend(self.retained.give_up(Some(shard.dir.shard)));
                    }
                    outcome = outcome.and(Err((error, shard.dir.path.as_path())));
                }
            }
        }
        if !given_up.is_empty() {
            self.note_given_up();
            given_up.into_iter().for_each(|file| self.reuse(file));
            self.drop_surplus();
            return Ok(true);
        }
        if made || outcome.is_err() {
            note_outcome(&self.state, outcome.as_ref().err());
        }
        outcome.map(|()| made).map_err(|(error, _)| error)
    }

    /// Where the disk has too little room, gives the oldest retained file up, and returns when to look again: mail that
    /// comes is worth more than mail that went.
    fn make_room(&mut self) -> Duration {
        if self.retained.is_empty() {
            return IDLE_INTERVAL;
        }
        if self.state.storage().room() == Room::Plenty {
            return RETRY_INTERVAL;
        }
        self.note_given_up();
        let given_up = self.retained.give_up(None);
        given_up.into_iter().for_each(|file| self.reuse(file));
        ROOM_INTERVAL
    }

    fn note_given_up(&mut self) {
        if self.given_up_at.is_none_or(|at| at.elapsed() >= IDLE_INTERVAL) {
            tracing::warn!(
                "too little room: delivered mail is overwritten before `[spool] retain` allows it"
            );
        }
        self.given_up_at = Some(Instant::now());
    }

    fn drop_surplus(&mut self) {
        self.shards.iter_mut().for_each(|shard| shard.drop_surplus(&self.state));
    }
}

/// Publishes whether segments can be made, and logs each change once.
fn note_outcome(state: &KeeperState, error: Option<&(io::Error, &Path)>) {
    // EIO stands for an error without a number.
    let number = |error: &io::Error| error.raw_os_error().unwrap_or(Errno::IO.raw_os_error());
    let errno = error.map_or(0, |(error, _)| number(error));
    if state.set_errno(errno) == errno {
        return;
    }
    match error {
        Some((error, path)) => {
            let path = path.display();
            tracing::error!(%path, %error, "cannot make segments for the spool; without one, mail is refused with 452");
        }
        None => tracing::info!("segments for the spool can be made again"),
    }
}
