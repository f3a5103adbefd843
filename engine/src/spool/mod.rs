//! The spool's formats and decisions, without a file, a thread or the clock: bytes in, bytes out.
//!
//! A shard is a directory of append-only segments. A segment holds batches, a batch holds records, a record
//! is one accepted message. `engine/docs/spool-format.md` has the exact bytes and the crash states; in short:
//!
//! 1. [`record`] lays out one message, [`batch`] what one durable write holds, [`segment`] the file's header.
//! 2. [`commit::GroupCommit`] collects records into batches and says what to write where.
//! 3. [`walk::Walk`] reads records back, over holes and damage; [`recover`] finds where a segment's valid batches end.
//! 4. [`ack`] is how a delivered record is marked.
//! 5. [`backlog`] tells which records of deferred segments count; [`index`] knows where their messages are and when
//!    they are due.
//!
//! Every parser is total: it takes any bytes, whatever a crash, a disk or a stranger made of them.

use std::io;

use crate::checksum;

pub mod ack;
pub mod backlog;
pub mod batch;
pub mod commit;
pub mod content_ref;
pub mod index;
pub mod record;
pub mod recover;
pub mod segment;
pub mod walk;

#[cfg(test)]
mod tests;

/// Version of all formats of this module, and the only one written. Segments of the lesser ones are read; a greater one
/// on disk is refused.
pub const FORMAT_VERSION: u8 = 2;
/// Before version 2, records did not say where they stand.
const RECORD_OFFSET_SINCE: u8 = 2;
/// Batches start on a multiple of this, and so does every write: what a direct write to any disk may need.
pub const BLOCK_LEN: u64 = ringmx_ring::BLOCK_LEN as u64;

/// `len` rounded up to whole blocks.
pub const fn block_end(len: u64) -> u64 {
    len.saturating_add(BLOCK_LEN - 1) & !(BLOCK_LEN - 1)
}

/// Something that can be read at a place: a file, or bytes in memory.
pub trait ReadAt {
    /// Fills `buf` from `offset`. Fails with `UnexpectedEof` where that goes past the end.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for [u8] {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)?.get(..buf.len()));
        buf.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// What batches and records carry of the segment they were written to: those of another stamp belong to another use of
/// the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub version: u8,
    pub epoch: u64,
    pub key: u64,
}

/// Length of the headers of segments, batches and records: eight of them in a sector, none over its edge
/// where it starts on a multiple of it. The last four bytes are the CRC32C of those before.
const HEADER_LEN: usize = 64;
const HEADER_CRC_AT: usize = HEADER_LEN - 4;

/// Reads and writes the little-endian fields of a header.
struct Fields([u8; HEADER_LEN]);

impl Fields {
    fn new() -> Self {
        Self([0; HEADER_LEN])
    }

    /// The header at the start of `bytes`; `None` when it is cut short, has another magic number or fails its
    /// checksum.
    fn parse(bytes: &[u8], magic: &[u8]) -> Option<Self> {
        let fields = Self(*bytes.first_chunk()?);
        (fields.0.starts_with(magic)
            && checksum::crc32c(&fields.0[..HEADER_CRC_AT]) == fields.u32(HEADER_CRC_AT))
        .then_some(fields)
    }

    fn put(&mut self, at: usize, value: &[u8]) -> &mut Self {
        self.0[at..at + value.len()].copy_from_slice(value);
        self
    }

    fn seal(&mut self) -> [u8; HEADER_LEN] {
        let crc = checksum::crc32c(&self.0[..HEADER_CRC_AT]);
        self.put(HEADER_CRC_AT, &crc.to_le_bytes());
        self.0
    }

    fn u8(&self, at: usize) -> u8 {
        self.0[at]
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.array(at))
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }

    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        std::array::from_fn(|index| self.0[at + index])
    }
}
