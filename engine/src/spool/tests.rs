//! Tests over the whole of the format: a small segment in memory, filled by group commit, then damaged or
//! cut.

use std::cell::Cell;
use std::io;
use std::ops::Range;

use proptest::prelude::*;

use super::batch::BatchHeader;
use super::commit::{GroupCommit, Promise};
use super::record::{self, RecordMeta};
use super::recover::{Extent, recover};
use super::segment::{FIRST_BATCH_AT, Role, SegmentHeader};
use super::walk::{DamageKind, Found, Walk};
use super::{BLOCK_LEN, FORMAT_VERSION, ReadAt, block_end};
use crate::id::{MessageId, SessionId};

const BLOCK: usize = BLOCK_LEN as usize;
const HEADER: SegmentHeader = SegmentHeader {
    version: FORMAT_VERSION,
    role: Role::Intake,
    shard: 0,
    number: 1,
    epoch: 7,
    key: 0xfeed,
    capacity: 16 * BLOCK_LEN,
};

fn id(number: u32) -> MessageId {
    MessageId { session: SessionId(99), transaction: number }
}

/// A segment of `header` that held five large batches of an older epoch, so that every block has something
/// plausible in it.
fn recycled_segment(header: &SegmentHeader) -> Vec<u8> {
    let old = SegmentHeader { epoch: header.epoch - 1, key: header.key + 1, ..*header };
    let mut bytes = vec![0; header.capacity as usize];
    let mut commit = GroupCommit::new();
    commit.use_segment(&old);
    for number in 0..5 {
        let content = vec![b'o'; 2 * BLOCK];
        commit.append(Promise::BeforeReply(0), &meta(1000 + number), b"old", &[&content]).unwrap();
        write(&mut commit, &mut bytes);
    }
    bytes[..BLOCK].copy_from_slice(&header.encode());
    bytes
}

fn meta(number: u32) -> RecordMeta {
    RecordMeta { id: id(number), received_unix_us: u64::from(number), ..RecordMeta::default() }
}

/// Content told apart by its number, long enough to fill sectors.
fn content(number: u32, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at as u32).wrapping_mul(number + 3).to_le_bytes()[1]).collect()
}

/// Does the next write and completes it; returns its range.
fn write(commit: &mut GroupCommit, bytes: &mut [u8]) -> (usize, usize) {
    let write = commit.start(false).unwrap();
    let (from, len) = (write.offset as usize, write.bytes.len());
    bytes[from..from + len].copy_from_slice(&write.bytes);
    commit.complete(write.flight, Ok(len), write.bytes, &mut Vec::new()).unwrap();
    assert_eq!(commit.readable().unwrap().end as usize, from + len);
    (from, len)
}

/// Fills a segment with batches of records of these content lengths, numbered from 1. Returns the places of
/// the batches.
fn fill(bytes: &mut [u8], header: &SegmentHeader, batches: &[&[usize]]) -> Vec<(usize, usize)> {
    let mut commit = GroupCommit::new();
    commit.use_segment(header);
    let mut number = 0;
    let fill_one = |lens: &&[usize]| {
        for &len in *lens {
            number += 1;
            commit
                .append(
                    Promise::BeforeReply(u64::from(number)),
                    &meta(number),
                    b"envelope",
                    &[&content(number, len)],
                )
                .unwrap();
        }
        write(&mut commit, bytes)
    };
    batches.iter().map(fill_one).collect()
}

/// Numbers of the records read, with their content checked, and the damage.
fn read(bytes: &[u8], header: &SegmentHeader, limit: u64) -> (Vec<u32>, Vec<(DamageKind, Option<u32>)>) {
    let (mut records, mut damage) = (Vec::new(), Vec::new());
    let mut walk = Walk::new(header);
    let mut position = 0;
    while let Some(found) = walk.next(bytes, limit).unwrap() {
        match found {
            Found::Record(record) => {
                let number = record.meta.id.transaction;
                assert_eq!(record.content, content(number, record.content.len()));
                assert_eq!((record.meta, record.envelope), (meta(number), &b"envelope"[..]));
                records.push(number);
            }
            Found::Damage(found) => {
                assert!(found.len > 0 && found.offset >= position && found.offset + found.len <= limit);
                damage.push((found.kind, found.meta.map(|meta| meta.id.transaction)));
            }
        }
        assert!(walk.position() > position);
        position = walk.position();
    }
    (records, damage)
}

fn recover_all(bytes: &[u8]) -> Extent {
    recover(bytes, &HEADER, bytes.len() as u64).unwrap()
}

#[test]
fn what_was_written_is_read_and_the_old_epoch_is_not() {
    let mut bytes = recycled_segment(&HEADER);
    assert_eq!(recover_all(&bytes).end, FIRST_BATCH_AT);
    fill(&mut bytes, &HEADER, &[&[10, 5000], &[0], &[100, 100, 100]]);
    let extent = recover_all(&bytes);
    assert_eq!((extent.batches_count, extent.records_count, extent.has_gap), (3, 6, false));
    assert_eq!(read(&bytes, &HEADER, extent.end), (vec![1, 2, 3, 4, 5, 6], vec![]));
}

#[test]
fn a_walk_goes_on_when_more_is_committed() {
    let mut bytes = recycled_segment(&HEADER);
    let places = fill(&mut bytes, &HEADER, &[&[10], &[20, 30]]);
    let mut walk = Walk::new(&HEADER);
    let limits = [FIRST_BATCH_AT, places[1].0 as u64, (places[1].0 + places[1].1) as u64];
    let counts =
        limits.map(|limit| std::iter::from_fn(|| walk.next(&bytes[..], limit).unwrap().map(drop)).count());
    assert_eq!(counts, [0, 1, 2]);
}

/// The last write reaches the disk in any subset of its sectors. What was committed before is always read, and of the
/// last batch every record of which all sectors are there.
#[test]
fn a_crash_at_any_subset_of_sectors_loses_nothing_committed() {
    for last in [&[900usize, 900][..], &[5000, 40]] {
        let mut before = recycled_segment(&HEADER);
        let mut after = before.clone();
        fill(&mut before, &HEADER, &[&[10, 5000], &[77]]);
        let batches: [&[usize]; 3] = [&[10, 5000], &[77], last];
        let (from, len) = *fill(&mut after, &HEADER, &batches).last().unwrap();
        let second_at = from + 64 + record::encoded_len(8, last[0]);
        let ranges = [from + 64..second_at, second_at..second_at + record::encoded_len(8, last[1])];
        let sectors_count = len / 512;
        for written in 0u32..1 << sectors_count {
            let mut bytes = before.clone();
            for at in (0..sectors_count).filter(|sector| written & 1 << sector != 0).map(|n| from + n * 512) {
                bytes[at..at + 512].copy_from_slice(&after[at..at + 512]);
            }
            let extent = recover_all(&bytes);
            let (records, _) = read(&bytes, &HEADER, extent.end);
            let is_there = |range: &Range<usize>| bytes[range.clone()] == after[range.clone()];
            let whole = (4..).zip(&ranges).filter(|(_, range)| is_there(range)).map(|(number, _)| number);
            let expected: Vec<u32> = (1..4).chain(whole).collect();
            assert_eq!(records, expected, "sectors {written:b}");
            // No sector of what was durable is taken for damaged.
            assert!(extent.watermark <= from as u64);
        }
    }
}

#[test]
fn damage_in_the_middle_costs_only_what_it_hits() {
    let mut bytes = recycled_segment(&HEADER);
    let places = fill(&mut bytes, &HEADER, &[&[10], &[100, 200, 300], &[20]]);
    let middle = places[1].0;
    let second_record = middle + 64 + 64 + 8 + 104;
    let damaged = |at: usize| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        let extent = recover_all(&bytes);
        assert_eq!(extent.end, (places[2].0 + places[2].1) as u64);
        assert!(extent.watermark > at as u64);
        read(&bytes, &HEADER, extent.end)
    };
    assert_eq!(damaged(second_record + 64 + 50), (vec![1, 2, 4, 5], vec![(DamageKind::Payload, Some(3))]));
    assert_eq!(damaged(second_record + 30), (vec![1, 2, 4, 5], vec![(DamageKind::RecordHeader, None)]));
    let (records, damage) = damaged(middle + 20);
    assert_eq!(records, [1, 2, 3, 4, 5], "records are found without their batch's header");
    assert_eq!(damage[0], (DamageKind::Batch, None));
}

/// Several writes in flight: a later batch is on the disk, an earlier one not, and none of them claims the
/// other durable.
#[test]
fn recovery_walks_over_a_hole() {
    let mut bytes = recycled_segment(&HEADER);
    let stale = bytes.clone();
    let places = fill(&mut bytes, &HEADER, &[&[10], &[9000], &[20]]);
    let last = places[2].0;
    let mut batch = BatchHeader::parse(&bytes[last..], last as u64).unwrap();
    batch.committed_below = places[1].0 as u64;
    bytes[last..last + 64].copy_from_slice(&batch.encode());
    let (from, len) = places[1];
    bytes[from..from + len].copy_from_slice(&stale[from..from + len]);
    let extent = recover_all(&bytes);
    assert_eq!((extent.end, extent.watermark), (batch.end(), from as u64));
    assert!(extent.has_gap);
    assert_eq!(read(&bytes, &HEADER, extent.end), (vec![1, 3], vec![(DamageKind::Batch, None)]));
}

/// A disk writes a block of the segment over another one: what it carries is believed only at its own place.
#[test]
fn a_block_at_another_ones_place_is_not_believed() {
    let mut bytes = recycled_segment(&HEADER);
    // Records of 1024 bytes: the headers of 5 and of 9 stand at the same place in their blocks.
    let places = fill(&mut bytes, &HEADER, &[&[952; 12], &[1]]);
    let second = places[0].0 + BLOCK;
    bytes.copy_within(second..second + BLOCK, second + BLOCK);
    let extent = recover_all(&bytes);
    let (records, damage) = read(&bytes, &HEADER, extent.end);
    assert_eq!(records, [1, 2, 3, 4, 5, 6, 7, 13], "nothing is read twice");
    assert_eq!(damage, [(DamageKind::Payload, Some(8)), (DamageKind::RecordHeader, None)]);
}

/// Any bit of a segment flips: what it hits is noticed, everything else is read.
#[test]
fn a_flipped_bit_costs_at_most_the_record_it_hits() {
    let header = SegmentHeader { capacity: 5 * BLOCK_LEN, ..HEADER };
    let mut bytes = vec![0; header.capacity as usize];
    bytes[..BLOCK].copy_from_slice(&header.encode());
    let lens: [&[usize]; 3] = [&[10, 700], &[300], &[5, 6]];
    let batches = fill(&mut bytes, &header, &lens);
    let mut records = Vec::new();
    for (&(from, _), lens) in batches.iter().zip(lens) {
        let mut at = from + 64;
        for len in lens {
            // Envelope and content; what pads the record to its end is nobody's.
            records.push(at..at + 64 + 8 + len);
            at += record::encoded_len(8, *len);
        }
    }
    for bit in 0..bytes.len() * 8 {
        let at = bit / 8;
        let mut bytes = bytes.clone();
        bytes[at] ^= 1 << (bit % 8);
        assert_eq!(SegmentHeader::parse(&bytes[..BLOCK]), Ok(header), "bit {bit}");
        let extent = recover(&bytes[..], &header, header.capacity).unwrap();
        let (found, damage) = read(&bytes, &header, extent.end);
        let hit = records.iter().position(|record| record.contains(&at)).map(|index| index as u32 + 1);
        let expected: Vec<u32> = (1..=5).filter(|&number| Some(number) != hit).collect();
        assert_eq!(found, expected, "bit {bit}");
        let expected = match hit.map(|number| (number, at - records[number as usize - 1].start)) {
            Some((number, 64..)) => vec![(DamageKind::Payload, Some(number))],
            Some(_) => vec![(DamageKind::RecordHeader, None)],
            None if batches.iter().any(|&(from, _)| (from..from + 64).contains(&at)) => {
                vec![(DamageKind::Batch, None)]
            }
            None => vec![],
        };
        assert_eq!(damage, expected, "bit {bit}");
    }
}

/// Counts the bytes that are read of a segment.
struct Counted<'a>(&'a [u8], Cell<u64>);

impl ReadAt for Counted<'_> {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.1.set(self.1.get() + buf.len() as u64);
        self.0.read_exact_at(buf, offset)
    }
}

#[test]
fn recovery_reads_no_records() {
    let header = SegmentHeader { capacity: 32 << 20, ..HEADER };
    let mut bytes = vec![0; header.capacity as usize];
    bytes[..BLOCK].copy_from_slice(&header.encode());
    let batches = [&[200_000; 5][..]; 30];
    let end = fill(&mut bytes, &header, &batches).last().map(|(from, len)| from + len).unwrap();
    let counted = Counted(&bytes, Cell::new(0));
    let extent = recover(&counted, &header, header.capacity).unwrap();
    assert_eq!((extent.end, extent.records_count), (end as u64, 150));
    // The rest of the file, where a header and then a record is looked for; each header; a window's slack.
    let expected = 2 * (bytes.len() - end) + 30 * BLOCK + 2 * (256 << 10);
    assert!(counted.1.get() <= expected as u64, "{} bytes read, {expected} expected", counted.1.get());
}

#[test]
fn of_the_last_batch_too_only_what_is_hit_is_lost() {
    let mut bytes = recycled_segment(&HEADER);
    let places = fill(&mut bytes, &HEADER, &[&[10, 11], &[20, 21], &[30, 31]]);
    bytes[places[1].0 + 64 + 70] ^= 1;
    bytes[places[2].0 + 64 + 70] ^= 1;
    let extent = recover_all(&bytes);
    assert_eq!(extent.watermark, places[2].0 as u64);
    let damage = vec![(DamageKind::Payload, Some(3)), (DamageKind::Payload, Some(5))];
    assert_eq!(read(&bytes, &HEADER, extent.end), (vec![1, 2, 4, 6], damage));
}

/// Content that is a batch, with a record in it, where its header says: were it believed when the batch
/// around it is torn, whoever sent it would write to the spool past all rules. Its sender can guess the
/// epoch, not the key.
#[test]
fn content_that_imitates_a_batch_is_not_believed() {
    let forger = SegmentHeader { key: 1, ..HEADER };
    let mut bytes = vec![0; HEADER.capacity as usize];
    fill(&mut bytes, &forger, &[&[10], &[9000], &[10]]);
    assert_eq!(recover(&bytes[..], &forger, HEADER.capacity).unwrap().records_count, 3);
    let extent = recover_all(&bytes);
    assert_eq!(extent.end, FIRST_BATCH_AT);
    assert_eq!(read(&bytes, &HEADER, HEADER.capacity), (vec![], vec![(DamageKind::Batch, None)]));
}

#[test]
fn a_cut_file_is_read_as_far_as_it_goes() {
    let mut bytes = recycled_segment(&HEADER);
    let places = fill(&mut bytes, &HEADER, &[&[10], &[9000], &[20]]);
    for len in (0..bytes.len()).step_by(257) {
        let cut = &bytes[..len];
        let extent = recover_all(cut);
        let (records, _) = read(cut, &HEADER, extent.end);
        let is_whole = |&(&(from, _), &content_len): &(&(usize, usize), &usize)| {
            from + 64 + record::encoded_len(8, content_len) <= len
        };
        let whole = places.iter().zip(&[10, 9000, 20]).filter(is_whole).count() as u32;
        assert_eq!(records, (1..=whole).collect::<Vec<_>>(), "{len} bytes");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Any bytes, and any damage to a real segment: no panic, an end to the walk, and nothing read that was
    /// not written (`read` checks each record against its number).
    #[test]
    fn any_damage_is_survived(
        flips in prop::collection::vec((0..16 * BLOCK, any::<u8>()), 0..40),
        copies in prop::collection::vec((0..15 * BLOCK, 0..15 * BLOCK, 1..BLOCK), 0..4),
        limit in 0..20 * BLOCK_LEN,
    ) {
        let mut bytes = recycled_segment(&HEADER);
        fill(&mut bytes, &HEADER, &[&[10, 5000], &[77], &[0, 0, 0], &[9000], &[1]]);
        for (at, byte) in flips {
            bytes[at] = byte;
        }
        for (from, to, len) in copies {
            bytes.copy_within(from..from + len, to);
        }
        let extent = recover_all(&bytes);
        prop_assert!(extent.end <= bytes.len() as u64);
        read(&bytes, &HEADER, extent.end);
        read(&bytes, &HEADER, bytes.len() as u64);
        let limit = limit.min(bytes.len() as u64);
        read(&bytes[..block_end(limit).min(bytes.len() as u64) as usize], &HEADER, limit);
    }

    #[test]
    fn random_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..3 * BLOCK)) {
        let extent = recover_all(&bytes);
        prop_assert_eq!(extent.records_count, 0);
        read(&bytes, &HEADER, bytes.len() as u64);
    }
}
