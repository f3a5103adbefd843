//! The load generator itself: what it makes of servers that misbehave, and what its options do to one that does not.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
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
            &[
                "--connections",
                "2",
                "--duration",
                "30s",
                "--fail-fast",
                "--timeout",
                "200ms",
                "--no-pipelining",
            ],
        );
        assert_eq!(status, Some(1), "{first:?} {each:?}: {report}");
        assert_eq!(report["accepted"], 0, "{first:?} {each:?}: {report}");
        assert!(kinds(&report).contains(kind), "{first:?} {each:?}: {kind} in {report}");
    }
}

#[test]
fn nobody_there_no_such_host_and_no_descriptors_are_told_apart() {
    let free = TcpListener::bind("127.0.0.1:0").expect("bound").local_addr().expect("an address");
    let (status, report) =
        run(&free.to_string(), &["--connections", "1", "--duration", "30s", "--fail-fast"]);
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
    let args = ["--source", "127.0.0.2-127.0.0.4,127.9.9.9", "--connections", "6", "--duration", "2s"];
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

#[test]
fn what_the_server_does_not_offer_is_not_sent() {
    for (args, kind) in [
        (&["--bdat"][..], "chunking_missing"),
        (&["--body", "8bitmime"], "eight_bit_mime_missing"),
        (&["--smtputf8"], "eight_bit_mime_missing"),
        (&["--tls", "starttls"], "start_tls_missing"),
    ] {
        let (address, _) = scripted("220 mx\r\n", EHLO, false);
        let (status, report) = run(
            &address.to_string(),
            &[&["--connections", "1", "--duration", "30s", "--fail-fast"], args].concat(),
        );
        assert_eq!((status, &report["started"]), (Some(1), &0.into()), "{args:?}: {report}");
        assert_eq!(kinds(&report), BTreeSet::from([kind.to_owned()]), "{args:?}: {report}");
    }
}

/// The messages of a Maildir, which has lines that end in LF, without the fields that the server put in front.
fn contents(home: &Home) -> Vec<String> {
    let maildir = home.maildir();
    let own = |name: &String| {
        let text = String::from_utf8(maildir.read(name)).expect("UTF-8");
        text.find("Date: ").into_iter().chain(text.find("X-Loadgen: ")).min().map(|at| text[at..].to_owned())
    };
    maildir.names().iter().map(|name| own(name).expect("a field of ours")).collect()
}

#[test]
fn chunks_eight_bits_utf_8_and_files_arrive_as_they_were_sent() {
    let corpus = tempfile::tempdir().expect("a directory");
    std::fs::write(corpus.path().join("a"), "Subject: a\n\n.dot\n").expect("written");
    std::fs::write(corpus.path().join("b"), "Subject: \u{e4}\r\n\r\nlast line without its end")
        .expect("written");
    std::fs::write(corpus.path().join(".hidden"), "").expect("written");
    let directory = corpus.path().to_str().expect("UTF-8");
    let files = ["Subject: a\n\n.dot\n", "Subject: \u{e4}\n\nlast line without its end\n"];
    let from_files = ["--corpus", directory, "--body", "8bitmime"];
    for args in [
        &[&from_files[..], &["--no-pipelining"]].concat()[..],
        &[&from_files[..], &["--bdat", "--chunk", "30", "--pipelined"]].concat(),
        &[&from_files[..], &["--bdat", "--chunk", "30", "--no-pipelining"]].concat(),
        &["--size", "lognormal:4KiB,1", "--bdat", "--smtputf8", "--seed", "7"],
        &["--size", "3000", "--body", "8bitmime"],
    ] {
        let home = Home::new(&Options::default());
        let server = home.serve();
        let ledger = home.path().join("ledger");
        let common = ["run", "--messages", "60", "--connections", "3", "--json", "-", "--fail-on", "errors"];
        let address = server.address.to_string();
        let output =
            loadgen(&[&common[..], &[&address, "--ledger", ledger.to_str().expect("UTF-8")], args].concat());
        let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
        assert_eq!((output.status.code(), &report["accepted"]), (Some(0), &60.into()), "{args:?}: {report}");
        eventually("all is delivered", || home.undelivered().is_empty().then_some(()));
        let (status, found) =
            verify(&["--fail-on-duplicates"], &[("", &ledger), ("--maildir", &home.path().join("maildir"))]);
        assert_eq!((status, &found["stored"]), (Some(0), &60.into()), "{args:?}: {found}");
        let contents = contents(&home);
        if args.contains(&directory) {
            for file in files {
                let count =
                    contents.iter().filter(|text| text.split_once('\n').expect("lines").1 == file).count();
                assert!(count > 0, "{args:?}: {file:?} in {contents:?}");
            }
        } else {
            assert!(contents.iter().all(|text| !text.is_ascii() && text.ends_with('\n')), "{contents:?}");
        }
        server.stop();
    }
}

#[test]
fn a_corpus_that_cannot_be_sent_is_named_with_its_file() {
    let corpus = tempfile::tempdir().expect("a directory");
    let refused = |directory: &Path, what: &str, named: &str| {
        let output = loadgen(&["run", "127.0.0.1:9", "--corpus", directory.to_str().expect("UTF-8")]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(what) && said.contains(named), "{said}");
    };
    refused(&corpus.path().join("absent"), "No such file", "absent");
    std::fs::create_dir(corpus.path().join("below")).expect("made");
    let name = corpus.path().to_str().expect("UTF-8");
    refused(corpus.path(), "no file to send", name);
    std::fs::write(corpus.path().join("wide"), "Subject: x\n\n\u{e4}\n").expect("written");
    refused(corpus.path(), "line 3 has an octet above 127", "wide");
    std::fs::write(corpus.path().join("empty"), "").expect("written");
    refused(corpus.path(), "empty", "empty");
    std::fs::remove_file(corpus.path().join("empty")).expect("removed");
    let large = std::fs::File::create(corpus.path().join("large")).expect("made");
    large.set_len((1 << 30) + 1).expect("a file without blocks");
    refused(corpus.path(), "larger than", "large");
}

/// `loadgen sink`, and where it listens; ended when dropped.
struct Sink(Child, String);

impl Sink {
    fn start() -> Self {
        let mut command = Command::new(binary("loadgen"));
        let mut process = command
            .args(["sink", "--bind", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the sink starts");
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().expect("piped")).read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("listening on ").expect("the address").to_owned();
        Self(process, address)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn clients_that_misbehave_are_counted_apart_and_harm_no_other() {
    let home = Home::new(&Options::default());
    let server = home.serve();
    let ledger = home.path().join("ledger");
    let shares = "drip=10,half-open=10,rst=10,early=10,never-reads=10,vanish=10";
    let ledger_text = ledger.to_str().expect("UTF-8");
    let (status, report) = run(
        &server.address.to_string(),
        &[
            "--connections",
            "30",
            "--duration",
            "4s",
            "--rate",
            "200",
            "--misbehave",
            shares,
            "--ledger",
            ledger_text,
        ],
    );
    // Nothing of theirs is an error of the run, and none of their messages one that was accepted.
    let run_count = |name: &str| report[name].as_u64().expect("a number");
    assert_eq!((status, run_count("errors_count")), (Some(0), 0), "{report}");
    assert_eq!(
        (run_count("accepted") + run_count("missed"), run_count("connections_opened")),
        (800, 12),
        "{report}"
    );
    let acknowledged = std::fs::read_to_string(&ledger).expect("the ledger").lines().count() as u64;
    assert!(acknowledged == run_count("accepted") && acknowledged > 0, "{acknowledged}: {report}");
    let tallies = report["misbehaving"].as_array().expect("a list");
    let kinds: Vec<_> = tallies.iter().map(|tally| tally["kind"].as_str().expect("a kind")).collect();
    assert_eq!(kinds, ["drip", "half-open", "rst", "early", "never-reads", "vanish"]);
    for tally in tallies {
        let count = |name: &str| tally[name].as_u64().expect("a number");
        assert_eq!((count("clients"), count("failed")), (3, 0), "{tally}");
        // How soon a server stops reading from one that never reads is its own affair.
        assert!(count("done") > 0 || tally["kind"] == "never-reads", "{tally}");
        assert!(count("connections_opened") >= 3, "{tally}");
    }
    server.stop();
}

#[test]
fn a_server_that_is_gone_does_not_hold_those_who_misbehave() {
    let free = TcpListener::bind("127.0.0.1:0").expect("bound").local_addr().expect("an address");
    let shares = "drip=20,never-reads=20,half-open=20";
    let (status, report) =
        run(&free.to_string(), &["--connections", "10", "--duration", "3s", "--misbehave", shares]);
    assert_eq!((status, &report["accepted"]), (Some(1), &0.into()), "{report}");
    for tally in report["misbehaving"].as_array().expect("a list") {
        assert!(tally["failed"].as_u64().expect("a number") > 0 && tally["done"] == 0, "{tally}");
    }
}

#[test]
fn arrivals_follow_a_ramp_and_steps() {
    let sink = Sink::start();
    for (profile, due) in [(["--ramp", "0:400:2"], 400), (["--steps", "100,300:1"], 400)] {
        let (status, report) = run(&sink.1, &[&["--connections", "20"][..], &profile].concat());
        let count = |name: &str| report[name].as_u64().expect("a number");
        assert_eq!((status, count("accepted") + count("missed")), (Some(0), due), "{report}");
        assert_eq!(report["setup"]["arrivals"], "open");
        let timeline = &report["timeline"];
        let rates = timeline["messages_per_sec"].as_array().expect("a list");
        assert!(rates.len() > 10 && rates.len() == timeline["cpu_cores"].as_array().expect("a list").len());
    }
}

#[test]
fn a_self_test_shows_a_ceiling_and_holds_it_against_a_result() {
    let sink = Sink::start();
    let home = tempfile::tempdir().expect("a directory");
    let (result, html) = (home.path().join("result.json"), home.path().join("report.html"));
    let (result, html) = (result.to_str().expect("UTF-8"), html.to_str().expect("UTF-8"));
    let load = ["--connections", "4", "--size", "2000"];
    // Far less than what any machine's ceiling is.
    let slow = ["run", &sink.1, "--rate", "20", "--duration", "1s", "--json", result, "--html", html];
    assert_eq!(loadgen(&[&slow[..], &load].concat()).status.code(), Some(0));
    let page = std::fs::read_to_string(html).expect("a page");
    assert!(page.starts_with("<!DOCTYPE html>") && page.matches("<svg").count() >= 5, "{page}");
    let test = |args: &[&str]| {
        let output = loadgen(&[&["self-test", "--messages", "500", "--json", "-"], args].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default(), said)
    };
    let (status, report, said) = test(&[&load[..], &["--against", result]].concat());
    assert_eq!((status, &report["against"]["enough"]), (Some(0), &true.into()), "{report} {said}");
    assert_eq!(report["run"]["accepted"], 500);
    for name in ["ceiling_messages_per_sec", "cpu_us_per_message", "sink_cpu_us_per_message"] {
        assert!(report[name].as_f64().expect("a number") > 0.0, "{name} in {report}");
    }
    let (status, report, said) = test(&[&load[..], &["--against", result, "--factor", "1000"]].concat());
    let enough = report["against"]["ratio"].as_f64().expect("a number") >= 1000.0;
    assert_eq!(
        (status, &report["against"]["enough"]),
        (Some(i32::from(!enough)), &enough.into()),
        "{report} {said}"
    );
    let (status, _, said) = test(&["--connections", "5", "--size", "2000", "--against", result]);
    assert_eq!(status, Some(2), "{said}");
    assert!(said.contains("connections 4, this with 5"), "{said}");
    let (status, _, said) = test(&[&load[..], &["--rate", "5"]].concat());
    assert!(status == Some(2) && said.contains("closed loop"), "{said}");
}
