//! Deliveries on the real file system, from a spool that a worker fills.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;
use crate::id::{MessageId, SessionId};
use crate::protocol::envelope::Writer;
use crate::protocol::path::{ForwardPath, Mailbox};
use crate::spool::commit::{GroupCommit, Promise};
use crate::spool::record::{self, RecordKind, RecordMeta};
use crate::spool::segment::segment_size_min;
use crate::store::{Keeper, Segment, ShardHandles, Spool, SpoolOptions};

mod bounds;
mod deferred;
mod large;

const MESSAGE_SIZE_MAX: u64 = 20_000;
const CONFIG: &str = r#"
    hostname = "mx.example"
    [[listener]]
    bind = ["127.0.0.1:0"]
    [recipients]
    domains = ["a.example", "b.example", "c.example"]
"#;
const SHARED: &str = r#"
    [[route]]
    domains = ["*"]
    deliver = "maildir"
    path = "DIR/mail"
"#;

/// A spool, its egress, and its workers.
struct Rig {
    egress: Option<Egress>,
    keeper: Option<Keeper>,
    workers: Vec<Worker>,
    dir: Arc<TempDir>,
}

/// A worker's side of its shard.
struct Worker {
    bell: Arc<Doorbell>,
    handles: ShardHandles,
    commit: GroupCommit,
    segment: Option<Arc<Segment>>,
}

impl Rig {
    fn new(routes: &str) -> Self {
        Self::on(Arc::new(TempDir::new().unwrap()), routes, 1)
    }

    fn on(dir: Arc<TempDir>, routes: &str, shards_count: u16) -> Self {
        Self::with(dir, routes, shards_count, |options| options, |_| {})
    }

    fn with(
        dir: Arc<TempDir>,
        routes: &str,
        shards_count: u16,
        change: impl FnOnce(SpoolOptions) -> SpoolOptions,
        prepare: impl FnOnce(&mut [ShardFeed]),
    ) -> Self {
        let config = configuration(dir.path(), routes);
        let mut options = SpoolOptions::new(dir.path().join("spool"), shards_count, MESSAGE_SIZE_MAX);
        options.segment_size = segment_size_min(MESSAGE_SIZE_MAX);
        let options = change(options);
        let (keeper, handles, mut feeds) = Spool::open(options).unwrap().start().unwrap();
        prepare(&mut feeds);
        let egress = start(feeds, Arc::new(config), usize::from(shards_count).div_ceil(2)).unwrap();
        let worker = |handles: ShardHandles| Worker {
            bell: egress.doorbell(handles.shard).unwrap(),
            handles,
            commit: GroupCommit::new(),
            segment: None,
        };
        let workers = handles.into_iter().map(worker).collect();
        Self { egress: Some(egress), keeper: Some(keeper), workers, dir }
    }

    /// Stops and starts again.
    fn restart(mut self, routes: &str) -> Self {
        drop((self.egress.take(), self.keeper.take()));
        Self::on(Arc::clone(&self.dir), routes, 1)
    }

    fn commit(&mut self, number: u32, recipients: &[&str], content: &[u8]) {
        self.workers[0].commit(number, recipients, content);
    }

    fn stats(&self) -> &EgressStats {
        &self.egress.as_ref().unwrap().stats()[0]
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// Names and bytes of the files in a Maildir's `new`.
    fn mail(&self, maildir: &str) -> BTreeMap<String, Vec<u8>> {
        assert_eq!(fs::read_dir(self.path(maildir).join("tmp")).unwrap().count(), 0, "tmp is empty");
        files(&self.path(maildir).join("new"))
    }

    fn wait_delivered(&self, count: u64) {
        wait_until("mail is delivered", || self.stats().delivered.get() == count);
    }

    /// All segments have gone back or are parted with.
    fn wait_settled(&self) {
        wait_until("the segments are settled", || self.stats().segments_now.get() <= 4);
        wait_until("nothing is under way", || self.stats().in_flight_now.get() == 0);
    }
}

impl Worker {
    /// Commits one message.
    fn commit(&mut self, number: u32, recipients: &[&str], content: &[u8]) {
        self.commit_as(RecordKind::Inline, number, recipients, content);
    }

    fn commit_as(&mut self, kind: RecordKind, number: u32, recipients: &[&str], content: &[u8]) {
        let mut envelope = Vec::new();
        let mut writer = Writer(&mut envelope);
        writer.reverse_path(Some(&Mailbox::parse(b"sender@s.example").unwrap()));
        for recipient in recipients {
            writer.forward_path(&ForwardPath::Mailbox(Mailbox::parse(recipient.as_bytes()).unwrap()));
        }
        if self.commit.needs_segment(record::encoded_len(envelope.len(), content.len())) {
            wait_until("a segment is ready", || self.handles.is_ready());
            let next = self.handles.take().unwrap();
            self.commit.use_segment(&next.header());
            if let Some(former) = self.segment.replace(next) {
                former.seal();
            }
        }
        let meta =
            RecordMeta { kind, id: id(number), received_unix_us: 1_763_780_000_000_000 + u64::from(number) };
        self.commit.append(Promise::BeforeReply(0), &meta, &envelope, &[content]).unwrap();
        let write = self.commit.start(false).unwrap();
        let segment = self.segment.as_ref().unwrap();
        segment.writer().write_all_at(&write.bytes, write.offset).unwrap();
        self.commit.complete(write.flight, Ok(write.bytes.len()), write.bytes, &mut Vec::new()).unwrap();
        let batch = self.commit.readable().unwrap();
        // Every other one from memory, as a reader that falls behind and catches up would see it.
        if number.is_multiple_of(2) {
            segment.lend(batch.offset, batch.bytes);
        }
        segment.publish(batch.end);
        self.ring();
    }

    /// Fills no more.
    fn seal(&mut self) {
        self.segment.take().unwrap().seal();
        self.ring();
    }

    fn ring(&self) {
        if self.bell.take_sleeper().is_some() {
            self.bell.ring();
        }
    }
}

/// With these routes, `DIR` being the directory.
fn configuration(dir: &Path, routes: &str) -> Config {
    let routes = routes.replace("DIR", dir.to_str().unwrap());
    let mut config = Config::parse(&format!("{CONFIG}{routes}"), "/test.toml").unwrap();
    for route in &mut config.routes {
        route.retry = vec![Duration::from_millis(20)];
    }
    config
}

fn files(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
}

fn id(number: u32) -> MessageId {
    MessageId { session: SessionId(5), transaction: number }
}

fn name(number: u32) -> String {
    format!("1763780000.M{number}R0000000000005-{number}.mx.example")
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_message_arrives_byte_by_byte() {
    let mut rig = Rig::new(SHARED);
    rig.commit(
        1,
        &["x@a.example", "Y@B.example"],
        b"Received: z\r\nSubject: s\r\n\r\n.a\r\n\xe4\0\r\n..\r\n",
    );
    rig.commit(2, &["x@a.example"], b"");
    rig.wait_delivered(2);
    let mail = rig.mail("mail");
    let head = "Return-Path: <sender@s.example>\nDelivered-To: x@a.example\n";
    let expected = [
        (
            name(1),
            [head.as_bytes(), b"Delivered-To: Y@B.example\nReceived: z\nSubject: s\n\n.a\n\xe4\0\n..\n"]
                .concat(),
        ),
        (name(2), head.as_bytes().to_vec()),
    ];
    assert_eq!(mail, BTreeMap::from(expected));
    let mode = |path: &str| fs::metadata(rig.path(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&format!("mail/new/{}", name(1))), 0o600);
    for directory in ["mail", "mail/tmp", "mail/new", "mail/cur"] {
        assert_eq!(mode(directory), 0o700, "{directory}");
    }
}

#[test]
fn a_repeat_after_a_crash_replaces() {
    let mut rig = Rig::new(SHARED);
    for number in 1..=20 {
        rig.commit(number, &["x@a.example"], b"one\r\n");
    }
    rig.wait_delivered(20);
    let before = rig.mail("mail");
    // A crash between the move to `new` and the acknowledgement, and one while the file was written.
    let segment = rig.workers[0].segment.clone().unwrap();
    drop((rig.egress.take(), rig.keeper.take()));
    fs::write(segment.ack_path(), b"").unwrap();
    fs::write(rig.path("mail/tmp").join(name(3)), b"half").unwrap();
    fs::write(rig.path("mail/new").join(name(4)), b"other").unwrap();
    let rig = rig.restart(SHARED);
    rig.wait_delivered(20);
    assert_eq!(rig.mail("mail"), before);
    rig.wait_settled();
    let rig = rig.restart(SHARED);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(rig.stats().files.get(), 0, "acknowledged mail is not delivered again");
}

#[test]
fn each_recipient_has_a_maildir_and_nobody_leaves_it() {
    let mut rig = Rig::new(&SHARED.replace("DIR/mail", "DIR/mail/{domain}/{local_part}"));
    let recipients = [
        (r"x@A.Example", "a.example/x"),
        (r#""X"@a.example"#, "a.example/x"),
        (r#""../../../y"@a.example"#, "a.example/%2E.%2F..%2F..%2Fy"),
        (r#"".."@b.example"#, "b.example/%2E."),
        (r#""/etc"@b.example"#, "b.example/%2Fetc"),
        (r#""a%2fb"@b.example"#, "b.example/a%252fb"),
    ];
    rig.commit(1, &recipients.map(|(recipient, _)| recipient), b"x\r\n");
    rig.wait_delivered(1);
    assert_eq!(rig.stats().files.get(), 5, "one copy for two spellings");
    for (recipient, maildir) in recipients {
        let mail = rig.mail(&format!("mail/{maildir}"));
        let text = String::from_utf8(mail[&name(1)].clone()).unwrap();
        assert!(text.contains(&format!("Delivered-To: {recipient}\n")), "{text}");
        assert!(text.ends_with("\nx\n"), "{text}");
    }
    let names: Vec<_> = names_in(rig.dir.path());
    assert_eq!(names, ["mail", "spool"], "nothing beside");
}

fn names_in(path: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_failed_copy_is_tried_again_alone_and_others_go_on() {
    let mut rig = Rig::new(&SHARED.replace("DIR/mail", "DIR/mail/{domain}"));
    fs::create_dir(rig.path("mail")).unwrap();
    fs::write(rig.path("mail/a.example"), b"a file where a directory should be").unwrap();
    rig.commit(1, &["x@a.example", "x@b.example"], b"one\r\n");
    rig.commit(2, &["x@a.example"], b"two\r\n");
    rig.commit(3, &["x@b.example"], b"three\r\n");
    rig.wait_delivered(1);
    wait_until("several attempts fail", || rig.stats().failed_attempts.get() > 6);
    assert_eq!(rig.mail("mail/b.example").into_keys().collect::<Vec<_>>(), [name(1), name(3)]);
    // A reader takes it: it must not come again with the next attempt for the other.
    fs::remove_file(rig.path("mail/b.example/new").join(name(1))).unwrap();
    fs::remove_file(rig.path("mail/a.example")).unwrap();
    rig.wait_delivered(3);
    assert_eq!(rig.mail("mail/a.example").into_keys().collect::<Vec<_>>(), [name(1), name(2)]);
    assert_eq!(rig.mail("mail/b.example").into_keys().collect::<Vec<_>>(), [name(3)]);
    assert_eq!(rig.stats().files.get(), 4);
    wait_until("nobody waits", || rig.stats().waiting_now.get() == 0);
}

#[test]
fn a_route_that_fails_for_all_its_mail_recovers_with_all_of_it() {
    const COUNT: u64 = 300;
    let mut rig = Rig::new(SHARED);
    fs::write(rig.path("mail"), b"in the way").unwrap();
    for number in 1..=COUNT as u32 {
        rig.commit(number, &["x@a.example"], b"content\r\n");
    }
    wait_until("all have failed and fail again", || rig.stats().failed_attempts.get() > 3 * COUNT);
    fs::remove_file(rig.path("mail")).unwrap();
    rig.wait_delivered(COUNT);
    assert_eq!(rig.mail("mail").len() as u64, COUNT);
    wait_until("nobody waits", || rig.stats().waiting_now.get() == 0);
}

#[test]
fn undelivered_mail_outlives_a_restart() {
    let mut rig = Rig::new(SHARED);
    fs::write(rig.path("mail"), b"in the way").unwrap();
    rig.commit(1, &["x@a.example"], b"one\r\n");
    wait_until("an attempt fails", || rig.stats().waiting_now.get() == 1);
    fs::remove_file(rig.path("mail")).unwrap();
    let rig = rig.restart(SHARED);
    rig.wait_delivered(1);
    assert!(rig.mail("mail").contains_key(&name(1)));
}

#[test]
fn a_maildir_that_loses_a_directory_gets_it_again() {
    let mut rig = Rig::new(SHARED);
    rig.commit(1, &["x@a.example"], b"one\r\n");
    rig.wait_delivered(1);
    fs::remove_dir_all(rig.path("mail/new")).unwrap();
    rig.commit(2, &["x@a.example"], b"two\r\n");
    rig.wait_delivered(2);
    fs::remove_dir_all(rig.path("mail")).unwrap();
    rig.commit(3, &["x@a.example"], b"three\r\n");
    rig.wait_delivered(3);
    assert_eq!(rig.mail("mail").into_keys().collect::<Vec<_>>(), [name(3)]);
}

#[test]
fn what_routes_hold_discard_or_do_not_take() {
    const ROUTES: &str = r#"
        [[route]]
        domains = ["a.example"]
        deliver = "discard"
        [[route]]
        domains = ["b.example", "c.example"]
        deliver = "hold"
    "#;
    let mut rig = Rig::new(ROUTES);
    rig.commit(1, &["x@a.example"], b"one\r\n");
    rig.commit(2, &["x@b.example"], b"two\r\n");
    rig.commit(3, &["x@gone.example"], b"three\r\n");
    wait_until("all are looked at", || rig.stats().kept.get() == 2 && rig.stats().discarded.get() == 1);
    rig.workers[0].seal();
    rig.wait_settled();
    assert_eq!(rig.stats().delivered.get(), 0);
    let rig = rig.restart(SHARED);
    rig.wait_delivered(2);
    assert_eq!(rig.mail("mail").into_keys().collect::<Vec<_>>(), [name(2), name(3)]);
}

#[test]
fn damage_does_not_stop_what_is_behind_it() {
    let mut rig = Rig::new(SHARED);
    drop(rig.egress.take());
    for number in 1..=3 {
        rig.commit(number, &["x@a.example"], b"content\r\n");
    }
    let segment = rig.workers[0].segment.take().unwrap();
    segment.file.write_all_at(b"C", 2 * 4096 + 165).unwrap();
    let rig = rig.restart(SHARED);
    rig.wait_delivered(2);
    assert_eq!(rig.mail("mail").into_keys().collect::<Vec<_>>(), [name(1), name(3)]);
    assert_eq!(rig.stats().damages.get(), 1);
    let shard = rig.path("spool/shard-000");
    wait_until("the segment is set aside", || names_in(&shard).iter().any(|n| n.ends_with(".damaged")));
}

#[test]
fn many_messages_pass_through_many_segments() {
    const COUNT: u32 = 1000;
    let mut rig = Rig::new(SHARED);
    let content = |number: u32| format!("{number}\r\n{}\r\n", "x".repeat(number as usize * 37 % 9000));
    for number in 1..=COUNT {
        rig.commit(number, &["x@a.example"], content(number).as_bytes());
    }
    rig.workers[0].seal();
    rig.wait_delivered(u64::from(COUNT));
    let mail = rig.mail("mail");
    assert_eq!(mail.len(), COUNT as usize);
    for number in 1..=COUNT {
        assert!(mail[&name(number)].ends_with(content(number).replace("\r\n", "\n").as_bytes()));
    }
    rig.wait_settled();
    let counts = BTreeMap::from(rig.keeper.as_ref().unwrap().state().counts());
    assert!(counts["recycled"] + counts["deleted"] > 5, "{counts:?}");
    let rig = rig.restart(SHARED);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(rig.stats().files.get(), 0);
}

#[test]
fn a_stop_ends_what_is_under_way_and_loses_nothing() {
    let mut rig = Rig::new(SHARED);
    for number in 1..=500 {
        rig.commit(number, &["x@a.example"], b"content\r\n");
    }
    let before = Instant::now();
    let egress = rig.egress.take().unwrap();
    let stats = Arc::clone(&egress.stats()[0]);
    egress.stop();
    assert!(before.elapsed() < Duration::from_secs(5));
    let first = stats.delivered.get();
    assert_eq!(stats.files.get(), first, "what was written is acknowledged");
    let rig = rig.restart(SHARED);
    rig.wait_delivered(500 - first);
    assert_eq!(rig.mail("mail").len(), 500);
}

#[test]
fn a_sleeping_thread_is_woken_by_a_commit() {
    let mut rig = Rig::new(SHARED);
    let started_at = Instant::now();
    for number in 1..=30 {
        rig.commit(number, &["x@a.example"], b"content\r\n");
        rig.wait_delivered(u64::from(number));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(
        started_at.elapsed() < Duration::from_secs(8),
        "{:?}: by the bell, not by the clock",
        started_at.elapsed()
    );
}

#[test]
fn several_shards_on_several_threads() {
    let mut rig = Rig::on(Arc::new(TempDir::new().unwrap()), SHARED, 3);
    for number in 1..=60 {
        rig.workers[number as usize % 3].commit(number, &["x@a.example"], b"content\r\n");
    }
    let egress = rig.egress.as_ref().unwrap();
    let counts =
        || egress.stats().iter().map(|stats| (stats.shard, stats.delivered.get())).collect::<Vec<_>>();
    wait_until("all is delivered", || counts() == [(0, 20), (1, 20), (2, 20)]);
    assert_eq!(rig.mail("mail").len(), 60);
    // A shard without a worker any more is emptied all the same.
    fs::remove_dir_all(rig.path("mail")).unwrap();
    fs::write(rig.path("mail"), b"in the way").unwrap();
    rig.workers[2].commit(61, &["x@a.example"], b"content\r\n");
    wait_until("it fails", || rig.egress.as_ref().unwrap().stats()[2].waiting_now.get() == 1);
    fs::remove_file(rig.path("mail")).unwrap();
    let rig = rig.restart(SHARED);
    wait_until("it is delivered", || rig.path("mail/new").join(name(61)).exists());
}
