//! After a crash or a stop: where a segment's valid batches end.
//!
//! A batch is complete when its header and all its records are readable. The last complete batch ends what is
//! kept; what stands behind it is a write that was in flight, whose tickets were never answered. What is
//! unreadable before it is for the [`super::walk`] to report and to step over; [`Extent::watermark`] tells
//! whether it was durable once.

use std::io;

use super::ReadAt;
use super::batch::BatchHeader;
use super::segment::{FIRST_BATCH_AT, SegmentHeader};
use super::walk::{Found, Walk, Window};

/// What of a segment is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// End of the last complete batch, or the watermark where that is greater: a reader's limit.
    pub end: u64,
    /// Everything below was durable when some later batch was written: damage below it is damage, damage
    /// above it may be a write that a crash interrupted.
    pub watermark: u64,
    pub batches_count: u64,
    /// Records that the headers of the kept batches announce.
    pub records_count: u64,
    /// Blocks without a readable batch stand before `end`: `records_count` may be too small.
    pub has_gap: bool,
    /// The first batch behind `end` that is not complete.
    pub torn: Option<Torn>,
}

/// A batch that was being written when the process or the machine stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Torn {
    pub offset: u64,
    pub records_count: u32,
}

/// Finds the extent of a segment. `len` is the file's length, which may be less than the header's capacity.
pub fn recover<R: ReadAt + ?Sized>(source: &R, header: &SegmentHeader, len: u64) -> io::Result<Extent> {
    let limit = header.capacity.min(len);
    let mut window = Window::default();
    let mut batches: Vec<BatchHeader> = Vec::new();
    let mut at = FIRST_BATCH_AT;
    let mut torn = None;
    while let Some(batch) = window.find_batch(source, &header.stamp(), at, limit)? {
        at = batch.end();
        batches.push(batch);
    }
    let watermark = batches.iter().map(|batch| batch.committed_below).max().unwrap_or(FIRST_BATCH_AT);
    while let Some(last) = batches.last() {
        // Below the watermark a batch was durable: what is left of it is kept.
        if last.offset < watermark || is_complete(source, last, limit, &mut window)? {
            break;
        }
        torn = Some(Torn { offset: last.offset, records_count: last.records_count });
        batches.pop();
    }
    let end = batches.last().map_or(FIRST_BATCH_AT, BatchHeader::end).max(watermark).min(limit);
    let batches_len: u64 = batches.iter().map(|batch| batch.end() - batch.offset).sum();
    Ok(Extent {
        end,
        watermark,
        batches_count: batches.len() as u64,
        records_count: batches.iter().map(|batch| u64::from(batch.records_count)).sum(),
        has_gap: FIRST_BATCH_AT + batches_len < end,
        torn,
    })
}

fn is_complete<R: ReadAt + ?Sized>(
    source: &R,
    batch: &BatchHeader,
    limit: u64,
    window: &mut Window,
) -> io::Result<bool> {
    if batch.end() > limit {
        return Ok(false);
    }
    let mut walk = Walk::within(batch, std::mem::take(window));
    let mut records_count = 0;
    let complete = loop {
        match walk.next(source, batch.end())? {
            Some(Found::Record(_)) => records_count += 1,
            Some(Found::Damage(_)) => break false,
            None => break records_count == batch.records_count,
        }
    };
    *window = walk.into_window();
    Ok(complete)
}
