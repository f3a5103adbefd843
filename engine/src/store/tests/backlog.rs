//! Starting with much undelivered mail.

use ringmx_ring::BlockBuffer;

use super::super::acks::note_complete;
use super::*;

const MESSAGES_COUNT: u32 = 50_000;

/// Leaves this many small messages undelivered; returns how many segments they fill.
fn fill(path: &Path, messages_count: u32) -> usize {
    let (_keeper, handles, feeds) = start(path, 1);
    let (mut state, mut segment) = (GroupCommit::new(), None::<Arc<Segment>>);
    for first in (0..messages_count).step_by(100) {
        let numbers = first..(first + 100).min(messages_count);
        let envelope_and_content = [&b"envelope"[..], &[b'x'; 300]];
        let len: usize = envelope_and_content.iter().map(|part| part.len()).sum();
        if state.needs_segment(numbers.len() * record::encoded_len(len, 0)) {
            let next = take(&handles[0]);
            state.use_segment(&next.header());
            segment.replace(next).inspect(|former| former.seal());
        }
        for number in numbers {
            let meta = RecordMeta { id: id(number), ..RecordMeta::default() };
            state.append(Promise::Never, &meta, envelope_and_content[0], &[envelope_and_content[1]]).unwrap();
        }
        let write = state.start(false).unwrap();
        let segment = segment.as_ref().unwrap();
        segment.file.write_all_at(&write.bytes, write.offset).unwrap();
        state.complete(write.flight, Ok(write.bytes.len()), write.bytes, &mut Vec::new()).unwrap();
        segment.publish(state.readable().unwrap().end);
    }
    feeds[0].incoming.try_iter().filter(|segment| segment.committed() > FIRST_BATCH_AT).count()
}

/// Bytes that this thread has read by system calls since it began.
fn bytes_read() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/io").unwrap();
    text.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

#[test]
fn a_start_reads_three_blocks_of_a_segment_whatever_is_in_it() {
    let dir = TempDir::new().unwrap();
    let filled_count = fill(dir.path(), MESSAGES_COUNT);
    assert!(filled_count > 20, "{filled_count}");
    let segments_count = fs::read_dir(dir.path().join("shard-000")).unwrap().count() / 2;
    let before = bytes_read();
    let spool = Spool::open(options(dir.path(), 1)).unwrap();
    let read = bytes_read() - before;
    assert!(read < segments_count as u64 * 3 * 4096 + 4096, "{read} bytes of {segments_count} segments");
    // And all of the mail is there for whoever reads on.
    let (_keeper, handles, feeds) = spool.start().unwrap();
    take(&handles[0]);
    assert_eq!(feeds[0].recovered.len(), filled_count);
    let mut next = 0;
    for segment in &feeds[0].recovered {
        assert_eq!(segment.committed(), FIRST_BATCH_AT, "not read before it is its turn");
        let mut reader = Reader::new(Arc::clone(segment));
        while let Some(Found::Record(record)) = reader.next().unwrap() {
            assert_eq!(record.meta.id, id(next));
            next += 1;
        }
        assert!(reader.is_finished());
    }
    assert_eq!(next, MESSAGES_COUNT);
}

/// The first write to a segment has not arrived, a later one under way at the same time has.
#[test]
fn mail_behind_a_first_batch_that_did_not_arrive_is_found() {
    let dir = TempDir::new().unwrap();
    {
        let (_keeper, handles, _feeds) = start(dir.path(), 1);
        let segment = take(&handles[0]);
        commit_new(&segment, [1]);
        let offset = FIRST_BATCH_AT + 4096;
        let mut batch = Batch::begin(BlockBuffer::new(), segment.epoch, segment.key, offset, 1);
        batch.append(&RecordMeta { id: id(2), ..RecordMeta::default() }, b"envelope", &[&content(2)]);
        segment.file.write_all_at(&batch.finish(FIRST_BATCH_AT), offset).unwrap();
        segment.file.write_all_at(&[0; 4096], FIRST_BATCH_AT).unwrap();
    }
    let (_keeper, handles, feeds) = start(dir.path(), 1);
    wait_until("segments are ready", || handles[0].ready.is_full());
    let of_former_run = |segment: &Arc<Segment>| segment.committed() > FIRST_BATCH_AT;
    let mut found = None;
    wait_until("the keeper finds it", || {
        found = found.take().or_else(|| feeds[0].incoming.try_iter().find(of_former_run));
        found.is_some()
    });
    assert_eq!(read_all(&found.unwrap()).0.into_values().collect::<Vec<_>>(), [2]);
}

#[test]
fn a_segment_that_was_delivered_is_known_without_reading_it() {
    let dir = TempDir::new().unwrap();
    let segment = {
        let (_keeper, handles, _feeds) = start(dir.path(), 1);
        let segment = take(&handles[0]);
        commit_new(&segment, 1..9);
        acknowledge(&segment, |_| true);
        segment
    };
    let waiting = || Spool::open(options(dir.path(), 1)).unwrap().start().unwrap().2[0].recovered.len();
    let path = segment.ack_path();
    let without_note = fs::read(&path).unwrap();
    assert_eq!(waiting(), 1, "only its records tell that all are acknowledged");
    let damaged = |bytes: &[u8]| fs::write(&path, bytes).unwrap();
    note_complete(&path, segment.epoch).unwrap();
    let with_note = fs::read(&path).unwrap();
    let at = without_note.len();
    for byte in at..with_note.len() {
        let mut bytes = with_note.clone();
        bytes[byte] ^= 0x10;
        damaged(&bytes);
        assert_eq!(waiting(), 1, "byte {byte} of the note");
    }
    damaged(&[&without_note[..], &[0; 32]].concat());
    assert_eq!(waiting(), 1, "a blank note");
    damaged(&with_note);
    assert_eq!(AckSet::load(&segment).unwrap().count_below(u64::MAX), 8, "the note is no record's");
    assert_eq!(waiting(), 0);
}
