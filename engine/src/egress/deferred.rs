//! The deferred mail of one shard: its index, its segments, and which of them is to be compacted.
//!
//! Whatever changes a record's place here happens in a [`super::flush::Flush`], and there is one at a time: between two
//! of them the index is what the disk says.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::sync::Arc;

use tokio::time::Instant;

use super::job::Source;
use super::moves::{Move, MoveKind, Moved, Sources, Target};
use super::orders::Verb;
use crate::id::MessageId;
use crate::limits::{COMPACTION_COUNT_MAX, DEFERRED_INDEX_COUNT_MAX, UNINDEXED_TIME_MAX};
use crate::spool::backlog::Summary;
use crate::spool::commit::Place;
use crate::spool::index::{Entry, Handle, Index, Spot};
use crate::spool::segment::FIRST_BATCH_AT;
use crate::store::{AckWriter, Deferred, DeferredLog, Done, Segment};

#[derive(Debug)]
pub(super) struct DeferredMail {
    /// `None` while a flush has it.
    pub(super) log: Option<DeferredLog>,
    done: Done,
    index: Index,
    /// By epoch.
    segments: BTreeMap<u64, Held>,
    /// The epoch of slot 0.
    base_epoch: u64,
    victim: Option<Victim>,
    /// Messages that are being looked at: they neither wait nor rest.
    busy: HashSet<Handle>,
    /// What is to be done with messages when they are looked at next.
    orders: HashMap<Handle, (Verb, MessageId)>,
    /// Messages that cannot be moved because they cannot be read.
    lost: HashSet<Handle>,
    /// Bytes of all records that count.
    live_len: u64,
    /// When to make the index anew, where some messages found no place in it, or are to be looked at again.
    reload_at: Option<Instant>,
    /// Settled and moved records whose acknowledgement is not on the disk yet, with their epochs.
    unacknowledged: Vec<(u64, Settled)>,
}

/// A segment with deferred mail.
#[derive(Debug)]
struct Held {
    segment: Arc<Segment>,
    /// Bytes of records that count.
    live_len: u64,
    /// Filled by a former run, perhaps not to its end.
    is_recovered: bool,
    /// Part of it could not be read: not given back before the next start.
    is_unreadable: bool,
    /// Its messages for which the index had no room.
    unindexed_count: u64,
    /// With entries that could not be written; `None` while a flush has it, too.
    acks: Option<AckWriter>,
}

/// A segment whose live records are being moved.
#[derive(Debug)]
struct Victim {
    epoch: u64,
    handles: Vec<Handle>,
}

/// What becomes of the index once an acknowledgement is durable.
#[derive(Debug)]
pub(super) enum Settled {
    Removed(Handle),
    Inserted { deferred: Deferred, due_unix_us: Option<u64> },
    Replaced { handle: Handle, deferred: Deferred },
}

impl DeferredMail {
    pub(super) fn new(log: DeferredLog, recovered: &[Arc<Segment>], done: Done, now_unix_ms: u64) -> Self {
        Self {
            log: Some(log),
            done,
            index: Index::new(now_unix_ms),
            segments: BTreeMap::new(),
            base_epoch: recovered.first().map_or(0, |segment| segment.epoch),
            victim: None,
            busy: HashSet::new(),
            orders: HashMap::new(),
            lost: HashSet::new(),
            live_len: 0,
            reload_at: None,
            unacknowledged: Vec::new(),
        }
    }

    /// Numbers of segments for the index.
    pub(super) fn slots(&self) -> impl Fn(&Segment) -> u32 + Send + use<> {
        let base_epoch = self.base_epoch;
        move |segment| slot(segment.epoch, base_epoch)
    }

    /// Takes in what former runs have deferred. Held mail is due: the configuration may have changed.
    pub(super) fn load(&mut self, segments: Vec<Arc<Segment>>, summary: Summary, unreadable: &[usize]) {
        for (index, (segment, piece)) in segments.into_iter().zip(&summary.segments).enumerate() {
            let (live_len, is_unreadable) = (piece.live_len, unreadable.contains(&index));
            let held = Held { live_len, is_recovered: true, is_unreadable, ..Held::new(segment) };
            self.live_len += live_len;
            self.segments.insert(piece.epoch, held);
        }
        let mut messages = summary.messages;
        if messages.len() > DEFERRED_INDEX_COUNT_MAX {
            messages.sort_by_key(|message| message.due_unix_us);
        }
        for message in messages {
            self.insert(message.entry, Some(message.due_unix_us.unwrap_or_default()));
        }
        self.choose_victim();
    }

    fn insert(&mut self, entry: Entry, due_unix_us: Option<u64>) {
        if self.index.len() >= DEFERRED_INDEX_COUNT_MAX {
            let epoch = self.epoch(entry.message.slot);
            if let Some(held) = self.segments.get_mut(&epoch) {
                held.unindexed_count += 1;
            }
            self.reload_at.get_or_insert_with(|| Instant::now() + UNINDEXED_TIME_MAX);
            return;
        }
        if let (Ok(handle), Some(due)) = (self.index.insert(entry), due_unix_us) {
            self.index.schedule(handle, due / 1000);
        }
    }

    /// Whether the index is to be made anew, because it has room or has kept others out for long enough.
    pub(super) fn wants_reload(&self) -> bool {
        let has_room = self.index.len() < DEFERRED_INDEX_COUNT_MAX / 2;
        // Orders name messages as this index knows them.
        let is_due = |reload_at| has_room || Instant::now() >= reload_at;
        self.orders.is_empty() && self.reload_at.is_some_and(is_due)
    }

    /// Held mail is to be looked at again as by a start: the routes have changed.
    pub(super) fn read_again(&mut self) {
        self.reload_at = Some(Instant::now());
    }

    /// Forgets everything and gives the segments to be read again. Nothing may be under way.
    pub(super) fn unload(&mut self) -> Vec<Arc<Segment>> {
        if let Some(log) = &mut self.log {
            log.seal();
        }
        self.index = Index::new(self.index.base_unix_ms());
        (self.victim, self.reload_at, self.live_len) = (None, None, 0);
        self.lost.clear();
        self.busy.clear();
        std::mem::take(&mut self.segments).into_values().map(|held| held.segment).collect()
    }

    /// A message to look at, which is busy until it is scheduled, removed, or left to [`rest`](Self::rest).
    pub(super) fn pop_due(&mut self, now_unix_ms: u64) -> Option<Handle> {
        let handle = self.index.pop_due(now_unix_ms)?;
        self.busy.insert(handle);
        Some(handle)
    }

    /// It waits for nothing: it is held.
    pub(super) fn rest(&mut self, handle: Handle) {
        self.busy.remove(&handle);
        if self.orders.contains_key(&handle) {
            self.index.schedule(handle, 0);
        }
    }

    /// Takes an order for messages that are named by the places of their records. Those that are known are due now; who
    /// is busy, when it has been tried. Returns those that are not known; looks at all messages.
    pub(super) fn order(&mut self, verb: Verb, mut places: HashMap<Place, MessageId>) -> Vec<MessageId> {
        let named = |(handle, entry): (Handle, &Entry)| {
            let epoch = self.epoch(entry.message.slot);
            let id = places.remove(&Place { epoch, offset: entry.message.offset() })?;
            Some((handle, (verb, id)))
        };
        let known: Vec<_> = self.index.entries().filter_map(named).collect();
        let handles = known.iter().map(|(handle, _)| *handle).filter(|handle| !self.busy.contains(handle));
        self.index.hasten(handles.collect());
        self.orders.extend(known);
        places.into_values().collect()
    }

    /// The order for a message that is looked at now. It stays until [`Self::forget_order`].
    pub(super) fn order_for(&self, handle: Handle, id: MessageId) -> Option<Verb> {
        self.orders.get(&handle).filter(|(_, of)| *of == id).map(|(verb, _)| *verb)
    }

    pub(super) fn forget_order(&mut self, handle: Handle) {
        self.orders.remove(&handle);
    }

    /// In milliseconds since 1970.
    pub(super) fn next_due(&self) -> Option<u64> {
        self.index.next_due()
    }

    pub(super) fn schedule(&mut self, handle: Handle, due_unix_ms: u64) {
        self.busy.remove(&handle);
        let due_unix_ms = if self.orders.contains_key(&handle) { 0 } else { due_unix_ms };
        self.index.schedule(handle, due_unix_ms);
    }

    pub(super) fn sources(&self, handle: Handle) -> Option<Sources> {
        let entry = self.index.get(handle);
        let source = |spot: Spot| {
            let held = self.segments.get(&self.epoch(spot.slot))?;
            Some(Source { segment: Arc::clone(&held.segment), offset: spot.offset() })
        };
        let update = match entry.update() {
            Some(update) => Some(source(update)?),
            None => None,
        };
        Some(Sources { message: source(entry.message)?, update })
    }

    /// A move whose message may have been moved since it was made.
    pub(super) fn refresh(&self, entry: Move) -> Option<Move> {
        let sources = match entry.target {
            Target::New(_) => return Some(entry),
            Target::Known(handle) => self.sources(handle)?,
        };
        Some(Move { sources, ..entry })
    }

    /// The next live records of the segment that is being compacted, but of no message in `busy`.
    pub(super) fn compaction(&mut self, busy: &HashSet<Handle>) -> Vec<Move> {
        let Some(Victim { epoch, handles }) = &mut self.victim else { return Vec::new() };
        let epoch = *epoch;
        let from = handles.len().saturating_sub(COMPACTION_COUNT_MAX);
        let chosen: Vec<Handle> = handles.split_off(from);
        let victim_slot = slot(epoch, self.base_epoch);
        let mut moves = Vec::new();
        for handle in chosen.into_iter().filter(|handle| !busy.contains(handle)) {
            let entry = self.index.get(handle);
            let kind = match entry.update() {
                _ if entry.message.slot == victim_slot => MoveKind::Copy,
                Some(update) if update.slot == victim_slot => MoveKind::Update,
                _ => continue,
            };
            let Some(sources) = self.sources(handle) else { continue };
            moves.push(Move { target: Target::Known(handle), sources, kind, change: None });
        }
        moves
    }

    /// Whether records wait to be moved out of a segment.
    pub(super) fn compacts(&self) -> bool {
        self.victim.is_some()
    }

    /// Knows the segments that the log has begun.
    pub(super) fn note_opened(&mut self, opened: Vec<Arc<Segment>>) {
        for segment in opened {
            self.segments.insert(segment.epoch, Held::new(segment));
        }
    }

    /// `None` when nothing is to be acknowledged for it; otherwise it counts once the acknowledgement in the segment of
    /// this epoch is durable.
    pub(super) fn on_moved(&mut self, moved: &Moved) -> Option<(u64, Settled)> {
        match moved {
            Moved::Done { target: Target::New(_), deferred, from, due, .. } => {
                let settled = Settled::Inserted { deferred: deferred.clone(), due_unix_us: *due };
                Some((from.epoch, settled))
            }
            Moved::Done { target: Target::Known(handle), kind: MoveKind::Copy, deferred, from, .. } => {
                let settled = Settled::Replaced { handle: *handle, deferred: deferred.clone() };
                Some((from.epoch, settled))
            }
            Moved::Done { target: Target::Known(handle), deferred, due, ends_attempt, .. } => {
                let mut entry = self.index.get(*handle);
                self.free(entry.update());
                entry.set_update(self.settle(deferred));
                self.index.set(*handle, entry);
                match due {
                    Some(due) => self.schedule(*handle, due / 1000),
                    None if *ends_attempt => self.rest(*handle),
                    None => {}
                }
                None
            }
            Moved::Lost(Move { target: Target::Known(handle), change, .. }) => {
                if change.is_some() {
                    self.remove(*handle);
                } else {
                    // It waits or is being delivered: its next attempt finds the same.
                    self.lost.insert(*handle);
                }
                None
            }
            Moved::Lost(_) | Moved::Not(_) => None,
        }
    }

    /// Waits for the acknowledgement.
    pub(super) fn await_acknowledgement(&mut self, epoch: u64, settled: Settled) {
        self.unacknowledged.push((epoch, settled));
    }

    /// The acknowledgements of this segment are durable.
    pub(super) fn on_acknowledged(&mut self, epoch: u64) {
        let (durable, rest) =
            std::mem::take(&mut self.unacknowledged).into_iter().partition(|(of, _)| *of == epoch);
        self.unacknowledged = rest;
        for (_, settled) in durable {
            match settled {
                Settled::Removed(handle) => self.remove(handle),
                Settled::Inserted { deferred, due_unix_us } => {
                    let entry = Entry::new(self.settle(&deferred));
                    self.insert(entry, due_unix_us);
                }
                Settled::Replaced { handle, deferred } => {
                    let former = self.index.get(handle);
                    self.free(Some(former.message));
                    self.free(former.update());
                    let entry = Entry::new(self.settle(&deferred));
                    self.index.set(handle, entry);
                }
            }
        }
    }

    /// Whether acknowledgements are missing. Until they are durable nothing else may be done with their messages.
    pub(super) fn is_settled(&self) -> bool {
        self.unacknowledged.is_empty()
    }

    /// Forgets a message that waits no longer.
    pub(super) fn remove(&mut self, handle: Handle) {
        let entry = self.index.remove(handle);
        self.lost.remove(&handle);
        self.busy.remove(&handle);
        self.orders.remove(&handle);
        self.free(Some(entry.message));
        self.free(entry.update());
    }

    /// The writer of a segment's acknowledgements, for one flush.
    pub(super) fn lend_acks(&mut self, epoch: u64) -> io::Result<AckWriter> {
        let held = self.segments.get_mut(&epoch).ok_or(io::ErrorKind::NotFound)?;
        held.acks.take().map_or_else(|| AckWriter::open(&held.segment), Ok)
    }

    /// Writers with entries that an earlier flush could not write.
    pub(super) fn lend_unwritten_acks(&mut self) -> Vec<(u64, AckWriter)> {
        self.segments.iter_mut().filter_map(|(&epoch, held)| Some((epoch, held.acks.take()?))).collect()
    }

    /// Takes a writer back. There may be many segments, so those with nothing to write are not kept open.
    pub(super) fn return_acks(&mut self, epoch: u64, writer: AckWriter) {
        if let Some(held) = self.segments.get_mut(&epoch) {
            held.acks = Some(writer).filter(|writer| writer.pending_count() > 0);
        }
    }

    /// Gives back the segments in which nothing counts any more, if that `may` be, and looks for the next one to
    /// compact.
    pub(super) fn retire(&mut self, may: bool) {
        if let Some(log) = &mut self.log {
            log.leave_unsound();
        }
        let is_dead =
            |held: &Held| may && held.segment.is_sealed() && held.live_len == 0 && !held.is_unreadable;
        let dead: Vec<u64> =
            self.segments.iter().filter(|(_, held)| is_dead(held)).map(|(&epoch, _)| epoch).collect();
        for epoch in dead {
            if let Some(held) = self.segments.remove(&epoch) {
                self.done.send(held.segment);
            }
        }
        self.choose_victim();
    }

    /// Keeps to the present one while it has records to move.
    fn choose_victim(&mut self) {
        if let Some(Victim { epoch, handles }) = &self.victim
            && !handles.is_empty()
            && self.segments.contains_key(epoch)
        {
            return;
        }
        let wasteful = self.segments.iter().filter(|(_, held)| held.is_wasteful());
        let victims = wasteful.map(|(&epoch, _)| {
            let handles = self.index.handles_in(slot(epoch, self.base_epoch));
            Victim { epoch, handles: handles.filter(|handle| !self.lost.contains(handle)).collect() }
        });
        self.victim = victims.into_iter().find(|victim| !victim.handles.is_empty());
    }

    /// Counts a record that was written.
    fn settle(&mut self, deferred: &Deferred) -> Spot {
        let epoch = deferred.segment.epoch;
        if let Some(held) = self.segments.get_mut(&epoch) {
            held.live_len += deferred.len;
            self.live_len += deferred.len;
        }
        Spot::new(slot(epoch, self.base_epoch), deferred.offset, deferred.len)
    }

    fn free(&mut self, spot: Option<Spot>) {
        let Some(spot) = spot else { return };
        let epoch = self.epoch(spot.slot);
        if let Some(held) = self.segments.get_mut(&epoch) {
            held.live_len = held.live_len.saturating_sub(spot.record_len());
            self.live_len = self.live_len.saturating_sub(spot.record_len());
        }
    }

    fn epoch(&self, slot: u32) -> u64 {
        self.base_epoch + u64::from(slot)
    }

    /// Messages that are deferred, and those of them that wait for their time.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.index.len(), self.index.waiting_count())
    }

    /// Segments, and the bytes in them that count.
    pub(super) fn usage(&self) -> (usize, u64) {
        (self.segments.len(), self.live_len)
    }
}

impl Held {
    fn new(segment: Arc<Segment>) -> Self {
        Self {
            segment,
            live_len: 0,
            is_recovered: false,
            is_unreadable: false,
            unindexed_count: 0,
            acks: None,
        }
    }

    /// Whether to move its live records away. All of them from a damaged file, which goes to the operator, and from one
    /// to which a write failed. Otherwise they fill less than half of the file, and that is because something was
    /// written there that counts no more: what large records leave empty at the end would be left empty elsewhere too.
    fn is_wasteful(&self) -> bool {
        let Self { segment, live_len, is_recovered, unindexed_count, .. } = self;
        if !segment.is_sealed() || *live_len == 0 || *unindexed_count > 0 {
            return false;
        }
        let filled_to = if *is_recovered { segment.capacity } else { segment.committed() };
        let dead_len = (filled_to - FIRST_BATCH_AT).saturating_sub(*live_len);
        segment.is_unsound() || (2 * live_len < segment.capacity && dead_len > segment.capacity / 8)
    }
}

fn slot(epoch: u64, base_epoch: u64) -> u32 {
    u32::try_from(epoch.saturating_sub(base_epoch)).unwrap_or(u32::MAX - 1)
}
