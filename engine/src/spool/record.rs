//! One accepted message as bytes: a header, the envelope, the content, zeros to a multiple of 8.
//!
//! The header carries the segment's key, a random number no client can know: content that imitates a record
//! is not taken for one where the walk has lost its place. It also carries its own place: a block that a disk wrote
//! over another of the same segment is not taken for what should stand there.

use ringmx_ring::BlockBuffer;

use super::{FORMAT_VERSION, Fields, HEADER_LEN, RECORD_OFFSET_SINCE, Stamp};
use crate::checksum;
use crate::id::{MessageId, SessionId};
use crate::limits::RECORD_CONTENT_LEN_MAX;

/// Bytes of a record before its envelope.
pub const RECORD_HEADER_LEN: usize = HEADER_LEN;
/// Records start on a multiple of this.
pub const RECORD_ALIGN: usize = 8;

const MAGIC: &[u8; 4] = b"RMXr";

/// How a record holds its message. The numbers are those on disk; the header of a segment names the kinds that may be
/// in it, so that a start by an older version, which would not know one, is refused before anything is changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
    /// The content follows the envelope.
    #[default]
    Inline = 1,
    /// The content has a file of its own; what follows the envelope names it.
    File = 2,
    /// No message, but what has changed in the envelope of one that was deferred: [`crate::protocol::deferral`].
    Update = 3,
}

impl RecordKind {
    const ALL: [Self; 3] = [Self::Inline, Self::File, Self::Update];

    /// All that this version knows, a bit for each.
    pub(super) const fn known_bits() -> u32 {
        let (mut bits, mut index) = (0, 0);
        while index < Self::ALL.len() {
            bits |= 1 << Self::ALL[index] as u32;
            index += 1;
        }
        bits
    }

    fn parse(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|&kind| kind as u8 == number)
    }
}

/// What the spool knows of a message without looking into its envelope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordMeta {
    pub kind: RecordKind,
    pub id: MessageId,
    /// When end-of-data arrived, in microseconds since 1970.
    pub received_unix_us: u64,
}

/// A record's header, parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    pub meta: RecordMeta,
    /// Where in the segment the record stands.
    pub offset: u64,
    pub envelope_len: u32,
    pub content_len: u64,
    /// CRC32C of envelope and content.
    pub payload_crc: u32,
}

/// One record, borrowed from the buffer it was read into. Its checksum was right.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    pub meta: RecordMeta,
    pub envelope: &'a [u8],
    /// The content with CRLF line ends and without dot-stuffing, trace field in front.
    pub content: &'a [u8],
    pub offset_in_segment: u64,
    pub encoded_len: usize,
}

/// Bytes a record takes in its batch, padding included.
pub const fn encoded_len(envelope_len: usize, content_len: usize) -> usize {
    RECORD_HEADER_LEN
        .saturating_add(envelope_len)
        .saturating_add(content_len)
        .saturating_add(RECORD_ALIGN - 1)
        & !(RECORD_ALIGN - 1)
}

/// Octets of content in a record, at most, where the sessions' bound is `inline_size`: decoding may double what came in
/// last, by line ends.
pub const fn content_len_max(inline_size: u64) -> u64 {
    inline_size.saturating_mul(2)
}

/// Appends a record to `batch`, to stand at `offset` of its segment. `content` comes in parts, so that trace field
/// and body need no copy of their own.
pub fn append(
    batch: &mut BlockBuffer,
    key: u64,
    offset: u64,
    meta: &RecordMeta,
    envelope: &[u8],
    content: &[&[u8]],
) {
    let content_len: usize = content.iter().map(|part| part.len()).sum();
    let payload_crc =
        content.iter().fold(checksum::crc32c(envelope), |crc, part| checksum::crc32c_append(crc, part));
    let header = RecordHeader {
        meta: *meta,
        offset,
        envelope_len: u32::try_from(envelope.len()).expect("an envelope is at most ENVELOPE_LEN_MAX"),
        content_len: content_len as u64,
        payload_crc,
    };
    let end = batch.len() + encoded_len(envelope.len(), content_len);
    batch.reserve(end - batch.len());
    batch.extend_from_slice(&header.encode(key));
    batch.extend_from_slice(envelope);
    for part in content {
        batch.extend_from_slice(part);
    }
    batch.resize(end, 0);
}

impl RecordHeader {
    pub fn encode(&self, key: u64) -> [u8; RECORD_HEADER_LEN] {
        Fields::new()
            .put(0, MAGIC)
            .put(4, &[FORMAT_VERSION, self.meta.kind as u8])
            .put(8, &key.to_le_bytes())
            .put(16, &self.meta.id.session.0.to_le_bytes())
            .put(24, &self.meta.id.transaction.to_le_bytes())
            .put(28, &self.envelope_len.to_le_bytes())
            .put(32, &self.content_len.to_le_bytes())
            .put(40, &self.meta.received_unix_us.to_le_bytes())
            .put(48, &self.payload_crc.to_le_bytes())
            .put(52, &self.offset.to_le_bytes())
            .seal()
    }

    /// The header at the start of `bytes`, read from `offset`, if one of the segment with this stamp stands there.
    pub fn parse(bytes: &[u8], stamp: &Stamp, offset: u64) -> Option<Self> {
        // Told apart without a checksum first: the search for a lost place tries every eighth byte.
        if !bytes.starts_with(MAGIC) || bytes.get(8..16)? != stamp.key.to_le_bytes() {
            return None;
        }
        let fields = Fields::parse(bytes, MAGIC)?;
        let is_here = stamp.version < RECORD_OFFSET_SINCE || fields.u64(52) == offset;
        let kind = RecordKind::parse(fields.u8(5)).filter(|_| fields.u8(4) == stamp.version && is_here)?;
        let id = MessageId { session: SessionId(fields.u64(16)), transaction: fields.u32(24) };
        let header = Self {
            meta: RecordMeta { kind, id, received_unix_us: fields.u64(40) },
            offset,
            envelope_len: fields.u32(28),
            content_len: fields.u64(32),
            payload_crc: fields.u32(48),
        };
        (header.content_len <= RECORD_CONTENT_LEN_MAX).then_some(header)
    }

    /// The headers in `bytes`, read from `offset`, a multiple of [`RECORD_ALIGN`], of the segment with this stamp.
    pub fn find<'a>(bytes: &'a [u8], stamp: &'a Stamp, offset: u64) -> impl Iterator<Item = Self> + 'a {
        let places = memchr::memmem::find_iter(bytes, MAGIC).filter(|at| at.is_multiple_of(RECORD_ALIGN));
        places.filter_map(move |at| Self::parse(&bytes[at..], stamp, offset + at as u64))
    }

    /// Bytes of the whole record, padding included.
    pub fn encoded_len(&self) -> u64 {
        let payload_len = u64::from(self.envelope_len) + self.content_len;
        (RECORD_HEADER_LEN as u64 + payload_len).next_multiple_of(RECORD_ALIGN as u64)
    }

    /// The record whose encoded form is `bytes`; `None` where the payload is cut short or fails its checksum.
    pub fn record<'a>(&self, bytes: &'a [u8]) -> Option<Record<'a>> {
        let payload = bytes.get(RECORD_HEADER_LEN..)?;
        let content_len = usize::try_from(self.content_len).ok()?;
        let (envelope, rest) = payload.split_at_checked(self.envelope_len as usize)?;
        let content = rest.get(..content_len)?;
        let crc = checksum::crc32c(&payload[..envelope.len() + content.len()]);
        (crc == self.payload_crc).then_some(Record {
            meta: self.meta,
            envelope,
            content,
            offset_in_segment: self.offset,
            encoded_len: encoded_len(envelope.len(), content.len()),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STAMP: Stamp = Stamp { version: FORMAT_VERSION, epoch: 1, key: 7 };
    const META: RecordMeta = RecordMeta {
        kind: RecordKind::File,
        id: MessageId { session: SessionId(0x0102_0304_0506_0708), transaction: 9 },
        received_unix_us: 1_763_780_000_000_000,
    };

    #[test]
    fn a_record_comes_back_as_it_went() {
        let mut bytes = BlockBuffer::new();
        append(&mut bytes, 7, 4160, &META, b"envelope", &[b"Received: x\r\n", b"", b"\r\nbody\r\n"]);
        assert_eq!(bytes.len(), encoded_len(8, 21));
        let header = RecordHeader::parse(&bytes, &STAMP, 4160).unwrap();
        let record = header.record(&bytes).unwrap();
        assert_eq!((record.meta, record.envelope, record.offset_in_segment), (META, &b"envelope"[..], 4160));
        assert_eq!(record.content, b"Received: x\r\n\r\nbody\r\n");
        assert_eq!(record.encoded_len as u64, header.encoded_len());
        let stranger = Stamp { key: 8, ..STAMP };
        assert_eq!(RecordHeader::parse(&bytes, &stranger, 4160), None, "the key of another segment");
        assert_eq!(RecordHeader::parse(&bytes, &STAMP, 8256), None, "read from where it was not written");
        let older = Stamp { version: 1, ..STAMP };
        assert_eq!(RecordHeader::parse(&bytes, &older, 4160), None, "of another version than its segment");
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let mut bytes = BlockBuffer::new();
        append(&mut bytes, 7, 4160, &META, b"e", &[b"content"]);
        let payload_end = RECORD_HEADER_LEN + 8;
        for bit in 0..payload_end * 8 {
            let mut damaged = bytes.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let header = RecordHeader::parse(&damaged, &STAMP, 4160);
            assert!(header.and_then(|header| header.record(&damaged).map(drop)).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn no_sum_of_lengths_overflows() {
        for (content_len, is_read) in [(RECORD_CONTENT_LEN_MAX, true), (RECORD_CONTENT_LEN_MAX + 1, false)] {
            let header = RecordHeader { meta: META, offset: 0, envelope_len: 1, content_len, payload_crc: 0 };
            assert_eq!(RecordHeader::parse(&header.encode(7), &STAMP, 0).is_some(), is_read);
        }
    }

    proptest! {
        #[test]
        fn parsing_is_total(bytes: Vec<u8>, lens: (u32, u64)) {
            let _ = RecordHeader::parse(&bytes, &STAMP, 0);
            let (envelope_len, content_len) = lens;
            let header = RecordHeader { meta: META, offset: 0, envelope_len, content_len, payload_crc: 0 };
            if let Some(header) = RecordHeader::parse(&header.encode(7), &STAMP, 0) {
                prop_assert!(header.encoded_len() > header.content_len);
                let _ = header.record(&bytes);
            }
        }
    }
}
