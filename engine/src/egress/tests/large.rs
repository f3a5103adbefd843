//! Large messages: their files stay as long as anybody may ask for them, and no longer.

use std::ops::ControlFlow;

use super::*;
use crate::spool::content_ref::ContentRef;
use crate::store::inspect;
use crate::store::{ContentFile, Retention};

const BY_DOMAIN: &str = r#"
    [[route]]
    domains = ["*"]
    deliver = "maildir"
    path = "DIR/mail/{domain}"
"#;
const HELD: &str = r#"
    [[route]]
    domains = ["*"]
    deliver = "hold"
"#;
/// More than a piece, and no whole number of them.
const LINES_COUNT: usize = 70_000;

fn content(number: u32) -> Vec<u8> {
    format!("{number:08}\r\n").repeat(LINES_COUNT).into_bytes()
}

fn with_lf(number: u32) -> Vec<u8> {
    format!("{number:08}\n").repeat(LINES_COUNT).into_bytes()
}

/// Writes a file as a worker does.
fn fill(rig: &Rig, number: u32) -> (Arc<ContentFile>, ContentRef) {
    let files = &rig.workers[0].handles.content;
    wait_until("a content file is ready", || files.is_ready());
    let file = files.take().unwrap();
    let content = content(number);
    let mut blocks = ringmx_ring::BlockBuffer::new();
    blocks.extend_from_slice(&content);
    blocks.resize(content.len().next_multiple_of(4096), 0);
    file.file.write_all_at(&blocks, 0).unwrap();
    file.file.sync_data().unwrap();
    let named = ContentRef { number: file.number, crc: crc32c::crc32c(&content), len: content.len() as u64 };
    (file, named)
}

fn commit(rig: &mut Rig, number: u32, recipients: &[&str]) -> PathBuf {
    let (file, named) = fill(rig, number);
    rig.workers[0].commit_as(RecordKind::File, number, recipients, &named.encode());
    file.path.clone()
}

/// Octets; `None` if it is gone.
fn len(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|metadata| metadata.len())
}

fn is_full(path: &Path) -> bool {
    len(path).is_some_and(|len| len > 0)
}

fn delivered(rig: &Rig, maildir: &str, number: u32) -> bool {
    rig.mail(maildir).values().any(|mail| mail.ends_with(&with_lf(number)))
}

/// The content of a message as `ringmx spool cat` gives it.
fn cat(rig: &Rig, number: u32) -> Option<Vec<u8>> {
    let mut found = None;
    inspect::list(&rig.path("spool"), &mut |listed| {
        if listed.id == id(number) {
            let mut content = Vec::new();
            found = listed
                .check_content()
                .and_then(|()| listed.write_content(&mut content))
                .ok()
                .map(|()| content);
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    found
}

fn errors(rig: &Rig) -> Vec<inspect::Finding> {
    let mut findings = inspect::verify(&rig.path("spool")).unwrap();
    findings.retain(|finding| finding.is_error);
    findings
}

/// A rig that cannot deliver to a.example.
fn blocked() -> Rig {
    let rig = Rig::new(BY_DOMAIN);
    fs::create_dir(rig.path("mail")).unwrap();
    fs::write(rig.path("mail/a.example"), b"a file where a directory should be").unwrap();
    rig
}

#[test]
fn a_large_message_is_delivered_whole_to_all_and_its_file_is_used_again() {
    let mut rig = Rig::new(BY_DOMAIN);
    let path = commit(&mut rig, 1, &["x@a.example", "x@b.example"]);
    rig.wait_delivered(1);
    assert!(delivered(&rig, "mail/a.example", 1) && delivered(&rig, "mail/b.example", 1));
    wait_until("its file is empty", || len(&path) == Some(0));
}

#[test]
fn the_file_of_deferred_mail_stays_through_moves_compaction_and_restarts() {
    let mut rig = blocked();
    let path = commit(&mut rig, 1, &["x@a.example", "x@b.example"]);
    wait_until("it is deferred", || rig.stats().deferred_now.get() == 1);
    assert!(delivered(&rig, "mail/b.example", 1));
    // Others that are deferred and then delivered: what is left of their segments is compacted.
    for number in 2..60 {
        rig.commit(number, &["x@c.example"], &[b'x'; 15_000]);
    }
    let mut rig = rig.restart(HELD);
    for number in 60..120 {
        rig.commit(number, &["x@c.example"], &[b'x'; 15_000]);
    }
    wait_until("all is held", || rig.stats().deferred_now.get() >= 61);
    assert_eq!(cat(&rig, 1), Some(content(1)));
    let rig = rig.restart(BY_DOMAIN);
    wait_until("its segment is compacted", || rig.stats().compacted.get() > 0);
    wait_until("the others are delivered", || rig.stats().deferred_now.get() == 1);
    assert!(is_full(&path));
    let rig = rig.restart(BY_DOMAIN);
    wait_until("it is tried again", || rig.stats().failed_attempts.get() > 0);
    assert_eq!((cat(&rig, 1), errors(&rig)), (Some(content(1)), Vec::new()));
    fs::remove_file(rig.path("mail/a.example")).unwrap();
    rig.wait_delivered(1);
    assert!(delivered(&rig, "mail/a.example", 1));
    wait_until("its file is not needed any more", || !is_full(&path));
}

#[test]
fn a_start_uses_files_again_that_no_waiting_record_names() {
    let mut rig = Rig::new(HELD);
    let held = commit(&mut rig, 1, &["x@a.example"]);
    let (aborted, _) = fill(&rig, 2);
    wait_until("it is held", || rig.stats().deferred_now.get() == 1);
    let rig = rig.restart(HELD);
    wait_until("the file of what was never accepted is empty", || !is_full(&aborted.path));
    wait_until("it is held", || rig.stats().kept.get() == 1);
    assert_eq!(cat(&rig, 1), Some(content(1)));
    let rig = rig.restart(BY_DOMAIN);
    rig.wait_delivered(1);
    wait_until("the other is empty too", || !is_full(&held));
}

#[test]
fn where_records_are_damaged_no_file_is_given_up() {
    let mut rig = Rig::new(HELD);
    let held = commit(&mut rig, 1, &["x@a.example"]);
    let (aborted, _) = fill(&rig, 2);
    wait_until("it is held", || rig.stats().deferred_now.get() == 1);
    rig.commit(3, &["x@a.example"], b"hello\r\n");
    wait_until("so is another", || rig.stats().deferred_now.get() == 2);
    drop((rig.egress.take(), rig.keeper.take()));
    // The record of the large message: the first of its segment, wherever that is.
    for entry in fs::read_dir(rig.path("spool/shard-000")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        let is_segment = path.extension().is_some_and(|extension| extension == "seg");
        if is_segment && let Some(at) = bytes.windows(4).position(|bytes| bytes == b"RMXr") {
            bytes[at + 70] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
    }
    let rig = rig.restart(HELD);
    wait_until("the other is known", || rig.stats().deferred_now.get() == 1);
    std::thread::sleep(Duration::from_millis(100));
    assert!(is_full(&held) && is_full(&aborted.path));
}

#[test]
fn retained_mail_keeps_its_file_as_long_as_it_is_to() {
    let dir = Arc::new(TempDir::new().unwrap());
    let retained = |retention| {
        let change = |options| SpoolOptions { retention: Some(retention), ..options };
        Rig::with(Arc::clone(&dir), BY_DOMAIN, 1, change, |_| {})
    };
    let mut rig = retained(Retention::Time(Duration::from_secs(3600)));
    let path = commit(&mut rig, 1, &["x@a.example"]);
    rig.wait_delivered(1);
    drop(rig);
    let rig = retained(Retention::Time(Duration::from_secs(3600)));
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(cat(&rig, 1), Some(content(1)));
    drop(rig);
    // Less than it has.
    let _rig = retained(Retention::Octets(1000));
    wait_until("its time is over", || !is_full(&path));
}
