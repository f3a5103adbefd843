//! The load generator itself: what it makes of servers that misbehave, and what its options do to one that does not.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tests::engine::{Home, Options, binary, eventually};

/// A server that says `first` to whoever connects, and then `each` to whatever it reads, or `closes` at once.
/// Its address, and the addresses that connected. It lives as long as the test's process.
fn scripted(
    first: &'static str,
    each: &'static str,
    closes: bool,
) -> (SocketAddr, Arc<Mutex<BTreeSet<IpAddr>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("an address");
    let peers = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = Arc::clone(&peers);
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            seen.lock().expect("unpoisoned").insert(peer.ip());
            std::thread::spawn(move || {
                let _ = stream.write_all(first.as_bytes());
                let mut buffer = [0; 4096];
                while !closes && matches!(stream.read(&mut buffer), Ok(1..)) {
                    if stream.write_all(each.as_bytes()).is_err() {
                        break;
                    }
                }
            });
        }
    });
    (address, peers)
}

fn loadgen(args: &[&str]) -> Output {
    Command::new(binary("loadgen")).args(args).output().expect("loadgen starts")
}

/// Runs with `--fail-on errors`; the exit status and the report.
fn run(server: &str, args: &[&str]) -> (Option<i32>, Value) {
    let all = [&["run", server, "--json", "-", "--fail-on", "errors", "--size", "1000"], args].concat();
    let output = loadgen(&all);
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), report)
}

fn kinds(report: &Value) -> BTreeSet<String> {
    let errors = report["errors"].as_array().expect("errors");
    errors.iter().map(|error| error["kind"].as_str().expect("a kind").to_owned()).collect()
}

const EHLO: &str = "250-mx\r\n250 PIPELINING\r\n";

#[test]
fn each_misbehaviour_is_counted_and_none_is_an_accepted_message() {
    for (first, each, closes, kind) in [
        ("", "", true, "connection_closed"),
        ("220 mx\r\n", "", true, "connection_closed"),
        ("", "", false, "reply_timed_out"),
        ("554 no\r\n", "", false, "greeting_refused"),
        ("421 later\r\n", "", false, "service_closing"),
        ("220 mx\r\n", "550 no\r\n", false, "ehlo_refused"),
        ("220 mx\r\n", "250-mx\r\n", false, "reply_timed_out"),
        ("220 mx\r\n", "250-mx\r\n550 other\r\n", false, "reply_malformed"),
        ("220 mx\r\n", "hello\r\n", false, "reply_malformed"),
        // All is well until the content, and to that it says 250 to nothing that was asked.
        ("220 mx\r\n250 unasked\r\n", "", false, "reply_unexpected"),
        ("220 mx\r\n", EHLO, false, "reply_unexpected"),
    ] {
        let (address, _) = scripted(first, each, closes);
        let (status, report) = run(
            &address.to_string(),
            &["--connections", "2", "--duration", "500ms", "--timeout", "200ms", "--no-pipelining"],
        );
        assert_eq!(status, Some(1), "{first:?} {each:?}: {report}");
        assert_eq!(report["accepted"], 0, "{first:?} {each:?}: {report}");
        assert!(kinds(&report).contains(kind), "{first:?} {each:?}: {kind} in {report}");
    }
}

#[test]
fn nobody_there_no_such_host_and_no_descriptors_are_told_apart() {
    let free = TcpListener::bind("127.0.0.1:0").expect("bound").local_addr().expect("an address");
    let (status, report) = run(&free.to_string(), &["--connections", "1", "--duration", "200ms"]);
    assert_eq!((status, kinds(&report).contains("connect_refused")), (Some(1), true), "{report}");

    let unknown = loadgen(&["run", "no-such-host.invalid:25"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("no-such-host.invalid:25"), "{unknown:?}");

    let script = "ulimit -n 64; exec \"$0\" run 127.0.0.1:9 --connections 500";
    let few = Command::new("sh").args(["-c", script]).arg(binary("loadgen")).output().expect("sh");
    assert_eq!(few.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&few.stderr).contains("the limit is 64"), "{few:?}");
}

#[test]
fn connections_come_from_the_addresses_in_turn() {
    let (address, peers) = scripted("554 no\r\n", "", true);
    let args = ["--source", "127.0.0.2-127.0.0.4,127.9.9.9", "--connections", "6", "--duration", "300ms"];
    run(&address.to_string(), &args);
    let expected: BTreeSet<IpAddr> = ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.9.9.9"]
        .iter()
        .map(|text| text.parse().expect("an address"))
        .collect();
    assert_eq!(*peers.lock().expect("unpoisoned"), expected);
}

fn verify(args: &[&str], paths: &[(&str, &Path)]) -> (Option<i32>, Value) {
    let mut command = Command::new(binary("loadgen"));
    command.arg("verify").args(args).arg("--json").arg("--ringmx").arg(binary("ringmx"));
    for (option, path) in paths {
        if !option.is_empty() {
            command.arg(option);
        }
        command.arg(path);
    }
    let output = command.output().expect("loadgen starts");
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), report)
}

#[test]
fn what_was_acknowledged_is_found_in_the_spool_and_in_the_maildir() {
    for (deliver, option) in [(None, "--maildir"), (Some("deliver = \"hold\""), "--spool")] {
        let home = Home::new(&Options { deliver, ..Options::default() });
        let server = home.serve();
        let (ledger, hgrm) = (home.path().join("ledger"), home.path().join("hgrm"));
        let (ledger_text, hgrm_text) = (ledger.to_str().expect("UTF-8"), hgrm.to_str().expect("UTF-8"));
        let (status, report) = run(
            &server.address.to_string(),
            &[
                &["--messages", "200", "--connections", "5", "--rate", "2000", "--poisson"][..],
                &["--ledger", ledger_text, "--ledger-sync", "--hgrm", hgrm_text],
            ]
            .concat(),
        );
        assert_eq!((status, &report["accepted"]), (Some(0), &200.into()), "{report}");
        assert_eq!(report["setup"]["poisson"], true);
        let final_ = std::fs::read_to_string(hgrm.join("final.hgrm")).expect("a histogram");
        assert!(final_.contains("Total count    =          200]"), "{final_}");
        if deliver.is_none() {
            eventually("all is delivered", || home.undelivered().is_empty().then_some(()));
        }
        let maildir = home.path().join("maildir");
        let place = if deliver.is_none() { maildir.clone() } else { home.spool() };
        let (status, found) = verify(&["--fail-on-duplicates"], &[("", &ledger), (option, &place)]);
        assert_eq!(status, Some(0), "{found}");
        assert_eq!((&found["acknowledged"], &found["stored"]), (&200.into(), &200.into()), "{found}");
        server.stop();
        if deliver.is_some() {
            continue;
        }
        // One gone, one there twice: both are seen.
        let names = home.maildir().names();
        std::fs::remove_file(maildir.join("new").join(&names[0])).expect("removed");
        std::fs::copy(maildir.join("new").join(&names[1]), maildir.join("cur").join("again"))
            .expect("copied");
        let (status, found) = verify(&[], &[("", &ledger), (option, &place)]);
        assert_eq!(
            (status, &found["missing"], &found["duplicated"]),
            (Some(1), &1.into(), &1.into()),
            "{found}"
        );
    }
}
