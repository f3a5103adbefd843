//! The log of deferred mail, and what a start makes of it.

use std::fs::File;

use super::*;
use crate::protocol::deferral::{Deferral, Fate};
use crate::spool::backlog::Summary;
use crate::spool::record::RecordKind;

const KEY: u64 = 7;
/// A record of the intake, of a segment that is not there any more.
const INTAKE: Place = Place { epoch: 1000, offset: 4160 };

fn meta(number: u32) -> RecordMeta {
    RecordMeta { id: id(number), received_unix_us: u64::from(number), ..RecordMeta::default() }
}

/// An envelope that names its origin, due at `due`.
fn envelope(origin: Place, due: u64) -> Vec<u8> {
    let deferral = Deferral {
        origin_epoch: origin.epoch,
        origin_offset: origin.offset,
        due_unix_us: Some(due),
        ..Deferral::default()
    };
    let mut envelope = Vec::new();
    deferral.rewrite(b"", |_| Fate::Stays, &mut envelope);
    envelope
}

fn defer(log: &mut DeferredLog, number: u32, origin: Place, due: u64) -> Deferred {
    log.append(&meta(number), &envelope(origin, due), &content(number)).unwrap()
}

fn reserve(log: &DeferredLog, what: &str) {
    wait_until(what, || log.has_segment());
}

fn read(segments: &[Arc<Segment>]) -> Summary {
    let FormerMail { summary, unreadable, .. } =
        read_backlog(segments, |segment| segment.epoch as u32).unwrap();
    assert_eq!(unreadable.len(), 0);
    summary
}

fn places(summary: &Summary) -> Vec<(u64, u64, Option<u64>)> {
    let describe = |message: &crate::spool::backlog::Message| {
        let at = message.entry.message;
        (u64::from(at.slot), at.offset(), message.due_unix_us)
    };
    summary.messages.iter().map(describe).collect()
}

#[test]
fn what_was_deferred_is_found_by_the_next_start() {
    let dir = TempDir::new().unwrap();
    let origin = INTAKE;
    let (first, second, update) = {
        let (_keeper, _handles, mut feeds) = start(dir.path(), 1);
        let log = &mut feeds[0].log;
        reserve(log, "a deferred segment is ready");
        let first = defer(log, 1, origin, 10);
        let second = defer(log, 2, Place { offset: 8256, ..origin }, 20);
        assert!(!first.is_durable(), "not before the commit");
        log.commit().unwrap();
        assert!(first.is_durable() && second.is_durable());
        let update = RecordMeta { kind: RecordKind::Update, ..meta(1) };
        let update = log.append(&update, &envelope(first.place(), 30), b"").unwrap();
        log.commit().unwrap();
        // Not durable, so not there.
        defer(log, 3, Place { offset: 80, ..origin }, 40);
        let mut acks = AckWriter::open(&second.segment).unwrap();
        acks.push(second.offset, id(2), AckKind::Delivered);
        acks.flush().unwrap();
        (first, second, update)
    };
    let (_keeper, _handles, feeds) = start(dir.path(), 1);
    assert!(feeds[0].recovered.is_empty(), "no mail of the intake");
    let summary = read(&feeds[0].deferred);
    let place = first.place();
    assert_eq!(places(&summary), [(place.epoch, place.offset, Some(30))]);
    assert_eq!(summary.messages[0].entry.update().map(|update| update.offset()), Some(update.offset));
    assert_eq!(summary.segments[0].live_len, first.len + update.len);
    assert!(summary.is_copied(origin) && summary.is_copied(Place { offset: 8256, ..origin }));
    assert!(!summary.is_copied(Place { offset: 80, ..origin }));
    assert_eq!(second.segment.epoch, first.segment.epoch);
}

#[test]
fn a_crash_within_a_compaction_leaves_one_copy() {
    let dir = TempDir::new().unwrap();
    let origin = INTAKE;
    let (old, new) = {
        let (_keeper, _handles, mut feeds) = start(dir.path(), 1);
        let log = &mut feeds[0].log;
        reserve(log, "a deferred segment is ready");
        let old = defer(log, 1, origin, 10);
        log.commit().unwrap();
        log.seal();
        reserve(log, "another is ready");
        let new = defer(log, 1, old.place(), 10);
        log.commit().unwrap();
        (old, new)
    };
    for _ in 0..2 {
        let (_keeper, _handles, feeds) = start(dir.path(), 1);
        let summary = read(&feeds[0].deferred);
        assert_eq!(places(&summary), [(new.segment.epoch, new.offset, Some(10))]);
        let acks = AckSet::load(&old.segment).unwrap();
        assert_eq!(acks.kind(old.offset, id(1)), Some(AckKind::Moved), "said by the start that found both");
        // The last is the one that was ready.
        let live: Vec<_> = summary.segments.iter().map(|piece| piece.live_len).collect();
        assert_eq!(live[..2], [0, new.len]);
    }
    let mut listed = Vec::new();
    inspect::list(dir.path(), &mut |item| {
        listed.push((item.id, item.state, item.offset));
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(listed, [(id(1), State::Undelivered, new.offset)]);
    assert_eq!(inspect::stat(dir.path()).unwrap()[0].undelivered_count, 1);
}

#[test]
fn a_failed_write_is_repeated_in_another_segment() {
    let dir = TempDir::new().unwrap();
    let origin = INTAKE;
    let broken = {
        // Open for reading only: every write to it fails.
        let path = dir.path().join("broken.seg");
        fs::write(&path, vec![0; 1 << 20]).unwrap();
        let header = SegmentHeader {
            version: crate::spool::FORMAT_VERSION,
            role: crate::spool::segment::Role::Deferred,
            shard: 0,
            number: 900,
            epoch: 900,
            key: KEY,
            capacity: 1 << 20,
        };
        Arc::new(Segment::fresh(&header, path.clone(), File::open(path).unwrap()))
    };
    let ready = Arc::new(crossbeam_queue::ArrayQueue::new(1));
    ready.push(Arc::clone(&broken)).unwrap();
    let mut log = DeferredLog::new(Arc::clone(&ready), Nudge::default());
    let first = defer(&mut log, 1, origin, 10);
    assert!(matches!(log.commit(), Err(DeferError::Write(_))));
    assert!(!first.is_durable() && broken.is_sealed() && broken.is_unsound());
    assert!(matches!(log.append(&meta(1), b"", b""), Err(DeferError::NoSegment)));
    assert!(log.commit().is_ok(), "nothing waits");
    let (_keeper, _handles, mut feeds) = start(&dir.path().join("spool"), 1);
    let whole = &mut feeds[0].log;
    reserve(whole, "a segment is ready");
    let second = defer(whole, 1, origin, 10);
    whole.commit().unwrap();
    assert!(second.is_durable());
    assert_eq!(log.take_opened().len(), 1, "known to whoever gives it back");
}

#[test]
fn a_log_goes_on_in_the_next_segment() {
    let dir = TempDir::new().unwrap();
    let (_keeper, _handles, mut feeds) = start(dir.path(), 1);
    let log = &mut feeds[0].log;
    let mut written = Vec::new();
    for number in 1..400 {
        reserve(log, "a segment is ready");
        let origin = Place { epoch: INTAKE.epoch, offset: 8 * u64::from(number) };
        written.push(defer(log, number, origin, u64::from(number)));
        if number % 7 == 0 {
            log.commit().unwrap();
        }
    }
    log.commit().unwrap();
    log.seal();
    assert!(written.iter().all(Deferred::is_durable));
    let segments = log.take_opened();
    assert!(segments.len() > 2, "{}", segments.len());
    let expected: Vec<_> = (written.iter().zip(1..))
        .map(|(deferred, due)| (deferred.segment.epoch, deferred.offset, Some(due)))
        .collect();
    assert_eq!(places(&read(&segments)), expected);
    assert_eq!(inspect::verify(dir.path()).unwrap(), []);
}

#[test]
fn delivered_mail_stays_readable_as_long_as_it_is_to() {
    let dir = TempDir::new().unwrap();
    let delivered = |dir: &TempDir| {
        let mut delivered = Vec::new();
        inspect::list(dir.path(), &mut |item| {
            delivered.extend(Some(item.id.transaction).filter(|_| item.state == State::Delivered));
            ControlFlow::Continue(())
        })
        .unwrap();
        delivered
    };
    let with = |retention| {
        let options = SpoolOptions { retention, ..options(dir.path(), 1) };
        Spool::open(options).unwrap().start().unwrap()
    };
    let retained = Some(Retention::Time(Duration::from_secs(3600)));
    {
        let (_keeper, handles, feeds) = with(retained);
        for number in 1..=20 {
            let segment = take(&handles[0]);
            commit_new(&segment, [number]);
            segment.seal();
            acknowledge(&segment, |_| true);
            feeds[0].done.send(segment);
        }
        assert_eq!(delivered(&dir), (1..=20).collect::<Vec<_>>());
    }
    {
        let (_keeper, handles, feeds) = with(retained);
        assert!(feeds[0].recovered.is_empty());
        wait_until("all are ready", || handles[0].ready.is_full());
        assert_eq!(delivered(&dir).len(), 20, "a restart keeps them too");
    }
    let size = options(dir.path(), 1).segment_size;
    let (keeper, handles, _feeds) = with(Some(Retention::Octets(3 * size)));
    wait_until("all are ready", || handles[0].ready.is_full());
    // Two more files wait to be used again.
    wait_until("the newest are left", || {
        let delivered = delivered(&dir);
        delivered.len() <= 5 && delivered.ends_with(&[18, 19, 20])
    });
    wait_until("the others are used again or removed", || {
        let counts = BTreeMap::from(keeper.state().counts());
        counts["recycled"] + counts["deleted"] >= 15
    });
}
