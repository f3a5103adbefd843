//! What the keeper shares with workers, egress and the control thread.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;

use crossbeam_queue::ArrayQueue;
use ringmx_ring::BlockBuffer;

use super::content::ContentFiles;
use super::deferred::DeferredLog;
use super::loans::Loans;
use super::segment::Segment;
use super::storage::{Room, Storage};
use crate::stats::Counter;

/// A worker's side of its shard.
#[derive(Clone, Debug)]
pub struct ShardHandles {
    pub shard: u16,
    /// Fresh segments, in the order egress gets them. Take the next by [`Self::take`].
    pub ready: Arc<ArrayQueue<Arc<Segment>>>,
    /// For messages that are too large for a segment.
    pub content: ContentFiles,
    pub nudge: Nudge,
    pub(super) loans: Arc<Loans>,
    pub(super) state: Arc<KeeperState>,
}

impl ShardHandles {
    /// The next segment, if one is ready. Lets the keeper know, which costs one system call.
    pub fn take(&self) -> Option<Arc<Segment>> {
        self.ready.pop().inspect(|_| self.nudge.nudge())
    }

    /// Whether the next one is being made, and nothing is known to keep it from being ready soon.
    pub fn is_coming(&self) -> bool {
        self.state.is_healthy() && self.content.room() < Room::Spent
    }

    /// Memory that the shard's reader has given back.
    pub fn take_spent(&self) -> Option<BlockBuffer> {
        self.loans.take_spent()
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
    pub directory: Arc<Path>,
    /// Segments of former runs with mail left, sealed, oldest first.
    pub recovered: Vec<Arc<Segment>>,
    /// Deferred segments of former runs, sealed, oldest first: for [`super::read_backlog`].
    pub deferred: Vec<Arc<Segment>>,
    /// Where mail goes that is not delivered at once.
    pub log: DeferredLog,
    /// Each fresh segment, in the order they are filled.
    pub incoming: Receiver<Arc<Segment>>,
    pub done: Done,
    pub former_content: FormerContent,
}

/// Files of large messages that a former run left in a shard.
#[derive(Debug, Default)]
pub struct FormerContent {
    /// Those that no record read so far names: at first all.
    pub unnamed: BTreeSet<u32>,
    /// A record may be unreadable that names one of them.
    pub has_damage: bool,
    /// The greatest epoch of the segments in which such records may be.
    pub epoch_max: u64,
    pub(super) is_known: Arc<AtomicBool>,
}

impl FormerContent {
    /// Whether all of those segments are among what [`ShardFeed`] has given. Ask this first, then that.
    pub fn is_known(&self) -> bool {
        self.is_known.load(Ordering::Acquire)
    }
}

/// Takes back what egress has done with.
#[derive(Clone, Debug)]
pub struct Done {
    shard: u16,
    sender: Sender<Returned>,
    nudge: Nudge,
}

/// What it takes back.
#[derive(Debug)]
pub(super) enum Returned {
    Segment(Arc<Segment>),
    Content { shard: u16, number: u32 },
}

impl Done {
    pub(super) fn new(shard: u16, sender: Sender<Returned>, nudge: Nudge) -> Self {
        Self { shard, sender, nudge }
    }

    /// Gives a segment back: sealed, read to its end, all acknowledgements flushed. Drop its reader and its
    /// ack writer.
    pub fn send(&self, segment: Arc<Segment>) {
        self.give(Returned::Segment(segment));
    }

    /// Gives the file of a large message back: the acknowledgement of the record that names it is durable, or there is
    /// no such record.
    pub fn send_content(&self, number: u32) {
        self.give(Returned::Content { shard: self.shard, number });
    }

    fn give(&self, returned: Returned) {
        // Without a keeper the process ends, and the next start finds the same.
        drop(self.sender.send(returned));
        self.nudge.nudge();
    }
}

/// Wakes the keeper.
#[derive(Clone, Debug, Default)]
pub struct Nudge(Arc<OnceLock<Thread>>);

impl Nudge {
    /// The thread to wake. What came before is seen by its first turn.
    pub(super) fn set_thread(&self, thread: Thread) {
        drop(self.0.set(thread));
    }

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
    storage: Arc<Storage>,
    pub(super) created: Counter,
    pub(super) recycled: Counter,
    pub(super) deleted: Counter,
    pub(super) set_aside: Counter,
    pub(super) unreadable: Counter,
}

impl KeeperState {
    pub(super) fn new(storage: Arc<Storage>) -> Self {
        Self { storage, ..Self::default() }
    }

    /// The errno that keeps segments from being made, `None` while all is well.
    pub fn errno(&self) -> Option<i32> {
        Some(self.errno.load(Ordering::Acquire)).filter(|&errno| errno != 0)
    }

    /// How much room the disk has.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    pub fn is_healthy(&self) -> bool {
        self.errno().is_none()
    }

    /// Whether the disk or the quota is full.
    pub fn is_out_of_space(&self) -> bool {
        let kind = self.errno().map(|errno| io::Error::from_raw_os_error(errno).kind());
        matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }

    /// Segment files created, recycled, deleted and set aside since the start, and left alone by it as unreadable.
    pub fn counts(&self) -> [(&'static str, u64); 5] {
        [
            ("created", self.created.get()),
            ("recycled", self.recycled.get()),
            ("deleted", self.deleted.get()),
            ("set_aside", self.set_aside.get()),
            ("unreadable", self.unreadable.get()),
        ]
    }

    /// Returns the former one.
    pub(super) fn set_errno(&self, errno: i32) -> i32 {
        self.errno.swap(errno, Ordering::AcqRel)
    }
}
