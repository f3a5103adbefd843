//! What the record of a large message holds in place of its content: the name of a file, and what must be in it.

use super::record::{Record, RecordKind};

/// Bytes of the encoded form.
pub const CONTENT_REF_LEN: usize = 16;

/// Content in a file of its own, beside the segments of its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentRef {
    /// Of the file in its shard.
    pub number: u32,
    /// CRC32C of the content.
    pub crc: u32,
    /// Bytes of content; the file may be longer, by less than a block.
    pub len: u64,
}

impl ContentRef {
    pub fn encode(&self) -> [u8; CONTENT_REF_LEN] {
        let mut bytes = [0; CONTENT_REF_LEN];
        bytes[..4].copy_from_slice(&self.number.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.crc.to_le_bytes());
        bytes[8..].copy_from_slice(&self.len.to_le_bytes());
        bytes
    }

    /// Where the content of this record is; `None` where it is in the record, or where there is none.
    pub fn of(record: &Record<'_>) -> Option<Self> {
        Self::parse(record.content).filter(|_| record.meta.kind == RecordKind::File)
    }

    /// `None` where a record's content has another length: no version of ours wrote it.
    pub fn parse(content: &[u8]) -> Option<Self> {
        let bytes: &[u8; CONTENT_REF_LEN] = content.try_into().ok()?;
        let (number, rest) = bytes.split_first_chunk()?;
        let (crc, rest) = rest.split_first_chunk()?;
        let len = rest.first_chunk()?;
        let (number, crc) = (u32::from_le_bytes(*number), u32::from_le_bytes(*crc));
        Some(Self { number, crc, len: u64::from_le_bytes(*len) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_as_it_went() {
        let reference = ContentRef { number: 0x0102_0304, crc: 0x0506_0708, len: 0x1112_1314_1516_1718 };
        let bytes = reference.encode();
        assert_eq!(bytes[..5], [4, 3, 2, 1, 8]);
        assert_eq!(ContentRef::parse(&bytes), Some(reference));
        assert_eq!((ContentRef::parse(&bytes[1..]), ContentRef::parse(b"")), (None, None));
    }
}
