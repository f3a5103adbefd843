//! How long a spool full of undelivered mail takes to open.
//!
//! `BACKLOG_MESSAGES=1000000 BACKLOG_OCTETS=4096 cargo test -p tests --release --test backlog -- --ignored --nocapture`
//! fills a spool below `BACKLOG_DIR` (else the directory for temporary files) and prints the times. A million messages
//! of 4 KiB take 4.5 GiB while it runs.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringmx::id::{MessageId, SessionId};
use ringmx::spool::commit::{GroupCommit, Promise};
use ringmx::spool::record::{RecordMeta, encoded_len};
use ringmx::spool::walk::Found;
use ringmx::store::{Keeper, Reader, Segment, ShardFeed, ShardHandles, Spool, SpoolOptions};
use rustix::fs::{Advice, fadvise};

const SHARDS_COUNT: u16 = 2;
const ENVELOPE: &[u8] = &[b'e'; 100];
const BATCH_MESSAGES_COUNT: u64 = 50;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn start(path: &Path) -> (Keeper, Vec<ShardHandles>, Vec<ShardFeed>) {
    let options = SpoolOptions::new(path, SHARDS_COUNT, 25 << 20);
    Spool::open(options).expect("the spool opens").start().expect("the keeper starts")
}

fn take(shard: &ShardHandles) -> Arc<Segment> {
    loop {
        if let Some(segment) = shard.take() {
            return segment;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Fills the shards in turn, and leaves nothing of it in memory.
fn fill(path: &Path, messages_count: u64, content_len: usize) {
    let (_keeper, shards, feeds) = start(path);
    let content = vec![b'c'; content_len];
    let batch_len = BATCH_MESSAGES_COUNT as usize * encoded_len(ENVELOPE.len(), content_len);
    let mut fillers: Vec<_> = shards.iter().map(|shard| (shard, GroupCommit::new(), None)).collect();
    for batch in 0..messages_count.div_ceil(BATCH_MESSAGES_COUNT) {
        let (shard, commit, segment) = &mut fillers[(batch % u64::from(SHARDS_COUNT)) as usize];
        if commit.needs_segment(batch_len) {
            let next = take(shard);
            commit.use_segment(&next.header());
            segment.replace(next).inspect(|former: &Arc<Segment>| former.seal());
        }
        for message in batch * BATCH_MESSAGES_COUNT..messages_count.min((batch + 1) * BATCH_MESSAGES_COUNT) {
            let id = MessageId { session: SessionId(message << 8), transaction: 1 };
            let meta = RecordMeta { id, ..RecordMeta::default() };
            commit.append(Promise::Never, &meta, ENVELOPE, &[&content]).expect("the batch fits");
        }
        let segment = segment.as_ref().expect("taken above");
        let write = commit.start(false).expect("a batch waits");
        segment.file.write_all_at(&write.bytes, write.offset).expect("the disk takes it");
        let ended = commit.complete(write.flight, Ok(write.bytes.len()), write.bytes, &mut Vec::new());
        ended.expect("a whole write");
        segment.publish(commit.readable().expect("nothing before it").end);
    }
    for segment in feeds.iter().flat_map(|feed| feed.incoming.try_iter()) {
        segment.file.sync_all().expect("the disk takes it");
        fadvise(&segment.file, 0, None, Advice::DontNeed).expect("the pages can go");
    }
}

#[test]
#[ignore = "writes gigabytes; for measurements"]
fn a_full_spool_opens() {
    let (messages_count, content_len) =
        (number("BACKLOG_MESSAGES", 1_000_000), number("BACKLOG_OCTETS", 4096));
    let parent = std::env::var_os("BACKLOG_DIR").map_or_else(std::env::temp_dir, Into::into);
    let dir = tempfile::tempdir_in(parent).expect("a directory");
    fill(dir.path(), messages_count, content_len as usize);

    let begin = Instant::now();
    let (_keeper, shards, feeds) = start(dir.path());
    let opened = begin.elapsed();
    for shard in &shards {
        take(shard);
    }
    let ready = begin.elapsed();
    let (mut count, mut first) = (0, None);
    for segment in feeds.iter().flat_map(|feed| &feed.recovered) {
        let mut reader = Reader::new(Arc::clone(segment));
        while let Some(Found::Record(_)) = reader.next().expect("the disk gives it") {
            first.get_or_insert_with(|| begin.elapsed());
            count += 1;
        }
    }
    let first = first.unwrap_or_default();
    let read = begin.elapsed();
    assert_eq!(count, messages_count);
    println!(
        "{messages_count} messages of {content_len} octets: open {opened:.0?}, ready for new mail {ready:.0?}, \
         first old message {first:.0?}, all of it read by one thread {read:.0?}"
    );
}
