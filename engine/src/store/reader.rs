//! Reading one segment: in order, or one record by its place.

use std::io;
use std::sync::Arc;

use super::segment::Segment;
use crate::spool::ReadAt;
use crate::spool::commit::Place;
use crate::spool::record::{RECORD_HEADER_LEN, Record, RecordHeader};
use crate::spool::walk::{Damage, Found, Walk};

/// Reads a segment's records in order, as far as they are durable. Holds one window of the file in memory:
/// 256 KiB, or one record where that is longer.
#[derive(Debug)]
pub struct Reader {
    segment: Arc<Segment>,
    walk: Walk,
}

impl Reader {
    pub fn new(segment: Arc<Segment>) -> Self {
        let walk = Walk::new(&segment.header());
        Self { segment, walk }
    }

    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// The next record or damage, `None` when there is no more for now: see [`Self::is_finished`]. Blocks on
    /// the disk.
    #[expect(
        clippy::should_implement_trait,
        reason = "what it returns borrows from it, which an Iterator's item cannot"
    )]
    pub fn next(&mut self) -> io::Result<Option<Found<'_>>> {
        self.segment.recover()?;
        let committed = self.segment.committed();
        let found = self.walk.next(&self.segment.file, committed)?;
        if let Some(Found::Damage(damage)) = &found
            && self.segment.was_durable(damage)
        {
            self.segment.mark_damaged();
        }
        Ok(found)
    }

    /// Whether the segment is sealed and all of it has been read: [`Self::next`] stays `None`.
    pub fn is_finished(&self) -> bool {
        self.segment.is_sealed() && self.walk.position() >= self.segment.committed()
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
