//! Files for the content of large messages, one each, beside the segments of their shard.
//!
//! A thread of their own makes them ahead, so that no worker waits for a directory's sync and none of these files for
//! the zeros of a segment. It takes them back, empties them for the next message or deletes them, and looks at the room
//! that is left on the disk ([`super::Storage`]).
//!
//! ```text
//! made ──ready──> taken by a worker ──aborted──> emptied ──┬──> ready again
//!                        │ record that names it            └──> deleted, where there are enough
//!                        └──────────> in the spool ──acknowledged──> emptied
//! ```

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use rustix::fs::OFlags;

use super::direct::Writes;
use super::error::StoreError;
use super::handles::Nudge;
use super::shard::{open_options, sync_directory};
use super::stock::ShardPlan;
use super::storage::{Marks, Room, Storage};
use crate::checksum;
use crate::limits::SPARE_FILES_COUNT_MAX;
use crate::spool::content_ref::ContentRef;

/// Files that each shard has ready: what a burst takes until the next ones are made, which share one sync.
const READY_COUNT: usize = 64;
/// Between two looks at the disk while nothing is written to such files, and while something is.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);
const BUSY_INTERVAL: Duration = Duration::from_millis(100);

/// An open file for one message's content.
#[derive(Debug)]
pub struct ContentFile {
    pub number: u32,
    pub path: PathBuf,
    /// For direct writes, where the file system takes them.
    pub file: File,
}

/// The file of this number in a shard's directory.
pub fn content_path(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("{number:08}.content"))
}

/// A worker's and egress's side of one shard's files.
#[derive(Clone, Debug)]
pub struct ContentFiles {
    shard: u16,
    ready: Arc<ArrayQueue<Arc<ContentFile>>>,
    back: Sender<(u16, Back)>,
    nudge: Nudge,
    storage: Arc<Storage>,
}

/// What comes back, and how.
#[derive(Debug)]
enum Back {
    /// No record names it.
    Unused(Arc<ContentFile>),
    /// The same, and a write to it failed: its blocks are not used again.
    Failed(Arc<ContentFile>),
    /// The record that named it is acknowledged, durably, or there is none.
    Delivered(u32),
}

impl ContentFiles {
    /// An empty file whose name is durable, if one is ready.
    pub fn take(&self) -> Option<Arc<ContentFile>> {
        self.ready.pop().inspect(|_| self.nudge.nudge())
    }

    /// Whether a file is ready.
    pub fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Takes a file back that no record names. `failed`: a write to it did.
    pub fn give_back(&self, file: Arc<ContentFile>, failed: bool) {
        self.send(if failed { Back::Failed(file) } else { Back::Unused(file) });
    }

    /// The message in the file of this number is acknowledged, durably, and not retained.
    pub(super) fn delivered(&self, number: u32) {
        self.send(Back::Delivered(number));
    }

    pub fn room(&self) -> Room {
        self.storage.room()
    }

    fn send(&self, back: Back) {
        // Without the thread the process ends, and the next start finds that no record names the file.
        drop(self.back.send((self.shard, back)));
        self.nudge.nudge();
    }
}

/// What a start finds of a shard's files.
#[derive(Debug, Default)]
pub(super) struct FoundContent {
    pub last_number: u32,
    /// Those without content: no record names them.
    pub empty: Vec<u32>,
    /// Those with content: the records tell whether mail waits in them.
    pub unnamed: BTreeSet<u32>,
    /// Segments of the shard were set aside: their records may name some.
    pub has_damage: bool,
}

/// The running thread. Stops when dropped.
#[derive(Debug)]
pub(super) struct ContentKeeper {
    storage: Arc<Storage>,
    stop: Arc<AtomicBool>,
    nudge: Nudge,
    thread: Option<JoinHandle<()>>,
}

struct Shard {
    shard: u16,
    directory: PathBuf,
    active: bool,
    direct: bool,
    ready: Arc<ArrayQueue<Arc<ContentFile>>>,
    spares: Vec<Arc<ContentFile>>,
    next_number: u32,
    /// Files that were made ready and have not come back.
    out_count: usize,
    has_failed: bool,
}

struct Task {
    shards: Vec<Shard>,
    back: Receiver<(u16, Back)>,
    storage: Arc<Storage>,
    marks: Marks,
    spool: PathBuf,
    stop: Arc<AtomicBool>,
}

impl ContentKeeper {
    /// The handles are in the order of `shards`.
    pub(super) fn start(
        spool: &Path,
        plans: &[ShardPlan],
        marks: Marks,
    ) -> Result<(Self, Vec<ContentFiles>), StoreError> {
        let (nudge, stop) = (Nudge::default(), Arc::new(AtomicBool::new(false)));
        let storage = Arc::<Storage>::default();
        let (sender, back) = channel();
        let (mut handles, mut tasks) = (Vec::new(), Vec::new());
        for ShardPlan { dir, active, content, .. } in plans {
            let (shard, directory, active) = (dir.shard, dir.path.clone(), *active);
            let ready = Arc::new(ArrayQueue::new(READY_COUNT));
            handles.push(ContentFiles {
                shard,
                ready: Arc::clone(&ready),
                back: sender.clone(),
                nudge: nudge.clone(),
                storage: Arc::clone(&storage),
            });
            let mut task = Shard {
                shard,
                active,
                direct: dir.writes() == Writes::Direct,
                ready,
                spares: Vec::new(),
                next_number: content.last_number + 1,
                out_count: 0,
                has_failed: false,
                directory,
            };
            content.empty.iter().for_each(|&number| task.reuse(number));
            tasks.push(task);
        }
        let mut task = Task {
            shards: tasks,
            back,
            storage: Arc::clone(&storage),
            marks,
            spool: spool.to_owned(),
            stop: Arc::clone(&stop),
        };
        task.look_at_storage();
        let thread = std::thread::Builder::new().name("content".into()).spawn(move || task.run());
        let thread = thread.map_err(StoreError::io("start a thread for", spool))?;
        nudge.set_thread(thread.thread().clone());
        Ok((Self { storage, stop, nudge, thread: Some(thread) }, handles))
    }

    pub(super) fn storage(&self) -> &Arc<Storage> {
        &self.storage
    }
}

impl Drop for ContentKeeper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.nudge.nudge();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Task {
    fn run(&mut self) {
        while !self.stop.load(Ordering::Acquire) {
            self.take_all_back();
            self.shards.iter_mut().filter(|shard| shard.active).for_each(Shard::fill);
            self.look_at_storage();
            let busy = self.shards.iter().any(|shard| shard.out_count > shard.ready.len());
            std::thread::park_timeout(if busy { BUSY_INTERVAL } else { IDLE_INTERVAL });
        }
        self.take_all_back();
    }

    fn take_all_back(&mut self) {
        while let Ok((shard, back)) = self.back.try_recv() {
            if let Some(shard) = self.shards.iter_mut().find(|other| other.shard == shard) {
                shard.take_back(back);
            }
        }
    }

    fn look_at_storage(&self) {
        match rustix::fs::statvfs(&self.spool) {
            Ok(found) => self.storage.judge(&self.marks, &found),
            Err(error) => {
                tracing::warn!(path = %self.spool.display(), %error, "cannot see how full the disk is")
            }
        }
    }
}

impl Shard {
    fn take_back(&mut self, back: Back) {
        // Those of a former run were not counted.
        self.out_count = self.out_count.saturating_sub(1);
        match back {
            Back::Unused(file) => self.empty(file),
            Back::Failed(file) => self.remove(file.number),
            Back::Delivered(number) => self.reuse(number),
        }
    }

    fn reuse(&mut self, number: u32) {
        if !self.active || self.spares.len() >= SPARE_FILES_COUNT_MAX {
            return self.remove(number);
        }
        match self.open(number, false) {
            Ok(file) => self.empty(file),
            Err(_) => self.remove(number),
        }
    }

    /// Keeps an empty file for the next message.
    fn empty(&mut self, file: Arc<ContentFile>) {
        if self.spares.len() < SPARE_FILES_COUNT_MAX && file.file.set_len(0).is_ok() {
            self.spares.push(file);
        } else {
            self.remove(file.number);
        }
    }

    /// Not durably: a file that comes back after a crash is one that no record names.
    fn remove(&self, number: u32) {
        let path = content_path(&self.directory, number);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "cannot remove a content file; the next start will");
            }
            _ => {}
        }
    }

    /// Has as many files ready as there should be.
    fn fill(&mut self) {
        while !self.ready.is_full()
            && let Some(spare) = self.spares.pop()
        {
            self.hand_out(spare);
        }
        let missing_count = self.ready.capacity() - self.ready.len();
        let made = (0..missing_count).map(|_| self.make()).collect::<io::Result<Vec<_>>>();
        // One sync for all of their names.
        let made = made.and_then(|made| {
            if !made.is_empty() {
                sync_directory(&self.directory)?;
            }
            Ok(made)
        });
        match made {
            Ok(made) => {
                made.into_iter().for_each(|file| self.hand_out(file));
                if std::mem::take(&mut self.has_failed) {
                    tracing::info!(path = %self.directory.display(), "content files can be made again");
                }
            }
            Err(error) if !std::mem::replace(&mut self.has_failed, true) => {
                let path = self.directory.display();
                tracing::error!(
                    %path, %error,
                    "cannot make content files; messages above `[spool] inline_size` are answered 452 when none is left"
                );
            }
            Err(_) => {}
        }
    }

    fn hand_out(&mut self, file: Arc<ContentFile>) {
        // Counted from here: a worker's taking is not told.
        self.out_count += usize::from(self.ready.push(file).is_ok());
    }

    fn make(&mut self) -> io::Result<Arc<ContentFile>> {
        let number = self.next_number;
        let file = self.open(number, true)?;
        self.next_number += 1;
        Ok(file)
    }

    fn open(&self, number: u32, create: bool) -> io::Result<Arc<ContentFile>> {
        let path = content_path(&self.directory, number);
        let direct = if self.direct { OFlags::DIRECT } else { OFlags::empty() };
        let flags = (OFlags::NOFOLLOW | direct).bits().cast_signed();
        let file = open_options().create_new(create).custom_flags(flags).open(&path)?;
        Ok(Arc::new(ContentFile { number, path, file }))
    }
}

/// Reads a file's content from its beginning, in bounded pieces, and checks it.
#[derive(Debug)]
pub struct ContentReader {
    file: File,
    content: ContentRef,
    at: u64,
    crc: u32,
}

impl ContentReader {
    pub fn open(directory: &Path, content: ContentRef) -> io::Result<Self> {
        Ok(Self { file: File::open(content_path(directory, content.number))?, content, at: 0, crc: 0 })
    }

    /// The next piece, in `buffer`; false at the end. Blocks on the disk.
    ///
    /// # Errors
    /// `InvalidData` at the end of content that fails its checksum, `UnexpectedEof` in a file that is too short.
    pub fn next(&mut self, buffer: &mut Vec<u8>, len_max: usize) -> io::Result<bool> {
        let len = (self.content.len - self.at).min(len_max as u64);
        if len == 0 {
            let sound = self.crc == self.content.crc;
            let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the content fails its checksum");
            return if sound { Ok(false) } else { Err(damaged()) };
        }
        buffer.resize(usize::try_from(len).unwrap_or(len_max), 0);
        self.file.read_exact_at(buffer, self.at)?;
        self.crc = checksum::crc32c_append(self.crc, buffer);
        self.at += len;
        Ok(true)
    }

    /// Reads all of it, without giving it to anybody.
    pub fn check(mut self) -> io::Result<()> {
        let mut buffer = Vec::new();
        while self.next(&mut buffer, 256 << 10)? {}
        Ok(())
    }
}
