//! Group commit: records that wait are written together, by one write, and their tickets come back together.
//!
//! ```text
//!            append                start                 complete(ok)
//! (ticket) ---------> [ queued ] ---------> [ flying ] ---------------> (tickets: the 250s may go out)
//!                         |                    | | |                        then `readable`, in order
//!                         +--------------------+-+-+--> Failed for good: what waits fails, nothing is written again
//! ```
//!
//! There is no timer: what comes while a write flies collects for the next one. Up to [`FLIGHTS_COUNT_MAX`] fly at
//! once; [`GroupCommit::start`] has the rule. Each batch says what was durable before it, so recovery walks over the
//! hole that an unfinished one leaves, and a later batch is durable as soon as its own write has ended.
//!
//! After a failed write nobody knows what is on the disk, and a second sync could report success for pages the kernel
//! threw away; so the shard stops, and what follows goes elsewhere. Writes that were flying may still end well: what
//! they hold is durable and is answered so.
//!
//! A record never spans segments, and a batch neither. When the next record does not fit, the caller brings a
//! new segment; batches already collected still go to the old one, in order.

use std::collections::VecDeque;

use ringmx_ring::BlockBuffer;

use self::buffers::Buffers;
pub use self::flights::FlightId;
use self::flights::{Departure, Flights};
use self::unsynced::UnsyncedList;
use super::batch::Batch;
use super::record::{self, RecordMeta};
use super::segment::{FIRST_BATCH_AT, SegmentHeader, batch_len};
use super::{BLOCK_LEN, block_end};
use crate::limits::{BATCH_LEN_SOFT_MAX, FLIGHTS_COUNT_MAX};

mod buffers;
mod flights;
#[cfg(test)]
mod tests;
mod unsynced;

/// The caller's name for one waiting transaction. Opaque here.
pub type Ticket = u64;

/// When a record has to be on stable storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// Before this ticket comes back.
    BeforeReply(Ticket),
    /// At the next sync; nobody waits for it.
    Soon,
    /// When the kernel likes.
    Never,
}

/// A write to do: all of `bytes` at `offset` of the segment of this epoch.
#[derive(Debug)]
pub struct Write {
    /// For [`GroupCommit::complete`].
    pub flight: FlightId,
    pub epoch: u64,
    pub offset: u64,
    /// Whole blocks. Comes back through [`GroupCommit::complete`].
    pub bytes: BlockBuffer,
    /// On stable storage when it completes: somebody waits for that.
    pub durable: bool,
}

/// Where a record was put. It is there once its ticket came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    pub epoch: u64,
    /// Offset of the record in its segment.
    pub offset: u64,
}

/// Why a record was not taken. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Bring one by [`GroupCommit::use_segment`], or let the client try again later.
    #[error("no segment with room for the record")]
    NeedsSegment,
    #[error("the record does not fit into an empty segment")]
    TooLarge,
    #[error("a write of this shard failed (errno {0}); it takes no more records")]
    Failed(i32),
}

/// What readers may be told next: a segment can be read further.
#[derive(Debug)]
pub struct Readable {
    pub epoch: u64,
    /// Where the batch begins, which ends at `end`.
    pub offset: u64,
    /// Everything of the segment below this offset is written, what was promised so is durable.
    pub end: u64,
    /// No further batch goes to that segment: seal it after publishing.
    pub seals: bool,
    /// What was written. Give it back ([`GroupCommit::give_back`]) when nobody needs it.
    pub bytes: BlockBuffer,
}

/// The state machine. One per shard.
#[derive(Debug, Default)]
pub struct GroupCommit {
    segment: Option<Assigned>,
    /// Batches to write, oldest first. Only the last may still take records, while [`Queued::open`] holds.
    queue: VecDeque<Queued>,
    flights: Flights,
    unsynced: UnsyncedList,
    failed: Option<i32>,
    lost_count: u64,
    buffers: Buffers,
}

/// The segment that new batches go to.
#[derive(Clone, Copy, Debug)]
struct Assigned {
    epoch: u64,
    key: u64,
    capacity: u64,
    /// Where the next new batch begins. Behind the open batch's place only once that is closed.
    next_offset: u64,
    next_sequence: u32,
}

#[derive(Debug)]
struct Queued {
    batch: Batch,
    tickets: Vec<Ticket>,
    /// Records, with or without a ticket.
    records_count: usize,
    /// Of them, promised to be durable soon.
    soon_count: usize,
    open: bool,
    seals: bool,
}

impl GroupCommit {
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a record of this encoded length ([`record::encoded_len`]) needs another segment first. True
    /// before the first segment; false once failed, when no segment helps.
    pub fn needs_segment(&self, next_len: usize) -> bool {
        if self.failed.is_some() {
            return false;
        }
        let Some(segment) = self.segment else { return true };
        match self.open_batch() {
            Some(open) => {
                let end = open.batch.offset().saturating_add(block_end((open.batch.len() + next_len) as u64));
                end > segment.capacity
            }
            None => segment.next_offset.saturating_add(batch_len(next_len)) > segment.capacity,
        }
    }

    /// New batches go to this fresh segment from now on. Returns the epoch of the former segment if nothing
    /// of it is left to write: it can be sealed now. Otherwise its last write says so ([`Readable::seals`]).
    pub fn use_segment(&mut self, header: &SegmentHeader) -> Option<u64> {
        self.close_open_batch();
        let former = self.segment.replace(Assigned {
            epoch: header.epoch,
            key: header.key,
            capacity: header.capacity,
            next_offset: FIRST_BATCH_AT,
            next_sequence: 0,
        })?;
        let queued = self.queue.back_mut().filter(|last| last.batch.epoch() == former.epoch);
        if let Some(last) = queued {
            last.seals = true;
        } else if let Some(flight) = self.flights.last_to(former.epoch) {
            flight.seals = true;
        } else {
            self.unsynced.seal(former.epoch);
            return Some(former.epoch);
        }
        None
    }

    /// Puts a record into the batch that goes out next. `content` comes in parts.
    pub fn append(
        &mut self,
        promise: Promise,
        meta: &RecordMeta,
        envelope: &[u8],
        content: &[&[u8]],
    ) -> Result<Place, AppendError> {
        if let Some(errno) = self.failed {
            return Err(AppendError::Failed(errno));
        }
        let content_len = content.iter().fold(0usize, |len, part| len.saturating_add(part.len()));
        let record_len = record::encoded_len(envelope.len(), content_len);
        let segment = self.segment.as_mut().ok_or(AppendError::NeedsSegment)?;
        if FIRST_BATCH_AT.saturating_add(batch_len(record_len)) > segment.capacity {
            return Err(AppendError::TooLarge);
        }
        if self.needs_segment(record_len) {
            return Err(AppendError::NeedsSegment);
        }
        if self.open_batch().is_none() {
            self.begin_batch();
        }
        let open = self.queue.back_mut().expect("a batch is open");
        let offset = open.batch.append(meta, envelope, content);
        open.records_count += 1;
        match promise {
            Promise::BeforeReply(ticket) => open.tickets.push(ticket),
            Promise::Soon => open.soon_count += 1,
            Promise::Never => {}
        }
        let place = Place { epoch: open.batch.epoch(), offset };
        if open.batch.len() >= BATCH_LEN_SOFT_MAX {
            self.close_open_batch();
        }
        Ok(place)
    }

    /// The next write, if one should begin now. Ask again until there is none.
    ///
    /// With none flying, whatever waits goes. With some, another one shortens the wait of those it takes by what is
    /// left of the present flight, but costs a sync, and leaves fewer to share the next. So it goes when the caller has
    /// nothing else to do (not `is_busy`: what comes of that may join), and when it carries its share: at least as many
    /// records as the mean of those that fly. Under a steady load the batches then are as large as the number of
    /// clients divided by that of the writes that fly and the one that collects.
    pub fn start(&mut self, is_busy: bool) -> Option<Write> {
        if !self.is_time_to_start(is_busy) {
            return None;
        }
        if self.queue.len() == 1 {
            self.close_open_batch();
        }
        let Queued { batch, tickets, records_count, soon_count, seals, .. } = self.queue.pop_front()?;
        let (epoch, offset, durable) = (batch.epoch(), batch.offset(), !tickets.is_empty());
        let bytes = batch.finish(self.durable_to(epoch).unwrap_or(offset));
        let len = bytes.len();
        let departure = Departure { epoch, offset, len, tickets, records_count, durable, soon_count, seals };
        let flight = self.flights.depart(departure);
        Some(Write { flight, epoch, offset, bytes, durable })
    }

    fn is_time_to_start(&self, is_busy: bool) -> bool {
        if self.failed.is_some() {
            return false;
        }
        match self.flights.len() {
            0 => true,
            FLIGHTS_COUNT_MAX.. => false,
            // It is full: nothing will be added to it.
            _ if self.queue.front().is_some_and(|front| !front.open) => true,
            _ if is_busy => false,
            flights_count => {
                let waiting_count: usize = self.queue.iter().map(|queued| queued.records_count).sum();
                waiting_count > 0 && waiting_count * flights_count >= self.flights.records_count()
            }
        }
    }

    /// Up to where a segment is durable for sure, if that is not up to the next batch.
    fn durable_to(&self, epoch: u64) -> Option<u64> {
        self.flights.uncertain_from(epoch).into_iter().chain(self.unsynced.durable_to(epoch)).min()
    }

    /// A write has ended, with the bytes written or an errno. Its tickets are appended to `tickets` in the order of
    /// their appends. `Ok`: what they stand for is durable. Else the shard has failed, and the tickets of all that
    /// waited for a write are appended too. Then ask for what is [`readable`](Self::readable).
    ///
    /// # Errors
    /// The errno of the failure.
    ///
    /// # Panics
    /// When that write is not on its way.
    pub fn complete(
        &mut self,
        flight: FlightId,
        result: Result<usize, i32>,
        bytes: BlockBuffer,
        tickets: &mut Vec<Ticket>,
    ) -> Result<(), i32> {
        let len = bytes.len();
        let result = match result {
            Ok(written) if written == len => Ok(()),
            Ok(_) => Err(SHORT_WRITE_ERRNO),
            Err(errno) => Err(errno),
        };
        let outcome = if result.is_ok() { Some(bytes) } else { None };
        let landed = self.flights.land(flight, outcome);
        let unasked_count = landed.records_count - landed.tickets.len();
        let list = std::mem::take(&mut landed.tickets);
        self.buffers.drain_tickets(list, tickets);
        result.inspect_err(|&errno| {
            self.lost_count += unasked_count as u64;
            self.fail(errno, tickets);
        })
    }

    /// Nothing is begun any more; what waited for a write fails.
    fn fail(&mut self, errno: i32, tickets: &mut Vec<Ticket>) {
        self.failed.get_or_insert(errno);
        self.segment = None;
        while let Some(queued) = self.queue.pop_front() {
            self.lost_count += (queued.records_count - queued.tickets.len()) as u64;
            self.buffers.drain_tickets(queued.tickets, tickets);
            self.buffers.give_back(queued.batch.into_buffer());
        }
    }

    /// What readers may be told next: in the order of the segments, up to the first write that has not ended well.
    pub fn readable(&mut self) -> Option<Readable> {
        let (flight, bytes) = self.flights.pop_done()?;
        self.unsynced.written(&flight);
        let (epoch, offset, end, seals) = (flight.epoch, flight.offset, flight.end(), flight.seals);
        Some(Readable { epoch, offset, end, seals, bytes })
    }

    /// Takes memory back, for another batch.
    pub fn give_back(&mut self, buffer: BlockBuffer) {
        self.buffers.give_back(buffer);
    }

    /// The next segment to sync (fdatasync), by its epoch: it holds what was promised to be durable soon. Answer each
    /// by [`synced`](Self::synced).
    pub fn start_sync(&mut self) -> Option<u64> {
        if self.failed.is_some() { None } else { self.unsynced.start_sync() }
    }

    /// A sync has ended. If it failed, so has the shard, and the tickets of all that waited are appended to `tickets`.
    ///
    /// # Errors
    /// The errno of the failure.
    pub fn synced(
        &mut self,
        epoch: u64,
        result: Result<(), i32>,
        tickets: &mut Vec<Ticket>,
    ) -> Result<(), i32> {
        self.unsynced.synced(epoch, result.is_ok());
        result.inspect_err(|&errno| self.fail(errno, tickets))
    }

    /// Octets of the batches whose write has not begun.
    pub fn queued_len(&self) -> usize {
        self.queue.iter().map(|queued| queued.batch.len()).sum()
    }

    /// Records that were promised to be durable soon and are not yet: they wait for a write or for a sync.
    pub fn soon_count(&self) -> usize {
        if self.failed.is_some() {
            return 0;
        }
        let queued_count: usize = self.queue.iter().map(|queued| queued.soon_count).sum();
        queued_count + self.flights.soon_count() + self.unsynced.soon_count()
    }

    /// Whether a sync of this segment is owed or under way.
    pub fn needs_sync(&self, epoch: u64) -> bool {
        self.unsynced.needs_sync(epoch)
    }

    /// The errno of the write that failed, once one has.
    pub fn failed(&self) -> Option<i32> {
        self.failed
    }

    /// Records that nobody waited for and whose write failed.
    pub fn lost_count(&self) -> u64 {
        self.lost_count
    }

    /// Where the last write to this segment ends that has ended well and is not [`readable`](Self::readable) because
    /// one before it failed. For the time when nothing flies any more.
    pub fn durable_behind_hole(&self, epoch: u64) -> Option<u64> {
        self.flights.done_to(epoch)
    }

    /// Whether a write or a sync is on its way.
    pub fn in_flight(&self) -> bool {
        self.flights.is_any_flying() || self.unsynced.is_syncing()
    }

    /// Whether no record waits, nothing is on its way, and no sync is owed.
    pub fn is_idle(&self) -> bool {
        !self.in_flight() && self.queue.is_empty() && self.soon_count() == 0
    }

    fn open_batch(&self) -> Option<&Queued> {
        self.queue.back().filter(|last| last.open)
    }

    fn begin_batch(&mut self) {
        let segment = self.segment.as_mut().expect("append asked for a segment first");
        let buffer = self.buffers.take();
        let batch =
            Batch::begin(buffer, segment.epoch, segment.key, segment.next_offset, segment.next_sequence);
        let tickets = self.buffers.take_tickets();
        self.queue.push_back(Queued {
            batch,
            tickets,
            records_count: 0,
            soon_count: 0,
            open: true,
            seals: false,
        });
    }

    /// The open batch takes no more records: the next one stands behind it.
    fn close_open_batch(&mut self) {
        let Some(last) = self.queue.back_mut().filter(|last| last.open) else { return };
        last.open = false;
        if let Some(segment) = &mut self.segment {
            segment.next_offset = last.batch.offset() + block_end(last.batch.len() as u64);
            segment.next_sequence += 1;
        }
    }
}

/// EIO, for a write that ended early: the disk did not do what it was asked.
const SHORT_WRITE_ERRNO: i32 = 5;

const _: () = assert!((BATCH_LEN_SOFT_MAX as u64).is_multiple_of(BLOCK_LEN));
