//! Reading a segment back, record by record, over holes and damage.
//!
//! The walk goes from batch to batch by their headers. Where a block that should begin a batch does not, the
//! next one that does is searched for; where a record's header is damaged, the next readable one. Nothing
//! found on the way is believed without stamp, place and checksum, and each step goes forward, so any bytes
//! end the walk.

use std::io;

use super::batch::{BATCH_HEADER_LEN, BatchHeader};
use super::record::{RECORD_ALIGN, RECORD_HEADER_LEN, Record, RecordHeader, RecordMeta};
use super::segment::{FIRST_BATCH_AT, SegmentHeader};
use super::{BLOCK_LEN, ReadAt, Stamp, block_end};

/// Bytes read at once. A longer record is read whole: memory is bounded by the longest record.
pub(super) const WINDOW_LEN: usize = 256 << 10;

/// One step of the walk.
#[derive(Debug)]
pub enum Found<'a> {
    Record(Record<'a>),
    Damage(Damage),
}

/// Bytes that belong to the segment's epoch, or should, and cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    pub kind: DamageKind,
    pub offset: u64,
    pub len: u64,
    /// Known where only the payload is damaged.
    pub meta: Option<RecordMeta>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DamageKind {
    #[error("no batch where one should begin")]
    Batch,
    #[error("a record's header is unreadable")]
    RecordHeader,
    #[error("a record's envelope or content fails its checksum")]
    Payload,
}

/// A position in a segment, and the bytes around it.
#[derive(Debug)]
pub struct Walk {
    stamp: Stamp,
    at: u64,
    region: Region,
    window: Window,
}

/// What the bytes from [`Walk::at`] belong to.
#[derive(Clone, Copy, Debug)]
enum Region {
    /// A batch begins here, or should.
    Between,
    /// Records up to `end`.
    Batch { end: u64 },
    /// No readable batch header up to `end`, where one stands or reading ends. Records are searched for.
    Gap { end: u64 },
    /// Records in a gap, of a batch that has lost its header.
    Headless { end: u64 },
}

/// A step before its bytes are borrowed.
enum Step {
    Record { header: RecordHeader, at: u64 },
    Damage(Damage),
}

impl Walk {
    /// A walk of a segment from its first batch.
    pub fn new(header: &SegmentHeader) -> Self {
        Self { stamp: header.stamp(), at: FIRST_BATCH_AT, region: Region::Between, window: Window::default() }
    }

    /// Everything below this offset has been walked.
    pub fn position(&self) -> u64 {
        match self.region {
            Region::Batch { end } | Region::Gap { end } | Region::Headless { end } if self.at >= end => {
                block_end(end)
            }
            _ => self.at,
        }
    }

    /// The next record or damage below `limit`; `None` at its end, and again later with a greater limit.
    /// Nothing at or above `limit` is read, so whoever writes there is not disturbed. `limit` must not
    /// decrease, and bytes below it must not change.
    pub fn next<R: ReadAt + ?Sized>(&mut self, source: &R, limit: u64) -> io::Result<Option<Found<'_>>> {
        let Some(step) = self.step(source, limit)? else { return Ok(None) };
        Ok(Some(match step {
            Step::Damage(damage) => Found::Damage(damage),
            Step::Record { header, at } => match header.record(self.window.bytes(at, header.encoded_len())) {
                Some(record) => Found::Record(record),
                None => Found::Damage(Damage {
                    kind: DamageKind::Payload,
                    offset: at,
                    len: header.encoded_len(),
                    meta: Some(header.meta),
                }),
            },
        }))
    }

    fn step<R: ReadAt + ?Sized>(&mut self, source: &R, limit: u64) -> io::Result<Option<Step>> {
        loop {
            match self.region {
                Region::Between => {
                    // The last block may be cut short, where a file was.
                    if self.at.saturating_add(BATCH_HEADER_LEN as u64) > limit {
                        return Ok(None);
                    }
                    self.region = self.enter(source, limit)?;
                }
                Region::Batch { end } | Region::Gap { end } | Region::Headless { end }
                    if self.at >= end.min(limit) =>
                {
                    self.at = block_end(end.min(limit));
                    self.region = Region::Between;
                }
                Region::Batch { end } => {
                    return self.step_batch(source, end.min(limit), limit).map(Some);
                }
                Region::Headless { end } => {
                    // What fills the last block behind the last record is no damage, and another batch may follow.
                    if !self.is_padding(source, end, limit)? {
                        return self.step_batch(source, end.min(limit), limit).map(Some);
                    }
                    self.at = block_end(self.at).min(end);
                    self.region = Region::Gap { end };
                }
                Region::Gap { end } => {
                    let from = self.at;
                    let found = self.find_record(source, from, end)?;
                    self.at = found.unwrap_or(end);
                    if found.is_some() {
                        // From a readable record on, records follow each other as in a batch.
                        self.region = Region::Headless { end };
                    }
                    if self.at > from {
                        return Ok(Some(damage(DamageKind::Batch, from, self.at)));
                    }
                }
            }
        }
    }

    /// Where a batch should begin: into it, or into the gap up to the next one.
    fn enter<R: ReadAt + ?Sized>(&mut self, source: &R, limit: u64) -> io::Result<Region> {
        let next = self.window.find_batch(source, &self.stamp, self.at, limit)?;
        Ok(match next {
            Some(batch) if batch.offset == self.at => {
                self.at = batch.records_at();
                Region::Batch { end: batch.records_end() }
            }
            Some(batch) => Region::Gap { end: batch.offset },
            None => Region::Gap { end: limit },
        })
    }

    /// Whether there is something up to the end of the block, and only zeros.
    fn is_padding<R: ReadAt + ?Sized>(&mut self, source: &R, end: u64, limit: u64) -> io::Result<bool> {
        let len = block_end(self.at).min(end).min(limit) - self.at;
        self.window.load(source, self.at, len, limit)?;
        Ok(len > 0 && self.window.bytes(self.at, len).iter().all(|&byte| byte == 0))
    }

    fn step_batch<R: ReadAt + ?Sized>(&mut self, source: &R, end: u64, limit: u64) -> io::Result<Step> {
        let at = self.at;
        if let Some(header) = self.record_at(source, at, end, limit)? {
            self.window.load(source, at, header.encoded_len(), limit)?;
            self.at = at + header.encoded_len();
            return Ok(Step::Record { header, at });
        }
        let from = at + RECORD_ALIGN as u64;
        self.at = self.find_record(source, from, end)?.unwrap_or(end);
        Ok(damage(DamageKind::RecordHeader, at, self.at))
    }

    /// The header of the record at `at`, if it is readable and its record ends by `end`.
    fn record_at<R: ReadAt + ?Sized>(
        &mut self,
        source: &R,
        at: u64,
        end: u64,
        limit: u64,
    ) -> io::Result<Option<RecordHeader>> {
        if end.saturating_sub(at) < RECORD_HEADER_LEN as u64 {
            return Ok(None);
        }
        self.window.load(source, at, RECORD_HEADER_LEN as u64, limit)?;
        let header = RecordHeader::parse(self.window.bytes(at, RECORD_HEADER_LEN as u64), &self.stamp, at);
        Ok(header.filter(|header| header.encoded_len() <= end - at))
    }

    /// The first place from `from` on where a record's header is readable and its record ends by `end`.
    fn find_record<R: ReadAt + ?Sized>(
        &mut self,
        source: &R,
        from: u64,
        end: u64,
    ) -> io::Result<Option<u64>> {
        let places = (from.next_multiple_of(RECORD_ALIGN as u64)..end).step_by(RECORD_ALIGN);
        for at in places {
            if self.record_at(source, at, end, end)?.is_some() {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }
}

fn damage(kind: DamageKind, from: u64, to: u64) -> Step {
    Step::Damage(Damage { kind, offset: from, len: to - from, meta: None })
}

/// Bytes of a segment in memory: those from `start` on.
#[derive(Debug, Default)]
pub(super) struct Window {
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// Has `len` bytes from `at` in memory, reading ahead, but not at or above `limit`.
    pub(super) fn load<R: ReadAt + ?Sized>(
        &mut self,
        source: &R,
        at: u64,
        len: u64,
        limit: u64,
    ) -> io::Result<()> {
        let held_to = self.start + self.bytes.len() as u64;
        if at >= self.start && at.saturating_add(len) <= held_to {
            return Ok(());
        }
        let ahead = limit.saturating_sub(at).min(WINDOW_LEN as u64);
        let len = usize::try_from(len.max(ahead)).map_err(|_| io::ErrorKind::OutOfMemory)?;
        self.start = at;
        if self.bytes.capacity() > 4 * WINDOW_LEN && len <= WINDOW_LEN {
            self.bytes = Vec::new();
        }
        self.bytes.resize(len, 0);
        source.read_exact_at(&mut self.bytes, at).inspect_err(|_| self.bytes.clear())
    }

    /// Bytes that [`Self::load`] brought.
    fn bytes(&self, at: u64, len: u64) -> &[u8] {
        let from = usize::try_from(at - self.start).expect("the window is in memory");
        &self.bytes[from..from + usize::try_from(len).expect("the window is in memory")]
    }

    /// The first batch of this stamp whose header stands on a block from `from` on.
    pub(super) fn find_batch<R: ReadAt + ?Sized>(
        &mut self,
        source: &R,
        stamp: &Stamp,
        from: u64,
        limit: u64,
    ) -> io::Result<Option<BatchHeader>> {
        let mut at = block_end(from);
        while at.saturating_add(BATCH_HEADER_LEN as u64) <= limit {
            self.load(source, at, BATCH_HEADER_LEN as u64, limit)?;
            let batch = BatchHeader::parse(self.bytes(at, BATCH_HEADER_LEN as u64), at);
            let batch = batch.filter(|batch| batch.stamp == *stamp);
            if batch.is_some() {
                return Ok(batch);
            }
            at += BLOCK_LEN;
        }
        Ok(None)
    }

    /// Where the last record of this stamp ends whose header stands at `from` or behind it, and which ends by `limit`.
    pub(super) fn find_last_record_end<R: ReadAt + ?Sized>(
        &mut self,
        source: &R,
        stamp: &Stamp,
        from: u64,
        limit: u64,
    ) -> io::Result<Option<u64>> {
        let (mut at, mut last_end) = (from, None);
        while at.saturating_add(RECORD_HEADER_LEN as u64) <= limit {
            let len = (limit - at).min(WINDOW_LEN as u64);
            self.load(source, at, len, limit)?;
            let ends = RecordHeader::find(self.bytes(at, len), stamp, at)
                .map(|header| header.offset.saturating_add(header.encoded_len()));
            last_end = last_end.max(ends.filter(|&end| end <= limit).max());
            if len == limit - at {
                break;
            }
            // A header may begin in the last bytes: they are looked at again.
            at += len - RECORD_HEADER_LEN as u64;
        }
        Ok(last_end)
    }
}
