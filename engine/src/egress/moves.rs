//! What a flush writes to the log of deferred mail: messages that were not delivered at their first attempt, what later
//! attempts have changed, and live records of segments that are mostly dead.

use super::job::{Change, Source};
use crate::id::MessageId;
use crate::limits::COMPACTION_LEN_MAX;
use crate::protocol::deferral::{Deferral, Fate};
use crate::spool::commit::Place;
use crate::spool::index::Handle;
use crate::spool::record::{Record, RecordKind, RecordMeta};
use crate::store::{DeferError, Deferred, DeferredLog, read_record};

/// The message that a record of the log belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// One of the intake, not in the index yet.
    New(Place),
    Known(Handle),
}

/// The records of a message.
#[derive(Clone, Debug)]
pub(super) struct Sources {
    pub message: Source,
    /// The last update of its envelope.
    pub update: Option<Source>,
}

/// A record to be written.
#[derive(Debug)]
pub(super) struct Move {
    pub target: Target,
    pub sources: Sources,
    pub kind: MoveKind,
    /// `None` moves the record as it is.
    pub change: Option<Change>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MoveKind {
    /// The whole message, which replaces its record and updates.
    Copy,
    /// Its envelope alone.
    Update,
}

/// What came of a move.
#[derive(Debug)]
pub(super) enum Moved {
    /// It is durable.
    Done {
        target: Target,
        kind: MoveKind,
        id: MessageId,
        /// The message's record: for a copy, the one that it replaces.
        from: Place,
        deferred: Deferred,
        /// When the next attempt is due, in microseconds since 1970, if that has changed.
        due: Option<u64>,
        /// It was written for what an attempt has changed.
        ends_attempt: bool,
    },
    /// It was not written: what it was to replace is still there.
    Not(Move),
    /// What it was to replace cannot be read any more.
    Lost(Move),
}

/// Writes as many as can be written, and compaction's only as far as they do not hold up the others.
pub(super) fn run(moves: Vec<Move>, log: &mut DeferredLog) -> (Vec<Moved>, Option<DeferError>) {
    let mut outcomes = Vec::new();
    let mut appended = Vec::new();
    let mut error = None;
    let mut compacted_len = 0;
    let mut buffer = Vec::new();
    let mut envelope = Vec::new();
    for entry in moves {
        let is_optional = entry.change.is_none();
        let is_stuck = error.as_ref().is_some_and(|error| !matches!(error, DeferError::Read(_)));
        if is_stuck || (is_optional && compacted_len > COMPACTION_LEN_MAX) {
            outcomes.push(Moved::Not(entry));
            continue;
        }
        match append(&entry, log, &mut buffer, &mut envelope) {
            Ok(Some((id, deferred))) => {
                compacted_len += if is_optional { deferred.len } else { 0 };
                appended.push((entry, id, deferred));
            }
            Ok(None) => outcomes.push(Moved::Lost(entry)),
            Err(failed) => {
                error = Some(failed);
                outcomes.push(Moved::Not(entry));
            }
        }
    }
    if let Err(failed) = log.commit() {
        error.get_or_insert(failed);
    }
    for (entry, id, deferred) in appended {
        outcomes.push(if deferred.is_durable() {
            let Move { target, sources, kind, change } = entry;
            let (from, ends_attempt) = (sources.message.place(), change.is_some());
            let due = change.and_then(|change| change.due_unix_us);
            Moved::Done { target, kind, id, from, deferred, due, ends_attempt }
        } else {
            Moved::Not(entry)
        });
    }
    (outcomes, error)
}

/// `None` when a record is not readable any more.
fn append(
    entry: &Move,
    log: &mut DeferredLog,
    buffer: &mut Vec<u8>,
    envelope: &mut Vec<u8>,
) -> Result<Option<(MessageId, Deferred)>, DeferError> {
    let Sources { message, update } = &entry.sources;
    let newest = update.as_ref().unwrap_or(message);
    let Some(record) = read(newest, buffer)? else { return Ok(None) };
    entry.write_envelope(record.envelope, envelope);
    let meta = record.meta;
    let deferred = match (entry.kind, update) {
        (MoveKind::Update, _) => {
            log.append(&RecordMeta { kind: RecordKind::Update, ..meta }, envelope, b"")?
        }
        (MoveKind::Copy, None) => log.append(&meta, envelope, record.content)?,
        (MoveKind::Copy, Some(_)) => {
            let Some(record) = read(message, buffer)? else { return Ok(None) };
            log.append(&record.meta, envelope, record.content)?
        }
    };
    // A large message's room is not kept for the small ones behind it.
    buffer.truncate(0);
    buffer.shrink_to(1 << 20);
    Ok(Some((meta.id, deferred)))
}

fn read<'a>(source: &Source, buffer: &'a mut Vec<u8>) -> Result<Option<Record<'a>>, DeferError> {
    read_record(&source.segment, source.place(), buffer).map_err(DeferError::Read)
}

impl Move {
    fn write_envelope(&self, former: &[u8], out: &mut Vec<u8>) {
        out.clear();
        let Place { epoch: origin_epoch, offset: origin_offset } = self.sources.message.place();
        match &self.change {
            None => {
                let deferral = Deferral::read(former).unwrap_or_default();
                Deferral { origin_epoch, origin_offset, ..deferral }.rewrite(former, |_| Fate::Stays, out);
            }
            Some(Change {
                stays,
                failed,
                since_unix_us,
                due_unix_us,
                attempts,
                last_error,
                mark,
                delay_told,
            }) => {
                let deferral = Deferral {
                    origin_epoch,
                    origin_offset,
                    since_unix_us: *since_unix_us,
                    due_unix_us: *due_unix_us,
                    attempts: *attempts,
                    last_error: last_error.clone(),
                    mark: *mark,
                    delay_told: *delay_told,
                };
                let fate = |position: usize| {
                    let position = u16::try_from(position).unwrap_or(u16::MAX);
                    if stays.as_ref().is_some_and(|stays| stays.binary_search(&position).is_err()) {
                        return Fate::Gone;
                    }
                    let failure = failed.iter().find(|(of, _)| *of == position);
                    failure.map_or(Fate::Stays, |(_, failure)| Fate::Failed(failure))
                };
                deferral.rewrite(former, fate, out);
            }
        }
    }
}

impl Source {
    pub(super) fn place(&self) -> Place {
        Place { epoch: self.segment.epoch, offset: self.offset }
    }
}
