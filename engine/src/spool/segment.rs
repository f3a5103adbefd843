//! A segment's header and the arithmetic of where batches go in it.

use super::batch::{BATCH_HEADER_LEN, BatchHeader};
use super::record::{self, RecordKind};
use super::{BLOCK_LEN, FORMAT_VERSION, Fields, HEADER_LEN, Stamp, block_end};
use crate::limits::{ENVELOPE_LEN_MAX, SEGMENT_SIZE_MAX, TRACE_LEN_MAX};

/// Where the first batch of a segment stands: behind the header's block.
pub const FIRST_BATCH_AT: u64 = BLOCK_LEN;
/// A segment's size where the configuration names none.
pub const SEGMENT_SIZE_DEFAULT: u64 = 64 << 20;

const MAGIC: &[u8; 8] = b"RMXspool";
/// The second copy of the header, in another sector than the first: one damaged sector loses nothing.
const COPY_AT: usize = 2048;

/// What a segment is filled with. The numbers are those on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// Messages as they come from clients.
    #[default]
    Intake = 0,
    /// Messages that were not delivered at their first attempt, copied out of intake segments.
    Deferred = 1,
}

impl Role {
    fn parse(number: u8) -> Option<Self> {
        [Self::Intake, Self::Deferred].into_iter().find(|&role| role as u8 == number)
    }
}

/// What a segment's first block says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Of this header and of every batch and record behind it: [`FORMAT_VERSION`] for a segment to be written to.
    pub version: u8,
    pub role: Role,
    pub shard: u16,
    /// The file's number in its shard. Stays when the file is recycled.
    pub number: u32,
    /// Unique in its shard and increasing; a recycled file gets a new one, which retires all batches of the
    /// old.
    pub epoch: u64,
    /// Random, new with each epoch, known to nobody who sends mail: see [`record`].
    pub key: u64,
    /// Bytes of the file, this header included.
    pub capacity: u64,
}

/// Why a first block is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    #[error("neither copy of the segment's header is readable")]
    Damaged,
    #[error("written by a newer ringmx (format version {0}, this one reads up to {FORMAT_VERSION})")]
    Newer(u8),
    /// Of a known version, with something in it that came later.
    #[error("written by a newer ringmx ({0} that this one does not know)")]
    Unknown(&'static str),
}

impl SegmentHeader {
    /// The first block of the file.
    pub fn encode(&self) -> [u8; BLOCK_LEN as usize] {
        let copy = Fields::new()
            .put(0, MAGIC)
            .put(8, &[self.version, self.role as u8])
            .put(10, &self.shard.to_le_bytes())
            .put(12, &self.number.to_le_bytes())
            .put(16, &self.epoch.to_le_bytes())
            .put(24, &self.key.to_le_bytes())
            .put(32, &self.capacity.to_le_bytes())
            .put(40, &RecordKind::known_bits().to_le_bytes())
            .seal();
        let mut block = [0; BLOCK_LEN as usize];
        block[..HEADER_LEN].copy_from_slice(&copy);
        block[COPY_AT..COPY_AT + HEADER_LEN].copy_from_slice(&copy);
        block
    }

    /// The header in a first block. Where the copies differ, a crash came between them while the file was
    /// recycled: no batch of the newer epoch exists yet and all of the older are acknowledged, so either is
    /// right; the newer is taken.
    pub fn parse(block: &[u8]) -> Result<Self, HeaderFault> {
        let copies = [Some(block), block.get(COPY_AT..)].into_iter().flatten();
        let mut newest = Err(HeaderFault::Damaged);
        for fields in copies.filter_map(|copy| Fields::parse(copy, MAGIC)) {
            if fields.u8(8) > FORMAT_VERSION {
                return Err(HeaderFault::Newer(fields.u8(8)));
            }
            // Both fields are 0 in version 1.
            let role = Role::parse(fields.u8(9)).ok_or(HeaderFault::Unknown("a role of segments"))?;
            if fields.u32(40) & !RecordKind::known_bits() != 0 {
                return Err(HeaderFault::Unknown("a kind of records"));
            }
            let header = Self {
                version: fields.u8(8),
                role,
                shard: fields.u16(10),
                number: fields.u32(12),
                epoch: fields.u64(16),
                key: fields.u64(24),
                capacity: fields.u64(32),
            };
            let sound =
                header.version > 0 && header.capacity > FIRST_BATCH_AT && header.capacity <= SEGMENT_SIZE_MAX;
            if sound && newest.is_ok_and(|other: Self| other.epoch > header.epoch) {
                continue;
            }
            if sound {
                newest = Ok(header);
            }
        }
        newest
    }

    /// What the header must have been, from the first batch: that place always holds a batch of the newest
    /// epoch that has any. For a file of `len` bytes whose header is lost. Records of an epoch already
    /// delivered may come back this way, and the role is lost.
    pub fn salvage(first_batch: &[u8], shard: u16, number: u32, len: u64) -> Option<Self> {
        let batch = BatchHeader::parse(first_batch, FIRST_BATCH_AT)?;
        let capacity = len.min(SEGMENT_SIZE_MAX);
        let Stamp { version, epoch, key } = batch.stamp;
        let role = Role::default();
        (batch.sequence == 0).then_some(Self { version, role, shard, number, epoch, key, capacity })
    }

    /// What its batches and records carry.
    pub fn stamp(&self) -> Stamp {
        Stamp { version: self.version, epoch: self.epoch, key: self.key }
    }
}

/// Bytes a new batch with one record of this encoded length takes in the file.
pub const fn batch_len(record_encoded_len: usize) -> u64 {
    block_end(BATCH_HEADER_LEN as u64 + record_encoded_len as u64)
}

/// Smallest segment that holds any message of `max_message_size` octets of stored content (CRLF line ends,
/// before the trace field): header, one batch, the longest envelope.
pub const fn segment_size_min(max_message_size: u64) -> u64 {
    let overhead = record::encoded_len(ENVELOPE_LEN_MAX, TRACE_LEN_MAX + record::RECORD_ALIGN) as u64;
    FIRST_BATCH_AT + block_end(BATCH_HEADER_LEN as u64 + overhead + max_message_size)
}

const _: () = assert!(segment_size_min(50 << 20) <= SEGMENT_SIZE_DEFAULT);
const _: () = assert!(SEGMENT_SIZE_MAX / 8 <= u32::MAX as u64);
const _: () = assert!(HEADER_LEN <= 512 && COPY_AT >= 512);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OLD: SegmentHeader = SegmentHeader {
        version: 1,
        role: Role::Intake,
        shard: 3,
        number: 9,
        epoch: 41,
        key: 1,
        capacity: 65536,
    };
    const NEW: SegmentHeader =
        SegmentHeader { version: FORMAT_VERSION, role: Role::Deferred, epoch: 42, key: 2, ..OLD };

    #[test]
    fn a_recycled_header_is_the_old_or_the_new_after_any_crash() {
        let (old, new) = (OLD.encode(), NEW.encode());
        for written in 0u32..256 {
            let mut block = old;
            for sector in (0..8).filter(|sector| written & 1 << sector != 0) {
                block[sector * 512..][..512].copy_from_slice(&new[sector * 512..][..512]);
            }
            let expected = if written & 0b1_0001 != 0 { NEW } else { OLD };
            assert_eq!(SegmentHeader::parse(&block), Ok(expected), "sectors {written:08b}");
        }
    }

    #[test]
    fn either_copy_is_enough_and_none_is_damage() {
        for at in 0..BLOCK_LEN as usize {
            let mut block = OLD.encode();
            block[at] ^= 0x40;
            assert_eq!(SegmentHeader::parse(&block), Ok(OLD), "byte {at}");
        }
        assert_eq!(SegmentHeader::parse(&[0; 4096]), Err(HeaderFault::Damaged));
        assert_eq!(SegmentHeader::parse(&[]), Err(HeaderFault::Damaged));
    }

    #[test]
    fn a_newer_version_is_told_apart_from_damage() {
        let mut fields = Fields::new();
        let newer = fields.put(0, MAGIC).put(8, &[FORMAT_VERSION + 1]).seal();
        assert_eq!(SegmentHeader::parse(&newer), Err(HeaderFault::Newer(FORMAT_VERSION + 1)));
    }

    #[test]
    fn what_came_later_within_this_version_is_told_apart_from_damage() {
        for (at, value) in [(9, 2), (40, 1), (40, 16), (43, 128)] {
            let mut fields = Fields(*NEW.encode().first_chunk().unwrap());
            let later = fields.put(at, &[value]).seal();
            assert!(matches!(SegmentHeader::parse(&later), Err(HeaderFault::Unknown(_))), "{value} at {at}");
        }
    }

    #[test]
    fn the_smallest_segment_holds_the_largest_message() {
        for size in [0, 1, 4095, 4096, 1 << 20, 50 << 20] {
            let record_len = record::encoded_len(ENVELOPE_LEN_MAX, TRACE_LEN_MAX + size);
            assert!(FIRST_BATCH_AT + batch_len(record_len) <= segment_size_min(size as u64), "{size}");
            assert_eq!(segment_size_min(size as u64) % BLOCK_LEN, 0);
        }
    }

    proptest! {
        #[test]
        fn parsing_is_total(bytes: Vec<u8>) {
            let _ = SegmentHeader::parse(&bytes);
            let _ = SegmentHeader::salvage(&bytes, 0, 0, 0);
        }
    }
}
