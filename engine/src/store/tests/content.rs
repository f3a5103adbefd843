//! Files of large messages: where they come from, and what a start makes of those that it finds.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;

use super::*;
use crate::spool::content_ref::ContentRef;
use crate::spool::record::RecordKind;

fn take_file(handles: &ShardHandles) -> Arc<ContentFile> {
    wait_until("a content file is ready", || handles.content.is_ready());
    handles.content.take().unwrap()
}

/// Puts bytes into it as a worker does: whole blocks.
fn fill(file: &ContentFile, byte: u8) {
    let mut block = ringmx_ring::BlockBuffer::new();
    block.resize(8192, byte);
    file.file.write_all_at(&block, 0).unwrap();
    file.file.sync_data().unwrap();
}

fn len(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|metadata| metadata.len())
}

/// A record that names the file, in a segment of the shard.
fn name(handles: &ShardHandles, file: &ContentFile, number: u32) -> (Arc<Segment>, Place) {
    let (segment, mut commit) = (take(handles), GroupCommit::new());
    commit.use_segment(&segment.header());
    let meta = RecordMeta { kind: RecordKind::File, id: id(number), ..RecordMeta::default() };
    let named = ContentRef { number: file.number, crc: crc32c::crc32c(&[7; 8192]), len: 8192 };
    let place = commit.append(Promise::Never, &meta, b"envelope", &[&named.encode()]).unwrap();
    let write = commit.start(false).unwrap();
    segment.file.write_all_at(&write.bytes, write.offset).unwrap();
    let end = write.offset + write.bytes.len() as u64;
    commit.complete(write.flight, Ok(write.bytes.len()), write.bytes, &mut Vec::new()).unwrap();
    segment.publish(end);
    (segment, place)
}

/// The content of the message 1.
fn cat(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut found = None;
    inspect::list(path, &mut |listed| {
        if listed.id == id(1) {
            let mut content = Vec::new();
            found = Some(
                listed.check_content().and_then(|()| listed.write_content(&mut content)).map(|()| content),
            );
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    found.unwrap()
}

#[test]
fn files_have_their_own_names_and_come_back_empty() {
    let dir = TempDir::new().unwrap();
    let (_keeper, handles, feeds) = start(dir.path(), 1);
    let (first, second, third) = (take_file(&handles[0]), take_file(&handles[0]), take_file(&handles[0]));
    assert!(first.number != second.number && second.number != third.number);
    [&first, &second, &third].into_iter().for_each(|file| fill(file, 1));
    let paths = [first.path.clone(), second.path.clone(), third.path.clone()];
    assert!(paths.iter().all(|path| len(path) == Some(8192)));
    let number = third.number;
    handles[0].content.give_back(first, false);
    handles[0].content.give_back(second, true);
    feeds[0].done.send_content(number);
    wait_until("an aborted one is emptied", || len(&paths[0]) == Some(0));
    wait_until("one that failed is gone", || len(&paths[1]).is_none());
    wait_until("a delivered one is emptied", || len(&paths[2]) == Some(0));
}

#[test]
fn a_thousand_aborted_messages_leave_no_more_files_than_are_kept() {
    let dir = TempDir::new().unwrap();
    let (_keeper, handles, feeds) = start(dir.path(), 1);
    for _ in 0..1000 {
        let file = take_file(&handles[0]);
        file.file.set_len(100).unwrap();
        handles[0].content.give_back(file, false);
    }
    let directory = &feeds[0].directory;
    let lens = || {
        let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        let paths = paths.filter(|path| path.extension().is_some_and(|extension| extension == "content"));
        paths.filter_map(|path| len(&path)).collect::<Vec<_>>()
    };
    wait_until("all are empty, and few", || lens().len() <= 200 && lens().iter().all(|&len| len == 0));
}

#[test]
fn what_a_former_run_left_is_told_and_left_alone() {
    let dir = TempDir::new().unwrap();
    let (keeper, handles, feeds) = start(dir.path(), 1);
    let files = [take_file(&handles[0]), take_file(&handles[0]), take_file(&handles[0])];
    files.iter().for_each(|file| fill(file, 7));
    let (waiting, _) = name(&handles[0], &files[0], 1);
    let (delivered, place) = name(&handles[0], &files[1], 2);
    let mut acks = AckWriter::open(&delivered).unwrap();
    acks.push(place.offset, id(2), AckKind::Delivered);
    acks.flush().unwrap();
    let paths = files.each_ref().map(|file| file.path.clone());
    let numbers = files.iter().map(|file| file.number).collect::<BTreeSet<_>>();
    drop((waiting, delivered, acks, files, handles, feeds, keeper));

    // Which of them waits, and which one only its aborted message named, egress finds out.
    let (keeper, handles, feeds) = start(dir.path(), 1);
    assert_eq!(feeds[0].former_content.unnamed, numbers);
    assert!(!numbers.contains(&take_file(&handles[0]).number));
    wait_until("the former segments are sorted", || feeds[0].former_content.is_known());
    assert!(paths.iter().all(|path| len(path) == Some(8192)));
    assert_eq!(cat(dir.path()).unwrap(), [7; 8192]);
    assert!(inspect::verify(dir.path()).unwrap().iter().all(|finding| !finding.is_error));
    drop((handles, feeds, keeper));

    // The file of waiting mail is damaged, then gone: told with its name and the message's.
    let mut octets = fs::read(&paths[0]).unwrap();
    octets[5000] ^= 1;
    fs::write(&paths[0], octets).unwrap();
    let findings = |what: &str| {
        let found = inspect::verify(dir.path()).unwrap();
        let of_file = found
            .iter()
            .any(|finding| finding.is_error && finding.path == paths[0] && finding.id == Some(id(1)));
        assert!(of_file, "{what}: {found:?}");
        assert!(cat(dir.path()).is_err(), "{what}");
    };
    findings("a flipped bit");
    fs::remove_file(&paths[0]).unwrap();
    findings("a missing file");
}
