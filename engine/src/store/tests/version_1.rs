//! A spool that was filled by a server of format version 1.

use super::*;
use crate::spool::FORMAT_VERSION;

/// Of the fixture: see `version-1/mx.toml`.
const SEGMENT_SIZE: u64 = 1 << 20;
const MESSAGES_COUNT: u32 = 12;

/// A copy, with the files at their full length.
fn fixture() -> TempDir {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/tests/version-1/spool");
    let dir = TempDir::new().unwrap();
    fs::copy(source.join("ringmx-spool"), dir.path().join("ringmx-spool")).unwrap();
    for shard in ["shard-000", "shard-001"] {
        fs::create_dir(dir.path().join(shard)).unwrap();
        for entry in fs::read_dir(source.join(shard)).unwrap().map(Result::unwrap) {
            let to = dir.path().join(shard).join(entry.file_name());
            fs::copy(entry.path(), &to).unwrap();
            if to.extension().unwrap() == "seg" {
                fs::File::options().write(true).open(&to).unwrap().set_len(SEGMENT_SIZE).unwrap();
            }
        }
    }
    dir
}

fn open(path: &Path) -> (Keeper, Vec<ShardHandles>, Vec<ShardFeed>) {
    Spool::open(SpoolOptions { segment_size: SEGMENT_SIZE, ..SpoolOptions::new(path, 2, 64 << 10) })
        .unwrap()
        .start()
        .unwrap()
}

/// The number of a message, which `send.py` has put into its subject, and the rest of the content after that.
fn number(content: &[u8]) -> u32 {
    let text = str::from_utf8(content).unwrap();
    let (_, sent) = text.split_once("Subject: message ").unwrap();
    let (number, body) = sent.split_once("\r\n\r\n").unwrap();
    let number = number.parse().unwrap();
    let lines: String =
        (0..number * number).map(|line| format!("line {line} of message {number}\r\n")).collect();
    assert_eq!(body, lines);
    number
}

/// Reads what waits and acknowledges it; returns the numbers in order.
fn deliver(feeds: &[ShardFeed]) -> Vec<u32> {
    let mut delivered = Vec::new();
    for segment in feeds.iter().flat_map(|feed| &feed.recovered) {
        let former = AckSet::load(segment).unwrap();
        let mut acks = AckWriter::open(segment).unwrap();
        let mut reader = Reader::new(Arc::clone(segment));
        while let Some(found) = reader.next().unwrap() {
            let Found::Record(record) = found else { panic!("{found:?}") };
            if !former.contains(record.offset_in_segment, record.meta.id) {
                delivered.push(number(record.content));
                acks.push(record.offset_in_segment, record.meta.id, AckKind::Delivered);
            }
        }
        acks.flush().unwrap();
    }
    delivered.sort_unstable();
    delivered
}

fn versions(path: &Path) -> BTreeSet<u8> {
    let mut versions = BTreeSet::new();
    for shard in ["shard-000", "shard-001"] {
        for entry in fs::read_dir(path.join(shard)).unwrap().map(Result::unwrap) {
            if entry.path().extension().unwrap() == "seg" {
                let bytes = fs::read(entry.path()).unwrap();
                versions.insert(SegmentHeader::parse(&bytes[..4096]).unwrap().version);
            }
        }
    }
    versions
}

#[test]
fn its_mail_is_delivered_once_and_it_becomes_the_present_version() {
    let dir = fixture();
    assert_eq!(versions(dir.path()), [1].into());
    let mut listed = BTreeMap::new();
    inspect::list(dir.path(), &mut |item| {
        listed.insert(number(item.content), item.state == State::Undelivered);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(listed, (1..=MESSAGES_COUNT).map(|number| (number, number % 3 != 0)).collect());
    assert_eq!(inspect::verify(dir.path()).unwrap(), []);
    let (keeper, handles, feeds) = open(dir.path());
    let marker = fs::read_to_string(dir.path().join("ringmx-spool")).unwrap();
    assert_eq!(marker, format!("ringmx spool, format version {FORMAT_VERSION}\n"));
    assert_eq!(deliver(&feeds), [1, 2, 4, 5, 7, 8, 10, 11]);
    // The first stop comes before the segments are given back.
    drop((keeper, handles, feeds));
    let (keeper, handles, mut feeds) = open(dir.path());
    assert!(deliver(&feeds).is_empty());
    for feed in &mut feeds {
        feed.recovered.drain(..).for_each(|segment| feed.done.send(segment));
    }
    drop((keeper, handles, feeds));
    let (keeper, handles, feeds) = open(dir.path());
    assert!(feeds.iter().all(|feed| feed.recovered.is_empty()));
    wait_until("segments are ready", || handles.iter().all(|shard| shard.ready.is_full()));
    assert_eq!(versions(dir.path()), [FORMAT_VERSION].into());
    commit_new(&take(&handles[0]), [77]);
    drop((keeper, handles, feeds));
    let (_keeper, _handles, feeds) = open(dir.path());
    assert_eq!(read_all(&feeds[0].recovered[0]).0.into_values().collect::<Vec<_>>(), [77]);
}

#[test]
fn a_stop_in_the_middle_of_the_change_is_harmless() {
    let dir = fixture();
    // The marker is of the present version, the segments are not yet.
    drop(Spool::open(SpoolOptions {
        segment_size: SEGMENT_SIZE,
        ..SpoolOptions::new(dir.path(), 2, 64 << 10)
    }));
    assert_eq!(versions(dir.path()), [1].into());
    let (_keeper, _handles, feeds) = open(dir.path());
    assert_eq!(deliver(&feeds), [1, 2, 4, 5, 7, 8, 10, 11]);
}
