//! Mail that is not delivered at once: it leaves the intake's segments, and nothing of it is forgotten.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use super::*;
use crate::protocol::deferral::Deferral;
use crate::protocol::envelope::Envelope;
use crate::spool::ack::{ACK_LEN, entries};
use crate::store::inspect::{self, State};

const BY_DOMAIN: &str = r#"
    [[route]]
    domains = ["*"]
    deliver = "maildir"
    path = "DIR/mail/{domain}"
"#;
const A_IS_HELD: &str = r#"
    [[route]]
    domains = ["a.example"]
    deliver = "hold"
    [[route]]
    domains = ["*"]
    deliver = "maildir"
    path = "DIR/mail/{domain}"
"#;

/// A rig that cannot deliver to a.example.
fn rig() -> Rig {
    let rig = Rig::new(BY_DOMAIN);
    fs::create_dir(rig.path("mail")).unwrap();
    fs::write(rig.path("mail/a.example"), b"a file where a directory should be").unwrap();
    rig
}

/// What the spool says of its undelivered messages: recipients and deferral.
fn undelivered(rig: &Rig) -> BTreeMap<u32, (Vec<String>, Option<Deferral>)> {
    let mut found = BTreeMap::new();
    inspect::list(&rig.path("spool"), &mut |listed| {
        if listed.state == State::Undelivered {
            let recipients = Envelope::parse(listed.envelope).unwrap().recipients();
            let recipients = recipients.map(|path| path.escape_ascii().to_string()).collect();
            let former = found.insert(listed.id.transaction, (recipients, Deferral::read(listed.envelope)));
            assert!(former.is_none(), "{} is listed twice", listed.id);
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    found
}

/// Octets of the spool's files.
fn disk_used(rig: &Rig) -> u64 {
    let shard = rig.path("spool/shard-000");
    // The keeper may remove one meanwhile.
    fs::read_dir(shard)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().map_or(0, |metadata| metadata.len()))
        .sum()
}

#[test]
fn what_was_delivered_stays_delivered_and_attempts_are_counted_on() {
    let mut rig = rig();
    rig.commit(1, &["x@a.example", "x@b.example", "y@a.example", "x@c.example"], b"one\r\n");
    wait_until("three attempts fail", || rig.stats().failed_attempts.get() >= 3);
    assert_eq!(rig.stats().files.get(), 2);
    fs::remove_dir_all(rig.path("mail/b.example")).unwrap();
    let rig = rig.restart(BY_DOMAIN);
    let attempts = |rig: &Rig| undelivered(rig)[&1].1.as_ref().map_or(0, |deferral| deferral.attempts);
    wait_until("another fails", || attempts(&rig) >= 4);
    let (recipients, deferral) = undelivered(&rig).remove(&1).expect("it is listed");
    let deferral = deferral.expect("it was tried");
    assert_eq!(recipients, ["x@a.example", "y@a.example"]);
    assert!(rig.stats().failed_attempts.get() < 100 && deferral.attempts < 200, "{deferral:?}");
    assert!(deferral.due_unix_us.is_some_and(|due| due > deferral.since_unix_us));
    assert!(deferral.last_error.contains("mail/a.example"), "{deferral:?}");
    assert!(!rig.path("mail/b.example").exists(), "what was delivered is not delivered again");
    fs::remove_file(rig.path("mail/a.example")).unwrap();
    rig.wait_delivered(1);
    assert_eq!((rig.mail("mail/a.example").len(), rig.stats().files.get()), (1, 1));
    assert_eq!(undelivered(&rig), BTreeMap::new());
    let rig = rig.restart(BY_DOMAIN);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!((rig.stats().files.get(), rig.stats().deferred_now.get()), (0, 0));
}

#[test]
fn mail_that_is_held_for_one_is_not_repeated_for_others() {
    let mut rig = Rig::new(A_IS_HELD);
    rig.commit(1, &["x@a.example", "x@b.example"], b"one\r\n");
    wait_until("it is held", || rig.stats().deferred_now.get() == 1);
    assert_eq!((rig.stats().files.get(), rig.stats().waiting_now.get()), (1, 0));
    let rig = rig.restart(A_IS_HELD);
    wait_until("it is looked at again", || rig.stats().kept.get() == 1);
    assert_eq!((rig.stats().files.get(), rig.stats().deferred_now.get()), (0, 1));
    assert_eq!(undelivered(&rig)[&1].0, ["x@a.example"]);
    let rig = rig.restart(BY_DOMAIN);
    rig.wait_delivered(1);
    assert_eq!((rig.stats().files.get(), rig.mail("mail/a.example").len()), (1, 1));
}

#[test]
fn a_crash_before_the_acknowledgement_leaves_one_message_not_two() {
    let mut rig = rig();
    rig.commit(1, &["x@a.example"], b"one\r\n");
    rig.commit(2, &["x@b.example"], b"two\r\n");
    wait_until("one is deferred", || rig.stats().deferred_now.get() == 1 && rig.stats().delivered.get() == 1);
    let segment = rig.workers[0].segment.clone().unwrap();
    drop((rig.egress.take(), rig.keeper.take()));
    // The copy is durable, the acknowledgement of what it was made of is not.
    let acks = fs::read(segment.ack_path()).unwrap();
    let is_delivered = |entry: &[u8]| entries(entry).any(|ack| ack.is_ok_and(|ack| ack.id == id(2)));
    let delivered: Vec<u8> =
        acks.chunks(ACK_LEN).filter(|entry| is_delivered(entry)).flatten().copied().collect();
    assert_eq!((acks.len(), delivered.len()), (2 * ACK_LEN, ACK_LEN));
    fs::write(segment.ack_path(), delivered).unwrap();
    drop(segment);
    let rig = rig.restart(BY_DOMAIN);
    wait_until("it fails again", || rig.stats().failed_attempts.get() >= 1);
    wait_until("the intake is settled", || rig.stats().segments_now.get() <= 4);
    assert_eq!((rig.stats().deferred_now.get(), rig.stats().deferrals.get()), (1, 0));
    fs::remove_file(rig.path("mail/a.example")).unwrap();
    rig.wait_delivered(1);
    let rig = rig.restart(BY_DOMAIN);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(rig.stats().files.get(), 0);
}

#[test]
fn a_crash_after_the_delivery_of_the_copy_does_not_bring_the_first_record_back() {
    let mut rig = rig();
    rig.commit(1, &["x@a.example"], b"one\r\n");
    wait_until("it is deferred", || rig.stats().deferred_now.get() == 1);
    let segment = rig.workers[0].segment.clone().unwrap();
    drop((rig.egress.take(), rig.keeper.take()));
    fs::write(segment.ack_path(), b"").unwrap();
    drop(segment);
    fs::remove_file(rig.path("mail/a.example")).unwrap();
    // However soon after its delivery the process ends, the copy says that it was made.
    for _ in 0..5 {
        rig = rig.restart(BY_DOMAIN);
        std::thread::sleep(Duration::from_millis(5));
    }
    wait_until("it is delivered", || rig.path("mail/a.example/new").join(name(1)).exists());
    wait_until("nothing is under way", || rig.stats().in_flight_now.get() == 0);
    fs::remove_file(rig.path("mail/a.example/new").join(name(1))).unwrap();
    let rig = rig.restart(BY_DOMAIN);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(rig.stats().files.get(), 0);
}

#[test]
fn one_dead_route_neither_holds_the_intake_nor_fills_the_disk() {
    const COUNT: u32 = 10_000;
    let mut rig = rig();
    let segment_size = segment_size_min(MESSAGE_SIZE_MAX);
    let content = "x".repeat(2000);
    let mut used_max = 0;
    for number in 1..=COUNT {
        let to = if number % 100 == 0 { "x@a.example" } else { "x@b.example" };
        rig.commit(number, &[to], content.as_bytes());
        if number % 500 == 0 {
            let tried = || rig.stats().delivered.get() + rig.stats().deferred_now.get();
            wait_until("all are tried", || tried() == u64::from(number));
            used_max = used_max.max(disk_used(&rig));
            // A reader takes its mail.
            files_removed(&rig.path("mail/b.example/new"));
        }
    }
    rig.workers[0].seal();
    wait_until("the intake's segments are given back", || rig.stats().segments_now.get() <= 4);
    assert_eq!(rig.stats().deferred_now.get(), u64::from(COUNT) / 100);
    wait_until("the disk is tidy", || {
        let live_len = rig.stats().deferred_octets_now.get();
        disk_used(&rig) <= 2 * live_len + 10 * segment_size
    });
    let rolled = u64::from(COUNT) * 4096 / segment_size;
    assert!(rolled > 50, "{rolled} segments were filled");
    assert!(
        used_max <= 2 * rig.stats().deferred_octets_now.get() + 14 * segment_size,
        "{used_max} octets at most while {rolled} segments were filled"
    );
    // They are tried for ever, with an update each time: that takes no room either.
    let failed = rig.stats().failed_attempts.get();
    wait_until("more attempts fail", || {
        rig.stats().failed_attempts.get() > failed + 5 * u64::from(COUNT) / 100
    });
    let live_len = rig.stats().deferred_octets_now.get();
    assert!(disk_used(&rig) <= 2 * live_len + 10 * segment_size, "{} {live_len}", disk_used(&rig));
    let rig = rig.restart(BY_DOMAIN);
    wait_until("all are known", || rig.stats().deferred_now.get() == u64::from(COUNT) / 100);
    fs::remove_file(rig.path("mail/a.example")).unwrap();
    rig.wait_delivered(u64::from(COUNT) / 100);
    assert_eq!(rig.mail("mail/a.example").len(), COUNT as usize / 100);
    wait_until("all is given back", || rig.stats().deferred_segments_now.get() <= 1);
}

fn files_removed(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        drop(fs::remove_file(entry.path()));
    }
}

#[test]
fn what_is_left_of_a_segment_is_moved_together() {
    const COUNT: u32 = 400;
    let mut rig = rig();
    let content = |number: u32| format!("{number}\r\n{}\r\n", "x".repeat(number as usize * 37 % 15_000));
    fs::write(rig.path("mail/b.example"), b"in the way too").unwrap();
    for number in 1..=COUNT {
        let to = if number % 10 == 0 { "x@a.example" } else { "x@b.example" };
        rig.commit(number, &[to], content(number).as_bytes());
    }
    wait_until("all are deferred", || rig.stats().deferred_now.get() == u64::from(COUNT));
    let segments_before = rig.stats().deferred_segments_now.get();
    assert!(segments_before > 4, "{segments_before}");
    fs::remove_file(rig.path("mail/b.example")).unwrap();
    rig.wait_delivered(u64::from(COUNT) * 9 / 10);
    wait_until("segments are compacted", || {
        rig.stats().deferred_segments_now.get() < segments_before.div_ceil(2)
            && rig.stats().compacted.get() > 0
    });
    let left: BTreeSet<u32> = undelivered(&rig).into_keys().collect();
    assert_eq!(left, (1..=COUNT).filter(|number| number % 10 == 0).collect());
    let rig = rig.restart(BY_DOMAIN);
    fs::remove_file(rig.path("mail/a.example")).unwrap();
    rig.wait_delivered(u64::from(COUNT) / 10);
    let mail = rig.mail("mail/a.example");
    for number in left {
        assert!(mail[&name(number)].ends_with(content(number).replace("\r\n", "\n").as_bytes()), "{number}");
    }
    assert_eq!(inspect::verify(&rig.path("spool")).unwrap(), []);
}

#[test]
fn mail_beyond_the_index_waits_in_its_segments() {
    const COUNT: u32 = 2500;
    let mut rig = rig();
    for number in 1..=COUNT {
        rig.commit(number, &["x@a.example"], b"content\r\n");
    }
    wait_until("all are deferred", || rig.stats().deferrals.get() == u64::from(COUNT));
    rig.workers[0].seal();
    wait_until("the intake goes on", || rig.stats().segments_now.get() <= 4);
    assert_eq!(rig.stats().deferred_now.get(), 1000, "as many as the index holds in tests");
    let rig = rig.restart(BY_DOMAIN);
    wait_until("the index is full again", || rig.stats().deferred_now.get() == 1000);
    assert_eq!(undelivered(&rig).len(), COUNT as usize);
    fs::remove_file(rig.path("mail/a.example")).unwrap();
    rig.wait_delivered(u64::from(COUNT));
    assert_eq!(rig.stats().files.get(), u64::from(COUNT), "each once");
    wait_until("nothing is left", || rig.stats().deferred_octets_now.get() == 0);
}

#[test]
fn damage_met_by_an_attempt_costs_no_other() {
    let mut rig = rig();
    for number in 1..=3 {
        rig.commit(number, &["x@a.example"], b"content\r\n");
        wait_until("it is deferred", || rig.stats().deferred_now.get() == u64::from(number));
    }
    let mut places = BTreeMap::new();
    inspect::list(&rig.path("spool"), &mut |listed| {
        places.insert(listed.id.transaction, (listed.path.to_owned(), listed.offset));
        ControlFlow::Continue(())
    })
    .unwrap();
    let (path, offset) = &places[&2];
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(b"\xff", offset + 70).unwrap();
    wait_until("it is noticed", || rig.stats().deferred_now.get() == 2);
    assert!(rig.stats().damages.get() > 0);
    let shard = rig.path("spool/shard-000");
    wait_until("the segment is set aside", || names_in(&shard).iter().any(|n| n.ends_with(".damaged")));
    fs::remove_file(rig.path("mail/a.example")).unwrap();
    rig.wait_delivered(2);
    assert_eq!(rig.mail("mail/a.example").into_keys().collect::<Vec<_>>(), [name(1), name(3)]);
}

#[test]
fn damage_to_a_deferred_message_costs_no_other() {
    let mut rig = rig();
    for number in 1..=3 {
        rig.commit(number, &["x@a.example"], b"content\r\n");
        wait_until("it is deferred", || rig.stats().deferred_now.get() == u64::from(number));
    }
    let mut paths = BTreeMap::new();
    inspect::list(&rig.path("spool"), &mut |listed| {
        paths.insert(listed.id.transaction, (listed.path.to_owned(), listed.offset));
        ControlFlow::Continue(())
    })
    .unwrap();
    let (path, offset) = &paths[&2];
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(b"\xff", offset + 70).unwrap();
    let rig = rig.restart(BY_DOMAIN);
    fs::remove_file(rig.path("mail/a.example")).unwrap();
    rig.wait_delivered(2);
    assert_eq!(rig.mail("mail/a.example").into_keys().collect::<Vec<_>>(), [name(1), name(3)]);
    let shard = rig.path("spool/shard-000");
    wait_until("the segment is set aside", || names_in(&shard).iter().any(|n| n.ends_with(".damaged")));
}

/// A disk that is full, one that fails its writes, and one that fails its syncs.
#[test]
fn a_failed_write_to_the_deferred_mail_loses_none_and_doubles_none() {
    for file in ["/dev/full", "/proc/self/mem", "/dev/null"] {
        let dir = Arc::new(TempDir::new().unwrap());
        fs::create_dir(dir.path().join("mail")).unwrap();
        fs::write(dir.path().join("mail/a.example"), b"a file where a directory should be").unwrap();
        let fail = |feeds: &mut [ShardFeed]| {
            feeds[0].log.go_on_in(fs::OpenOptions::new().write(true).open(file).unwrap());
        };
        let mut rig = Rig::with(dir, BY_DOMAIN, 1, |options| options, fail);
        for number in 1..=20 {
            rig.commit(number, &["x@a.example", "x@b.example"], b"hello\r\n");
        }
        wait_until("all are deferred in the end", || rig.stats().deferred_now.get() == 20);
        let waiting = undelivered(&rig);
        assert!((1..=20).all(|number| waiting[&number].0 == ["x@a.example"]), "{file}: {waiting:?}");
        assert_eq!(rig.mail("mail/b.example").len(), 20, "{file}");
        fs::remove_file(rig.path("mail/a.example")).unwrap();
        rig.wait_delivered(20);
        assert_eq!(rig.mail("mail/a.example").len(), 20, "{file}");
        let rig = rig.restart(BY_DOMAIN);
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!((rig.stats().files.get(), rig.stats().deferred_now.get()), (0, 0), "{file}");
    }
}
