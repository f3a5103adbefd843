//! One worker's way to stable storage: records in, writes out, tickets back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ringmx_ring::{BlockBuffer, Errno, Fd, Key, Ring};
use smallvec::{SmallVec, smallvec};

use crate::config::Durability;
use crate::event::{Event, EventQueue, Kind};
use crate::id::SessionId;
use crate::limits;
use crate::server::op::Op;
use crate::session::{Error, Spilled, Transaction};
use crate::spool::commit::{AppendError, FlightId, GroupCommit, Promise, Readable, Ticket};
use crate::spool::content_ref::ContentRef;
use crate::spool::record::{RecordKind, RecordMeta};
use crate::spool::segment::SegmentHeader;
use crate::stats::WorkerStats;
use crate::store::Room;
use crate::time::Now;

/// Where a worker gets segments from and says how far they are filled; and files for content too large for them.
pub trait Segments {
    /// An open segment.
    type Segment;
    /// An open file for the content of one message.
    type File;

    /// A fresh one, its header durable and its blocks on the disk; `None` while there is no room.
    fn take(&mut self) -> Option<Arc<Self::Segment>>;

    /// Whether `take` would give one.
    fn available(&self) -> bool;

    /// Whether `take` will give one soon: nothing keeps it from being made.
    fn is_coming(&self) -> bool;

    fn header(segment: &Self::Segment) -> SegmentHeader;

    /// For writes and syncs.
    fn fd(segment: &Self::Segment) -> Fd;

    /// Everything below `batch.end` is written and may be read. Gives the batch's bytes back unless the reader has
    /// taken them, so that it need not ask the disk; those come back by `take_spent`.
    fn publish(&self, segment: &Self::Segment, batch: Readable) -> Option<BlockBuffer>;

    /// A buffer that the reader needs no more.
    fn take_spent(&self) -> Option<BlockBuffer>;

    /// Nothing more will be written to it.
    fn seal(&self, segment: &Self::Segment);

    /// A write to it failed: sealed, and its blocks are not used again. Behind what was published there may be holes;
    /// up to `durable_to` are batches behind them that were acknowledged.
    fn fail(&self, segment: &Self::Segment, durable_to: Option<u64>);

    /// An empty file with its number, its name durable; `None` while none is ready.
    fn take_file(&mut self) -> Option<(u32, Arc<Self::File>)>;

    /// Whether `take_file` would give one.
    fn has_file(&self) -> bool;

    fn file_fd(file: &Self::File) -> Fd;

    /// No record names the file. `failed`: a write to it did.
    fn give_file_back(&self, file: Arc<Self::File>, failed: bool);

    /// What the disk has room for.
    fn room(&self) -> Room;

    /// The bell of the reader to wake after `publish` or `seal`, if it sleeps.
    fn sleeping_reader(&self) -> Option<Fd>;
}

/// When a message that was appended may be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Appended {
    /// When its ticket comes back.
    Waits,
    /// Now: its listener promises no more.
    Settled,
}

/// Group commit over the worker's ring (`spool::commit`).
pub(super) struct Journal<S: Segments> {
    shard: u16,
    commit: GroupCommit,
    segments: S,
    /// Segments that something still goes to, be it a sync: the present one last.
    open: VecDeque<Open<S::Segment>>,
    tickets: Vec<Ticket>,
    /// Whose messages wait for a segment, and since when; the longest first.
    delayed: VecDeque<(Key, Duration)>,
    stats: Arc<WorkerStats>,
    events: EventQueue,
}

struct Open<T> {
    segment: Arc<T>,
    epoch: u64,
    /// The reader knows that nothing comes any more.
    sealed: bool,
}

impl<S: Segments> Journal<S> {
    pub(super) fn new(shard: u16, segments: S, stats: Arc<WorkerStats>, events: EventQueue) -> Self {
        let (commit, open, tickets) = (GroupCommit::new(), VecDeque::new(), Vec::new());
        Self { shard, commit, segments, open, tickets, delayed: VecDeque::new(), stats, events }
    }

    /// Why a message is not likely to be taken now: said at MAIL, before the client sends it in vain.
    pub(super) fn error(&self) -> Option<Error> {
        if self.commit.failed().is_some() {
            Some(Error::SpoolFailed)
        } else if self.segments.room() > Room::Plenty || (self.open.is_empty() && !self.segments.available())
        {
            Some(Error::NoStorage)
        } else {
            None
        }
    }

    pub(super) fn segments(&mut self) -> &mut S {
        &mut self.segments
    }

    /// Nothing waits for the disk, and nothing that was promised is owed.
    pub(super) fn is_idle(&self) -> bool {
        self.commit.is_idle()
    }

    /// Messages that were answered on the promise of a sync that is still to come.
    pub(super) fn at_risk_count(&self) -> usize {
        self.commit.soon_count()
    }

    /// Puts the message into the next commit. If it waits, `key` comes back from [`complete`](Self::complete).
    pub(super) fn append(
        &mut self,
        key: Key,
        message: &Transaction,
        durability: Durability,
    ) -> Result<Appended, Error> {
        // A client that is ahead of the disk waits for it whatever was promised: what is in between takes memory.
        let is_ahead = self.commit.queued_len() > limits::QUEUED_LEN_MAX;
        let (promise, appended) = match durability {
            _ if is_ahead => (Promise::BeforeReply(ticket(key)), Appended::Waits),
            Durability::Sync => (Promise::BeforeReply(ticket(key)), Appended::Waits),
            Durability::Async => (Promise::Soon, Appended::Settled),
            Durability::None => (Promise::Never, Appended::Settled),
        };
        let named = message
            .spilled()
            .map(|Spilled { file, len, crc }| ContentRef { number: file, crc, len }.encode());
        let content: SmallVec<[&[u8]; 8]> = match &named {
            Some(named) => smallvec![&named[..]],
            None => message.parts().collect(),
        };
        let kind = if named.is_some() { RecordKind::File } else { RecordKind::Inline };
        let meta = RecordMeta { kind, id: message.id, received_unix_us: message.received_unix_us };
        let envelope = message.envelope();
        let mut placed = self.commit.append(promise, &meta, envelope, &content);
        if placed == Err(AppendError::NeedsSegment) {
            self.open_segment()?;
            placed = self.commit.append(promise, &meta, envelope, &content);
        }
        placed.map(|_| appended).map_err(|error| match error {
            AppendError::NeedsSegment => Error::NoStorage,
            AppendError::TooLarge | AppendError::Failed(_) => Error::SpoolFailed,
        })
    }

    /// For a message that found no segment: whether to try again, for which `key` is noted. A client that waits some
    /// milliseconds is better off than one that is told to come again, and what its message holds is within the budget.
    pub(super) fn delay(&mut self, key: Key, now: Duration) -> bool {
        let is_coming = self.segments.is_coming();
        if is_coming {
            self.stats.messages_delayed.bump();
            self.delayed.push_back((key, now));
        }
        is_coming
    }

    /// Who waits the longest, and whether it may go on doing so.
    pub(super) fn first_delayed(&self, now: Duration) -> Option<(Key, bool)> {
        let &(key, since) = self.delayed.front()?;
        let may_wait = now.saturating_sub(since) < limits::STORAGE_WAIT_MAX && self.segments.is_coming();
        Some((key, may_wait))
    }

    pub(super) fn drop_first_delayed(&mut self) {
        self.delayed.pop_front();
    }

    fn open_segment(&mut self) -> Result<(), Error> {
        let segment = self.segments.take().ok_or(Error::NoStorage)?;
        let header = S::header(&segment);
        if let Some(epoch) = self.commit.use_segment(&header) {
            self.seal(epoch);
        }
        self.open.push_back(Open { segment, epoch: header.epoch, sealed: false });
        Ok(())
    }

    /// At the end of a turn: starts the commits whose time it is.
    pub(super) fn flush(&mut self, ring: &mut impl Ring) {
        let is_busy = ring.has_more();
        while let Some(write) = self.commit.start(is_busy) {
            let open = self.open.iter().find(|open| open.epoch == write.epoch);
            let open = open.expect("a segment stays open until its last write has completed");
            self.stats.commits.bump();
            self.stats.commits_synced.add(u64::from(write.durable));
            self.stats.spool_octets.add(write.bytes.len() as u64);
            let token = Op::Commit { flight: write.flight }.token();
            ring.write(token, S::fd(&open.segment), write.offset, write.bytes, write.durable);
        }
    }

    /// Starts the syncs that are owed. [`synced`](Self::synced) hears of their end.
    pub(super) fn sync(&mut self, ring: &mut impl Ring) {
        while let Some(epoch) = self.commit.start_sync() {
            let open = self.open.iter().find(|open| open.epoch == epoch);
            let open = open.expect("a segment stays open until its last sync has completed");
            self.stats.syncs.bump();
            // Of the epochs that are open at once the low 32 bits differ.
            ring.sync(Op::Sync { epoch: epoch as u32 }.token(), S::fd(&open.segment));
        }
    }

    /// A write has ended: which connections' messages it carried, in the order they were appended, and whether they
    /// are durable.
    pub(super) fn complete(
        &mut self,
        ring: &mut impl Ring,
        now: Now,
        flight: FlightId,
        result: Result<u32, Errno>,
        bytes: BlockBuffer,
    ) -> (Vec<Ticket>, Result<(), Error>) {
        let mut tickets = std::mem::take(&mut self.tickets);
        let result = result.map(|len| len as usize).map_err(|errno| errno.0);
        let result = self.commit.complete(flight, result, bytes, &mut tickets);
        self.publish(ring);
        (tickets, self.judge(ring, now, result))
    }

    /// A sync has ended; if it failed, so has everything that waits.
    pub(super) fn synced(
        &mut self,
        ring: &mut impl Ring,
        now: Now,
        epoch: u32,
        result: Result<u32, Errno>,
    ) -> (Vec<Ticket>, Result<(), Error>) {
        let mut tickets = std::mem::take(&mut self.tickets);
        let epoch = self.open.iter().map(|open| open.epoch).find(|open| *open as u32 == epoch);
        let epoch = epoch.expect("a segment stays open until its last sync has completed");
        let result = self.commit.synced(epoch, result.map(drop).map_err(|errno| errno.0), &mut tickets);
        self.close_settled();
        (tickets, self.judge(ring, now, result))
    }

    /// Tells readers how far they may read, and brings back the memory they need no more.
    fn publish(&mut self, ring: &mut impl Ring) {
        while let Some(batch) = self.commit.readable() {
            let Some(open) = self.open.iter().find(|open| open.epoch == batch.epoch) else { continue };
            let (epoch, seals) = (batch.epoch, batch.seals);
            let unwanted = self.segments.publish(&open.segment, batch);
            unwanted.into_iter().for_each(|buffer| self.commit.give_back(buffer));
            if seals {
                self.seal(epoch);
                // Its promise is kept now rather than at the next interval, so that few segments wait for one.
                if self.commit.needs_sync(epoch) {
                    self.sync(ring);
                }
            }
        }
        while let Some(buffer) = self.segments.take_spent() {
            self.commit.give_back(buffer);
        }
        self.wake_reader(ring);
    }

    /// Fail-stop: what is on the disk is unknown, so nothing is written there again (DESIGN: never sync the same range
    /// twice). Writes that fly on are waited for; then the readers get what is durable.
    fn judge(&mut self, ring: &mut impl Ring, now: Now, result: Result<(), i32>) -> Result<(), Error> {
        if let Err(errno) = result
            && self.stats.shards_failed.get() == 0
        {
            let unsaved_count = self.commit.lost_count();
            let kind = Kind::ShardFailed { shard: self.shard, errno, unsaved_count };
            self.events.push(Event { at: now, session: SessionId::default(), kind });
            self.stats.shards_failed.set(1);
        }
        if self.commit.failed().is_some() && !self.commit.in_flight() && !self.open.is_empty() {
            for open in self.open.drain(..).filter(|open| !open.sealed) {
                self.segments.fail(&open.segment, self.commit.durable_behind_hole(open.epoch));
            }
            self.wake_reader(ring);
        }
        result.map_err(|_| Error::SpoolFailed)
    }

    fn wake_reader(&self, ring: &mut impl Ring) {
        if let Some(bell) = self.segments.sleeping_reader() {
            ring.signal(Op::Aside.token(), bell);
        }
    }

    /// Takes the list of [`complete`](Self::complete) back for reuse.
    pub(super) fn recycle(&mut self, mut tickets: Vec<Ticket>) {
        tickets.clear();
        self.tickets = tickets;
    }

    /// The server stops: readers see the end of the last segment.
    pub(super) fn finish(&mut self) {
        let unsealed = self.open.drain(..).filter(|open| !open.sealed);
        unsealed.for_each(|open| self.segments.seal(&open.segment));
    }

    /// Tells the reader that nothing more comes to this segment.
    fn seal(&mut self, epoch: u64) {
        let unsealed = self.open.iter_mut().find(|open| open.epoch == epoch && !open.sealed);
        if let Some(open) = unsealed {
            open.sealed = true;
            self.segments.seal(&open.segment);
        }
        self.close_settled();
    }

    fn close_settled(&mut self) {
        self.open.retain(|open| !open.sealed || self.commit.needs_sync(open.epoch));
    }
}

fn ticket(key: Key) -> Ticket {
    u64::from(key.generation) << 32 | u64::from(key.slot)
}

/// The connection that a ticket stands for.
pub(super) fn key_of(ticket: Ticket) -> Key {
    Key { slot: ticket as u32, generation: (ticket >> 32) as u32 }
}
