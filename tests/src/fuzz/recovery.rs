//! A segment that a crash or a disk has damaged.

use std::ops::Range;

use ringmx::id::{MessageId, SessionId};
use ringmx::spool::FORMAT_VERSION;
use ringmx::spool::batch::Batch;
use ringmx::spool::record::{self, RecordMeta};
use ringmx::spool::recover;
use ringmx::spool::segment::{FIRST_BATCH_AT, Role, SegmentHeader};
use ringmx::spool::walk::{Found, Walk};
use ringmx_ring::BlockBuffer;

use crate::random::Random;

/// A segment of some batches, damaged as the input says: recovery and the walk end, stay within it, and give nothing
/// but what was written.
pub fn fuzz_recover(data: &[u8]) {
    let Some((seed, damage)) = data.split_first_chunk::<2>() else { return };
    let mut random = Random::new(u64::from(u16::from_le_bytes(*seed)));
    let Segment { header, bytes: intact, written } = segment(&mut random);
    let (mut bytes, mut has_copies) = (intact.clone(), false);
    // Groups of octets: where, and with what.
    for change in damage.chunks(6) {
        let [place @ .., kind, value] = change else { continue };
        let place = place.iter().fold(0usize, |place, &octet| place << 8 | usize::from(octet)) % bytes.len();
        match kind % 8 {
            0 => bytes.truncate(place),
            1 => bytes[place & !4095..].fill(0),
            2 => {
                let end = (place + usize::from(*value) * 16).min(bytes.len());
                bytes[place..end].fill(0);
            }
            3 => {
                // A block from somewhere else.
                let from = usize::from(*value) * 512 % bytes.len();
                let len = 512.min(bytes.len() - from).min(bytes.len() - place);
                bytes.copy_within(from..from + len, place);
                has_copies = true;
            }
            _ => bytes[place] ^= value,
        }
        if bytes.is_empty() {
            break;
        }
    }
    let len = bytes.len() as u64;
    let extent = recover::recover(&bytes[..], &header, len).expect("memory can be read");
    assert!(extent.end <= header.capacity.min(len).max(FIRST_BATCH_AT), "{extent:?}");
    let end = extent.end.min(len);
    let found = walk(&bytes, &header, end);
    for record in &found {
        assert!(written.iter().any(|(_, written)| written == record), "never written: {:?}", record.0);
    }
    // Damage takes what it touches. (A copy may hide others: a record's header says how much is its own.)
    for (place, record) in &written {
        let is_whole = place.end as u64 <= end && bytes[place.clone()] == intact[place.clone()];
        assert!(has_copies || !is_whole || found.contains(record), "lost although whole: {:?}", record.0);
    }
    let _ = SegmentHeader::parse(&bytes);
}

/// Id, envelope and content.
type Written = (MessageId, Vec<u8>, Vec<u8>);

/// A segment's octets, and the records in it with where each stands.
struct Segment {
    header: SegmentHeader,
    bytes: Vec<u8>,
    written: Vec<(Range<usize>, Written)>,
}

/// Three or so batches of some records, as a worker would write them.
fn segment(random: &mut Random) -> Segment {
    let header = SegmentHeader {
        version: FORMAT_VERSION,
        role: Role::Intake,
        shard: 1,
        number: 7,
        epoch: 5,
        key: random.number(),
        capacity: 1 << 20,
    };
    let (mut bytes, mut written) = (header.encode().to_vec(), Vec::new());
    for sequence in 0..1 + random.below(3) as u32 {
        let offset = bytes.len() as u64;
        let mut batch = Batch::begin(BlockBuffer::new(), header.epoch, header.key, offset, sequence);
        for _ in 0..1 + random.below(4) {
            let id =
                MessageId { session: SessionId(random.number()), transaction: 1 + random.below(9) as u32 };
            let envelope = vec![b'e'; random.below(100)];
            let content = vec![random.number() as u8; random.below(6000)];
            let start =
                batch.append(&RecordMeta { id, ..RecordMeta::default() }, &envelope, &[&content]) as usize;
            let len = record::encoded_len(envelope.len(), content.len());
            written.push((start..start + len, (id, envelope, content)));
        }
        bytes.extend_from_slice(&batch.finish(offset));
    }
    Segment { header, bytes, written }
}

fn walk(bytes: &[u8], header: &SegmentHeader, limit: u64) -> Vec<Written> {
    let (mut walk, mut found, mut steps, mut at) = (Walk::new(header), Vec::new(), 0usize, 0);
    while let Some(step) = walk.next(bytes, limit).expect("memory can be read") {
        match step {
            Found::Record(record) => {
                assert!(record.offset_in_segment + record.encoded_len as u64 <= limit);
                found.push((record.meta.id, record.envelope.to_vec(), record.content.to_vec()));
            }
            Found::Damage(damage) => {
                assert!(damage.len > 0 && damage.offset + damage.len <= limit, "{damage:?}")
            }
        }
        assert!(walk.position() >= at, "the walk goes forward");
        at = walk.position();
        steps += 1;
        assert!(steps <= bytes.len(), "the walk ends");
    }
    found
}
