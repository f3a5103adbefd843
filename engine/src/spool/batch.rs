//! What one durable write holds: a header, then records, then zeros to the end of the block.

use ringmx_ring::BlockBuffer;

use super::record::{self, RECORD_HEADER_LEN, RecordMeta};
use super::{BLOCK_LEN, FORMAT_VERSION, Fields, HEADER_LEN, Stamp, block_end};

/// Bytes of a batch before its first record.
pub const BATCH_HEADER_LEN: usize = HEADER_LEN;

const MAGIC: &[u8; 4] = b"RMXb";

/// A batch's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    pub stamp: Stamp,
    /// Where in the segment the batch stands: a block that a disk wrote to the wrong place is not taken for a
    /// batch.
    pub offset: u64,
    /// When this batch was written, everything of the segment below this offset was on stable storage. What
    /// is damaged below it was durable once; what is damaged above it may have been in flight when a crash
    /// came.
    pub committed_below: u64,
    /// Bytes of records after the header.
    pub records_len: u64,
    /// 0, 1, 2, ... in the segment.
    pub sequence: u32,
    pub records_count: u32,
}

impl BatchHeader {
    pub fn encode(&self) -> [u8; BATCH_HEADER_LEN] {
        Fields::new()
            .put(0, MAGIC)
            .put(4, &[self.stamp.version])
            .put(8, &self.stamp.key.to_le_bytes())
            .put(16, &self.stamp.epoch.to_le_bytes())
            .put(24, &self.offset.to_le_bytes())
            .put(32, &self.committed_below.to_le_bytes())
            .put(40, &self.records_len.to_le_bytes())
            .put(48, &self.sequence.to_le_bytes())
            .put(52, &self.records_count.to_le_bytes())
            .seal()
    }

    /// The header at the start of `bytes`, read from `offset`, of any segment.
    pub fn parse(bytes: &[u8], offset: u64) -> Option<Self> {
        let fields = Fields::parse(bytes, MAGIC)?;
        let header = Self {
            stamp: Stamp { version: fields.u8(4), epoch: fields.u64(16), key: fields.u64(8) },
            offset: fields.u64(24),
            committed_below: fields.u64(32),
            records_len: fields.u64(40),
            sequence: fields.u32(48),
            records_count: fields.u32(52),
        };
        let records_len_min = u64::from(header.records_count) * RECORD_HEADER_LEN as u64;
        let plausible = (1..=FORMAT_VERSION).contains(&header.stamp.version)
            && header.offset == offset
            && offset.is_multiple_of(BLOCK_LEN)
            && header.committed_below <= offset
            && header.committed_below.is_multiple_of(BLOCK_LEN)
            && header.records_count > 0
            && header.records_len >= records_len_min
            && header.records_len <= u64::MAX / 2 - offset.min(u64::MAX / 4);
        plausible.then_some(header)
    }

    /// Where the first record stands.
    pub fn records_at(&self) -> u64 {
        self.offset + BATCH_HEADER_LEN as u64
    }

    /// Where the last record ends.
    pub fn records_end(&self) -> u64 {
        self.records_at().saturating_add(self.records_len)
    }

    /// Where the next batch stands.
    pub fn end(&self) -> u64 {
        block_end(self.records_end())
    }
}

/// A batch that still grows.
#[derive(Debug)]
pub struct Batch {
    header: BatchHeader,
    /// Room for the header, then whole records.
    bytes: BlockBuffer,
}

impl Batch {
    /// Begins a batch at `offset` of its segment. `buffer` gives its allocation, not its bytes.
    pub fn begin(mut buffer: BlockBuffer, epoch: u64, key: u64, offset: u64, sequence: u32) -> Self {
        buffer.clear();
        buffer.resize(BATCH_HEADER_LEN, 0);
        let header = BatchHeader {
            stamp: Stamp { version: FORMAT_VERSION, epoch, key },
            offset,
            committed_below: offset,
            records_len: 0,
            sequence,
            records_count: 0,
        };
        Self { header, bytes: buffer }
    }

    /// Appends a record and returns its offset in the segment.
    pub fn append(&mut self, meta: &RecordMeta, envelope: &[u8], content: &[&[u8]]) -> u64 {
        let offset = self.header.offset + self.bytes.len() as u64;
        record::append(&mut self.bytes, self.header.stamp.key, offset, meta, envelope, content);
        self.header.records_count += 1;
        offset
    }

    /// Bytes so far, header included, padding to the block not.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.header.records_count == 0
    }

    pub fn epoch(&self) -> u64 {
        self.header.stamp.epoch
    }

    pub fn offset(&self) -> u64 {
        self.header.offset
    }

    /// The bytes to write: whole blocks, header and checksums in place.
    pub fn finish(mut self, committed_below: u64) -> BlockBuffer {
        self.header.committed_below = committed_below;
        self.header.records_len = (self.bytes.len() - BATCH_HEADER_LEN) as u64;
        self.bytes[..BATCH_HEADER_LEN].copy_from_slice(&self.header.encode());
        self.bytes.pad_to_block();
        self.bytes
    }

    /// The buffer, for the next batch.
    pub fn into_buffer(self) -> BlockBuffer {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_batch_is_whole_blocks_and_says_where_it_ends() {
        let mut batch = Batch::begin(BlockBuffer::from(&[1; 9]), 3, 7, 8192, 2);
        let first = batch.append(&RecordMeta::default(), b"e", &[&[b'x'; 5000]]);
        let second = batch.append(&RecordMeta::default(), b"e", &[b"y"]);
        assert_eq!((first, second), (8192 + 64, 8192 + 64 + 5072));
        let bytes = batch.finish(4096);
        assert_eq!(bytes.len(), 8192);
        let header = BatchHeader::parse(&bytes, 8192).unwrap();
        assert_eq!(header.stamp, Stamp { version: FORMAT_VERSION, epoch: 3, key: 7 });
        assert_eq!((header.sequence, header.records_count), (2, 2));
        assert_eq!((header.committed_below, header.records_len), (4096, 5072 + 72));
        assert_eq!((header.records_at(), header.end()), (first, 16384));
        assert_eq!(BatchHeader::parse(&bytes, 12288), None, "read from where it was not written");
    }

    proptest! {
        #[test]
        fn parsing_is_total(bytes: Vec<u8>, lens: (u64, u64, u64), records_count: u32, offset: u64) {
            let _ = BatchHeader::parse(&bytes, offset);
            let header = BatchHeader {
                stamp: Stamp { version: FORMAT_VERSION, epoch: 1, key: 2 },
                offset: lens.0, committed_below: lens.1, records_len: lens.2,
                sequence: 0, records_count,
            };
            if let Some(header) = BatchHeader::parse(&header.encode(), lens.0) {
                prop_assert!(header.end() >= header.records_at());
            }
        }
    }
}
