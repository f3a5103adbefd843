//! What counts in the deferred segments of one shard, for whoever reads the spool from outside.

use std::collections::HashMap;
use std::path::Path;

use super::error::StoreError;
use super::inspect::{SegmentFile, View, segments};
use crate::limits::READS_COUNT_MAX;
use crate::protocol::deferral::Deferral;
use crate::spool::ReadAt;
use crate::spool::backlog::{Backlog, Message};
use crate::spool::commit::Place;
use crate::spool::record::{RecordHeader, RecordKind};
use crate::spool::segment::Role;
use crate::spool::walk::{Found, Walk};

/// The deferred mail of a shard, as it was at one time.
#[derive(Default)]
pub(super) struct Overlay {
    /// By epoch of their segment and offset in it.
    messages: HashMap<(u64, u64), Message>,
    views: Vec<View>,
}

impl Overlay {
    /// A record may be copied from segment to segment while this reads. The copy is durable before its origin says that
    /// it was moved, and goes to the newest segment: with the newest read last, none is missed.
    pub(super) fn read(spool: &Path, shard: u16) -> Result<Self, StoreError> {
        settled(|| deferred(spool, shard), |segments| Self::read_once(segments, shard))
    }

    fn read_once(segments: &[SegmentFile], shard: u16) -> Result<Self, StoreError> {
        let (mut backlog, mut views) = (Backlog::default(), Vec::new());
        for SegmentFile { path, .. } in segments {
            let Some(view) = View::open(path, shard)? else { continue };
            backlog.segment(view.header.epoch, u32::try_from(views.len()).unwrap_or(u32::MAX));
            let mut walk = Walk::new(&view.header);
            while let Some(found) = view.next(&mut walk)? {
                let Found::Record(record) = found else { continue };
                let deferral = Deferral::read(record.envelope);
                let origin = deferral.as_ref().map(Deferral::origin);
                let due = deferral.and_then(|deferral| deferral.due_unix_us);
                let (offset, len) = (record.offset_in_segment, record.encoded_len as u64);
                let is_acknowledged = view.acks.contains(offset, record.meta.id);
                backlog.record(record.meta.kind, offset, len, origin, due, is_acknowledged);
            }
            views.push(view);
        }
        let by_place = |message: Message| {
            let epoch = views.get(message.entry.message.slot as usize)?.header.epoch;
            Some(((epoch, message.entry.message.offset()), message))
        };
        let messages = backlog.finish().messages.into_iter().filter_map(by_place).collect();
        Ok(Self { messages, views })
    }

    /// Oldest segment first.
    pub(super) fn views(&self) -> &[View] {
        &self.views
    }

    /// Undelivered messages.
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether the record there is the one that counts of an undelivered message.
    pub(super) fn is_live(&self, place: Place) -> bool {
        self.messages.contains_key(&(place.epoch, place.offset))
    }

    /// The present envelope of the message there, where it is not in its record.
    pub(super) fn envelope(&self, place: Place) -> Result<Option<Vec<u8>>, StoreError> {
        let message = self.messages.get(&(place.epoch, place.offset));
        let Some(update) = message.and_then(|message| message.entry.update()) else { return Ok(None) };
        let Some(view) = self.views.get(update.slot as usize) else { return Ok(None) };
        let mut bytes = vec![0; usize::try_from(update.record_len()).unwrap_or_default()];
        ReadAt::read_exact_at(&view.file, &mut bytes, update.offset())
            .map_err(StoreError::io("read", &view.path))?;
        let header = RecordHeader::parse(&bytes, &view.header.stamp(), update.offset());
        let record = header.as_ref().and_then(|header| header.record(&bytes));
        Ok(record
            .filter(|record| record.meta.kind == RecordKind::Update)
            .map(|record| record.envelope.to_vec()))
    }
}

/// What `read` makes of the segments that `list` gives, once the same ones are there behind it. A server that begins
/// one each time does not keep a tool for ever: it goes on with what was read last.
fn settled<S: PartialEq, T, E>(
    mut list: impl FnMut() -> Result<S, E>,
    mut read: impl FnMut(&S) -> Result<T, E>,
) -> Result<T, E> {
    let mut segments = list()?;
    let mut found = read(&segments)?;
    for _ in 1..READS_COUNT_MAX {
        let again = list()?;
        if again == segments {
            break;
        }
        found = read(&again)?;
        segments = again;
    }
    Ok(found)
}

/// A shard's deferred segments, oldest first.
fn deferred(spool: &Path, shard: u16) -> Result<Vec<SegmentFile>, StoreError> {
    let mut segments = segments(spool, shard)?;
    segments.retain(|segment| segment.role == Role::Deferred);
    Ok(segments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_read_until_no_other_comes_or_so_often() {
        for (changes_count, expected) in [(0, 1), (2, 3), (7, 8), (1_000_000, READS_COUNT_MAX)] {
            let (mut listed_count, mut reads_count) = (0, 0);
            let list = || {
                listed_count += 1;
                Ok::<usize, ()>(listed_count.min(changes_count + 1))
            };
            let read = |segments: &usize| {
                reads_count += 1;
                Ok(*segments)
            };
            assert_eq!(settled(list, read), Ok(expected), "the newest that was read");
            assert_eq!(reads_count, expected);
        }
    }
}
