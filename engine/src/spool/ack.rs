//! The mark of a delivered record: fixed-size entries, appended to the file beside the segment. The last one of a
//! segment says that all of its records are acknowledged, so that the next start need not read them to know.

use crate::checksum;
use crate::id::{MessageId, SessionId};

/// Bytes of one entry. Sixteen in a sector, none over its edge: a crash leaves whole entries.
pub const ACK_LEN: usize = 32;
const CRC_AT: usize = ACK_LEN - 4;
/// Offsets are stored in units of a record's alignment.
const OFFSET_UNIT: u64 = super::record::RECORD_ALIGN as u64;

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckKind {
    /// Delivered to all recipients.
    Delivered,
    /// Dropped by the operator's will: a route that discards.
    Discarded,
    /// Given up; the sender was told, or could not be.
    Failed,
    /// No record, but the whole segment: all that is in it is acknowledged. Offset and id are zero.
    Segment,
    /// Copied to a deferred segment, which has it from then on.
    Moved,
}

/// One acknowledged record. An entry of another epoch than the segment's is of an earlier use of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    pub epoch: u64,
    /// The record's offset in the segment.
    pub offset: u64,
    pub id: MessageId,
    pub kind: AckKind,
}

impl Ack {
    /// `offset` is one of a record, so a multiple of 8 and below 32 GiB; anything else would be an entry for
    /// no record.
    pub fn encode(&self) -> [u8; ACK_LEN] {
        let units = u32::try_from(self.offset / OFFSET_UNIT).unwrap_or(0);
        let kind = match self.kind {
            AckKind::Delivered => 1,
            AckKind::Discarded => 2,
            AckKind::Failed => 3,
            AckKind::Segment => 4,
            AckKind::Moved => 5,
        };
        let mut bytes = [0; ACK_LEN];
        bytes[..8].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.id.session.0.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.id.transaction.to_le_bytes());
        bytes[20..24].copy_from_slice(&units.to_le_bytes());
        bytes[24] = kind;
        let crc = checksum::crc32c(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (head, crc) = bytes.first_chunk::<ACK_LEN>()?.split_last_chunk::<4>()?;
        let (epoch, rest) = head.split_first_chunk()?;
        let (session, rest) = rest.split_first_chunk()?;
        let (transaction, rest) = rest.split_first_chunk()?;
        let (units, rest) = rest.split_first_chunk()?;
        let kind = match rest.first()? {
            1 => AckKind::Delivered,
            2 => AckKind::Discarded,
            3 => AckKind::Failed,
            4 => AckKind::Segment,
            5 => AckKind::Moved,
            _ => return None,
        };
        let id = MessageId {
            session: SessionId(u64::from_le_bytes(*session)),
            transaction: u32::from_le_bytes(*transaction),
        };
        let offset = u64::from(u32::from_le_bytes(*units)) * OFFSET_UNIT;
        (checksum::crc32c(head) == u32::from_le_bytes(*crc)).then_some(Self {
            epoch: u64::from_le_bytes(*epoch),
            offset,
            id,
            kind,
        })
    }
}

/// The entries of a whole file, each at its multiple of [`ACK_LEN`]: `Err(offset)` where one is unreadable.
pub fn entries(bytes: &[u8]) -> impl Iterator<Item = Result<Ack, u64>> {
    let places = (0u64..).step_by(ACK_LEN);
    bytes.chunks(ACK_LEN).zip(places).map(|(entry, offset)| Ack::parse(entry).ok_or(offset))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ACK: Ack = Ack {
        epoch: 5,
        offset: 4160,
        id: MessageId { session: SessionId(77), transaction: 2 },
        kind: AckKind::Discarded,
    };

    #[test]
    fn an_entry_comes_back_and_a_flipped_bit_does_not() {
        assert_eq!(Ack::parse(&ACK.encode()), Some(ACK));
        for bit in 0..ACK_LEN * 8 {
            let mut bytes = ACK.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Ack::parse(&bytes), None, "bit {bit}");
        }
    }

    #[test]
    fn a_torn_entry_hides_no_other() {
        let mut file = [ACK.encode(), ACK.encode(), ACK.encode()].concat();
        file[40] ^= 1;
        file.truncate(3 * ACK_LEN - 1);
        assert_eq!(entries(&file).collect::<Vec<_>>(), [Ok(ACK), Err(32), Err(64)]);
    }

    proptest! {
        #[test]
        fn parsing_is_total(bytes: Vec<u8>) {
            prop_assert_eq!(entries(&bytes).count(), bytes.len().div_ceil(ACK_LEN));
        }
    }
}
