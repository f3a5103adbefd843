//! Messages too large for a record: streamed to files of their own, in bounded memory, durable, and gone when they are
//! delivered.

use std::path::PathBuf;

use tests::client::Client;
use tests::engine::{Home, Options, Server, eventually};
use tests::maildir::{Maildir, with_lf};
use tests::random::Random;

/// Large enough that holding a few of them would show.
const CONTENT_LEN: usize = 16 << 20;
const CLIENTS_COUNT: usize = 20;
/// What the server may have in memory while they send at once, its receive buffers and what they held when it came to
/// more than was asked for included: far less than what they send.
const RESIDENT_LEN_MAX: u64 = 224 << 20;

fn options() -> Options {
    Options { max_message_size: "50MiB", segment_size: "64MiB", workers: 2, ..Options::default() }
}

/// Lines of hexadecimal digits that differ by seed.
fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut content = Vec::with_capacity(len + 66);
    while content.len() < len {
        for _ in 0..4 {
            content.extend_from_slice(format!("{:016x}", random.below(usize::MAX)).as_bytes());
        }
        content.extend_from_slice(b"\r\n");
    }
    content
}

/// `VmHWM`, `VmRSS` of the server, in octets.
fn memory(server: &Server, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("a status");
    let line =
        status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).expect("the field");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// Content files that hold anything.
fn content_files(home: &Home) -> Vec<PathBuf> {
    let shards =
        std::fs::read_dir(home.spool()).expect("a spool").map(|entry| entry.expect("an entry").path());
    let files = shards.filter(|path| path.is_dir()).flat_map(|shard| {
        std::fs::read_dir(shard).expect("a shard").map(|entry| entry.expect("an entry").path())
    });
    files
        .filter(|path| path.extension().is_some_and(|extension| extension == "content"))
        .filter(|path| std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > 0))
        .collect()
}

fn body(maildir: &Maildir, name: &str) -> Vec<u8> {
    let file = maildir.read(name);
    let at = memchr_of(&file, b"X-Content: \n");
    file[at..].to_vec()
}

fn memchr_of(octets: &[u8], needle: &[u8]) -> usize {
    octets.windows(needle.len()).position(|window| window == needle).expect("the marker")
}

fn marked(seed: u64, len: usize) -> Vec<u8> {
    [&b"X-Content: \r\n"[..], &content(seed, len)].concat()
}

#[test]
fn many_at_once_stay_within_memory_and_arrive_whole() {
    let home = Home::new(&options());
    let server = home.serve();
    let sent = marked(1, CONTENT_LEN);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS_COUNT {
            scope.spawn(|| {
                let mut client = Client::ready(server.address).expect("a session");
                client.send("a@example.org", &["b@example.com"], &sent).expect("a 250");
            });
        }
    });
    let delivered = home.maildir().wait_for(CLIENTS_COUNT);
    eventually("nothing waits", || home.undelivered().is_empty().then_some(()));
    let peak = memory(&server, "VmHWM");
    assert!(peak <= RESIDENT_LEN_MAX, "{} MiB resident at the peak", peak >> 20);
    let expected = with_lf(&sent);
    for message in &delivered {
        assert!(body(&home.maildir(), &message.name) == expected, "{} is not what was sent", message.name);
    }
    eventually("the files are empty again", || content_files(&home).is_empty().then_some(()));
    server.stop();
    home.verify();
}

#[test]
fn a_large_message_is_read_from_the_spool_as_it_was_sent() {
    let home = Home::new(&Options { deliver: Some("deliver = \"hold\""), ..options() });
    let server = home.serve();
    let mut client = Client::ready(server.address).expect("a session");
    let sent = marked(2, 3 << 20);
    let id = client.send("a@example.org", &["b@example.com"], &sent).expect("a 250");
    let stored = home.cat(&id);
    assert!(stored.starts_with(b"Received: ") && stored.ends_with(&sent));
    assert_eq!(content_files(&home).len(), 1);
    server.kill();
    let server = home.serve();
    assert_eq!(home.cat(&id), stored);
    home.verify();
    server.stop();
    // One octet of it changes on the disk.
    let path = content_files(&home).pop().expect("the file");
    let mut octets = std::fs::read(&path).expect("its octets");
    octets[1 << 20] ^= 1;
    std::fs::write(&path, octets).expect("the file is written");
    let output = home.run(["spool", "verify", "--json"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.code() == Some(1) && text.contains(&id) && text.contains(".content"), "{text}");
    let output = home.run(["spool", "cat", &id]);
    assert!(!output.status.success(), "damaged content is not given out as whole");
}

#[test]
fn what_is_aborted_or_killed_leaves_no_file() {
    let home = Home::new(&options());
    let server = home.serve();
    let part = marked(3, 400 << 10);
    let abort = |server: &Server| {
        let mut client = Client::ready(server.address).expect("a session");
        client.begin("a@example.org", &["b@example.com"]).expect("a 354");
        client.write(&part).expect("content");
    };
    for _ in 0..100 {
        abort(&server);
    }
    let none = || content_files(&home).is_empty().then_some(());
    eventually("aborted messages leave nothing", none);
    let mut client = Client::ready(server.address).expect("a session");
    client.begin("a@example.org", &["b@example.com"]).expect("a 354");
    client.write(&part).expect("content");
    eventually("a file is being written", || (!content_files(&home).is_empty()).then_some(()));
    server.kill();
    let server = home.serve();
    eventually("killed messages leave nothing", none);
    assert!(home.undelivered().is_empty());
    server.stop();
    home.verify();
}
