//! How many files a shard keeps, and how much one write holds.

use super::*;
use crate::limits::{DEFERRED_WRITE_LEN_MAX, READY_SEGMENTS_COUNT_MAX, SPARE_SEGMENTS_COUNT_MAX};
use crate::spool::batch::{BATCH_HEADER_LEN, BatchHeader};
use crate::spool::segment::batch_len;

fn segments_count(path: &Path) -> usize {
    let entries = fs::read_dir(path.join("shard-000")).unwrap();
    entries.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|it| it == "seg")).count()
}

#[test]
fn so_many_segments_are_ready_and_so_many_stay_for_reuse() {
    // One for deferred mail besides.
    const LEAST: usize = READY_SEGMENTS_COUNT_MAX + 1;
    const RETURNED: usize = SPARE_SEGMENTS_COUNT_MAX + 6;
    let dir = TempDir::new().unwrap();
    let wanted = SpoolOptions { ready_count: 100, ..options(dir.path(), 1) };
    let (keeper, handles, feeds) = Spool::open(wanted).unwrap().start().unwrap();
    let are_ready = || handles[0].ready.len() == READY_SEGMENTS_COUNT_MAX;
    wait_until("all are ready", || are_ready() && segments_count(dir.path()) == LEAST);
    let segments: Vec<_> = (0..RETURNED).map(|_| take(&handles[0])).collect();
    wait_until("all are ready again", || are_ready() && segments_count(dir.path()) == LEAST + RETURNED);
    for (segment, number) in segments.into_iter().zip(1..) {
        commit_new(&segment, [number]);
        segment.seal();
        acknowledge(&segment, |_| true);
        feeds[0].done.send(segment);
    }
    let deleted = || BTreeMap::from(keeper.state().counts())["deleted"] as usize;
    wait_until("the surplus is deleted", || deleted() == RETURNED - SPARE_SEGMENTS_COUNT_MAX);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(segments_count(dir.path()), LEAST + SPARE_SEGMENTS_COUNT_MAX);
}

#[test]
fn a_write_of_deferred_mail_has_so_many_octets_or_one_record() {
    const LONG: usize = DEFERRED_WRITE_LEN_MAX + 1;
    const COUNT: u32 = 150;
    let dir = TempDir::new().unwrap();
    let sizes = SpoolOptions { segment_size: 16 << 20, ..options(dir.path(), 1) };
    let (_keeper, _handles, mut feeds) = Spool::open(sizes).unwrap().start().unwrap();
    let log = &mut feeds[0].log;
    wait_until("a segment is ready", || log.has_segment());
    let meta = RecordMeta { id: id(1), ..RecordMeta::default() };
    for _ in 0..COUNT {
        log.append(&meta, b"envelope", &[b'x'; 19_000]).unwrap();
    }
    log.append(&meta, b"envelope", &vec![b'x'; LONG]).unwrap();
    log.append(&meta, b"envelope", b"short").unwrap();
    log.commit().unwrap();
    let segment = log.take_opened().remove(0);
    let (mut at, mut counts, mut longest) = (FIRST_BATCH_AT, Vec::new(), 0);
    while at < segment.committed() {
        let mut head = [0; BATCH_HEADER_LEN];
        segment.file.read_exact_at(&mut head, at).unwrap();
        let batch = BatchHeader::parse(&head, at).unwrap();
        let len = BATCH_HEADER_LEN + batch.records_len as usize;
        assert!(len <= DEFERRED_WRITE_LEN_MAX || (batch.records_count == 1 && len > LONG), "{len}");
        longest = longest.max(len);
        counts.push(batch.records_count);
        at += batch_len(batch.records_len as usize);
    }
    assert_eq!(counts.iter().sum::<u32>(), COUNT + 2);
    assert!(counts.len() > 4 && counts[0] > 1 && longest > LONG, "{counts:?}");
}
