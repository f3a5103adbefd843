//! Tests of the store on the real file system.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::inspect::{self, State};
use super::*;
use crate::id::{MessageId, SessionId};
use crate::spool::ack::AckKind;
use crate::spool::batch::Batch;
use crate::spool::commit::{GroupCommit, Place, Promise};
use crate::spool::record::{self, RecordMeta};
use crate::spool::segment::{FIRST_BATCH_AT, SegmentHeader, segment_size_min};
use crate::spool::walk::Found;

mod backlog;
mod bounds;
mod content;
mod deferred;
mod flight;
mod flips;
mod place;
pub(in crate::store) mod trouble;
mod version_1;

const MESSAGE_SIZE_MAX: u64 = 20_000;

fn id(number: u32) -> MessageId {
    MessageId { session: SessionId(5), transaction: number }
}

fn content(number: u32) -> Vec<u8> {
    format!("Subject: {number}\r\n\r\n{}\r\n", "x".repeat(number as usize * 100 % 9000)).into_bytes()
}

fn options(path: &Path, shards_count: u16) -> SpoolOptions {
    let mut options = SpoolOptions::new(path, shards_count, MESSAGE_SIZE_MAX);
    options.segment_size = segment_size_min(MESSAGE_SIZE_MAX);
    options
}

fn start(path: &Path, shards_count: u16) -> (Keeper, Vec<ShardHandles>, Vec<ShardFeed>) {
    Spool::open(options(path, shards_count)).unwrap().start().unwrap()
}

/// Waits for what another thread does, within bounds.
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn take(handles: &ShardHandles) -> Arc<Segment> {
    wait_until("a segment is ready", || handles.is_ready());
    handles.take().unwrap()
}

/// Commits one batch of these messages to the segment, as a worker does.
fn commit(commit: &mut GroupCommit, segment: &Segment, numbers: impl IntoIterator<Item = u32>) -> Vec<Place> {
    let mut places = Vec::new();
    for number in numbers {
        let meta =
            RecordMeta { id: id(number), received_unix_us: u64::from(number), ..RecordMeta::default() };
        places.push(commit.append(Promise::BeforeReply(0), &meta, b"envelope", &[&content(number)]).unwrap());
    }
    let write = commit.start(false).unwrap();
    segment.writer().write_all_at(&write.bytes, write.offset).unwrap();
    commit.complete(write.flight, Ok(write.bytes.len()), write.bytes, &mut Vec::new()).unwrap();
    let written = commit.readable().unwrap();
    drop(segment.lend(written.offset, written.bytes));
    segment.publish(written.end);
    places
}

fn commit_new(segment: &Segment, numbers: impl IntoIterator<Item = u32>) -> Vec<Place> {
    let mut state = GroupCommit::new();
    state.use_segment(&segment.header());
    commit(&mut state, segment, numbers)
}

/// Reads a segment to its end: numbers by offset, and how much damage.
fn read_all(segment: &Arc<Segment>) -> (BTreeMap<u64, u32>, usize) {
    let (mut reader, mut records, mut damage_count) = (Reader::new(Arc::clone(segment)), BTreeMap::new(), 0);
    while let Some(found) = reader.next().unwrap() {
        match found {
            Found::Record(record) => {
                let number = record.meta.id.transaction;
                assert_eq!((record.envelope, record.content), (&b"envelope"[..], &content(number)[..]));
                records.insert(record.offset_in_segment, number);
            }
            Found::Damage(_) => damage_count += 1,
        }
    }
    assert_eq!(reader.is_finished(), segment.is_sealed());
    (records, damage_count)
}

fn acknowledge(segment: &Arc<Segment>, numbers: impl Fn(u32) -> bool) {
    let mut acks = AckWriter::open(segment).unwrap();
    for (offset, number) in read_all(segment).0 {
        if numbers(number) {
            acks.push(offset, id(number), AckKind::Delivered);
        }
    }
    acks.flush().unwrap();
    assert_eq!(acks.pending_count(), 0);
}

#[test]
fn mail_comes_back_until_it_is_acknowledged() {
    let dir = TempDir::new().unwrap();
    {
        let (_keeper, handles, feeds) = start(dir.path(), 1);
        let (first, second) = (take(&handles[0]), take(&handles[0]));
        assert_eq!(
            feeds[0].incoming.recv().unwrap().epoch,
            first.epoch,
            "egress gets them in the same order"
        );
        let mut state = GroupCommit::new();
        state.use_segment(&first.header());
        commit(&mut state, &first, 1..4);
        let place = commit(&mut state, &first, 4..6)[1];
        commit_new(&second, 6..8);
        first.seal();
        assert_eq!(read_all(&first).0.into_values().collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        let mut buffer = Vec::new();
        assert_eq!(read_record(&first, place, &mut buffer).unwrap().unwrap().content, content(5));
        let elsewhere = Place { offset: place.offset + 8, ..place };
        assert!(read_record(&first, elsewhere, &mut buffer).unwrap().is_none());
        acknowledge(&first, |number| number != 2);
    }
    let (_keeper, _, feeds) = start(dir.path(), 1);
    let recovered = &feeds[0].recovered;
    let found: Vec<_> = recovered.iter().map(|s| read_all(s).0.into_values().collect::<Vec<_>>()).collect();
    assert_eq!(found, [vec![1, 2, 3, 4, 5], vec![6, 7]]);
    assert!(recovered.iter().all(|segment| segment.is_sealed()));
    let acks = AckSet::load(&recovered[0]).unwrap();
    let left =
        read_all(&recovered[0]).0.into_iter().filter(|&(offset, number)| !acks.contains(offset, id(number)));
    assert_eq!(left.map(|(_, number)| number).collect::<Vec<_>>(), [2]);
}

#[test]
fn a_worker_and_egress_pass_mail_through_many_segments() {
    const COUNT: u32 = 3000;
    let dir = TempDir::new().unwrap();
    let (keeper, handles, mut feeds) = start(dir.path(), 1);
    let feed = feeds.remove(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut state = GroupCommit::new();
            let mut current: Option<Arc<Segment>> = None;
            for number in 1..=COUNT {
                if state.needs_segment(record::encoded_len(8, content(number).len())) {
                    let next = take(&handles[0]);
                    assert_eq!(
                        state.use_segment(&next.header()),
                        current.as_ref().map(|former| former.epoch)
                    );
                    if let Some(former) = current.replace(next) {
                        former.seal();
                    }
                }
                commit(&mut state, current.as_ref().unwrap(), [number]);
            }
            current.unwrap().seal();
        });
        let mut expected = 1;
        while expected <= COUNT {
            let segment = feed.incoming.recv_timeout(Duration::from_secs(20)).unwrap();
            let mut reader = Reader::new(Arc::clone(&segment));
            let mut acks = AckWriter::open(&segment).unwrap();
            while !reader.is_finished() {
                while let Some(found) = reader.next().unwrap() {
                    let Found::Record(record) = found else { panic!("{found:?}") };
                    assert_eq!((record.meta.id, record.content), (id(expected), &content(expected)[..]));
                    acks.push(record.offset_in_segment, record.meta.id, AckKind::Delivered);
                    expected += 1;
                }
            }
            acks.flush().unwrap();
            feed.done.send(segment);
        }
    });
    let counts = BTreeMap::from(keeper.state().counts());
    assert!(counts["recycled"] > 4, "{counts:?}");
    drop((keeper, feed));
    assert_eq!(inspect::verify(dir.path()).unwrap(), []);
    assert!(start(dir.path(), 1).2[0].recovered.is_empty());
}

#[test]
fn a_delivered_segment_is_used_again_with_a_new_epoch() {
    let dir = TempDir::new().unwrap();
    let (keeper, handles, feeds) = start(dir.path(), 1);
    let mut epochs = BTreeSet::new();
    for round in 0..30 {
        let segment = take(&handles[0]);
        assert!(epochs.insert(segment.epoch));
        assert_eq!(segment.committed(), FIRST_BATCH_AT);
        commit_new(&segment, [round + 1]);
        assert_eq!(feeds[0].incoming.recv().unwrap().epoch, segment.epoch);
        segment.seal();
        assert_eq!(
            read_all(&segment).0.into_values().collect::<Vec<_>>(),
            [round + 1],
            "nothing of an older epoch"
        );
        acknowledge(&segment, |_| true);
        feeds[0].done.send(segment);
    }
    let counts = BTreeMap::from(keeper.state().counts());
    assert!(counts["recycled"] > 10 && counts["created"] < 20, "{counts:?}");
    drop((keeper, handles));
    let (_keeper, handles, feeds) = start(dir.path(), 1);
    assert!(feeds[0].recovered.is_empty());
    assert!(take(&handles[0]).epoch > *epochs.last().unwrap());
}

#[test]
fn a_segment_has_all_its_blocks_before_its_first_use() {
    let dir = TempDir::new().unwrap();
    let (_keeper, handles, _feeds) = start(dir.path(), 1);
    let segment = take(&handles[0]);
    let metadata = segment.file.metadata().unwrap();
    assert_eq!(metadata.len(), segment.capacity);
    assert!(metadata.blocks() * 512 >= segment.capacity);
    assert_eq!(metadata.mode() & 0o077, 0, "mail is nobody else's");
}

#[test]
fn epochs_go_on_when_every_segment_was_removed() {
    let dir = TempDir::new().unwrap();
    let last = {
        let (_keeper, handles, _feeds) = start(dir.path(), 1);
        wait_until("all are ready", || handles[0].ready.is_full());
        std::iter::from_fn(|| handles[0].take()).map(|segment| segment.epoch).max().unwrap()
    };
    // Another size: no file of the former run can be used again.
    let bigger = || {
        let mut options = options(dir.path(), 1);
        options.segment_size *= 2;
        Spool::open(options).unwrap().start().unwrap()
    };
    let (keeper, handles, _feeds) = bigger();
    let next = take(&handles[0]);
    assert!(next.epoch > last);
    assert!(BTreeMap::from(keeper.state().counts())["deleted"] >= 4);
    let sizes = inspect::stat(dir.path()).unwrap()[0];
    drop((keeper, handles, next));
    let (_keeper, handles, _feeds) = bigger();
    assert!(take(&handles[0]).epoch > last + sizes.segments_count - 1);
}

#[test]
fn a_former_workers_shard_is_emptied_and_removed() {
    let dir = TempDir::new().unwrap();
    {
        let (_keeper, handles, _feeds) = start(dir.path(), 3);
        for (number, handles) in (1..).zip(&handles) {
            commit_new(&take(handles), [number]);
        }
    }
    {
        let (keeper, handles, feeds) = start(dir.path(), 1);
        assert_eq!((handles.len(), feeds.len()), (1, 3));
        let segment = Arc::clone(&feeds[2].recovered[0]);
        assert_eq!(read_all(&segment).0.into_values().collect::<Vec<_>>(), [3]);
        acknowledge(&segment, |_| true);
        feeds[2].done.send(segment);
        take(&handles[0]);
        drop(keeper);
    }
    let (_keeper, _handles, feeds) = start(dir.path(), 1);
    assert_eq!(feeds.iter().map(|feed| feed.shard).collect::<Vec<_>>(), [0, 1]);
    assert!(!dir.path().join("shard-002").exists());
}

#[test]
fn a_running_spool_is_listed_and_read() {
    let dir = TempDir::new().unwrap();
    let (_keeper, handles, _feeds) = start(dir.path(), 2);
    let (first, second) = (take(&handles[0]), take(&handles[1]));
    commit_new(&first, 1..4);
    commit_new(&second, [40]);
    acknowledge(&first, |number| number == 2);
    let mut listed = Vec::new();
    inspect::list(dir.path(), &mut |item| {
        assert_eq!((item.envelope, item.content), (&b"envelope"[..], &content(item.id.transaction)[..]));
        listed.push((item.shard, item.id.transaction, item.received_unix_us, item.state));
        ControlFlow::Continue(())
    })
    .unwrap();
    use State::{Delivered, Undelivered};
    let expected =
        [(0, 1, 1, Undelivered), (0, 2, 2, Delivered), (0, 3, 3, Undelivered), (1, 40, 40, Undelivered)];
    assert_eq!(listed, expected);
    let stats = inspect::stat(dir.path()).unwrap();
    assert_eq!(stats.iter().map(|stat| stat.undelivered_count).collect::<Vec<_>>(), [2, 1]);
    assert!(stats[0].bytes >= first.capacity && stats[0].records_count == 3);
    assert_eq!(inspect::verify(dir.path()).unwrap(), []);
}
