//! The keeper: a thread that has segments ready before workers need them, and takes delivered ones back.
//!
//! A worker takes a segment from a queue and never waits: when none is ready (a full disk), it answers 452
//! until one is.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_queue::ArrayQueue;
use rustix::io::Errno;

use super::acks::note_complete;
use super::content::{ContentFiles, ContentKeeper, FoundContent, content_path};
use super::deferred::DeferredLog;
use super::error::StoreError;
use super::handles::{Done, FormerContent, KeeperState, Nudge, Returned, ShardFeed, ShardHandles};
use super::open::SpoolOptions;
use super::retention::{Retained, RetainedFile, RetainedKind};
use super::root::Lock;
use super::segment::{Fate, Segment};
use super::shard::ShardDir;
use super::storage::{Room, Storage};
use crate::spool::FORMAT_VERSION;
use crate::spool::segment::{FIRST_BATCH_AT, Role, SegmentHeader};

/// Deferred segments that a shard has ready: undelivered mail finds room when the disk is full.
const DEFERRED_READY_COUNT: usize = 1;
/// Most segments that a shard may have ready.
pub(super) const READY_COUNT_MAX: usize = 4;
/// Delivered segments a shard keeps for reuse beyond those that are ready; more are deleted.
const SPARES_COUNT_MAX: usize = 2;
/// Between two tries after an error.
const RETRY_WAIT: Duration = Duration::from_secs(1);
/// Between two files that are given up for want of room: the room is looked at in between.
const ROOM_WAIT: Duration = Duration::from_millis(200);
/// Between two looks where nothing nudges.
const IDLE_WAIT: Duration = Duration::from_secs(60);

/// What recovery found of one shard.
#[derive(Debug)]
pub(super) struct ShardPlan {
    pub dir: ShardDir,
    /// A worker fills it.
    pub active: bool,
    /// Segments with mail to deliver, oldest first.
    pub recovered: Vec<Arc<Segment>>,
    /// Deferred segments, oldest first; what is in them nobody has looked at.
    pub deferred: Vec<Arc<Segment>>,
    /// Segments with nothing in them.
    pub spares: Vec<Spare>,
    /// Segments that most likely have nothing to deliver: to be read before they are used again.
    pub unread: Vec<Segment>,
    /// Segments with nothing to deliver any more, and since when.
    pub delivered: Vec<(Spare, SystemTime)>,
    /// Files of large messages.
    pub content: FoundContent,
    pub next_number: u32,
    pub newest_epoch: u64,
}

/// A file that may be used again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spare {
    pub number: u32,
    pub epoch: u64,
    pub capacity: u64,
}

impl Spare {
    pub(super) fn of(segment: &Segment) -> Self {
        // Shorter than its header says where it was cut.
        let len = segment.file.metadata().map_or(0, |metadata| metadata.len());
        Self { number: segment.number, epoch: segment.epoch, capacity: segment.capacity.min(len) }
    }
}

/// The running keeper, and with it the lock on the spool. Stops when dropped: after the workers and egress.
#[derive(Debug)]
pub struct Keeper {
    state: Arc<KeeperState>,
    nudge: Nudge,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    content: ContentKeeper,
    _lock: Lock,
}

/// The keeper's view of a shard.
struct Shard {
    dir: ShardDir,
    active: bool,
    ready: Arc<ArrayQueue<Arc<Segment>>>,
    /// There may be mail to defer.
    defers: bool,
    /// Deferred segments for egress.
    reserve: Arc<ArrayQueue<Arc<Segment>>>,
    /// Bytes of those: the shard's mail of former runs fits in.
    deferred_size: u64,
    feed: Sender<Arc<Segment>>,
    /// Files to reuse.
    spares: Vec<Spare>,
    /// See [`ShardPlan::unread`].
    unread: Vec<Segment>,
    /// Tells egress that none is left of those.
    former_is_known: Arc<AtomicBool>,
    /// One of them could not be read.
    has_unreadable: bool,
    content: ContentFiles,
    next_number: u32,
    /// The last epoch given out.
    last_epoch: u64,
    /// The greatest epoch whose header is surely on the disk.
    durable_epoch: u64,
}

struct Task {
    shards: Vec<Shard>,
    done: Receiver<Returned>,
    retained: Retained,
    storage: Arc<Storage>,
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
        let (state, nudge) = (Arc::new(KeeperState::default()), Nudge::default());
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
            let (shard, feed) = Shard::new(plan, files, options, done, &nudge, &state);
            if shard.active {
                let (ready, loans) = (Arc::clone(&shard.ready), Arc::clone(shard.dir.loans()));
                let (content, nudge) = (shard.content.clone(), nudge.clone());
                handles.push(ShardHandles { shard: number, ready, content, nudge, loans });
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
            storage: Arc::clone(content.storage()),
            given_up_at: None,
            segment_size,
            state: Arc::clone(&state),
            stop: Arc::clone(&stop),
        };
        let thread = std::thread::Builder::new().name("keeper".into()).spawn(move || task.run());
        let thread = thread.map_err(StoreError::io("start a thread for", &options.path))?;
        nudge.set_thread(thread.thread().clone());
        Ok((Self { state, nudge, stop, thread: Some(thread), content, _lock: lock }, handles, feeds))
    }

    /// How much room the disk has.
    pub fn storage(&self) -> &Arc<Storage> {
        self.content.storage()
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
                Ok(false) => IDLE_WAIT,
                Err(_) => RETRY_WAIT,
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
            return IDLE_WAIT;
        }
        if self.storage.room() == Room::Plenty {
            return RETRY_WAIT;
        }
        self.note_given_up();
        let given_up = self.retained.give_up(None);
        given_up.into_iter().for_each(|file| self.reuse(file));
        ROOM_WAIT
    }

    fn note_given_up(&mut self) {
        if self.given_up_at.is_none_or(|at| at.elapsed() >= IDLE_WAIT) {
            tracing::warn!(
                "too little room: delivered mail is overwritten before `[spool] retain` allows it"
            );
        }
        self.given_up_at = Some(Instant::now());
    }

    fn drop_surplus(&mut self) {
        for shard in &mut self.shards {
            while shard.spares.len() > SPARES_COUNT_MAX {
                let Spare { number, epoch, .. } = shard.spares.remove(0);
                shard.delete(number, epoch, &self.state);
            }
        }
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

impl Shard {
    fn new(
        plan: ShardPlan,
        content: ContentFiles,
        options: &SpoolOptions,
        done: Done,
        nudge: &Nudge,
        state: &KeeperState,
    ) -> (Self, ShardFeed) {
        let ShardPlan { dir, active, recovered, deferred, unread, next_number, newest_epoch, .. } = plan;
        let former_is_known = Arc::new(AtomicBool::new(unread.is_empty()));
        let FoundContent { unnamed, has_damage, .. } = plan.content;
        let (epoch_max, is_known) = (newest_epoch, Arc::clone(&former_is_known));
        let former_content = FormerContent { unnamed, has_damage, epoch_max, is_known };
        let reserve = Arc::new(ArrayQueue::new(DEFERRED_READY_COUNT));
        let former = recovered.iter().chain(&deferred).map(|segment| segment.capacity);
        let (deferred_size, segment_size) =
            (former.fold(options.segment_size, u64::max), options.segment_size);
        let (feed, incoming) = channel();
        let mut shard = Self {
            active,
            ready: Arc::new(ArrayQueue::new(options.ready_count.clamp(1, READY_COUNT_MAX))),
            defers: active || !recovered.is_empty() || !deferred.is_empty(),
            reserve: Arc::clone(&reserve),
            deferred_size,
            feed,
            spares: Vec::new(),
            unread,
            former_is_known,
            has_unreadable: false,
            content,
            next_number,
            last_epoch: newest_epoch,
            durable_epoch: newest_epoch,
            dir,
        };
        plan.spares.into_iter().for_each(|spare| shard.take_spare(spare, segment_size, state));
        let (shard_number, directory) = (shard.dir.shard, Arc::from(shard.dir.path.as_path()));
        let log = DeferredLog::new(reserve, nudge.clone());
        let feed = ShardFeed {
            shard: shard_number,
            directory,
            recovered,
            deferred,
            log,
            incoming,
            done,
            former_content,
        };
        (shard, feed)
    }

    /// Keeps a delivered file of the right size for reuse, removes another.
    fn take_spare(&mut self, spare: Spare, segment_size: u64, state: &KeeperState) {
        if (self.active && spare.capacity == segment_size) || spare.capacity == self.deferred_size {
            self.spares.push(spare);
        } else {
            self.delete(spare.number, spare.epoch, state);
        }
    }

    /// Reads one of the segments that most likely have no mail: whether there was one.
    fn read_one(&mut self, segment_size: u64, state: &KeeperState) -> bool {
        let Some(segment) = self.unread.pop() else { return false };
        let path = segment.path.display();
        match segment.recover() {
            Ok(()) if segment.committed() == FIRST_BATCH_AT => {
                self.take_spare(Spare::of(&segment), segment_size, state);
            }
            Ok(()) => drop(self.feed.send(Arc::new(segment))),
            Err(error) => {
                // Not used again, so that whatever is in it is there at the next start; nor is a file that it may name.
                tracing::error!(%path, %error, "cannot read a segment; left as it is");
                self.has_unreadable = true;
            }
        }
        if self.unread.is_empty() && !self.has_unreadable {
            self.former_is_known.store(true, Ordering::Release);
        }
        true
    }

    /// Makes what is missing most; `false` when nothing is.
    fn make_next(&mut self, segment_size: u64, state: &KeeperState) -> io::Result<bool> {
        if self.defers && !self.reserve.is_full() {
            let segment = self.make(Role::Deferred, self.deferred_size, segment_size, state)?;
            drop(self.reserve.push(Arc::new(segment)));
        } else if self.active && !self.ready.is_full() {
            let segment = Arc::new(self.make(Role::Intake, segment_size, segment_size, state)?);
            // Egress first: it must know the segment before a worker can commit to it.
            drop(self.feed.send(Arc::clone(&segment)));
            drop(self.ready.push(segment));
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    /// A segment with a new epoch: from a spare file, or else from a new one.
    fn make(
        &mut self,
        role: Role,
        capacity: u64,
        segment_size: u64,
        state: &KeeperState,
    ) -> io::Result<Segment> {
        let fits = |spare: &Spare| spare.capacity == capacity;
        while !self.spares.iter().any(fits) && self.read_one(segment_size, state) {}
        if let Some(index) = self.spares.iter().rposition(fits) {
            let spare = self.spares.remove(index);
            let header = self.next_header(role, spare.number, capacity)?;
            match self.dir.recycle(&header) {
                Ok(segment) => {
                    self.durable_epoch = header.epoch;
                    state.recycled.bump();
                    return Ok(segment);
                }
                Err(error) => {
                    let path = self.dir.segment_path(spare.number);
                    tracing::warn!(path = %path.display(), %error, "cannot recycle a segment; removing it");
                    self.delete(spare.number, spare.epoch, state);
                }
            }
        }
        let header = self.next_header(role, self.next_number, capacity)?;
        let segment = self.dir.create(&header)?;
        self.next_number += 1;
        self.durable_epoch = header.epoch;
        state.created.bump();
        Ok(segment)
    }

    /// An epoch is used up by the attempt: after an error nobody knows whether its header is on the disk.
    fn next_header(&mut self, role: Role, number: u32, capacity: u64) -> io::Result<SegmentHeader> {
        self.last_epoch += 1;
        let (shard, epoch, key) = (self.dir.shard, self.last_epoch, random_key()?);
        Ok(SegmentHeader { version: FORMAT_VERSION, role, shard, number, epoch, key, capacity })
    }

    /// Removes a file, but of the shard's newest one leaves the header: the next start counts epochs on from
    /// there.
    fn delete(&self, number: u32, epoch: u64, state: &KeeperState) {
        let newest = epoch == self.durable_epoch;
        match if newest { self.dir.cut(number) } else { self.dir.delete(number) } {
            Ok(()) => {
                state.deleted.bump();
            }
            Err(error) => {
                let path = self.dir.segment_path(number);
                tracing::warn!(path = %path.display(), %error, "cannot remove a delivered segment; the next start will");
            }
        }
    }
}

/// Eight bytes nobody can guess: see [`SegmentHeader::key`].
fn random_key() -> io::Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}
