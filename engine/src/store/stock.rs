//! What the keeper has of one shard: its directory, the segments that are ready, and the files that may become some.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::SystemTime;

use crossbeam_queue::ArrayQueue;

use super::content::{ContentFiles, FoundContent};
use super::deferred::DeferredLog;
use super::handles::{Done, FormerContent, KeeperState, Nudge, ShardFeed};
use super::open::SpoolOptions;
use super::segment::Segment;
use super::shard::ShardDir;
use crate::limits::{READY_SEGMENTS_COUNT_MAX, SPARE_SEGMENTS_COUNT_MAX};
use crate::spool::FORMAT_VERSION;
use crate::spool::segment::{FIRST_BATCH_AT, Role, SegmentHeader};

/// Deferred segments that a shard has ready: undelivered mail finds room when the disk is full.
const DEFERRED_READY_COUNT: usize = 1;
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
    /// Segments that the disk does not give: left alone.
    pub unreadable_count: u64,
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

/// The keeper's view of a shard.
pub(super) struct Stock {
    pub(super) dir: ShardDir,
    pub(super) active: bool,
    pub(super) ready: Arc<ArrayQueue<Arc<Segment>>>,
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
    pub(super) content: ContentFiles,
    next_number: u32,
    /// The last epoch given out.
    last_epoch: u64,
    /// The greatest epoch whose header is surely on the disk.
    durable_epoch: u64,
}

impl Stock {
    pub(super) fn new(
        plan: ShardPlan,
        content: ContentFiles,
        options: &SpoolOptions,
        done: Done,
        nudge: &Nudge,
        state: &KeeperState,
    ) -> (Self, ShardFeed) {
        state.unreadable.add(plan.unreadable_count);
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
            ready: Arc::new(ArrayQueue::new(options.ready_count.clamp(1, READY_SEGMENTS_COUNT_MAX))),
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
    pub(super) fn take_spare(&mut self, spare: Spare, segment_size: u64, state: &KeeperState) {
        if (self.active && spare.capacity == segment_size) || spare.capacity == self.deferred_size {
            self.spares.push(spare);
        } else {
            self.delete(spare.number, spare.epoch, state);
        }
    }

    /// Reads one of the segments that most likely have no mail: whether there was one.
    pub(super) fn read_one(&mut self, segment_size: u64, state: &KeeperState) -> bool {
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

    /// Deletes the files that are more than may be needed.
    pub(super) fn drop_surplus(&mut self, state: &KeeperState) {
        while self.spares.len() > SPARE_SEGMENTS_COUNT_MAX {
            let Spare { number, epoch, .. } = self.spares.remove(0);
            self.delete(number, epoch, state);
        }
    }

    /// Makes what is missing most; `false` when nothing is.
    pub(super) fn make_next(&mut self, segment_size: u64, state: &KeeperState) -> io::Result<bool> {
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
    pub(super) fn delete(&self, number: u32, epoch: u64, state: &KeeperState) {
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
