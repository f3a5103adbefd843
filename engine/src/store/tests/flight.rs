//! Batches between the worker that writes them and the reader: in memory, behind holes, lost.

use ringmx_ring::BlockBuffer;

use super::*;

/// Reads what is there now: numbers in order.
fn read_on(reader: &mut Reader) -> Vec<u32> {
    let mut numbers = Vec::new();
    while let Some(found) = reader.next().unwrap() {
        let Found::Record(record) = found else { panic!("damage") };
        assert_eq!(record.content, content(record.meta.id.transaction));
        numbers.push(record.meta.id.transaction);
    }
    numbers
}

/// Nothing is written to the disk where nothing need be read from it.
#[test]
fn what_is_lent_is_read_from_memory_and_the_rest_from_the_disk() {
    let dir = TempDir::new().unwrap();
    let (_keeper, handles, _feeds) = start(dir.path(), 1);
    let segment = take(&handles[0]);
    let mut commit = GroupCommit::new();
    commit.use_segment(&segment.header());
    let mut reader = Reader::new(Arc::clone(&segment));
    let mut expected = Vec::new();
    for (round, lend) in [true, true, false, true, false, false, true].into_iter().enumerate() {
        // Read at once, or together with the next.
        for batch in 0..=round % 3 {
            for number in 0..4 {
                let number = (round * 100 + batch * 10 + number) as u32;
                let meta = RecordMeta { id: id(number), ..RecordMeta::default() };
                commit.append(Promise::Never, &meta, b"envelope", &[&content(number)]).unwrap();
                expected.push(number);
            }
            let write = commit.start(false).unwrap();
            if !lend {
                segment.writer().write_all_at(&write.bytes, write.offset).unwrap();
            }
            let len = write.bytes.len();
            commit.complete(write.flight, Ok(len), write.bytes, &mut Vec::new()).unwrap();
            let written = commit.readable().unwrap();
            let unwanted =
                if lend { segment.lend(written.offset, written.bytes) } else { Some(written.bytes) };
            assert_eq!(unwanted.is_none(), lend);
            segment.publish(written.end);
        }
        assert_eq!(read_on(&mut reader), std::mem::take(&mut expected), "round {round}");
    }
    // All that was read has come back, and nothing else.
    assert_eq!(std::iter::from_fn(|| handles[0].take_spent()).count(), 1 + 2 + 1 + 1);
}

/// What was acknowledged behind the end of what a crash left must not stand for what is still to be delivered.
#[test]
fn acknowledgements_of_lost_mail_hide_no_other() {
    let dir = TempDir::new().unwrap();
    {
        let (_keeper, handles, _feeds) = start(dir.path(), 1);
        let segment = take(&handles[0]);
        let mut state = GroupCommit::new();
        state.use_segment(&segment.header());
        commit(&mut state, &segment, [1]);
        let place = commit(&mut state, &segment, [2])[0];
        acknowledge(&segment, |number| number == 2);
        // Nobody waited for the second batch: the power fails before it is on the disk.
        segment.writer().write_all_at(&BlockBuffer::from(&[0; 4096]), place.offset / 4096 * 4096).unwrap();
    }
    assert_eq!(inspect::stat(dir.path()).unwrap()[0].undelivered_count, 1);
    let (_keeper, _handles, feeds) = start(dir.path(), 1);
    let numbers: Vec<u32> = read_all(&feeds[0].recovered[0]).0.into_values().collect();
    assert_eq!(numbers, [1]);
}

/// A batch in flight fails, a later one was durable before: egress still gets it.
#[test]
fn what_is_durable_behind_a_failed_write_is_read() {
    let dir = TempDir::new().unwrap();
    let (_keeper, handles, _feeds) = start(dir.path(), 1);
    let segment = take(&handles[0]);
    let mut commit = GroupCommit::new();
    commit.use_segment(&segment.header());
    let writes = [1, 2, 3].map(|number| {
        let meta = RecordMeta { id: id(number), ..RecordMeta::default() };
        commit.append(Promise::BeforeReply(0), &meta, b"envelope", &[&content(number)]).unwrap();
        commit.start(false).unwrap()
    });
    for (index, write) in writes.into_iter().enumerate() {
        let fails = index == 1;
        if !fails {
            segment.writer().write_all_at(&write.bytes, write.offset).unwrap();
        }
        let result = if fails { Err(5) } else { Ok(write.bytes.len()) };
        assert_eq!(commit.complete(write.flight, result, write.bytes, &mut Vec::new()).is_err(), fails);
    }
    while let Some(written) = commit.readable() {
        segment.publish(written.end);
    }
    let mut reader = Reader::new(Arc::clone(&segment));
    assert_eq!(read_on(&mut reader), [1]);
    segment.fail(commit.durable_behind_hole(segment.epoch));
    let found = reader.next().unwrap();
    let Some(Found::Damage(hole)) = found else { panic!("{found:?}") };
    assert!(!segment.was_durable(&hole), "nobody was promised it");
    assert_eq!(read_on(&mut reader), [3]);
    assert!(reader.is_finished());
}
