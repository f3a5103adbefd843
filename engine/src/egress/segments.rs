//! The segments of one shard: read in order, given back when all of their records are acknowledged.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use tokio::time::Instant;

use super::report::{Report, Topic};
use super::stats::EgressStats;
use crate::spool::record::Record;
use crate::spool::walk::{Damage, Found};
use crate::store::{AckSet, AckWriter, Done, Reader, Segment, ShardFeed, describe};

/// Segments open for reading at once: more than a worker fills and has ready, far fewer than a long backlog has.
const READING_COUNT_MAX: usize = 8;
/// Between two tries to read a segment.
const READ_WAIT: Duration = Duration::from_secs(1);

/// Segments by epoch, which is the order in which they are filled.
#[derive(Debug)]
pub(super) struct Segments {
    incoming: Receiver<Arc<Segment>>,
    done: Done,
    /// Known, but not yet open: in order.
    arriving: VecDeque<Arc<Segment>>,
    open: BTreeMap<u64, Open>,
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
    /// Records read and neither durably acknowledged nor kept.
    unsettled_count: u64,
    /// Records that stay until the next start.
    kept_count: u64,
    /// Reading has failed: the next try is not before then, other segments go on.
    rests_until: Option<Instant>,
}

impl Segments {
    pub(super) fn new(feed: ShardFeed) -> Self {
        let ShardFeed { recovered, incoming, done, .. } = feed;
        Self { incoming, done, arriving: recovered.into(), open: BTreeMap::new() }
    }

    /// Opens what has come; what cannot be opened is tried again at the next call.
    pub(super) fn admit(&mut self, report: &mut Report) {
        self.arriving.extend(self.incoming.try_iter());
        let mut reading_count = self.open.values().filter(|open| open.reader.is_some()).count();
        while let Some(segment) = self.arriving.front()
            && reading_count < READING_COUNT_MAX
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
            reading_count += 1;
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
            match open.next(report, stats, &take) {
                Ok(None) => {}
                Ok(taken) => return taken,
                Err(error) => {
                    open.rests_until = Some(Instant::now() + READ_WAIT);
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

    /// Writers with entries that an earlier flush could not write.
    pub(super) fn lend_unwritten_acks(&mut self) -> Vec<(u64, AckWriter)> {
        let unwritten = |writer: &mut AckWriter| writer.pending_count() > 0;
        self.open
            .iter_mut()
            .filter_map(|(&epoch, open)| Some((epoch, open.acks.take_if(unwritten)?)))
            .collect()
    }

    /// Takes a writer back. `written_count` of its records are acknowledged, durably.
    pub(super) fn return_acks(&mut self, epoch: u64, writer: AckWriter, written_count: usize) {
        if let Some(open) = self.open.get_mut(&epoch) {
            open.acks = Some(writer);
            open.unsettled_count = open.unsettled_count.saturating_sub(written_count as u64);
        }
    }

    /// A record of this segment stays until the next start.
    pub(super) fn keep(&mut self, epoch: u64) {
        if let Some(open) = self.open.get_mut(&epoch) {
            open.kept_count += 1;
            open.unsettled_count = open.unsettled_count.saturating_sub(1);
        }
    }

    /// Parts with segments that are read to the end and settled: those wholly acknowledged go back to the keeper, those
    /// with kept mail wait for the next start, which finds them.
    pub(super) fn retire(&mut self) {
        let settled = |open: &Open| open.reader.is_none() && open.unsettled_count == 0;
        let epochs: Vec<u64> =
            self.open.iter().filter(|(_, open)| settled(open)).map(|(&epoch, _)| epoch).collect();
        for epoch in epochs {
            let Some(Open { segment, kept_count, .. }) = self.open.remove(&epoch) else { continue };
            if kept_count == 0 {
                self.done.send(segment);
            } else {
                let path = segment.path.display();
                tracing::info!(%path, kept_count, "a segment stays in the spool for the mail kept there");
            }
        }
    }

    pub(super) fn count(&self) -> usize {
        self.arriving.len() + self.open.len()
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
            unsettled_count: 0,
            kept_count: 0,
            rests_until: None,
        })
    }

    fn next<T>(
        &mut self,
        report: &mut Report,
        stats: &EgressStats,
        take: &impl Fn(&Arc<Segment>, &Record<'_>) -> T,
    ) -> io::Result<Option<T>> {
        let Some(reader) = &mut self.reader else { return Ok(None) };
        if self.rests_until.is_some_and(|until| Instant::now() < until) {
            return Ok(None);
        }
        self.rests_until = None;
        while let Some(found) = reader.next()? {
            match found {
                Found::Damage(damage) => note_damage(&self.segment, &damage, report, stats),
                Found::Record(record) => {
                    if !self.acknowledged.contains(record.offset_in_segment, record.meta.id) {
                        self.unsettled_count += 1;
                        return Ok(Some(take(&self.segment, &record)));
                    }
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
