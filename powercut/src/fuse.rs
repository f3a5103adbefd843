//! A FUSE filesystem of disk images in memory: each file is a disk, with its size fixed.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyWrite, Request, WriteFlags,
};

use crate::disk::{Event, Image, SECTOR_LEN};

/// How long the kernel may remember what a name or an inode is: they never change.
const TTL: Duration = Duration::from_secs(3600);
/// Octets of one write, at most. The kernel splits what is longer.
const WRITE_LEN_MAX: u32 = 1 << 20;

/// One disk. It is written to by the thread that serves FUSE, alone.
#[derive(Debug)]
pub(crate) struct Disk {
    state: Mutex<State>,
    /// Events logged so far.
    position: AtomicUsize,
    /// What a flush takes, as on a disk that has to write.
    flush_time: Duration,
}

#[derive(Debug)]
struct State {
    image: Image,
    /// `None`: this disk does not remember.
    log: Option<Vec<Event>>,
}

impl Disk {
    /// A disk that logs what happens to it.
    pub(crate) fn recording(image: Image, flush_time: Duration) -> Arc<Self> {
        let state = Mutex::new(State { image, log: Some(Vec::new()) });
        Arc::new(Self { state, position: AtomicUsize::new(0), flush_time })
    }

    pub(crate) fn plain(image: Image) -> Arc<Self> {
        let state = Mutex::new(State { image, log: None });
        Arc::new(Self { state, position: AtomicUsize::new(0), flush_time: Duration::ZERO })
    }

    /// How many events have been logged and answered, or are about to be. Whoever reads this behind an answer knows
    /// that the event is among them.
    pub(crate) fn position(&self) -> usize {
        self.position.load(Ordering::SeqCst)
    }

    /// The events since `position`.
    pub(crate) fn events_since(&self, position: usize) -> Vec<Event> {
        self.lock().log.as_ref().map_or_else(Vec::new, |log| log[position..].to_vec())
    }

    /// Takes the log away; nothing more is logged.
    pub(crate) fn take_log(&self) -> Vec<Event> {
        self.lock().log.take().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn len(&self) -> u64 {
        self.lock().image.len()
    }

    fn write(&self, offset: u64, octets: &[u8]) {
        let mut state = self.lock();
        state.image.write(offset, octets);
        self.log(&mut state, || Event::Write { offset, octets: octets.to_vec() });
    }

    fn flush(&self) {
        if !self.flush_time.is_zero() {
            std::thread::sleep(self.flush_time);
        }
        self.log(&mut self.lock(), || Event::Flush);
    }

    fn log(&self, state: &mut State, event: impl FnOnce() -> Event) {
        if let Some(log) = &mut state.log {
            log.push(event());
            self.position.store(log.len(), Ordering::SeqCst);
        }
    }
}

#[derive(Debug, Default)]
struct Registry {
    disks: BTreeMap<u64, Arc<Disk>>,
    /// Never given out twice: the kernel must not take one disk's pages for another's.
    last_inode: u64,
}

/// The mounted filesystem. Dropped, it is unmounted.
#[derive(Debug)]
pub(crate) struct Disks {
    registry: Arc<Mutex<Registry>>,
    directory: PathBuf,
    _session: BackgroundSession,
}

/// A disk's file. Dropped, the disk is gone.
#[derive(Debug)]
pub(crate) struct DiskFile {
    pub path: PathBuf,
    inode: u64,
    registry: Arc<Mutex<Registry>>,
}

impl Disks {
    /// Mounts at `directory`.
    pub(crate) fn mount(directory: &Path) -> io::Result<Self> {
        let registry = Arc::new(Mutex::new(Registry { last_inode: INodeNo::ROOT.0, ..Registry::default() }));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("powercut".into()), MountOption::NoAtime];
        let session = fuser::spawn_mount(Server { registry: Arc::clone(&registry) }, directory, &config)?;
        Ok(Self { registry, directory: directory.to_owned(), _session: session })
    }

    pub(crate) fn add(&self, disk: Arc<Disk>) -> DiskFile {
        let mut registry = lock(&self.registry);
        registry.last_inode += 1;
        let inode = registry.last_inode;
        registry.disks.insert(inode, disk);
        DiskFile { path: self.directory.join(inode.to_string()), inode, registry: Arc::clone(&self.registry) }
    }
}

impl Drop for DiskFile {
    fn drop(&mut self) {
        lock(&self.registry).disks.remove(&self.inode);
    }
}

fn lock(registry: &Mutex<Registry>) -> MutexGuard<'_, Registry> {
    registry.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What answers the kernel.
#[derive(Debug)]
struct Server {
    registry: Arc<Mutex<Registry>>,
}

impl Server {
    fn disk(&self, inode: INodeNo) -> Option<Arc<Disk>> {
        lock(&self.registry).disks.get(&inode.0).cloned()
    }

    fn attributes(&self, inode: INodeNo) -> Option<FileAttr> {
        let (size, kind, perm) = match inode {
            INodeNo::ROOT => (0, FileType::Directory, 0o700),
            _ => (self.disk(inode)?.len(), FileType::RegularFile, 0o600),
        };
        let time = UNIX_EPOCH;
        Some(FileAttr {
            ino: inode,
            size,
            blocks: size.div_ceil(SECTOR_LEN as u64),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: SECTOR_LEN as u32,
            flags: 0,
        })
    }
}

impl Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // A kernel that takes less says how much; then writes come in more pieces.
        let _ = config.set_max_write(WRITE_LEN_MAX);
        Ok(())
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let inode = name.to_str().and_then(|name| name.parse().ok()).map(INodeNo);
        match inode.filter(|&inode| inode != INodeNo::ROOT).and_then(|inode| self.attributes(inode)) {
            Some(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(inode) {
            Some(attributes) => reply.attr(&TTL, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    /// Past the page cache: what is answered is what the disk has.
    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.disk(inode) {
            Some(disk) => {
                let octets = disk.lock().image.read(offset, size as usize);
                reply.data(&octets);
            }
            None => reply.error(Errno::EIO),
        }
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        octets: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.disk(inode) {
            Some(disk) => {
                disk.write(offset, octets);
                reply.written(octets.len() as u32);
            }
            None => reply.error(Errno::EIO),
        }
    }

    fn fsync(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match self.disk(inode) {
            Some(disk) => {
                disk.flush();
                reply.ok();
            }
            None => reply.error(Errno::EIO),
        }
    }

    /// A descriptor was closed, which makes nothing durable.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}
