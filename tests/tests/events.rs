//! The events stream, and what `ringmx spool show` makes of it: what happened to each message, from its 250 to its end.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::Value;
use tests::client::Client;
use tests::engine::{Home, Options, Server, eventually, text};
use tests::next_hop::{Act, Behaviour, NextHop};

const SENDER: &str = "ada@client.example";
const CONTENT: &[u8] = b"Subject: x\r\n\r\nhello\r\n";

fn configure(home: &Home, hop: &NextHop, events: &str) {
    let mut config = "hostname = \"mx.example\"\nworkers = 1\n[[listener]]\nname = \"mx\"\nbind = [\"127.0.0.1:0\"]\n\
                      [spool]\npath = \"spool\"\nsegment_size = \"4MiB\"\n\
                      [recipients]\ndomains = [\"box.example\", \"hop.example\", \"hold.example\", \"drop.example\"]\n"
        .to_owned();
    for (domain, deliver) in [
        ("box.example", "\"maildir\"\npath = \"mail/{local_part}\"".to_owned()),
        ("hold.example", "\"hold\"".to_owned()),
        ("drop.example", "\"discard\"".to_owned()),
        ("hop.example", format!("\"smtp\"\nnext_hop = [\"{}\"]\ntimeout = \"1s\"", hop.address)),
    ] {
        let _ =
            write!(config, "[[route]]\ndomains = [\"{domain}\"]\ndeliver = {deliver}\nretry = [\"1s\"]\n");
    }
    let _ = write!(config, "[bounce]\nnext_hop = [\"{}\"]\nretry = [\"1s\"]\n{events}\n", hop.address);
    std::fs::write(home.config(), config).expect("a configuration is written");
}

/// A next hop that `act`s at RCPT, and a server that tells of it.
fn scene(act: Option<Act>, events: &str) -> (Home, NextHop, Server) {
    let hop = NextHop::start(behaviour(act));
    let home = Home::new(&Options::default());
    configure(&home, &hop, events);
    let server = home.serve();
    (home, hop, server)
}

fn behaviour(act: Option<Act>) -> Behaviour {
    let acts = act.map(|act| ("RCPT TO:<b", act)).into_iter().collect();
    Behaviour { extensions: vec!["PIPELINING"], acts, ..Behaviour::default() }
}

const EVENTS: &str = "[events]\npath = \"log/events.jsonl\"";

fn send(server: &Server, to: &[&str]) -> String {
    let mut client = Client::ready(server.address).expect("a session");
    let id = client.send(SENDER, to, CONTENT).expect("a 250");
    client.quit().expect("a goodbye");
    id
}

fn file(home: &Home) -> PathBuf {
    home.path().join("log/events.jsonl")
}

/// What the newest file says of a message.
fn events(home: &Home, id: &str) -> Vec<Value> {
    let lines = std::fs::read_to_string(file(home)).unwrap_or_default();
    let whole = lines.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let parsed = whole.map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
    parsed.filter(|event| event["id"] == id).collect()
}

/// Once there is an event with this name.
fn wait_for(home: &Home, id: &str, name: &str) -> Vec<Value> {
    eventually(name, || Some(events(home, id)).filter(|told| told.iter().any(|event| event["event"] == name)))
}

fn names(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["event"].as_str().expect("a name")).collect()
}

/// The keys of an event and their values, but for times.
fn fields(event: &Value) -> Vec<String> {
    let fields = event.as_object().expect("an object").iter();
    let lasting = fields.filter(|(key, _)| !["time", "id", "age_ms", "next_attempt"].contains(&key.as_str()));
    lasting.map(|(key, value)| format!("{key}={value}")).collect()
}

fn show(home: &Home, id: &str) -> (Option<i32>, String, String) {
    let output = home.run(["spool", "show", id]);
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_message_is_followed_from_its_250_to_its_end() {
    let (home, hop, server) = scene(Some(Act::Say("451 4.3.0 <b@hop.example> not now")), EVENTS);
    let id = send(&server, &["a@box.example", "b@hop.example", "c@hop.example"]);
    let told = wait_for(&home, &id, "deferred");
    assert_eq!(names(&told), ["accepted", "delivered", "delivered", "deferred"]);
    let octets = told[0]["octets"].as_u64().expect("a number");
    assert_eq!(octets, hop.wait_for("one", 1)[0].content.len() as u64);
    assert_eq!(
        fields(&told[0]),
        [
            "client=\"127.0.0.1\"",
            "event=\"accepted\"",
            "listener=\"mx\"",
            &format!("octets={octets}"),
            "recipients=3",
            "tls=\"off\""
        ]
    );
    let in_maildir = told[1]["octets"].as_u64().expect("a number");
    assert_eq!(
        fields(&told[1]),
        [
            "attempt=1",
            "event=\"delivered\"",
            &format!("octets={in_maildir}"),
            "recipients=1",
            "route=0",
            "target=\"maildir\""
        ]
    );
    let next_hop = format!("next_hop=\"{}\"", hop.address);
    let delivered = fields(&told[2]);
    for field in ["attempt=1", &next_hop, "recipients=1", "route=3", "target=\"smtp\"", "tls=\"off\""] {
        assert!(delivered.iter().any(|found| found == field), "{field}: {delivered:?}");
    }
    assert!(told[2]["reply"].as_str().is_some_and(|reply| reply.starts_with("250 ")), "{}", told[2]);
    let refused = "451 4.3.0 <[address]> not now";
    assert_eq!(
        fields(&told[3]),
        [
            "attempt=1",
            &format!("error=\"{} refused RCPT: {refused}\"", hop.address),
            "event=\"deferred\"",
            &next_hop,
            "recipients=1",
            &format!("reply=\"{refused}\""),
            "route=3",
            "status=\"4.3.0\"",
            "target=\"smtp\"",
            "tls=\"off\""
        ]
    );
    assert!(told[3]["next_attempt"].as_str() > told[3]["time"].as_str(), "{}", told[3]);
    for event in &told {
        let time = event["time"].as_str().expect("a time");
        assert!(time.len() == "2026-01-01T00:00:00.000000Z".len() && time.ends_with('Z'), "{time}");
    }

    let (status, shown, _) = show(&home, &id);
    assert_eq!(status, Some(0));
    for part in
        ["state         undelivered", "attempts      ", "last error    ", "offset        ", "b@hop.example"]
    {
        assert!(shown.contains(part), "{part}:\n{shown}");
    }
    assert!(shown.lines().any(|line| line.contains("  accepted  listener=mx client=127.0.0.1 ")), "{shown}");
    hop.behave(behaviour(None));
    eventually("the rest", || (names(&events(&home, &id)).last() == Some(&"delivered")).then_some(()));
    eventually("an empty spool", || home.undelivered().is_empty().then_some(()));
    // Its segment has not been used again.
    let (status, shown, _) = show(&home, &id);
    assert!(status == Some(0) && shown.contains("state         delivered"), "{shown}");
    assert_eq!(shown.lines().last().map(|line| line.contains("  delivered attempt=")), Some(true), "{shown}");
    let json = text(&home.run(["spool", "show", "--json", &id]).stdout);
    let count = json.lines().filter(|line| serde_json::from_str::<Value>(line).is_ok()).count();
    assert_eq!(count, 1 + events(&home, &id).len());
    assert!(!std::fs::read_to_string(file(&home)).expect("the file").contains('@'));
    server.stop();
}

#[test]
fn failures_are_told_with_addresses_where_they_are_wanted() {
    let events = format!("{EVENTS}\naddresses = true");
    let (home, _hop, server) = scene(Some(Act::Say("550 5.1.1 nobody@hop.example")), &events);
    let id = send(&server, &["b@hop.example", "b2@hop.example", "a@hop.example"]);
    let told = wait_for(&home, &id, "notice");
    assert_eq!(names(&told), ["accepted", "delivered", "failed", "notice"]);
    assert_eq!(told[0]["from"], SENDER);
    assert_eq!(told[0]["to"].as_array().map(Vec::len), Some(3));
    assert_eq!(told[1]["to"][0], "a@hop.example");
    for event in &told[2..] {
        assert_eq!(event["to"].to_string(), "[\"b@hop.example\",\"b2@hop.example\"]");
        assert_eq!(event["recipients"], 2);
    }
    let failed = &told[2];
    assert_eq!((failed["status"].as_str(), failed["told"].as_str()), (Some("5.1.1"), Some("sender")));
    assert_eq!(failed["reply"], "550 5.1.1 nobody@hop.example");
    server.stop();
}

#[test]
fn what_is_not_carried_anywhere_is_told_too() {
    let (home, _hop, server) = scene(None, EVENTS);
    let id = send(&server, &["a@hold.example", "a@drop.example"]);
    let told = wait_for(&home, &id, "held");
    assert_eq!(names(&told), ["accepted", "discarded", "held"]);
    assert_eq!(told[2]["route"], 1);
    server.stop();
    // It is looked at again by this start, and nothing new has happened to it.
    let server = home.serve();
    let later = send(&server, &["a@box.example"]);
    wait_for(&home, &later, "delivered");
    assert_eq!(names(&events(&home, &id)), ["accepted", "discarded", "held"]);
    assert!(home.run(["queue", "rm", &id]).status.success());
    wait_for(&home, &id, "removed");
    server.stop();
}

/// By size, and the files stay in order; what was told before a restart, or a kill, stays.
#[test]
fn files_rotate_and_outlive_the_server() {
    let events = format!("{EVENTS}\nmax_size = \"4KiB\"\nkeep = 100");
    let (home, _hop, server) = scene(None, &events);
    let mut ids = Vec::new();
    let mut server = Some(server);
    for round in 0..4 {
        let running = server.take().unwrap_or_else(|| home.serve());
        for _ in 0..10 {
            let id = send(&running, &["a@box.example"]);
            eventually("its end", || show(&home, &id).1.contains("  delivered ").then_some(()));
            ids.push(id);
        }
        if round % 2 == 0 { drop(running.stop()) } else { running.kill() }
    }
    for id in &ids {
        let (status, shown, _) = show(&home, id);
        let lines: Vec<&str> = shown.lines().filter(|line| line.contains("Z  ")).collect();
        assert_eq!(status, Some(0));
        assert!(
            lines[0].contains("  accepted ")
                && lines.last().is_some_and(|line| line.contains("  delivered "))
        );
    }
    let log = home.path().join("log");
    let files: Vec<PathBuf> =
        std::fs::read_dir(log).expect("a directory").map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() > 2, "{files:?}");
    for file in files {
        let len = file.metadata().expect("a file").len();
        assert!(len <= 4096, "{}: {len}", file.display());
    }
}

#[test]
fn nobody_knows_a_message_that_never_was() {
    let (home, _hop, server) = scene(None, "");
    let (status, shown, error) = show(&home, "0CH1611EAG081-1");
    assert_eq!((status, shown.as_str()), (Some(1), ""));
    assert!(error.contains("0CH1611EAG081-1"), "{error}");
    let id = send(&server, &["a@box.example"]);
    eventually("its end", || home.undelivered().is_empty().then_some(()));
    let (status, shown, _) = show(&home, &id);
    assert!(status == Some(0) && shown.contains("state         delivered"), "{shown}");
    assert!(!home.path().join("log").exists(), "nobody asked for events");
    server.stop();
}

#[test]
fn a_file_that_cannot_be_written_is_found_before_the_start_and_at_it() {
    let hop = NextHop::start(behaviour(None));
    let home = Home::new(&Options::default());
    configure(&home, &hop, EVENTS);
    std::fs::create_dir_all(file(&home)).expect("a directory in its place");
    let check = home.run(["check", "--json"]);
    assert!(text(&check.stdout).contains("events-not-writable"), "{}", text(&check.stdout));
    let refused = home.try_serve().expect_err("no start");
    let error = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        error.contains("cannot write the events to ") && error.contains("it is no regular file"),
        "{error}"
    );
}
