//! Group commit: records that wait are written together, by one durable write, and their tickets come back
//! together.
//!
//! ```text
//!            append                start                 complete(ok)
//! (ticket) ---------> [ queued ] ---------> [ in flight ] ------------> (tickets: the 250s may go out)
//!                         |                       | complete(error or short write)
//!                         +-----------------------+---> Failed for good: all tickets fail, nothing is written again
//! ```
//!
//! There is no timer: while one write is in flight the next batch collects, and its start is the completion
//! of the first. After a failed write nobody knows what is on the disk, and a second sync could report
//! success for pages the kernel threw away; so the shard stops, and what follows goes elsewhere.
//!
//! A record never spans segments, and a batch neither. When the next record does not fit, the caller brings a
//! new segment; batches already collected still go to the old one, in order.

use std::collections::VecDeque;

use ringmx_ring::BlockBuffer;

use super::batch::Batch;
use super::record::{self, RecordMeta};
use super::segment::{FIRST_BATCH_AT, SegmentHeader, batch_len};
use super::{BLOCK_LEN, block_end};

/// The caller's name for one waiting transaction. Opaque here.
pub type Ticket = u64;

/// A batch that has grown to this many bytes takes no further record; the next one begins behind it.
pub const BATCH_LEN_SOFT_MAX: usize = 4 << 20;
/// Larger buffers are given back to the allocator after their write, so that one large message is not held
/// for good.
const BUFFER_KEPT_LEN_MAX: usize = 2 * BATCH_LEN_SOFT_MAX;
/// Buffers kept: one in flight, one collecting, and those of a change of segment.
const BUFFERS_KEPT_COUNT_MAX: usize = 4;

/// A durable write to do: all of `bytes` at `offset` of the segment of this epoch, on stable storage when it
/// completes.
#[derive(Debug)]
pub struct Write {
    pub epoch: u64,
    pub offset: u64,
    /// Whole blocks. Comes back through [`GroupCommit::complete`].
    pub bytes: BlockBuffer,
}

/// Where a record was put. It is there once its ticket came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// The outcome of one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completed {
    /// Epoch of the segment written to.
    pub epoch: u64,
    /// Everything of that segment below this offset is durable: publish it. Unchanged by a failed write.
    pub committed: u64,
    /// No further batch goes to that segment: seal it after publishing.
    pub seals: bool,
    /// Whether the tickets are durable. When not, the shard has failed and every ticket it held was given
    /// back.
    pub ok: bool,
}

/// The state machine. One per shard.
#[derive(Debug, Default)]
pub struct GroupCommit {
    segment: Option<Assigned>,
    /// Batches to write, oldest first. Only the last may still take records, while [`Queued::open`] holds.
    queue: VecDeque<Queued>,
    in_flight: Option<InFlight>,
    failed: Option<i32>,
    buffers: Vec<BlockBuffer>,
    ticket_lists: Vec<Vec<Ticket>>,
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
    open: bool,
    seals: bool,
}

#[derive(Debug)]
struct InFlight {
    epoch: u64,
    offset: u64,
    len: usize,
    tickets: Vec<Ticket>,
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
    /// of it is left to write: it can be sealed now. Otherwise its last write says so ([`Completed::seals`]).
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
        let in_flight = self.in_flight.as_mut().filter(|write| write.epoch == former.epoch);
        if let Some(last) = queued {
            last.seals = true;
        } else if let Some(write) = in_flight {
            write.seals = true;
        } else {
            return Some(former.epoch);
        }
        None
    }

    /// Puts a record into the batch that goes out next. `content` comes in parts.
    pub fn append(
        &mut self,
        ticket: Ticket,
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
        open.tickets.push(ticket);
        let place = Place { epoch: open.batch.epoch(), offset };
        if open.batch.len() >= BATCH_LEN_SOFT_MAX {
            self.close_open_batch();
        }
        Ok(place)
    }

    /// The next write, when something waits and none is in flight.
    pub fn start(&mut self) -> Option<Write> {
        if self.in_flight.is_some() {
            return None;
        }
        if self.queue.len() == 1 {
            self.close_open_batch();
        }
        let Queued { batch, tickets, seals, .. } = self.queue.pop_front()?;
        let (epoch, offset) = (batch.epoch(), batch.offset());
        // One write in flight, in order of place: all of the segment below this batch is durable.
        let bytes = batch.finish(offset);
        self.in_flight = Some(InFlight { epoch, offset, len: bytes.len(), tickets, seals });
        Some(Write { epoch, offset, bytes })
    }

    /// The write in flight has ended, with the bytes written or an errno. Its tickets are appended to
    /// `tickets` in the order of their appends; if it failed or fell short, those of all other waiting
    /// records too.
    ///
    /// # Panics
    /// When no write is in flight.
    pub fn complete(
        &mut self,
        result: Result<usize, i32>,
        bytes: BlockBuffer,
        tickets: &mut Vec<Ticket>,
    ) -> Completed {
        let write = self.in_flight.take().expect("each completion answers one start");
        let InFlight { epoch, offset, len, seals, .. } = write;
        self.keep_ticket_list(write.tickets, tickets);
        self.keep_buffer(bytes);
        let errno = match result {
            Ok(written) if written == len => {
                return Completed { epoch, committed: offset + len as u64, seals, ok: true };
            }
            Ok(_) => SHORT_WRITE_ERRNO,
            Err(errno) => errno,
        };
        self.failed = Some(errno);
        self.segment = None;
        while let Some(queued) = self.queue.pop_front() {
            self.keep_ticket_list(queued.tickets, tickets);
            self.keep_buffer(queued.batch.into_buffer());
        }
        Completed { epoch, committed: offset, seals: true, ok: false }
    }

    /// The errno of the write that failed, once one has.
    pub fn failed(&self) -> Option<i32> {
        self.failed
    }

    pub fn in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Whether no record waits and no write is in flight.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_none() && self.queue.is_empty()
    }

    fn open_batch(&self) -> Option<&Queued> {
        self.queue.back().filter(|last| last.open)
    }

    fn begin_batch(&mut self) {
        let segment = self.segment.as_mut().expect("append asked for a segment first");
        let buffer = self.buffers.pop().unwrap_or_default();
        let batch =
            Batch::begin(buffer, segment.epoch, segment.key, segment.next_offset, segment.next_sequence);
        let tickets = self.ticket_lists.pop().unwrap_or_default();
        self.queue.push_back(Queued { batch, tickets, open: true, seals: false });
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

    fn keep_buffer(&mut self, buffer: BlockBuffer) {
        if buffer.capacity() <= BUFFER_KEPT_LEN_MAX && self.buffers.len() < BUFFERS_KEPT_COUNT_MAX {
            self.buffers.push(buffer);
        }
    }

    fn keep_ticket_list(&mut self, mut list: Vec<Ticket>, tickets: &mut Vec<Ticket>) {
        tickets.append(&mut list);
        if self.ticket_lists.len() < BUFFERS_KEPT_COUNT_MAX {
            self.ticket_lists.push(list);
        }
    }
}

/// EIO, for a write that ended early: the disk did not do what it was asked.
const SHORT_WRITE_ERRNO: i32 = 5;

const _: () = assert!((BATCH_LEN_SOFT_MAX as u64).is_multiple_of(BLOCK_LEN));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::FORMAT_VERSION;
    use crate::spool::segment::Role;

    const EPOCH_1: SegmentHeader = SegmentHeader {
        version: FORMAT_VERSION,
        role: Role::Intake,
        shard: 0,
        number: 1,
        epoch: 1,
        key: 11,
        capacity: 4 * BLOCK_LEN,
    };
    const EPOCH_2: SegmentHeader = SegmentHeader { number: 2, epoch: 2, key: 12, ..EPOCH_1 };

    fn append(commit: &mut GroupCommit, ticket: Ticket, len: usize) -> Result<Place, AppendError> {
        commit.append(ticket, &RecordMeta::default(), b"", &[&vec![b'x'; len]])
    }

    /// Completes `write` well; returns the outcome and the tickets.
    fn succeed(commit: &mut GroupCommit, write: Write) -> (Completed, Vec<Ticket>) {
        let mut tickets = Vec::new();
        let completed = commit.complete(Ok(write.bytes.len()), write.bytes, &mut tickets);
        (completed, tickets)
    }

    #[test]
    fn what_waits_during_a_write_goes_out_together_after_it() {
        let mut commit = GroupCommit::new();
        assert!(commit.needs_segment(1) && commit.start().is_none());
        assert_eq!(commit.use_segment(&EPOCH_1), None);
        assert_eq!(append(&mut commit, 1, 10), Ok(Place { epoch: 1, offset: 4096 + 64 }));
        let first = commit.start().unwrap();
        assert_eq!((first.epoch, first.offset, first.bytes.len()), (1, 4096, 4096));
        assert_eq!(append(&mut commit, 2, 10), Ok(Place { epoch: 1, offset: 8192 + 64 }));
        append(&mut commit, 3, 10).unwrap();
        assert!(commit.start().is_none(), "one in flight");
        let (completed, tickets) = succeed(&mut commit, first);
        assert_eq!(completed, Completed { epoch: 1, committed: 8192, seals: false, ok: true });
        assert_eq!(tickets, [1]);
        let second = commit.start().unwrap();
        assert_eq!(second.offset, 8192);
        let (completed, tickets) = succeed(&mut commit, second);
        assert_eq!((completed.committed, &tickets[..]), (12288, &[2, 3][..]));
        assert!(commit.is_idle());
    }

    #[test]
    fn a_full_segment_is_sealed_by_its_last_write() {
        let mut commit = GroupCommit::new();
        commit.use_segment(&EPOCH_1);
        append(&mut commit, 1, 3000).unwrap();
        let first = commit.start().unwrap();
        append(&mut commit, 2, 7000).unwrap();
        assert_eq!(append(&mut commit, 3, 7000), Err(AppendError::NeedsSegment));
        assert!(commit.needs_segment(record::encoded_len(0, 7000)));
        assert_eq!(commit.use_segment(&EPOCH_2), None);
        append(&mut commit, 3, 7000).unwrap();
        let (completed, _) = succeed(&mut commit, first);
        assert!(!completed.seals, "a batch of the segment still waits");
        let write = commit.start().unwrap();
        assert_eq!((write.epoch, write.offset), (1, 8192));
        let (completed, tickets) = succeed(&mut commit, write);
        assert_eq!((completed.seals, completed.committed, &tickets[..]), (true, 16384, &[2][..]));
        let write = commit.start().unwrap();
        assert_eq!((write.epoch, write.offset), (2, 4096));
        let (completed, tickets) = succeed(&mut commit, write);
        assert_eq!((completed.epoch, completed.seals, &tickets[..]), (2, false, &[3][..]));
        assert_eq!(
            commit.use_segment(&SegmentHeader { epoch: 3, ..EPOCH_1 }),
            Some(2),
            "nothing left to write"
        );
    }

    #[test]
    fn a_write_in_flight_seals_when_it_is_the_last() {
        let mut commit = GroupCommit::new();
        commit.use_segment(&EPOCH_1);
        append(&mut commit, 1, 11000).unwrap();
        let write = commit.start().unwrap();
        assert_eq!(commit.use_segment(&EPOCH_2), None);
        assert!(succeed(&mut commit, write).0.seals);
    }

    #[test]
    fn a_failed_or_short_write_fails_everything_for_good() {
        for (result, errno) in [(Err(28), 28), (Ok(4095), 5), (Ok(0), 5)] {
            let mut commit = GroupCommit::new();
            commit.use_segment(&EPOCH_1);
            append(&mut commit, 1, 10).unwrap();
            let write = commit.start().unwrap();
            append(&mut commit, 2, 10).unwrap();
            let mut tickets = Vec::new();
            let completed = commit.complete(result, write.bytes, &mut tickets);
            assert_eq!(completed, Completed { epoch: 1, committed: 4096, seals: true, ok: false });
            assert_eq!((&tickets[..], commit.failed()), (&[1, 2][..], Some(errno)));
            assert_eq!(append(&mut commit, 3, 10), Err(AppendError::Failed(errno)));
            commit.use_segment(&EPOCH_2);
            assert_eq!(append(&mut commit, 3, 10), Err(AppendError::Failed(errno)));
            assert!(commit.start().is_none() && !commit.needs_segment(10));
        }
    }

    #[test]
    fn a_record_larger_than_a_segment_is_refused_and_changes_nothing() {
        let mut commit = GroupCommit::new();
        commit.use_segment(&EPOCH_1);
        assert_eq!(append(&mut commit, 1, 3 * 4096), Err(AppendError::TooLarge));
        assert!(commit.is_idle());
        append(&mut commit, 2, 3 * 4096 - 128).unwrap();
    }

    #[test]
    fn a_large_batch_is_closed_and_the_next_stands_behind_it() {
        let mut commit = GroupCommit::new();
        commit.use_segment(&SegmentHeader { capacity: 64 << 20, ..EPOCH_1 });
        append(&mut commit, 1, BATCH_LEN_SOFT_MAX).unwrap();
        let place = append(&mut commit, 2, 10).unwrap();
        let write = commit.start().unwrap();
        assert_eq!(place.offset, write.offset + write.bytes.len() as u64 + 64);
        assert_eq!(succeed(&mut commit, write).1, [1]);
        let write = commit.start().unwrap();
        assert_eq!(place.offset, write.offset + 64);
        assert_eq!(succeed(&mut commit, write).1, [2]);
    }

    #[test]
    fn buffers_come_back_and_are_used_again() {
        let mut commit = GroupCommit::new();
        commit.use_segment(&SegmentHeader { capacity: 64 << 20, ..EPOCH_1 });
        let mut pointers = Vec::new();
        for _ in 0..5 {
            append(&mut commit, 1, 1000).unwrap();
            let write = commit.start().unwrap();
            pointers.push(write.bytes.as_ptr());
            succeed(&mut commit, write);
        }
        pointers.dedup();
        assert_eq!(pointers.len(), 1);
    }
}
