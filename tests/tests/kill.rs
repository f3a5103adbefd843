//! `kill -9` at random moments under load: what got its 250 is delivered, and once.
//!
//! `KILL_ROUNDS=200 KILL_SEED=7 cargo test -p tests --test kill` goes on for longer and at other moments.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tests::client::Client;
use tests::engine::{Home, Options, binary, eventually, text};
use tests::random::Random;

/// The load lasts longer than any server lives.
const LOAD: &[&str] = &[
    "--connections",
    "30",
    "--rate",
    "1500",
    "--duration",
    "20s",
    "--size",
    "3000",
    "--timeout",
    "5s",
    "--fail-fast",
];

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Tokens of the messages that got a 250, with the id that it named.
fn acknowledged(ledger: &Path) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(ledger).unwrap_or_default();
    let entry = |line: &str| {
        let (token, reply) = line.split_once('\t').expect("token TAB reply");
        let id = reply.rsplit(' ').next().expect("an id");
        (token.to_owned(), id.to_owned())
    };
    text.lines().map(entry).collect()
}

/// Tokens and file names of what is delivered; panics where a token comes twice.
fn delivered(home: &Home) -> BTreeMap<String, String> {
    let maildir = home.maildir();
    let mut found = BTreeMap::new();
    for name in maildir.names() {
        let content = text(&maildir.read(&name));
        let token =
            content.lines().find_map(|line| line.strip_prefix("X-Loadgen: ")).expect("a token").to_owned();
        if let Some(other) = found.insert(token.clone(), name.clone()) {
            panic!("{token} is delivered twice: {name} and {other}");
        }
    }
    found
}

#[test]
fn what_got_its_250_is_delivered_once() {
    let (rounds, seed) = (number("KILL_ROUNDS", 20), number("KILL_SEED", 1));
    let mut random = Random::new(seed);
    let home = Home::new(&Options { segment_size: "8MiB", ..Options::default() });
    let ledger = home.path().join("ledger");
    let (mut kills_count_under_load, mut before) = (0, 0);
    for round in 0..rounds {
        let server = home.serve();
        let mut load = Command::new(binary("loadgen"));
        load.arg("run").arg(server.address.to_string()).args(LOAD).arg("--ledger").arg(&ledger);
        let mut load = load.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("loadgen starts");
        let time = Duration::from_millis(random.below(700) as u64);
        std::thread::sleep(time);
        server.kill();
        load.wait().expect("loadgen ends");
        home.verify();
        let count = acknowledged(&ledger).len();
        kills_count_under_load += usize::from(count > before);
        println!(
            "KILL_SEED={seed}, round {round}: killed after {time:?}, {} messages acknowledged",
            count - before
        );
        before = count;
    }
    assert!(rounds < 4 || kills_count_under_load > 2, "the load was not there");

    let server = home.serve();
    let acknowledged = acknowledged(&ledger);
    let ids: BTreeSet<&String> = acknowledged.values().collect();
    assert_eq!(ids.len(), acknowledged.len(), "ids are unique over restarts");
    eventually("all is delivered", || home.undelivered().is_empty().then_some(()));
    server.stop();
    home.verify();
    let delivered = delivered(&home);
    for (token, id) in &acknowledged {
        let name = delivered
            .get(token)
            .unwrap_or_else(|| panic!("KILL_SEED={seed}: {token} ({id}) got its 250 and is gone"));
        assert!(name.contains(id.as_str()), "{token}: {name} is not named after {id}");
    }
    println!("{} acknowledged, {} delivered, {rounds} kills", acknowledged.len(), delivered.len());
    assert_eq!(home.maildir().names_in("cur"), [""; 0]);
}

/// The kernel closes what the ring of a killed process held a moment after the process is gone.
#[test]
fn a_start_right_behind_a_kill_has_the_port() {
    let options = Options::default();
    let home = Home::new(&options);
    let mut server = home.serve();
    home.configure(&options, &server.address.to_string());
    for _ in 0..10 {
        let _sessions: Vec<Client> =
            (0..50).map(|_| Client::ready(server.address).expect("a session")).collect();
        server.kill();
        server = home.serve();
    }
    server.stop();
}

#[test]
fn a_restart_delivers_a_file_again_under_the_same_name() {
    // As after a crash between delivery and acknowledgement: the acknowledgements are lost.
    let home = Home::new(&Options { workers: 1, ..Options::default() });
    let server = home.serve();
    let mut client = Client::ready(server.address).expect("a session");
    for number in 0..10 {
        client.send("", &["a@example.com"], format!("number: {number}\r\n").as_bytes()).expect("a 250");
    }
    let before = home.maildir().wait_for(10);
    server.kill();
    for entry in std::fs::read_dir(home.spool().join("shard-000")).expect("a shard") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "ack") {
            std::fs::write(&path, b"").expect("an empty file");
        }
    }
    assert_eq!(home.undelivered().len(), 10);
    let server = home.serve();
    eventually("all is delivered again", || home.undelivered().is_empty().then_some(()));
    server.stop();
    let names = |delivered: &[tests::maildir::Delivered]| {
        delivered.iter().map(|m| m.name.clone()).collect::<Vec<_>>()
    };
    let after = home.maildir().wait_for(10);
    assert_eq!(names(&after), names(&before));
    assert!(before.iter().zip(&after).all(|(before, after)| before.content == after.content));
}
