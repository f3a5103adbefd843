//! Reading back what former runs have deferred.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use super::acks::{AckSet, AckWriter};
use super::reader::{Reader, read_record};
use super::segment::Segment;
use crate::protocol::deferral::Deferral;
use crate::spool::ack::AckKind;
use crate::spool::backlog::{Backlog, Summary};
use crate::spool::commit::Place;
use crate::spool::content_ref::ContentRef;
use crate::spool::walk::Found;

/// What [`read_backlog`] has found.
#[derive(Debug)]
pub struct FormerMail {
    pub summary: Summary,
    /// Segments that cannot be read to their ends, by their places in the list.
    pub unreadable: Vec<(usize, io::Error)>,
    /// Numbers of the files that records name which are not acknowledged.
    pub content_files: BTreeSet<u32>,
}

/// Reads these segments, oldest first, and acknowledges in them what later records replace. A segment that cannot be
/// read to its end is counted as far as it can be, and its place in the list is returned; `slot` numbers a segment for
/// the index. Blocks on the disk.
///
/// # Errors
/// When acknowledgements cannot be read or written: then nothing is known for sure, and this is to be called again.
pub fn read_backlog(segments: &[Arc<Segment>], slot: impl Fn(&Segment) -> u32) -> io::Result<FormerMail> {
    let mut backlog = Backlog::default();
    let (mut unreadable, mut content_files) = (Vec::new(), BTreeSet::new());
    for (index, segment) in segments.iter().enumerate() {
        backlog.segment(segment.epoch, slot(segment));
        let acks = AckSet::load(segment)?;
        if let Err(error) = read_segment(segment, &acks, &mut backlog, &mut content_files) {
            unreadable.push((index, error));
        }
    }
    let summary = backlog.finish();
    acknowledge_replaced(segments, &summary.replaced)?;
    Ok(FormerMail { summary, unreadable, content_files })
}

fn read_segment(
    segment: &Arc<Segment>,
    acks: &AckSet,
    backlog: &mut Backlog,
    content_files: &mut BTreeSet<u32>,
) -> io::Result<()> {
    let mut reader = Reader::new(Arc::clone(segment));
    while let Some(found) = reader.next()? {
        let Found::Record(record) = found else { continue };
        let deferral = Deferral::read(record.envelope);
        let origin = deferral.as_ref().map(Deferral::origin);
        let due = deferral.and_then(|deferral| deferral.due_unix_us);
        let (offset, len) = (record.offset_in_segment, record.encoded_len as u64);
        let is_acknowledged = acks.contains(offset, record.meta.id);
        if !is_acknowledged {
            content_files.extend(ContentRef::of(&record).map(|content| content.number));
        }
        backlog.record(record.meta.kind, offset, len, origin, due, is_acknowledged);
    }
    Ok(())
}

fn acknowledge_replaced(segments: &[Arc<Segment>], replaced: &[Place]) -> io::Result<()> {
    let mut writers: BTreeMap<u64, AckWriter> = BTreeMap::new();
    let mut buffer = Vec::new();
    for &place in replaced {
        let Some(segment) = segments.iter().find(|segment| segment.epoch == place.epoch) else { continue };
        let Some(record) = read_record(segment, place, &mut buffer)? else { continue };
        let writer = match writers.entry(place.epoch) {
            std::collections::btree_map::Entry::Occupied(writer) => writer.into_mut(),
            std::collections::btree_map::Entry::Vacant(empty) => empty.insert(AckWriter::open(segment)?),
        };
        writer.push(place.offset, record.meta.id, AckKind::Moved);
    }
    writers.values_mut().try_for_each(AckWriter::flush)
}
