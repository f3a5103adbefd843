//! Acknowledgements: written in batches by egress, read back at the start and by `ringmx spool`.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::segment::Segment;
use super::shard::open_options;
use crate::id::MessageId;
use crate::spool::ack::{ACK_LEN, Ack, AckKind, entries};

/// Where entries are written again after a failed write: behind every sector that may hold part of it.
const SECTOR_LEN: u64 = 512;

/// Appends to the acknowledgements of one segment.
#[derive(Debug)]
pub struct AckWriter {
    epoch: u64,
    file: File,
    /// Where the next entries go.
    end: u64,
    pending: Vec<u8>,
}

impl AckWriter {
    /// Opens the file beside the segment, creates it if need be.
    pub fn open(segment: &Segment) -> io::Result<Self> {
        let path = segment.ack_path();
        let file = open_options().create(true).truncate(false).open(path)?;
        // A crash may have cut the last entry; the next one keeps to its multiple.
        let end = file.metadata()?.len().next_multiple_of(ACK_LEN as u64);
        Ok(Self { epoch: segment.epoch, file, end, pending: Vec::new() })
    }

    /// Adds an entry to the next [`Self::flush`]. `offset` is the record's
    /// [`crate::spool::record::Record::offset_in_segment`].
    pub fn push(&mut self, offset: u64, id: MessageId, kind: AckKind) {
        self.pending.extend_from_slice(&Ack { epoch: self.epoch, offset, id, kind }.encode());
    }

    /// Entries that wait for a flush.
    pub fn pending_count(&self) -> usize {
        self.pending.len() / ACK_LEN
    }

    /// Writes what waits and makes it durable. Blocks on the disk. After an error the entries still wait, and
    /// the next flush writes them again to another place: a second sync of the same place could report
    /// success for pages that are gone.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let written = self.file.write_all_at(&self.pending, self.end).and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => {
                self.end += self.pending.len() as u64;
                self.pending.clear();
                Ok(())
            }
            Err(error) => {
                let len = self.file.metadata().map_or(self.end, |metadata| metadata.len());
                if len > self.end {
                    self.end = len.next_multiple_of(SECTOR_LEN);
                }
                Err(error)
            }
        }
    }
}

/// Notes that all records of a segment are acknowledged; `path` is that of its acknowledgements. Not synced: where a
/// power cut takes the note, the segment is read once more and found so.
pub(super) fn note_complete(path: &Path, epoch: u64) -> io::Result<()> {
    let file = open_options().open(path)?;
    let end = file.metadata()?.len().next_multiple_of(ACK_LEN as u64);
    let ack = Ack { epoch, offset: 0, id: MessageId::default(), kind: AckKind::Segment };
    file.write_all_at(&ack.encode(), end)
}

/// Whether the last entry is such a note for this epoch.
pub(super) fn is_complete(path: &Path, epoch: u64) -> io::Result<bool> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other?,
    };
    let Some(at) = file.metadata()?.len().checked_sub(ACK_LEN as u64) else { return Ok(false) };
    let mut entry = [0; ACK_LEN];
    // The file may shrink meanwhile, when a server runs.
    if file.read_exact_at(&mut entry, at / ACK_LEN as u64 * ACK_LEN as u64).is_err() {
        return Ok(false);
    }
    Ok(Ack::parse(&entry).is_some_and(|ack| ack.kind == AckKind::Segment && ack.epoch == epoch))
}

/// The acknowledged records of one segment.
#[derive(Debug, Default)]
pub struct AckSet {
    by_offset: HashMap<u64, (MessageId, AckKind)>,
    /// The segment's last entry is there: see [`AckKind::Segment`].
    pub is_complete: bool,
    /// Places of entries that are neither readable nor blank.
    pub unreadable: Vec<u64>,
}

impl AckSet {
    /// Reads the acknowledgements of a segment; none where the file is missing.
    pub fn load(segment: &Segment) -> io::Result<Self> {
        Self::load_file(&segment.ack_path(), segment.epoch)
    }

    pub(super) fn load_file(path: &Path, epoch: u64) -> io::Result<Self> {
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            other => other?,
        };
        let mut set = Self::default();
        for entry in entries(&bytes) {
            match entry {
                Ok(ack) if ack.epoch != epoch => {}
                Ok(ack) if ack.kind == AckKind::Segment => set.is_complete = true,
                Ok(ack) => drop(set.by_offset.insert(ack.offset, (ack.id, ack.kind))),
                Err(at) => {
                    let from = usize::try_from(at).unwrap_or(usize::MAX);
                    let blank = bytes[from..].iter().take(ACK_LEN).all(|&byte| byte == 0);
                    if !blank {
                        set.unreadable.push(at);
                    }
                }
            }
        }
        Ok(set)
    }

    /// Whether the record at `offset` with this id is acknowledged.
    pub fn contains(&self, offset: u64, id: MessageId) -> bool {
        self.kind(offset, id).is_some()
    }

    /// What became of the record at `offset` with this id; `None` while it waits.
    pub fn kind(&self, offset: u64, id: MessageId) -> Option<AckKind> {
        self.by_offset.get(&offset).filter(|(of, _)| *of == id).map(|&(_, kind)| kind)
    }

    /// Acknowledged records that stand below `end`. Those behind it were delivered but are lost themselves: where
    /// nobody waited for the disk, a message can be on its way before it is durable.
    pub fn count_below(&self, end: u64) -> u64 {
        self.by_offset.keys().filter(|offset| **offset < end).count() as u64
    }
}
