//! `kill -9` at random moments while one of two routes is dead: nothing is lost, and what one recipient has got is not
//! repeated because another one waits.
//!
//! `DEFERRED_ROUNDS=100 DEFERRED_SEED=7 cargo test -p tests --test deferred` goes on for longer and at other moments.
//! `cargo test --release -p tests --test deferred -- --ignored` sends a million messages of which one in a hundred
//! waits.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use serde_json::Value;
use tests::client::Client;
use tests::engine::{Home, Options, binary, eventually, text};
use tests::maildir::Maildir;
use tests::random::Random;

const BY_MAILBOX: &str = "deliver = \"maildir\"\npath = \"mail/{local_part}\"";
const TO: [&str; 2] = ["good@example.com", "dead@example.com"];
const CLIENTS_COUNT: usize = 4;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// A home where mail for dead@ cannot be delivered.
fn home() -> Home {
    let home = Home::new(&Options { deliver: Some(BY_MAILBOX), ..Options::default() });
    std::fs::create_dir(home.path().join("mail")).expect("a directory");
    std::fs::write(home.path().join("mail/dead"), b"a file where a directory should be").expect("a file");
    home
}

/// Sends until the server is gone; keeps the ids of what got its 250.
fn send(address: SocketAddr, acknowledged: &Mutex<BTreeSet<String>>) {
    let Ok(mut client) = Client::ready(address) else { return };
    while let Ok(id) = client.send("", &TO, b"Subject: x\r\n\r\nhello\r\n") {
        acknowledged.lock().expect("no panic").insert(id);
    }
}

/// Recipients of each undelivered message, by id.
fn undelivered(home: &Home) -> BTreeMap<String, Vec<String>> {
    let output = home.run(["spool", "ls", "--json"]);
    assert!(output.status.success(), "spool ls: {}", text(&output.stderr));
    let mut found = BTreeMap::new();
    for line in text(&output.stdout).lines() {
        let listed: Value = serde_json::from_str(line).expect("a line of JSON");
        let recipients = listed["recipients"].as_array().expect("recipients");
        let recipients = recipients.iter().map(|to| to.as_str().expect("text").to_owned()).collect();
        let id = listed["id"].as_str().expect("an id").to_owned();
        assert!(found.insert(id.clone(), recipients).is_none(), "{id} is listed twice");
    }
    found
}

/// The ids of the messages in a mailbox, each as often as it is there.
fn ids(maildir: &Path, acknowledged: &BTreeSet<String>) -> Vec<String> {
    let names = Maildir::new(maildir.to_owned()).names();
    let id = |name: String| acknowledged.iter().find(|id| name.contains(&format!("R{id}."))).cloned();
    names.into_iter().filter_map(id).collect()
}

#[test]
fn what_one_recipient_has_got_is_not_repeated_because_another_waits() {
    let (rounds, seed) = (number("DEFERRED_ROUNDS", 8), number("DEFERRED_SEED", 1));
    let mut random = Random::new(seed);
    let home = home();
    let (good, dead) = (home.path().join("mail/good"), home.path().join("mail/dead"));
    let acknowledged = Mutex::new(BTreeSet::new());
    // Messages of which the spool said, with no server running, that only dead@ is left.
    let mut waiting = BTreeSet::new();
    for round in 0..rounds {
        let server = home.serve();
        let time = Duration::from_millis(100 + random.below(900) as u64);
        let (address, acknowledged_now) = (server.address, &acknowledged);
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS_COUNT {
                scope.spawn(move || send(address, acknowledged_now));
            }
            std::thread::sleep(time);
            server.kill();
        });
        home.verify();
        let acknowledged = acknowledged.lock().expect("no panic");
        let repeated: Vec<_> =
            ids(&good, &acknowledged).into_iter().filter(|id| waiting.contains(id)).collect();
        assert_eq!(repeated, [""; 0], "DEFERRED_SEED={seed}, round {round}: delivered again");
        // A reader takes it.
        if good.exists() {
            std::fs::remove_dir_all(&good).expect("mail is removed");
        }
        let left = undelivered(&home);
        for id in acknowledged.iter() {
            assert!(
                left.contains_key(id),
                "DEFERRED_SEED={seed}, round {round}: {id} got its 250 and is gone"
            );
        }
        let is_dead_alone = |to: &[String]| to == [TO[1]];
        waiting = left.into_iter().filter(|(_, to)| is_dead_alone(to)).map(|(id, _)| id).collect();
        println!(
            "DEFERRED_SEED={seed}, round {round}: killed after {time:?}, {} acknowledged, {} wait for one",
            acknowledged.len(),
            waiting.len()
        );
    }
    assert!(rounds < 3 || waiting.len() > 10, "{} messages waited", waiting.len());
    std::fs::remove_file(&dead).expect("the route is mended");
    let server = home.serve();
    eventually("all is delivered", || home.undelivered().is_empty().then_some(()));
    server.stop();
    home.verify();
    let acknowledged = acknowledged.into_inner().expect("no panic");
    let found = ids(&dead, &acknowledged);
    assert_eq!(found.len(), acknowledged.len(), "each once");
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), acknowledged);
    let again = ids(&good, &acknowledged).into_iter().filter(|id| waiting.contains(id)).count();
    assert_eq!(again, 0, "{again} delivered again after the route was mended");
}

/// Octets of the files of a spool's segments and acknowledgements.
fn disk_used(home: &Home) -> u64 {
    let shards =
        std::fs::read_dir(home.spool()).expect("a spool").map(|entry| entry.expect("an entry").path());
    let files = shards.filter(|path| path.is_dir()).flat_map(|shard| {
        std::fs::read_dir(shard).expect("a shard").map(|entry| entry.expect("an entry").path())
    });
    files.map(|path: PathBuf| path.metadata().map_or(0, |metadata| metadata.len())).sum()
}

#[test]
#[ignore = "takes minutes: a million messages"]
fn one_in_a_hundred_of_a_million_waits_for_good() {
    const SEGMENT_SIZE: u64 = 64 << 20;
    const SIZE: u64 = 2000;
    let count = number("DEFERRED_COUNT", 1_000_000);
    let deliver = "deliver = \"discard\"\n[[route]]\ndomains = [\"*\"]\ndeliver = \"discard\"";
    let options = Options { workers: 1, segment_size: "64MiB", deliver: Some(deliver), ..Options::default() };
    let home = Home::new(&options);
    // The first route is for mail that waits, the rest is thrown away: what is measured is the spool.
    let config = std::fs::read_to_string(home.config()).expect("a configuration");
    let config = config
        .replace("domains = [\"example.com\"]", "domains = [\"example.com\", \"dead.example\"]")
        .replacen(
            "domains = [\"*\"]\ndeliver = \"discard\"",
            "domains = [\"dead.example\"]\ndeliver = \"maildir\"\npath = \"mail/dead\"",
            1,
        );
    std::fs::write(home.config(), config).expect("a configuration is written");
    std::fs::create_dir(home.path().join("mail")).expect("a directory");
    std::fs::write(home.path().join("mail/dead"), b"in the way").expect("a file");
    let server = home.serve();
    let load = |count: u64, to: &str| {
        let mut load = Command::new(binary("loadgen"));
        load.arg("run").arg(server.address.to_string()).args(["--connections", "50", "--to", to]);
        load.args(["--messages", &count.to_string(), "--size", &SIZE.to_string()]);
        load.stdout(Stdio::null()).spawn().expect("loadgen starts")
    };
    let mut used_max = 0;
    let mut loads = [load(count / 100, "x@dead.example"), load(count - count / 100, "x@example.com")];
    while loads.iter_mut().any(|load| load.try_wait().expect("a child of ours").is_none()) {
        used_max = used_max.max(disk_used(&home));
        std::thread::sleep(Duration::from_millis(100));
    }
    let left = eventually("the rest is gone", || {
        let left = undelivered(&home).len() as u64;
        (left == count / 100).then_some(left)
    });
    // Records are little longer than their content.
    let live = left * SIZE;
    let bound = 2 * (live + live / 4) + 12 * SEGMENT_SIZE;
    let used = eventually("the disk is tidy", || Some(disk_used(&home)).filter(|&used| used <= bound));
    println!(
        "{count} messages of {SIZE} octets, {left} wait: {used} octets of disk, {used_max} at most, {live} of content"
    );
    assert!(used_max <= 2 * bound, "{used_max} octets at most, {bound} would do");
    server.stop();
    home.verify();
}
