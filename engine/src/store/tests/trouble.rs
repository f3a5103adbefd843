//! Crashes, damage, full disks and second servers.

use std::cell::Cell;
use std::io;

use super::*;

fn all_files(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(path).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            let inner = all_files(&entry.path());
            files.extend(
                inner.into_iter().map(|(name, bytes)| (format!("{}/{name}", entry.path().display()), bytes)),
            );
        } else {
            files.insert(entry.path().display().to_string(), fs::read(entry.path()).unwrap());
        }
    }
    files
}

thread_local! {
    /// A segment of this number cannot be read.
    static UNREADABLE: Cell<Option<u32>> = const { Cell::new(None) };
}

/// What a disk with a bad sector says.
pub(in crate::store) fn fail_read(number: u32) -> io::Result<()> {
    let is_bad = UNREADABLE.get() == Some(number);
    if is_bad { Err(rustix::io::Errno::IO.into()) } else { Ok(()) }
}

#[test]
fn a_segment_that_the_disk_does_not_give_costs_no_other() {
    let dir = TempDir::new().unwrap();
    let (bad, good) = {
        let (_keeper, handles, _feeds) = start(dir.path(), 1);
        let (bad, good) = (take(&handles[0]), take(&handles[0]));
        commit_new(&bad, [1]);
        commit_new(&good, [2]);
        (bad, good)
    };
    UNREADABLE.set(Some(bad.number));
    let findings = inspect::verify(dir.path()).unwrap();
    assert!(findings.iter().any(|finding| finding.is_error && finding.path == bad.path), "{findings:?}");
    let mut listed = Vec::new();
    let damages_count = inspect::list(dir.path(), &mut |item| {
        listed.push(item.id);
        ControlFlow::Continue(())
    });
    assert_eq!((listed, damages_count.unwrap()), (vec![id(2)], 1));
    let epoch = {
        let (keeper, handles, feeds) = start(dir.path(), 1);
        assert_eq!(feeds[0].recovered.len(), 1);
        assert_eq!(feeds[0].recovered[0].epoch, good.epoch);
        assert!(feeds[0].former_content.has_damage, "no file of a large message is given up");
        assert!(keeper.state().counts().contains(&("unreadable", 1)) && keeper.state().is_healthy());
        take(&handles[0]).epoch
    };
    assert!(epoch > bad.epoch.max(good.epoch) + 1000, "no epoch comes again");
    assert!(bad.path.exists(), "left alone");
    // It was a cable.
    UNREADABLE.set(None);
    let (_keeper, _handles, feeds) = start(dir.path(), 1);
    let epochs: Vec<_> = feeds[0].recovered.iter().map(|segment| segment.epoch).collect();
    assert_eq!(epochs, [bad.epoch.min(good.epoch), bad.epoch.max(good.epoch)]);
}

#[test]
fn a_second_server_is_refused_and_told_who_holds_it() {
    let dir = TempDir::new().unwrap();
    let spool = Spool::open(options(dir.path(), 1)).unwrap();
    let error = Spool::open(options(dir.path(), 1)).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    let program = fs::read_to_string("/proc/self/comm").unwrap();
    assert!(
        error.to_string().contains(&format!("({}, pid {})", program.trim(), std::process::id())),
        "{error}"
    );
    drop(spool);
    Spool::open(options(dir.path(), 1)).unwrap();
}

#[test]
fn a_newer_spool_is_refused_untouched() {
    let dir = TempDir::new().unwrap();
    let segment = {
        let (_keeper, handles, _feeds) = start(dir.path(), 1);
        take(&handles[0])
    };
    fs::write(dir.path().join("shard-000/00000099.new"), "left over").unwrap();
    let refused = |what: &str| {
        let before = all_files(dir.path());
        let error = Spool::open(options(dir.path(), 2)).unwrap_err();
        assert!(matches!(error, StoreError::Newer { found: 3, .. }), "{what}: {error}");
        assert!(inspect::verify(dir.path()).is_err());
        assert_eq!(all_files(dir.path()), before, "{what}");
    };
    let marker = dir.path().join("ringmx-spool");
    let text = fs::read_to_string(&marker).unwrap();
    fs::write(&marker, text.replace('2', "3")).unwrap();
    refused("by its marker");
    fs::write(&marker, text).unwrap();
    let mut block = segment.header().encode();
    for at in [0, 2048] {
        block[at + 8] = 3;
        let crc = crc32c::crc32c(&block[at..at + 60]);
        block[at + 60..at + 64].copy_from_slice(&crc.to_le_bytes());
    }
    segment.file.write_all_at(&block, 0).unwrap();
    refused("by a segment");
}

#[test]
fn errors_name_path_reason_and_remedy() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Spool::open(options(&file.join("spool"), 1)).unwrap_err().to_string();
    assert!(error.contains("file/spool") && error.contains("; "), "{error}");
    let error = inspect::stat(dir.path()).unwrap_err().to_string();
    assert!(error.contains("no spool at"), "{error}");
    let mut small = options(dir.path(), 1);
    small.segment_size -= 4096;
    assert!(matches!(Spool::open(small), Err(StoreError::SegmentSize { .. })));
    fs::create_dir(dir.path().join("shard-000")).unwrap();
    let error = Spool::open(options(dir.path(), 1)).unwrap_err().to_string();
    assert!(error.contains("ringmx-spool") && error.contains("restore"), "{error}");
}

#[test]
fn what_an_interrupted_creation_or_removal_left_is_removed() {
    let dir = TempDir::new().unwrap();
    drop(start(dir.path(), 1));
    let shard = dir.path().join("shard-000");
    fs::write(shard.join("00000090.new"), "unfinished").unwrap();
    fs::write(shard.join("00000091.ack"), "of no segment").unwrap();
    fs::write(shard.join("00000092.gone"), "half removed").unwrap();
    fs::write(shard.join("00000092.ack"), "of a segment half removed").unwrap();
    let findings = inspect::verify(dir.path()).unwrap();
    let [finding] = &findings[..] else { panic!("{findings:?}") };
    assert!(finding.path.ends_with("00000091.seg"), "a removal that was cut off is no loss: {finding:?}");
    fs::write(shard.join("notes.txt"), "of the operator").unwrap();
    fs::create_dir(dir.path().join("shard-004.gone")).unwrap();
    fs::write(dir.path().join("shard-004.gone/00000001.seg"), "half removed").unwrap();
    let (_keeper, handles, feeds) = start(dir.path(), 1);
    take(&handles[0]);
    assert_eq!(feeds.len(), 1);
    for name in ["00000090.new", "00000091.ack", "00000092.gone", "00000092.ack"] {
        assert!(!shard.join(name).exists(), "{name}");
    }
    assert!(shard.join("notes.txt").exists() && !dir.path().join("shard-004.gone").exists());
}

#[test]
fn damage_is_reported_and_its_file_set_aside() {
    let dir = TempDir::new().unwrap();
    let (path, places) = {
        let (_keeper, handles, _feeds) = start(dir.path(), 1);
        let segment = take(&handles[0]);
        let mut state = GroupCommit::new();
        state.use_segment(&segment.header());
        let places = commit(&mut state, &segment, 1..4);
        commit(&mut state, &segment, [4]);
        segment.file.write_all_at(b"?", places[1].offset + 80).unwrap();
        (segment.path.clone(), places)
    };
    let (keeper, handles, feeds) = start(dir.path(), 1);
    let findings = inspect::verify(dir.path()).unwrap();
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(
        (findings[0].is_error, findings[0].offset, findings[0].id),
        (true, places[1].offset, Some(id(2)))
    );
    assert_eq!(findings[0].path, path);
    let segment = Arc::clone(&feeds[0].recovered[0]);
    let (records, damage_count) = read_all(&segment);
    assert_eq!((records.into_values().collect::<Vec<_>>(), damage_count), (vec![1, 3, 4], 1));
    acknowledge(&segment, |_| true);
    feeds[0].done.send(segment);
    wait_until("the file is set aside", || path.with_extension("damaged").exists());
    drop((keeper, handles, feeds));
    let (_keeper, _handles, feeds) = start(dir.path(), 1);
    assert!(feeds[0].recovered.is_empty());
    assert!(inspect::verify(dir.path()).unwrap().iter().any(|finding| finding.is_error));
}

#[test]
fn a_lost_header_is_taken_from_the_first_batch() {
    let dir = TempDir::new().unwrap();
    {
        let (_keeper, handles, _feeds) = start(dir.path(), 1);
        let (segment, unused) = (take(&handles[0]), take(&handles[0]));
        commit_new(&segment, [1, 2]);
        for file in [&segment.file, &unused.file] {
            file.write_all_at(&[0; 4096], 0).unwrap();
        }
    }
    let (_keeper, handles, feeds) = start(dir.path(), 1);
    assert_eq!(read_all(&feeds[0].recovered[0]).0.into_values().collect::<Vec<_>>(), [1, 2]);
    assert!(take(&handles[0]).epoch > feeds[0].recovered[0].epoch);
    assert_eq!(inspect::stat(dir.path()).unwrap()[0].set_aside_count, 1);
}

#[test]
fn what_was_set_aside_can_be_read_though_its_header_is_lost() {
    let dir = TempDir::new().unwrap();
    {
        let (_keeper, handles, _feeds) = start(dir.path(), 1);
        let segment = take(&handles[0]);
        let mut state = GroupCommit::new();
        state.use_segment(&segment.header());
        commit(&mut state, &segment, [1, 2]);
        commit(&mut state, &segment, [3]);
        // The segment's header and that of the first batch.
        segment.file.write_all_at(&[0; 4096 + 64], 0).unwrap();
    }
    let (_keeper, _handles, feeds) = start(dir.path(), 1);
    assert!(feeds[0].recovered.is_empty());
    let listed = |stop_at: Option<u32>| {
        let mut listed = Vec::new();
        list_set_aside(dir.path(), &mut |item| {
            assert_eq!((item.content, item.state), (&content(item.id.transaction)[..], State::SetAside));
            listed.push(item.id.transaction);
            if stop_at == Some(item.id.transaction) {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        listed
    };
    assert_eq!((listed(None), listed(Some(2))), (vec![1, 2, 3], vec![1, 2]));
}

#[test]
fn of_a_torn_last_batch_what_is_readable_is_kept_and_the_rest_no_error() {
    let dir = TempDir::new().unwrap();
    {
        let (_keeper, handles, _feeds) = start(dir.path(), 1);
        let segment = take(&handles[0]);
        let mut state = GroupCommit::new();
        state.use_segment(&segment.header());
        commit(&mut state, &segment, [1]);
        let places = commit(&mut state, &segment, 50..53);
        segment.file.write_all_at(&[0; 1024], places[2].offset - 512).unwrap();
    }
    let (_keeper, _handles, feeds) = start(dir.path(), 1);
    let (records, damage_count) = read_all(&feeds[0].recovered[0]);
    assert_eq!((records.into_values().collect::<Vec<_>>(), damage_count), (vec![1, 50], 2));
    let findings = inspect::verify(dir.path()).unwrap();
    assert!(findings.len() == 2 && findings.iter().all(|finding| !finding.is_error), "{findings:?}");
}

#[test]
fn the_keeper_says_when_it_cannot_and_goes_on_when_it_can() {
    let dir = TempDir::new().unwrap();
    drop(Spool::open(options(dir.path(), 1)).unwrap());
    let obstacle = dir.path().join("shard-000/00000001.ack");
    fs::create_dir_all(&obstacle).unwrap();
    fs::write(dir.path().join("shard-000/00000001.seg"), [0; 8192]).unwrap();
    // A file of number 1 is there and set aside, so the keeper begins with 2.
    let obstacle_2 = dir.path().join("shard-000/00000002.new");
    let spool = Spool::open(options(dir.path(), 1));
    assert!(spool.is_err(), "an acknowledgement file that is a directory is an error with its path");
    fs::remove_dir(&obstacle).unwrap();
    let spool = Spool::open(options(dir.path(), 1)).unwrap();
    fs::create_dir(&obstacle_2).unwrap();
    let (keeper, handles, _feeds) = spool.start().unwrap();
    wait_until("the error shows", || !keeper.state().is_healthy());
    assert!(handles[0].take().is_none() && !keeper.state().is_out_of_space());
    fs::remove_dir(&obstacle_2).unwrap();
    take(&handles[0]);
    wait_until("the error is gone", || keeper.state().is_healthy());
}

#[test]
fn a_failed_segment_is_not_written_again() {
    let dir = TempDir::new().unwrap();
    let (_keeper, handles, feeds) = start(dir.path(), 1);
    let segment = take(&handles[0]);
    take(&handles[0]);
    commit_new(&segment, [1]);
    segment.fail(None);
    assert_eq!(read_all(&segment).0.len(), 1, "what was committed is still delivered");
    acknowledge(&segment, |_| true);
    let path = segment.path.clone();
    feeds[0].done.send(segment);
    wait_until("the file is gone", || !path.exists() && !path.with_extension("ack").exists());
}

#[test]
fn acknowledgements_outlive_a_cut_entry_and_another_epoch() {
    let dir = TempDir::new().unwrap();
    let (_keeper, handles, _feeds) = start(dir.path(), 1);
    let segment = take(&handles[0]);
    commit_new(&segment, 1..4);
    acknowledge(&segment, |number| number == 1);
    let mut bytes = fs::read(segment.ack_path()).unwrap();
    let other = SegmentHeader { epoch: segment.epoch + 1, ..segment.header() };
    let stranger = Segment::fresh(&other, segment.path.clone(), segment.file.try_clone().unwrap());
    let mut acks = AckWriter::open(&stranger).unwrap();
    acks.push(FIRST_BATCH_AT + 64, id(2), AckKind::Failed);
    acks.flush().unwrap();
    bytes = [fs::read(segment.ack_path()).unwrap(), bytes[..17].to_vec()].concat();
    fs::write(segment.ack_path(), bytes).unwrap();
    acknowledge(&segment, |number| number == 3);
    let acks = AckSet::load(&segment).unwrap();
    let acked =
        read_all(&segment).0.into_iter().filter(|&(offset, number)| acks.contains(offset, id(number)));
    assert_eq!(acked.map(|(_, number)| number).collect::<Vec<_>>(), [1, 3]);
    assert_eq!((acks.count_below(u64::MAX), acks.unreadable.len()), (2, 1));
}
