//! Reading one segment: in order, or one record by its place.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use ringmx_ring::BlockBuffer;

use super::loans::Loan;
use super::segment::Segment;
use crate::spool::ReadAt;
use crate::spool::commit::Place;
use crate::spool::record::{RECORD_HEADER_LEN, Record, RecordHeader};
use crate::spool::walk::{Damage, Found, Walk};

/// Reads a segment's records in order, as far as they are published. Holds one window of the file in memory:
/// 256 KiB, or one record where that is longer, and as much again where it reads the disk directly.
#[derive(Debug)]
pub struct Reader {
    source: FreshFirst,
    walk: Walk,
}

/// A segment's bytes: from memory what the worker has lent, the rest from the disk.
#[derive(Debug)]
struct FreshFirst {
    segment: Arc<Segment>,
    /// In order, from the one that is read next.
    held: RefCell<VecDeque<Loan>>,
    scratch: RefCell<BlockBuffer>,
}

impl ReadAt for FreshFirst {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut held = self.held.borrow_mut();
        held.extend(std::iter::from_fn(|| self.segment.fresh.pop()));
        let (mut at, end) = (offset, offset + buf.len() as u64);
        while at < end {
            let rest = &mut buf[(at - offset) as usize..];
            let loan = held.iter().find(|loan| loan.end() > at);
            let lent = loan.filter(|loan| loan.offset() <= at).map(|loan| loan.bytes_from(at));
            at += match lent {
                Some(lent) => {
                    let len = lent.len().min(rest.len());
                    rest[..len].copy_from_slice(&lent[..len]);
                    len as u64
                }
                None => {
                    let len = loan.map_or(end, |loan| loan.offset().min(end)) - at;
                    self.segment.read_disk(&mut rest[..len as usize], at, &mut self.scratch.borrow_mut())?;
                    len
                }
            };
        }
        // The walk holds what it has read, and never comes back to it.
        while held.pop_front_if(|loan| loan.end() <= end).is_some() {}
        Ok(())
    }
}

impl Reader {
    pub fn new(segment: Arc<Segment>) -> Self {
        let walk = Walk::new(&segment.header());
        Self { source: FreshFirst { segment, held: RefCell::default(), scratch: RefCell::default() }, walk }
    }

    pub fn segment(&self) -> &Arc<Segment> {
        &self.source.segment
    }

    /// The next record or damage, `None` when there is no more for now: see [`Self::is_finished`]. Blocks on
    /// the disk.
    #[expect(
        clippy::should_implement_trait,
        reason = "what it returns borrows from it, which an Iterator's item cannot"
    )]
    pub fn next(&mut self) -> io::Result<Option<Found<'_>>> {
        let segment = &self.source.segment;
        segment.recover()?;
        // What was lent was lent before it was published.
        let committed = segment.committed();
        let found = self.walk.next(&self.source, committed)?;
        if let Some(Found::Damage(damage)) = &found
            && segment.was_durable(damage)
        {
            segment.mark_damaged();
        }
        Ok(found)
    }

    /// Whether the segment is sealed and all of it has been read: [`Self::next`] stays `None`.
    pub fn is_finished(&self) -> bool {
        self.source.segment.is_sealed() && self.walk.position() >= self.source.segment.committed()
    }
}

/// Reads again a record that was read before, at [`Record::offset_in_segment`], into `buffer`. `None` when it
/// is not readable there any more.
pub fn read_record<'a>(
    segment: &Segment,
    place: Place,
    buffer: &'a mut Vec<u8>,
) -> io::Result<Option<Record<'a>>> {
    let room = segment.committed().saturating_sub(place.offset);
    if place.epoch != segment.epoch || room < RECORD_HEADER_LEN as u64 {
        return Ok(None);
    }
    buffer.resize(RECORD_HEADER_LEN, 0);
    ReadAt::read_exact_at(&segment.file, buffer, place.offset)?;
    let stamp = segment.header().stamp();
    let header = RecordHeader::parse(buffer, &stamp, place.offset);
    let header = header.filter(|header| header.encoded_len() <= room);
    let Some(header) = header else { return Ok(None) };
    let encoded_len = usize::try_from(header.encoded_len()).map_err(|_| io::ErrorKind::OutOfMemory)?;
    buffer.resize(encoded_len, 0);
    let rest_at = place.offset + RECORD_HEADER_LEN as u64;
    ReadAt::read_exact_at(&segment.file, &mut buffer[RECORD_HEADER_LEN..], rest_at)?;
    Ok(header.record(buffer))
}

/// For messages about damage: the bytes it covers.
pub fn describe(damage: &Damage) -> String {
    let id = damage.meta.map(|meta| format!(" of message {}", meta.id)).unwrap_or_default();
    format!("{}{id}: bytes {} to {}", damage.kind, damage.offset, damage.offset + damage.len)
}
