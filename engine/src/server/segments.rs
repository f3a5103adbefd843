//! A worker's segments: from the keeper of the spool, read by an egress thread.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use ringmx_ring::{BlockBuffer, Doorbell, Fd};

use crate::server::journal::Segments;
use crate::spool::commit::Readable;
use crate::spool::segment::SegmentHeader;
use crate::store::{ContentFile, Room, Segment, ShardHandles};

/// The keeper's queue of ready segments and the bell of the egress thread that reads them.
#[derive(Debug)]
pub(super) struct ShardSegments {
    pub(super) handles: ShardHandles,
    pub(super) reader: Arc<Doorbell>,
}

impl Segments for ShardSegments {
    type Segment = Segment;
    type File = ContentFile;

    fn take(&mut self) -> Option<Arc<Segment>> {
        self.handles.take()
    }

    fn available(&self) -> bool {
        self.handles.is_ready()
    }

    fn header(segment: &Segment) -> SegmentHeader {
        segment.header()
    }

    fn fd(segment: &Segment) -> Fd {
        Fd(segment.writer().as_raw_fd())
    }

    fn publish(&self, segment: &Segment, batch: Readable) -> Option<BlockBuffer> {
        // Lent before it is published, so that the reader finds it.
        let unwanted = segment.lend(batch.offset, batch.bytes);
        segment.publish(batch.end);
        unwanted
    }

    fn take_spent(&self) -> Option<BlockBuffer> {
        self.handles.take_spent()
    }

    fn seal(&self, segment: &Segment) {
        segment.seal();
    }

    fn fail(&self, segment: &Segment, durable_to: Option<u64>) {
        segment.fail(durable_to);
    }

    fn take_file(&mut self) -> Option<(u32, Arc<ContentFile>)> {
        self.handles.content.take().map(|file| (file.number, file))
    }

    fn is_coming(&self) -> bool {
        self.handles.is_coming()
    }

    fn has_file(&self) -> bool {
        self.handles.content.is_ready()
    }

    fn file_fd(file: &ContentFile) -> Fd {
        Fd(file.file.as_raw_fd())
    }

    fn give_file_back(&self, file: Arc<ContentFile>, failed: bool) {
        self.handles.content.give_back(file, failed);
    }

    fn room(&self) -> Room {
        self.handles.content.room()
    }

    fn sleeping_reader(&self) -> Option<Fd> {
        self.reader.take_sleeper()
    }
}
