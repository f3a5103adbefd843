//! One worker's way to stable storage: records in, durable writes out, tickets back.

use std::collections::VecDeque;
use std::sync::Arc;

use ringmx_ring::{BlockBuffer, Errno, Fd, Key, Ring};
use smallvec::SmallVec;

use crate::event::{Event, EventQueue, Kind};
use crate::id::SessionId;
use crate::server::op::Op;
use crate::session::{Error, Transaction};
use crate::spool::commit::{AppendError, GroupCommit, Ticket};
use crate::spool::record::{RecordKind, RecordMeta};
use crate::spool::segment::SegmentHeader;
use crate::stats::WorkerStats;
use crate::time::Now;

/// Where a worker gets segments from and says how far they are filled.
pub trait Segments {
    /// An open segment.
    type Segment;

    /// A fresh one, its header durable and its blocks on the disk; `None` while there is no room.
    fn take(&mut self) -> Option<Arc<Self::Segment>>;

    /// Whether `take` would give one.
    fn available(&self) -> bool;

    fn header(segment: &Self::Segment) -> SegmentHeader;

    fn fd(segment: &Self::Segment) -> Fd;

    /// Everything below `len` is durable and may be read.
    fn publish(&self, segment: &Self::Segment, len: u64);

    /// Nothing more will be written to it.
    fn seal(&self, segment: &Self::Segment);

    /// A write to it failed: sealed, and its blocks are not used again.
    fn fail(&self, segment: &Self::Segment);

    /// The eventfd of the reader to wake after `publish` or `seal`, if it sleeps.
    fn sleeping_reader(&self) -> Option<Fd>;
}

/// Group commit over the worker's ring: one write in flight, everything else collects (`spool::commit`).
pub(super) struct Journal<S: Segments> {
    shard: u16,
    /// Durable writes (RWF_DSYNC); false only for `durability = "none"`.
    durable: bool,
    commit: GroupCommit,
    segments: S,
    /// Segments that writes still go to: the present one last, and one that a write in flight seals before it.
    open: VecDeque<Arc<S::Segment>>,
    tickets: Vec<Ticket>,
    stats: Arc<WorkerStats>,
    events: EventQueue,
}

impl<S: Segments> Journal<S> {
    pub(super) fn new(
        shard: u16,
        durable: bool,
        segments: S,
        stats: Arc<WorkerStats>,
        events: EventQueue,
    ) -> Self {
        let (commit, open, tickets) = (GroupCommit::new(), VecDeque::new(), Vec::new());
        Self { shard, durable, commit, segments, open, tickets, stats, events }
    }

    /// Why a message is not likely to be taken now: said at MAIL, before the client sends it in vain.
    pub(super) fn error(&self) -> Option<Error> {
        if self.commit.failed().is_some() {
            Some(Error::SpoolFailed)
        } else if self.open.is_empty() && !self.segments.available() {
            Some(Error::NoStorage)
        } else {
            None
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.commit.is_idle()
    }

    /// Puts the message into the next commit. `key` comes back from [`complete`](Self::complete).
    pub(super) fn append(&mut self, key: Key, message: &Transaction) -> Result<(), Error> {
        let meta = RecordMeta {
            kind: RecordKind::Inline,
            id: message.id,
            received_unix_us: message.received_unix_us,
        };
        let envelope = message.envelope();
        let content: SmallVec<[&[u8]; 8]> = message.parts().collect();
        let mut appended = self.commit.append(ticket(key), &meta, envelope, &content);
        if appended == Err(AppendError::NeedsSegment) {
            self.open_segment()?;
            appended = self.commit.append(ticket(key), &meta, envelope, &content);
        }
        appended.map(drop).map_err(|error| match error {
            AppendError::NeedsSegment => Error::NoStorage,
            AppendError::TooLarge | AppendError::Failed(_) => Error::SpoolFailed,
        })
    }

    fn open_segment(&mut self) -> Result<(), Error> {
        let segment = self.segments.take().ok_or(Error::NoStorage)?;
        if let Some(epoch) = self.commit.use_segment(&S::header(&segment)) {
            self.seal(epoch);
        }
        self.open.push_back(segment);
        Ok(())
    }

    /// At the end of a turn: starts a commit if something waits and none is in flight.
    pub(super) fn flush(&mut self, ring: &mut impl Ring) {
        let Some(write) = self.commit.start() else { return };
        let segment = self.open.iter().find(|segment| S::header(segment).epoch == write.epoch);
        let segment = segment.expect("a segment stays open until its last write has completed");
        self.stats.commits.bump();
        self.stats.spool_octets.add(write.bytes.len() as u64);
        ring.write(Op::Commit.token(), S::fd(segment), write.offset, write.bytes, self.durable);
    }

    /// The write has ended: which connections' messages it carried, in the order they were appended, and whether they
    /// are durable.
    pub(super) fn complete(
        &mut self,
        ring: &mut impl Ring,
        now: Now,
        result: Result<u32, Errno>,
        bytes: BlockBuffer,
    ) -> (Vec<Ticket>, Result<(), Error>) {
        let mut tickets = std::mem::take(&mut self.tickets);
        let result = result.map(|len| len as usize).map_err(|errno| errno.0);
        let completed = self.commit.complete(result, bytes, &mut tickets);
        if completed.ok {
            if let Some(segment) =
                self.open.iter().find(|segment| S::header(segment).epoch == completed.epoch)
            {
                self.segments.publish(segment, completed.committed);
            }
            if completed.seals {
                self.seal(completed.epoch);
            }
        } else {
            // Fail-stop: what is on the disk is unknown, so nothing is written there again (DESIGN: never sync the same
            // range twice). The readers still get what was durable before.
            let errno = self.commit.failed().unwrap_or(Errno::IO.0);
            let kind = Kind::ShardFailed { shard: self.shard, errno };
            self.events.push(Event { at: now, session: SessionId::default(), kind });
            self.stats.shards_failed.set(1);
            self.open.drain(..).for_each(|segment| self.segments.fail(&segment));
        }
        if let Some(eventfd) = self.segments.sleeping_reader() {
            ring.signal(Op::Aside.token(), eventfd);
        }
        (tickets, if completed.ok { Ok(()) } else { Err(Error::SpoolFailed) })
    }

    /// Takes the list of [`complete`](Self::complete) back for reuse.
    pub(super) fn recycle(&mut self, mut tickets: Vec<Ticket>) {
        tickets.clear();
        self.tickets = tickets;
    }

    /// The server stops: readers see the end of the last segment.
    pub(super) fn finish(&mut self) {
        self.open.drain(..).for_each(|segment| self.segments.seal(&segment));
    }

    fn seal(&mut self, epoch: u64) {
        if let Some(index) = self.open.iter().position(|segment| S::header(segment).epoch == epoch) {
            self.open.remove(index).into_iter().for_each(|segment| self.segments.seal(&segment));
        }
    }
}

fn ticket(key: Key) -> Ticket {
    u64::from(key.generation) << 32 | u64::from(key.slot)
}

/// The connection that a ticket stands for.
pub(super) fn key_of(ticket: Ticket) -> Key {
    Key { slot: ticket as u32, generation: (ticket >> 32) as u32 }
}
