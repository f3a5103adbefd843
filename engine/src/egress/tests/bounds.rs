//! How much is under way, read and moved at once, on the real spool.

use std::collections::HashSet;

use socket2::{Domain, Socket, Type};

use super::super::deferred::DeferredMail;
use super::super::job::{Change, Source};
use super::super::moves::{self, Move, MoveKind, Moved, Sources, Target};
use super::super::report::Report;
use super::super::segments::Segments;
use super::*;
use crate::limits::{
    COMPACTION_COUNT_MAX, COMPACTION_LEN_MAX, DEFERRED_INDEX_COUNT_MAX, DELIVERED_CONTENT_LEN_MAX,
    READING_SEGMENTS_COUNT_MAX, RELAY_RETRIES_COUNT_MAX, RELAYS_COUNT_MAX, UNINDEXED_TIME_MAX,
};
use crate::protocol::deferral::{Deferral, Fate, Mark};
use crate::spool::index::{Entry, Index, Spot};
use crate::store::{DeferError, DeferredLog, read_backlog};

const BY_DOMAIN: &str = r#"
    [[route]]
    domains = ["*"]
    deliver = "maildir"
    path = "DIR/mail/{domain}"
"#;

/// A next hop that lets everybody connect and says nothing, and the routes on which a.example goes to it. It refuses
/// connections once it is dropped.
fn silent_hop() -> (Socket, String) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(1024).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let route = format!(
        "[[route]]\ndomains = [\"a.example\"]\ndeliver = \"smtp\"\nnext_hop = [\"{address}\"]\ntls = \"off\"\n\
         connections_max = 1000\n"
    );
    (socket, format!("{route}{BY_DOMAIN}"))
}

fn options(dir: &TempDir, size_max: u64, segment_size: u64) -> SpoolOptions {
    let mut options = SpoolOptions::new(dir.path().join("spool"), 1, size_max);
    options.segment_size = segment_size;
    options
}

/// A spool without its egress.
fn spool(options: SpoolOptions) -> (Keeper, Worker, ShardFeed) {
    let (keeper, mut handles, mut feeds) = Spool::open(options).unwrap().start().unwrap();
    let bell = Arc::new(Doorbell::new().unwrap());
    let worker = Worker { bell, handles: handles.remove(0), commit: GroupCommit::new(), segment: None };
    (keeper, worker, feeds.remove(0))
}

fn wait_in_flight(rig: &Rig, count: usize) {
    wait_until("as many as may be are under way", || rig.stats().in_flight_now.get() == count as u64);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(rig.stats().in_flight_now.get(), count as u64, "and no more");
}

#[test]
fn a_silent_next_hop_has_so_many_messages_at_once() {
    let (hop, routes) = silent_hop();
    let mut rig = Rig::new(&routes);
    let count = RELAYS_COUNT_MAX as u32 + 40;
    for number in 1..=count {
        rig.commit(number, &["x@a.example"], b"content\r\n");
    }
    wait_in_flight(&rig, RELAYS_COUNT_MAX);
    drop(hop);
    wait_until("all are deferred", || rig.stats().deferred_now.get() == u64::from(count));
}

#[test]
fn a_silent_next_hop_has_so_many_retries_at_once_and_fresh_mail_goes_on() {
    let (hop, routes) = silent_hop();
    let mut rig = Rig::new(BY_DOMAIN);
    fs::create_dir(rig.path("mail")).unwrap();
    fs::write(rig.path("mail/a.example"), b"a file where a directory should be").unwrap();
    let count = RELAY_RETRIES_COUNT_MAX as u32 + 40;
    for number in 1..=count {
        rig.commit(number, &["x@a.example"], b"content\r\n");
    }
    wait_until("all are deferred", || rig.stats().deferred_now.get() == u64::from(count));
    let config = configuration(rig.dir.path(), &routes);
    rig.egress.as_ref().unwrap().router().route_by(Arc::new(config));
    wait_in_flight(&rig, RELAY_RETRIES_COUNT_MAX);
    rig.commit(count + 1, &["x@b.example"], b"content\r\n");
    rig.wait_delivered(1);
    wait_in_flight(&rig, RELAY_RETRIES_COUNT_MAX);
    drop(hop);
}

#[test]
fn content_that_a_silent_next_hop_does_not_take_is_bounded() {
    const LEN: usize = 1 << 20;
    let (hop, routes) = silent_hop();
    let dir = Arc::new(TempDir::new().unwrap());
    let change = |options: SpoolOptions| SpoolOptions {
        max_message_size: LEN as u64,
        segment_size: 8 * segment_size_min(LEN as u64),
        ..options
    };
    let mut rig = Rig::with(dir, &routes, 1, change, |_| {});
    let count = DELIVERED_CONTENT_LEN_MAX / LEN + 3;
    for number in 1..=count as u32 {
        rig.commit(number, &["x@a.example"], &vec![b'x'; LEN]);
    }
    wait_in_flight(&rig, DELIVERED_CONTENT_LEN_MAX / LEN);
    drop(hop);
    wait_until("all are deferred", || rig.stats().deferred_now.get() == count as u64);
}

#[test]
fn so_many_segments_are_read_at_once() {
    let dir = TempDir::new().unwrap();
    let (_keeper, mut worker, feed) =
        spool(options(&dir, MESSAGE_SIZE_MAX, segment_size_min(MESSAGE_SIZE_MAX)));
    let mut segments = Segments::new(feed.recovered, feed.former_content, feed.incoming, feed.done);
    let (mut epochs, mut count) = (HashSet::new(), 0);
    while epochs.len() < READING_SEGMENTS_COUNT_MAX + 4 {
        count += 1;
        worker.commit(count, &["x@a.example"], &[b'x'; 19_000]);
        epochs.insert(worker.segment.as_ref().unwrap().epoch);
    }
    let (mut report, stats) = (Report::default(), EgressStats::new(0));
    segments.admit(&mut report);
    assert_eq!(segments.reading_count(), READING_SEGMENTS_COUNT_MAX);
    assert!(segments.count() >= epochs.len(), "the others wait");
    for number in 1..=count {
        let taken = segments.next(&mut report, &stats, |_, record| record.meta.id);
        assert_eq!(taken, Some(id(number)), "in order");
        segments.admit(&mut report);
        assert!(segments.reading_count() <= READING_SEGMENTS_COUNT_MAX);
    }
    assert_eq!(segments.next(&mut report, &stats, |_, record| record.meta.id), None);
}

/// As often as it takes until the keeper has made a segment.
fn run(mut make: impl FnMut() -> Vec<Move>, log: &mut DeferredLog) -> Vec<Moved> {
    loop {
        match moves::run(make(), log) {
            (moved, None) => return moved,
            (_, Some(DeferError::NoSegment)) => std::thread::sleep(Duration::from_millis(2)),
            (_, Some(error)) => panic!("{error}"),
        }
    }
}

#[test]
fn compaction_writes_so_much_at_once_and_holds_up_no_delivery() {
    const LEN: usize = 19_000;
    const COUNT: u32 = 2 * COMPACTION_LEN_MAX as u32 / LEN as u32;
    let dir = TempDir::new().unwrap();
    let (_keeper, mut worker, mut feed) = spool(options(&dir, MESSAGE_SIZE_MAX, 16 << 20));
    let mut segments = Segments::new(feed.recovered, feed.former_content, feed.incoming, feed.done);
    for number in 1..=COUNT {
        worker.commit(number, &["x@a.example"], &[b'x'; LEN]);
    }
    let (mut report, stats) = (Report::default(), EgressStats::new(0));
    segments.admit(&mut report);
    let source = |segment: &Arc<Segment>, offset| Source { segment: Arc::clone(segment), offset };
    let mut next =
        || segments.next(&mut report, &stats, |segment, record| source(segment, record.offset_in_segment));
    let sources: Vec<Source> = std::iter::from_fn(&mut next).collect();
    assert_eq!(sources.len(), COUNT as usize);
    let handle = Index::new(0).insert(Entry::new(Spot::new(0, 64, 64))).unwrap();
    let of = |message: &Source, kind, change| {
        let sources = Sources { message: message.clone(), update: None };
        Move { target: Target::Known(handle), sources, kind, change }
    };
    let change = Change {
        stays: None,
        failed: Vec::new(),
        since_unix_us: 1,
        due_unix_us: Some(2),
        attempts: 1,
        last_error: String::new(),
        mark: Mark::None,
        delay_told: false,
    };
    let make = || {
        let mut all: Vec<Move> = sources.iter().map(|source| of(source, MoveKind::Copy, None)).collect();
        all.push(of(&sources[0], MoveKind::Update, Some(change.clone())));
        all
    };
    let moved = run(make, &mut feed.log);
    let (mut lens, mut updates_count, mut left_count) = (Vec::new(), 0, 0);
    for moved in &moved {
        match moved {
            Moved::Done { kind: MoveKind::Copy, deferred, .. } => lens.push(deferred.len),
            Moved::Done { .. } => updates_count += 1,
            Moved::Not(_) => left_count += 1,
            Moved::Lost(_) => panic!("all can be read"),
        }
    }
    let (len, longest) = (lens.iter().sum::<u64>(), lens.iter().max().copied().unwrap());
    assert!(len > COMPACTION_LEN_MAX && len <= COMPACTION_LEN_MAX + longest, "{len}");
    assert_eq!((lens.len() + left_count, updates_count), (COUNT as usize, 1), "the delivery is noted");
}

/// What a start knows of so many deferred messages.
fn deferred(dir: &TempDir, count: usize) -> (Keeper, DeferredMail) {
    let options = || options(dir, MESSAGE_SIZE_MAX, 8 << 20);
    let (keeper, worker, mut feed) = spool(options());
    for number in 1..=count as u32 {
        let origin_offset = u64::from(number) * 64;
        let deferral = Deferral { origin_epoch: 1000, origin_offset, ..Deferral::default() };
        let mut envelope = Vec::new();
        deferral.rewrite(b"", |_| Fate::Stays, &mut envelope);
        let meta = RecordMeta { id: id(number), ..RecordMeta::default() };
        let mut append = || feed.log.append(&meta, &envelope, b"content\r\n");
        wait_until("a segment is ready", || !matches!(append(), Err(DeferError::NoSegment)));
    }
    feed.log.commit().unwrap();
    drop((keeper, worker, feed));
    let (keeper, _worker, feed) = spool(options());
    let mut deferred = DeferredMail::new(feed.log, &feed.deferred, feed.done, 0);
    let found = read_backlog(&feed.deferred, deferred.slots()).unwrap();
    assert_eq!(found.summary.messages.len(), count);
    deferred.load(feed.deferred, found.summary, &[]);
    (keeper, deferred)
}

#[test]
fn compaction_moves_so_many_records_at_once() {
    let dir = TempDir::new().unwrap();
    let (_keeper, mut deferred) = deferred(&dir, 2 * COMPACTION_COUNT_MAX + 10);
    let mut counts = || deferred.compaction(&HashSet::new()).len();
    assert_eq!([counts(), counts(), counts(), counts()], [COMPACTION_COUNT_MAX, COMPACTION_COUNT_MAX, 10, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_full_index_is_made_anew_after_its_time() {
    let dir = TempDir::new().unwrap();
    let (_keeper, known) = deferred(&dir, DEFERRED_INDEX_COUNT_MAX);
    tokio::time::advance(2 * UNINDEXED_TIME_MAX).await;
    assert!(!known.wants_reload(), "all have a place");
    drop(known);
    let dir = TempDir::new().unwrap();
    let (_keeper, known) = deferred(&dir, DEFERRED_INDEX_COUNT_MAX + 1);
    assert_eq!(known.counts().0, DEFERRED_INDEX_COUNT_MAX);
    tokio::time::advance(UNINDEXED_TIME_MAX - Duration::from_secs(1)).await;
    assert!(!known.wants_reload());
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(known.wants_reload());
}

#[test]
fn a_stop_waits_so_long_for_a_silent_next_hop_and_loses_nothing() {
    let (hop, routes) = silent_hop();
    let mut rig = Rig::new(&routes);
    rig.commit(1, &["x@a.example"], b"content\r\n");
    wait_until("it is under way", || rig.stats().in_flight_now.get() == 1);
    let egress = rig.egress.take().unwrap();
    let stats = Arc::clone(&egress.stats()[0]);
    egress.stop();
    assert_eq!(Arc::strong_count(&stats), 1, "the delivery thread has ended, and was not left behind");
    drop(hop);
    let rig = rig.restart(BY_DOMAIN);
    rig.wait_delivered(1);
}

#[test]
fn an_order_is_given_up_when_a_delivery_thread_hangs() {
    let shard = |number| {
        let (desk, inbox) = orders::desk();
        (Shard { number, bell: Arc::new(Doorbell::new().unwrap()), desk }, inbox)
    };
    let (shards, inboxes): (Vec<Shard>, Vec<_>) = (0..3).map(shard).unzip();
    let router = Router { shards, ..Router::to_nobody() };
    let named: Vec<Named> = (0..3).map(|shard| Named { shard, epoch: 1, offset: 64, id: id(1) }).collect();
    let order = || router.order_until(Instant::now() + Duration::from_millis(20), Verb::Retry, &named);
    assert_eq!(order(), None);
    drop(inboxes);
    assert_eq!(order(), None, "nor when it is gone");
}
