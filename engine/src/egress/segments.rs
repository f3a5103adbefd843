//! The segments of one shard: read in order, given back when all of their records are acknowledged.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use tokio::time::Instant;

use super::report::{Report, Topic};
use super::stats::EgressStats;
use crate::id::MessageId;
use crate::limits::READING_SEGMENTS_COUNT_MAX;
use crate::spool::ack::AckKind;
use crate::spool::backlog::is_copied;
use crate::spool::commit::Place;
use crate::spool::content_ref::ContentRef;
use crate::spool::record::{Record, RecordKind};
use crate::spool::walk::{Damage, Found};
use crate::store::{AckSet, AckWriter, Done, FormerContent, Reader, Segment, describe};

/// Between two tries to read a segment.
const READ_INTERVAL: Duration = Duration::from_secs(1);

/// Segments by epoch, which is the order in which they are filled.
#[derive(Debug)]
pub(super) struct Segments {
    incoming: Receiver<Arc<Segment>>,
    done: Done,
    /// Of former runs. Not read before it is known what of them was copied to deferred segments.
    recovered: Vec<Arc<Segment>>,
    /// The greatest epoch of those.
    recovered_epoch_max: Option<u64>,
    /// Records of them of which there is a copy: ascending.
    copied: Vec<Place>,
    /// Known, but not yet open: in order.
    arriving: VecDeque<Arc<Segment>>,
    open: BTreeMap<u64, Open>,
    former_content: FormerContent,
    /// Nothing of former runs comes any more; what deferred mail names is known.
    former_is_known: bool,
    backlog_is_read: bool,
}

#[derive(Debug)]
struct Open {
    segment: Arc<Segment>,
    /// `None` once the segment is sealed and read to its end.
    reader: Option<Reader>,
    /// What a former run has acknowledged; needed while there is a reader.
    acknowledged: AckSet,
    /// `None` while a flush has it.
    acks: Option<AckWriter>,
    /// Records that were copied by a former run, which did not come to acknowledge them.
    owed: Vec<(u64, MessageId)>,
    /// Records read and not durably acknowledged.
    unsettled_count: u64,
    /// Reading has failed: the next try is not before then, other segments go on.
    rests_until: Option<Instant>,
}

impl Segments {
    pub(super) fn new(
        recovered: Vec<Arc<Segment>>,
        former_content: FormerContent,
        incoming: Receiver<Arc<Segment>>,
        done: Done,
    ) -> Self {
        Self {
            incoming,
            done,
            recovered_epoch_max: recovered.iter().map(|segment| segment.epoch).max(),
            recovered,
            copied: Vec::new(),
            arriving: VecDeque::new(),
            open: BTreeMap::new(),
            former_content,
            former_is_known: false,
            backlog_is_read: false,
        }
    }

    /// Lets the segments of former runs be read. `copied` are the places of records to leave out, ascending.
    pub(super) fn release_recovered(&mut self, mut copied: Vec<Place>) {
        self.backlog_is_read = true;
        if self.recovered.is_empty() {
            return;
        }
        copied.retain(|place| self.recovered.iter().any(|segment| segment.epoch == place.epoch));
        self.copied = copied;
        for segment in std::mem::take(&mut self.recovered).into_iter().rev() {
            self.arriving.push_front(segment);
        }
    }

    /// Deferred mail of former runs is in these files. `has_damage`: and perhaps in others.
    pub(super) fn note_content(&mut self, files: &BTreeSet<u32>, has_damage: bool) {
        self.former_content.unnamed.retain(|number| !files.contains(number));
        self.former_content.has_damage |= has_damage;
    }

    pub(super) fn give_content_back(&self, number: u32) {
        self.done.send_content(number);
    }

    /// Once all records of former runs are read: gives the files back that none of them names.
    pub(super) fn give_unnamed_content_back(&mut self) {
        let FormerContent { epoch_max, unnamed, .. } = &self.former_content;
        let epoch_max = *epoch_max;
        let is_read = !unnamed.is_empty()
            && self.former_is_known
            && self.backlog_is_read
            && !self.arriving.iter().any(|segment| segment.epoch <= epoch_max)
            && !self.open.range(..=epoch_max).any(|(_, open)| open.reader.is_some());
        if !is_read {
            return;
        }
        let (unnamed, count) =
            (std::mem::take(&mut self.former_content.unnamed), self.former_content.unnamed.len());
        if self.former_content.has_damage {
            let files = unnamed.iter().map(|number| format!("{number:08}.content"));
            let files = files.collect::<Vec<_>>().join(" ");
            tracing::warn!(
                count,
                files,
                "files of large messages that no readable record names are kept, since records of their shard are \
                 damaged; move them away once nothing more is wanted from them"
            );
            return;
        }
        tracing::info!(count, "files of large messages that no mail is in any more are used again");
        unnamed.into_iter().for_each(|number| self.done.send_content(number));
    }

    /// Whether nothing is left of the segments of former runs: until then a deferred segment may be all that tells that
    /// a record of them was copied.
    pub(super) fn recovered_is_settled(&mut self) -> bool {
        let Some(max) = self.recovered_epoch_max else { return true };
        let of_former_run = |epoch: u64| epoch <= max;
        let is_settled = self.recovered.is_empty()
            && !self.arriving.iter().any(|segment| of_former_run(segment.epoch))
            && !self.open.keys().copied().any(of_former_run);
        if is_settled {
            (self.recovered_epoch_max, self.copied) = (None, Vec::new());
        }
        is_settled
    }

    /// Opens what has come; what cannot be opened is tried again at the next call.
    pub(super) fn admit(&mut self, report: &mut Report) {
        // Asked before: then what came before is among what is received now.
        let former_is_known = self.former_content.is_known();
        self.arriving.extend(self.incoming.try_iter());
        self.former_is_known |= former_is_known;
        while let Some(segment) = self.arriving.front()
            && self.reading_count() < READING_SEGMENTS_COUNT_MAX
        {
            let open = match Open::new(segment, report) {
                Ok(open) => open,
                Err(error) => {
                    let path = segment.ack_path();
                    report.problem(Topic::Acknowledgements, |suppressed_count| {
                        tracing::error!(
                            path = %path.display(), %error, suppressed_count,
                            "cannot open a segment's acknowledgements; its mail waits. Check the spool's \
                             permissions and the limit of open files"
                        );
                    });
                    return;
                }
            };
            self.open.insert(segment.epoch, open);
            self.arriving.pop_front();
        }
    }

    /// Reads on to the next record that is not acknowledged and gives what `take` makes of it; `None` when there is
    /// none now. Blocks on the disk.
    pub(super) fn next<T>(
        &mut self,
        report: &mut Report,
        stats: &EgressStats,
        take: impl Fn(&Arc<Segment>, &Record<'_>) -> T,
    ) -> Option<T> {
        for open in self.open.values_mut() {
            match open.next(report, stats, &self.copied, &mut self.former_content, &take) {
                Ok(None) => {}
                Ok(taken) => return taken,
                Err(error) => {
                    open.rests_until = Some(Instant::now() + READ_INTERVAL);
                    note_unreadable(&open.segment, &error, report);
                }
            }
        }
        None
    }

    /// The writer of a segment's acknowledgements, for one flush.
    pub(super) fn lend_acks(&mut self, epoch: u64) -> Option<AckWriter> {
        self.open.get_mut(&epoch)?.acks.take()
    }

    /// Writers with entries that an earlier flush could not write, or for records that a former run has copied.
    pub(super) fn lend_unwritten_acks(&mut self) -> Vec<(u64, AckWriter)> {
        for open in self.open.values_mut() {
            if let Some(writer) = &mut open.acks {
                open.owed.drain(..).for_each(|(offset, id)| writer.push(offset, id, AckKind::Moved));
            }
        }
        let unwritten = |writer: &mut AckWriter| writer.pending_count() > 0;
        self.open
            .iter_mut()
            .filter_map(|(&epoch, open)| Some((epoch, open.acks.take_if(unwritten)?)))
            .collect()
    }

    /// Takes a writer back, unless its segment is none of these. `written_count` of its records are acknowledged,
    /// durably.
    pub(super) fn return_acks(
        &mut self,
        epoch: u64,
        writer: AckWriter,
        written_count: usize,
    ) -> Option<AckWriter> {
        let Some(open) = self.open.get_mut(&epoch) else { return Some(writer) };
        open.acks = Some(writer);
        open.unsettled_count = open.unsettled_count.saturating_sub(written_count as u64);
        None
    }

    /// Whether acknowledgements wait for a flush that nothing else asks for.
    pub(super) fn owes(&self) -> bool {
        self.open.values().any(|open| !open.owed.is_empty())
    }

    /// A record of this segment cannot be read any more: nothing is left to wait for.
    pub(super) fn give_up(&mut self, epoch: u64) {
        if let Some(open) = self.open.get_mut(&epoch) {
            open.segment.mark_damaged();
            open.unsettled_count = open.unsettled_count.saturating_sub(1);
        }
    }

    /// Gives the segments back to the keeper that are read to the end and wholly acknowledged.
    pub(super) fn retire(&mut self) {
        let settled = |open: &Open| open.reader.is_none() && open.unsettled_count == 0;
        let epochs: Vec<u64> =
            self.open.iter().filter(|(_, open)| settled(open)).map(|(&epoch, _)| epoch).collect();
        for epoch in epochs {
            if let Some(Open { segment, .. }) = self.open.remove(&epoch) {
                self.done.send(segment);
            }
        }
    }

    /// Segments that are not read to their ends yet.
    pub(super) fn reading_count(&self) -> usize {
        self.open.values().filter(|open| open.reader.is_some()).count()
    }

    pub(super) fn count(&self) -> usize {
        self.recovered.len() + self.arriving.len() + self.open.len()
    }
}

impl Open {
    fn new(segment: &Arc<Segment>, report: &mut Report) -> io::Result<Self> {
        let acks = AckWriter::open(segment)?;
        // Without them mail is delivered twice, which is better than not at all.
        let acknowledged = AckSet::load(segment).unwrap_or_else(|error| {
            let path = segment.ack_path();
            report.problem(Topic::Acknowledgements, |suppressed_count| {
                tracing::error!(
                    path = %path.display(), %error, suppressed_count,
                    "cannot read which mail of a segment is delivered; all of it is delivered again"
                );
            });
            AckSet::default()
        });
        for offset in &acknowledged.unreadable {
            let path = segment.ack_path();
            let path = path.display();
            tracing::error!(%path, offset, "an acknowledgement is unreadable; its message is delivered again");
        }
        Ok(Self {
            segment: Arc::clone(segment),
            reader: Some(Reader::new(Arc::clone(segment))),
            acknowledged,
            acks: Some(acks),
            owed: Vec::new(),
            unsettled_count: 0,
            rests_until: None,
        })
    }

    fn next<T>(
        &mut self,
        report: &mut Report,
        stats: &EgressStats,
        copied: &[Place],
        former_content: &mut FormerContent,
        take: &impl Fn(&Arc<Segment>, &Record<'_>) -> T,
    ) -> io::Result<Option<T>> {
        let Some(reader) = &mut self.reader else { return Ok(None) };
        if self.rests_until.is_some_and(|until| Instant::now() < until) {
            return Ok(None);
        }
        self.rests_until = None;
        while let Some(found) = reader.next()? {
            match found {
                Found::Damage(damage) => {
                    note_damage(&self.segment, &damage, report, stats);
                    former_content.has_damage |= self.segment.was_durable(&damage);
                }
                // Of a segment that has lost its header, and with it its role: its messages are here too.
                Found::Record(record) if record.meta.kind == RecordKind::Update => {}
                Found::Record(record) => {
                    let (offset, id) = (record.offset_in_segment, record.meta.id);
                    if self.acknowledged.contains(offset, id) {
                        continue;
                    }
                    self.unsettled_count += 1;
                    if let Some(content) = ContentRef::of(&record) {
                        former_content.unnamed.remove(&content.number);
                    }
                    if is_copied(copied, Place { epoch: self.segment.epoch, offset }) {
                        self.owed.push((offset, id));
                        continue;
                    }
                    return Ok(Some(take(&self.segment, &record)));
                }
            }
        }
        if reader.is_finished() {
            (self.reader, self.acknowledged) = (None, AckSet::default());
        }
        Ok(None)
    }
}

/// The disk does not give its bytes. Both reading on and reading again come back to it.
pub(super) fn note_unreadable(segment: &Segment, error: &io::Error, report: &mut Report) {
    let path = segment.path.display();
    report.problem(Topic::Spool, |suppressed_count| {
        tracing::error!(
            %path, %error, suppressed_count,
            "cannot read a segment; its mail waits. See the kernel's log for the state of the disk"
        );
    });
}

/// The reader has seen to it that the file is set aside.
fn note_damage(segment: &Segment, damage: &Damage, report: &mut Report, stats: &EgressStats) {
    let (path, place) = (segment.path.display(), describe(damage));
    if segment.was_durable(damage) {
        stats.damages.bump();
        report.problem(Topic::Damage, |suppressed_count| {
            tracing::error!(
                %path, place, suppressed_count,
                "the spool is damaged; what can be read is delivered. `ringmx spool verify` lists the damage"
            );
        });
    } else {
        report.problem(Topic::Damage, |suppressed_count| {
            tracing::warn!(
                %path, place, suppressed_count,
                "left out what cannot be read of the last write before a stop; most likely it was interrupted, and no \
                 client got a 250 for it"
            );
        });
    }
}
