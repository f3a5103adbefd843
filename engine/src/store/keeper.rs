//! The keeper: a thread that has segments ready before workers need them, and takes delivered ones back.
//!
//! A worker takes a segment from a queue and never waits: when none is ready (a full disk), it answers 452 until one is.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;

use super::error::StoreError;
use super::open::SpoolOptions;
use super::root::Lock;
use super::segment::{Fate, Segment};
use super::shard::ShardDir;
use crate::spool::segment::SegmentHeader;

/// Most segments that a shard may have ready.
pub const READY_COUNT_MAX: usize = 4;
/// Delivered segments a shard keeps for reuse beyond those that are ready; more are deleted.
const SPARES_COUNT_MAX: usize = 2;
/// Between two tries after an error.
const RETRY_WAIT: Duration = Duration::from_secs(1);

/// What recovery found of one shard.
#[derive(Debug)]
pub(super) struct ShardPlan {
    pub dir: ShardDir,
    /// A worker fills it.
    pub active: bool,
    /// Segments with mail to deliver, oldest first.
    pub recovered: Vec<Arc<Segment>>,
    /// Number and capacity of segments with nothing to deliver.
    pub spares: Vec<(u32, u64)>,
    pub next_number: u32,
    pub newest_epoch: u64,
}

/// A worker's side of its shard.
#[derive(Clone, Debug)]
pub struct ShardHandles {
    pub shard: u16,
    /// Fresh segments, in the order egress gets them. Take the next by [`Self::take`].
    pub ready: Arc<ArrayQueue<Arc<Segment>>>,
    pub nudge: Nudge,
}

impl ShardHandles {
    /// The next segment, if one is ready. Lets the keeper know, which costs one system call.
    pub fn take(&self) -> Option<Arc<Segment>> {
        let segment = self.ready.pop();
        self.nudge.nudge();
        segment
    }

    /// Whether a segment is ready.
    pub fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }
}

/// Egress's side of a shard.
#[derive(Debug)]
pub struct ShardFeed {
    pub shard: u16,
    /// Segments of former runs with mail left, sealed, oldest first.
    pub recovered: Vec<Arc<Segment>>,
    /// Each fresh segment, in the order they are filled.
    pub incoming: Receiver<Arc<Segment>>,
    pub done: Done,
}

/// Takes back segments of which every record is acknowledged, durably.
#[derive(Clone, Debug)]
pub struct Done {
    sender: Sender<Arc<Segment>>,
    nudge: Nudge,
}

impl Done {
    /// Gives a segment back: sealed, read to its end, all acknowledgements flushed. Drop its reader and its ack writer.
    pub fn send(&self, segment: Arc<Segment>) {
        // Without a keeper the process ends, and the next start finds the segment delivered.
        drop(self.sender.send(segment));
        self.nudge.nudge();
    }
}

/// Wakes the keeper.
#[derive(Clone, Debug, Default)]
pub struct Nudge(Arc<OnceLock<Thread>>);

impl Nudge {
    pub fn nudge(&self) {
        if let Some(thread) = self.0.get() {
            thread.unpark();
        }
    }
}

/// How the keeper fares, for readiness and metrics.
#[derive(Debug, Default)]
pub struct KeeperState {
    /// The error that keeps it from making segments; 0 while it can.
    errno: AtomicI32,
    created_count: AtomicU64,
    recycled_count: AtomicU64,
    deleted_count: AtomicU64,
    set_aside_count: AtomicU64,
}

impl KeeperState {
    /// The errno that keeps segments from being made, `None` while all is well.
    pub fn errno(&self) -> Option<i32> {
        Some(self.errno.load(Ordering::Acquire)).filter(|&errno| errno != 0)
    }

    pub fn is_healthy(&self) -> bool {
        self.errno().is_none()
    }

    /// Whether the disk or the quota is full.
    pub fn is_out_of_space(&self) -> bool {
        let kind = self.errno().map(|errno| io::Error::from_raw_os_error(errno).kind());
        matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }

    /// Segment files created, recycled, deleted and set aside since the start.
    pub fn counts(&self) -> [(&'static str, u64); 4] {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        [
            ("created", get(&self.created_count)),
            ("recycled", get(&self.recycled_count)),
            ("deleted", get(&self.deleted_count)),
            ("set_aside", get(&self.set_aside_count)),
        ]
    }
}

/// The running keeper, and with it the lock on the spool. Stops when dropped.
#[derive(Debug)]
pub struct Keeper {
    state: Arc<KeeperState>,
    nudge: Nudge,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    _lock: Lock,
}

/// The keeper's view of a shard.
struct Shard {
    dir: ShardDir,
    active: bool,
    ready: Arc<ArrayQueue<Arc<Segment>>>,
    feed: Sender<Arc<Segment>>,
    /// Numbers of files to reuse.
    spares: Vec<u32>,
    next_number: u32,
    newest_epoch: u64,
}

struct Task {
    shards: Vec<Shard>,
    done: Receiver<Arc<Segment>>,
    segment_size: u64,
    state: Arc<KeeperState>,
}

impl Keeper {
    pub(super) fn start(
        lock: Lock,
        options: &SpoolOptions,
        plans: Vec<ShardPlan>,
    ) -> Result<(Self, Vec<ShardHandles>, Vec<ShardFeed>), StoreError> {
        let (state, nudge, stop) = (Arc::new(KeeperState::default()), Nudge::default(), Arc::default());
        let (done_sender, done) = channel();
        let (mut shards, mut handles, mut feeds) = (Vec::new(), Vec::new(), Vec::new());
        for plan in plans {
            let ready = Arc::new(ArrayQueue::new(options.ready_count.clamp(1, READY_COUNT_MAX)));
            let (feed, incoming) = channel();
            let shard = plan.dir.shard;
            if plan.active {
                handles.push(ShardHandles { shard, ready: Arc::clone(&ready), nudge: nudge.clone() });
            }
            let done = Done { sender: done_sender.clone(), nudge: nudge.clone() };
            feeds.push(ShardFeed { shard, recovered: plan.recovered, incoming, done });
            let ShardPlan { dir, active, next_number, newest_epoch, .. } = plan;
            let spares = plan.spares.into_iter().map(|(number, _)| number).collect();
            shards.push(Shard { dir, active, ready, feed, spares, next_number, newest_epoch });
        }
        let mut task = Task { shards, done, segment_size: options.segment_size, state: Arc::clone(&state) };
        let stopped = Arc::clone(&stop);
        let body = move || {
            while !AtomicBool::load(&stopped, Ordering::Acquire) {
                task.turn();
            }
        };
        let thread = std::thread::Builder::new().name("keeper".into()).spawn(body);
        let thread = thread.map_err(StoreError::io("start a thread for", &options.path))?;
        drop(nudge.0.set(thread.thread().clone()));
        Ok((Self { state, nudge, stop, thread: Some(thread), _lock: lock }, handles, feeds))
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
    fn turn(&mut self) {
        while let Ok(_segment) = self.done.try_recv() {}
        let _ = (&self.shards, self.segment_size, &self.state, SPARES_COUNT_MAX, RETRY_WAIT, Fate::Recycle);
        std::thread::park_timeout(RETRY_WAIT);
    }
}

impl Shard {
    fn next_header(&self, capacity: u64) -> SegmentHeader {
        SegmentHeader {
            shard: self.dir.shard,
            number: self.next_number,
            epoch: self.newest_epoch + 1,
            key: 0,
            capacity,
        }
    }
}
