//! An open segment, shared by the worker that fills it, the egress thread that reads it and the keeper.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use crossbeam_queue::ArrayQueue;
use ringmx_ring::BlockBuffer;

use super::direct::read_blocks;
use super::loans::{Loan, Loans};
use crate::limits::LENT_COUNT_MAX;
use crate::spool::ReadAt;
use crate::spool::recover::recover;
use crate::spool::segment::{FIRST_BATCH_AT, Role, SegmentHeader};
use crate::spool::walk::Damage;
use crate::stats::LINES_LEN;

impl ReadAt for File {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buf, offset)
    }
}

/// One use of a segment's file: from its header with this epoch to the next.
#[derive(Debug)]
pub struct Segment {
    /// Of the format: see [`SegmentHeader::version`].
    pub version: u8,
    pub role: Role,
    pub shard: u16,
    pub number: u32,
    pub epoch: u64,
    pub key: u64,
    pub path: PathBuf,
    /// Open for reading and writing, buffered.
    pub file: File,
    /// The same past the page cache, where the file system takes that.
    direct: Option<File>,
    /// Batches just written, for the reader. Its end.
    pub(super) fresh: ArrayQueue<Loan>,
    loans: Arc<Loans>,
    pub capacity: u64,
    /// Bytes durable and readable, from 0.
    committed: AtomicU64,
    sealed: AtomicBool,
    /// What is unreadable below was durable once. See [`crate::spool::recover::Extent::watermark`].
    watermark: AtomicU64,
    /// Of a former run, and nobody has looked yet how far it is filled.
    is_unread: AtomicBool,
    fate: AtomicU8,
}

const _: () = assert!(align_of::<Segment>() >= LINES_LEN);

/// What becomes of a file that egress has done with. Ordered: the graver wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    Recycle = 0,
    /// A write failed: nothing is written to these blocks again.
    Delete = 1,
    /// Holds damage: set aside under another name for the operator to look at.
    SetAside = 2,
}

impl Segment {
    /// A fresh segment: nothing committed, open for batches.
    pub(super) fn fresh(header: &SegmentHeader, path: PathBuf, file: File) -> Self {
        Self {
            version: header.version,
            role: header.role,
            shard: header.shard,
            number: header.number,
            epoch: header.epoch,
            key: header.key,
            path,
            file,
            direct: None,
            fresh: ArrayQueue::new(LENT_COUNT_MAX),
            loans: Arc::new(Loans::new()),
            capacity: header.capacity,
            committed: AtomicU64::new(FIRST_BATCH_AT),
            sealed: AtomicBool::new(false),
            watermark: AtomicU64::new(u64::MAX),
            is_unread: AtomicBool::new(false),
            fate: AtomicU8::new(Fate::Recycle as u8),
        }
    }

    /// A segment of a former run. [`Self::recover`] finds how far it can be read.
    pub(super) fn former(header: &SegmentHeader, path: PathBuf, file: File) -> Self {
        Self { is_unread: AtomicBool::new(true), ..Self::fresh(header, path, file) }
    }

    /// Has a segment of a former run readable as far as it is filled, and sealed. Only the first call costs something:
    /// it blocks on the disk and reads the headers of all batches, then the rest of the file, with one window of
    /// memory. As it comes when the segment is read, a start costs the same whether ten messages wait in it or ten
    /// thousand.
    pub fn recover(&self) -> io::Result<()> {
        if !self.is_unread.load(Ordering::Acquire) {
            return Ok(());
        }
        let extent = recover(&self.file, &self.header(), self.file.metadata()?.len())?;
        self.watermark.store(extent.watermark, Ordering::Release);
        self.publish(extent.end);
        self.seal();
        // Whoever comes here at the same time finds the same.
        self.is_unread.store(false, Ordering::Release);
        Ok(())
    }

    /// What [`crate::spool::commit::GroupCommit::use_segment`] needs.
    pub fn header(&self) -> SegmentHeader {
        let Self { version, role, shard, number, epoch, key, capacity, .. } = *self;
        SegmentHeader { version, role, shard, number, epoch, key, capacity }
    }

    /// With a descriptor for direct writes, and its shard's account of what is lent.
    pub(super) fn with_writer(self, direct: Option<File>, loans: Arc<Loans>) -> Self {
        Self { direct, loans, ..self }
    }

    /// Worker: what to write to.
    pub fn writer(&self) -> &File {
        self.direct.as_ref().unwrap_or(&self.file)
    }

    /// Worker: hands a batch to the reader, before it is published. Gives the bytes back where the reader has enough.
    pub fn lend(&self, offset: u64, bytes: BlockBuffer) -> Option<BlockBuffer> {
        self.loans.lend(&self.fresh, offset, bytes)
    }

    /// Reader: fills `buf` from the disk, by way of `scratch` if the read is direct.
    pub(super) fn read_disk(&self, buf: &mut [u8], offset: u64, scratch: &mut BlockBuffer) -> io::Result<()> {
        let Some(direct) = &self.direct else { return ReadAt::read_exact_at(&self.file, buf, offset) };
        let range = read_blocks(direct, scratch, offset, buf.len())?;
        buf.copy_from_slice(&scratch[range]);
        Ok(())
    }

    /// Worker: everything below `committed` may be read.
    pub fn publish(&self, committed: u64) {
        self.committed.store(committed, Ordering::Release);
    }

    /// Worker: nothing more is committed here.
    pub fn seal(&self) {
        self.sealed.store(true, Ordering::Release);
    }

    /// Worker: a write failed here. Seals the segment; its file will not be used again. Behind what was published there
    /// may be holes, and up to `durable_to` batches that were acknowledged: the reader looks for them, as a recovery
    /// does.
    pub fn fail(&self, durable_to: Option<u64>) {
        if let Some(durable_to) = durable_to {
            self.watermark.store(self.committed(), Ordering::Release);
            self.publish(durable_to);
        }
        self.raise_fate(Fate::Delete);
        self.seal();
    }

    /// Whether `damage` hit what was durable. Otherwise a crash interrupted the write, and nobody was
    /// promised anything.
    pub fn was_durable(&self, damage: &Damage) -> bool {
        damage.offset < self.watermark.load(Ordering::Acquire)
    }

    /// Reader: the segment holds something unreadable; the file is kept for the operator.
    pub fn mark_damaged(&self) {
        self.raise_fate(Fate::SetAside);
    }

    /// Bytes durable and readable, from 0; [`FIRST_BATCH_AT`] while there is no batch, or before [`Self::recover`].
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    /// Whether [`Self::committed`] has its last value. Ask this first, then that.
    pub fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    /// The file of acknowledgements beside the segment.
    pub fn ack_path(&self) -> PathBuf {
        ack_path(&self.path)
    }

    /// Whether a write failed here or something is unreadable: the file is not used again.
    pub fn is_unsound(&self) -> bool {
        self.fate() != Fate::Recycle
    }

    pub(super) fn fate(&self) -> Fate {
        match self.fate.load(Ordering::Acquire) {
            0 => Fate::Recycle,
            1 => Fate::Delete,
            _ => Fate::SetAside,
        }
    }

    fn raise_fate(&self, fate: Fate) {
        self.fate.fetch_max(fate as u8, Ordering::AcqRel);
    }
}

pub(super) fn ack_path(segment_path: &Path) -> PathBuf {
    segment_path.with_extension("ack")
}
