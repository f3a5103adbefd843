//! The log of deferred messages: what egress copies out of the intake's segments, and updates of its envelopes.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use ringmx_ring::BlockBuffer;

use super::handles::Nudge;
use super::segment::Segment;
use crate::limits::DEFERRED_WRITE_LEN_MAX;
use crate::spool::batch::{BATCH_HEADER_LEN, Batch};
use crate::spool::commit::Place;
use crate::spool::record::{self, RecordMeta};
use crate::spool::segment::{FIRST_BATCH_AT, batch_len};

/// Why a record was not deferred. The one it was to replace stays what it is.
#[derive(Debug, thiserror::Error)]
pub enum DeferError {
    #[error("no segment is ready; the keeper says why it cannot make one")]
    NoSegment,
    #[error("a record of {0} bytes fits no segment; raise `[spool] segment_size`")]
    TooLarge(usize),
    #[error("the record cannot be read: {0}")]
    Read(#[source] io::Error),
    #[error("a write to the log of deferred mail failed: {0}")]
    Write(#[source] io::Error),
}

/// Appends to the deferred segments of one shard. What is appended is durable after [`Self::commit`].
#[derive(Debug)]
pub struct DeferredLog {
    ready: Arc<ArrayQueue<Arc<Segment>>>,
    nudge: Nudge,
    current: Option<Filling>,
    /// Taken since [`Self::take_opened`].
    opened: Vec<Arc<Segment>>,
    /// Reused for the next batch.
    buffer: BlockBuffer,
}

/// The segment that is being filled.
#[derive(Debug)]
struct Filling {
    segment: Arc<Segment>,
    /// Where the next batch goes.
    end: u64,
    sequence: u32,
    batch: Option<Batch>,
}

/// Where a record was appended.
#[derive(Clone, Debug)]
pub struct Deferred {
    pub segment: Arc<Segment>,
    pub offset: u64,
    /// Bytes it takes there.
    pub len: u64,
}

impl Deferred {
    pub fn place(&self) -> Place {
        Place { epoch: self.segment.epoch, offset: self.offset }
    }

    /// Asked after [`DeferredLog::commit`]. Where it is not, it is to be appended again.
    pub fn is_durable(&self) -> bool {
        self.segment.committed() > self.offset
    }
}

impl DeferredLog {
    pub(super) fn new(ready: Arc<ArrayQueue<Arc<Segment>>>, nudge: Nudge) -> Self {
        Self { ready, nudge, current: None, opened: Vec::new(), buffer: BlockBuffer::new() }
    }

    /// Whether the next record finds a segment.
    #[cfg(test)]
    pub(super) fn has_segment(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Goes on in a segment of which writes go to `file`, which takes none.
    #[cfg(test)]
    pub(crate) fn go_on_in(&mut self, file: std::fs::File) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while self.ready.is_empty() {
            assert!(std::time::Instant::now() < deadline, "no segment is ready");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let Some(ready) = self.ready.pop() else { return };
        let segment = Arc::new(Segment::fresh(&ready.header(), ready.path.clone(), file));
        self.opened.push(Arc::clone(&segment));
        self.current = Some(Filling { segment, end: FIRST_BATCH_AT, sequence: 0, batch: None });
    }

    /// The segments that were begun since the last call.
    pub fn take_opened(&mut self) -> Vec<Arc<Segment>> {
        std::mem::take(&mut self.opened)
    }

    /// Adds a record to the next write. Blocks on the disk. After an error [`Self::commit`] is due all the same.
    pub fn append(
        &mut self,
        meta: &RecordMeta,
        envelope: &[u8],
        content: &[u8],
    ) -> Result<Deferred, DeferError> {
        let len = record::encoded_len(envelope.len(), content.len());
        let room = |filling: &Filling| filling.segment.capacity.saturating_sub(filling.end);
        if let Some(filling) = &mut self.current {
            let batch_len_now = filling.batch.as_ref().map_or(BATCH_HEADER_LEN, Batch::len);
            if batch_len_now + len > DEFERRED_WRITE_LEN_MAX || batch_len(batch_len_now + len) > room(filling)
            {
                self.write()?;
            }
        }
        if self.current.as_ref().is_some_and(|filling| batch_len(len) > room(filling)) {
            self.sync()?;
            self.seal();
        }
        if self.current.is_none() {
            let segment = self.ready.pop().ok_or(DeferError::NoSegment)?;
            self.nudge.nudge();
            self.opened.push(Arc::clone(&segment));
            self.current = Some(Filling { segment, end: FIRST_BATCH_AT, sequence: 0, batch: None });
        }
        let Some(filling) = &mut self.current else { return Err(DeferError::NoSegment) };
        if batch_len(len) > room(filling) {
            return Err(DeferError::TooLarge(len));
        }
        let Filling { segment, end, sequence, batch } = filling;
        let buffer = &mut self.buffer;
        let batch = batch.get_or_insert_with(|| {
            Batch::begin(std::mem::take(buffer), segment.epoch, segment.key, *end, *sequence)
        });
        let offset = batch.append(meta, envelope, &[content]);
        Ok(Deferred { segment: Arc::clone(segment), offset, len: len as u64 })
    }

    /// Makes everything durable that was appended. After an error nothing more is written to that segment; what it has
    /// not made durable is to be appended again, which puts it into another.
    pub fn commit(&mut self) -> Result<(), DeferError> {
        self.write()?;
        self.sync()
    }

    /// Goes on in another segment when something in the present one was found unreadable.
    pub fn leave_unsound(&mut self) {
        if self.current.as_ref().is_some_and(|filling| filling.segment.is_unsound()) {
            self.seal();
        }
    }

    /// Fills the present segment no further, so that its mail can be given back or moved like that of all others.
    pub fn seal(&mut self) {
        if let Some(filling) = self.current.take() {
            filling.segment.seal();
        }
    }

    fn write(&mut self) -> Result<(), DeferError> {
        let Some(filling) = &mut self.current else { return Ok(()) };
        let Some(batch) = filling.batch.take() else { return Ok(()) };
        let bytes = batch.finish(filling.segment.committed());
        let written = filling.segment.file.write_all_at(&bytes, filling.end);
        filling.end += bytes.len() as u64;
        filling.sequence += 1;
        if bytes.capacity() <= 2 * DEFERRED_WRITE_LEN_MAX {
            self.buffer = bytes;
        }
        written.map_err(|error| self.fail(error))
    }

    fn sync(&mut self) -> Result<(), DeferError> {
        let Some(filling) = &self.current else { return Ok(()) };
        if filling.end == filling.segment.committed() {
            return Ok(());
        }
        if let Err(error) = filling.segment.file.sync_data() {
            return Err(self.fail(error));
        }
        filling.segment.publish(filling.end);
        Ok(())
    }

    /// Never the same range again: what stands there after an error is unknown, and a second sync could report success
    /// for pages that are gone.
    fn fail(&mut self, error: io::Error) -> DeferError {
        if let Some(filling) = self.current.take() {
            filling.segment.fail(None);
        }
        DeferError::Write(error)
    }
}
