//! After a crash or a stop: how far a segment is filled.
//!
//! All that is readable is kept, also of a batch whose write a crash interrupted: nobody can tell such a batch from a
//! durable one that was damaged later, and mail that comes twice is better than mail that is lost. What is unreadable
//! is for the [`super::walk`] to step over; [`Extent::watermark`] tells whether it was durable once.

use std::io;

use super::segment::{FIRST_BATCH_AT, SegmentHeader};
use super::walk::{WINDOW_LEN, Window};
use super::{BLOCK_LEN, ReadAt, block_end};

/// Behind a batch longer than this the next header is read alone; shorter ones are read in passing.
const HOP_LEN_MIN: u64 = WINDOW_LEN as u64 / 4;

/// What of a segment may hold mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// No batch and no record stands behind: a reader's limit.
    pub end: u64,
    /// Everything below was durable when some later batch was written: damage below it is damage, damage
    /// above it may be a write that a crash interrupted.
    pub watermark: u64,
    pub batches_count: u64,
    /// Records that the headers of batches announce.
    pub records_count: u64,
    /// Blocks without a readable batch stand before `end`: `records_count` may be too small.
    pub has_gap: bool,
}

/// Finds the extent of a segment. `len` is the file's length, which may be less than the header's capacity. Reads the
/// headers of batches, what stands between them, and the rest of the file; no records. Holds one window of the file.
pub fn recover<R: ReadAt + ?Sized>(source: &R, header: &SegmentHeader, len: u64) -> io::Result<Extent> {
    let (limit, stamp) = (header.capacity.min(len), header.stamp());
    let mut window = Window::default();
    let mut extent = Extent {
        end: FIRST_BATCH_AT,
        watermark: FIRST_BATCH_AT,
        batches_count: 0,
        records_count: 0,
        has_gap: false,
    };
    let mut at = FIRST_BATCH_AT;
    while let Some(batch) = window.find_batch(source, &stamp, at, limit)? {
        extent.has_gap |= batch.offset != at;
        extent.watermark = extent.watermark.max(batch.committed_below);
        extent.batches_count += 1;
        extent.records_count += u64::from(batch.records_count);
        at = batch.end();
        let next_end = at.saturating_add(BLOCK_LEN);
        if at - batch.offset > HOP_LEN_MIN && next_end <= limit {
            window.load(source, at, BLOCK_LEN, next_end)?;
        }
    }
    extent.end = at.min(limit).max(FIRST_BATCH_AT);
    // The last batch may have lost its header alone.
    if let Some(end) = window.find_last_record_end(source, &stamp, extent.end, limit)? {
        extent.end = block_end(end).min(limit);
        extent.has_gap = true;
    }
    Ok(extent)
}
