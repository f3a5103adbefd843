//! Delivery by HTTP: what a receiver gets, what its answers do, and that nothing is lost or waits for another.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use tests::client::Client;
use tests::engine::{Home, Options, Server, eventually, text};
use tests::next_hop::{Behaviour, NextHop};
use tests::receiver::{Answer, OK, Posted, Receiver};

const SENDER: &str = "ada@client.example";
const CONTENT: &[u8] = b"Subject: x\r\n\r\n.\r\n..a\r\nthe end\r\n";
const SECRET: &str = "a secret: 0123456789";

fn configure(home: &Home, receivers: &[(&str, &Receiver)], bounce: &NextHop) {
    let domains: Vec<String> = receivers.iter().map(|(domain, _)| format!("\"{domain}\"")).collect();
    let mut config = format!(
        "hostname = \"mx.example\"\nworkers = 1\n[[listener]]\nbind = [\"127.0.0.1:0\"]\n[spool]\npath = \"spool\"\n\
         segment_size = \"4MiB\"\n[recipients]\ndomains = [{}]\n[bounce]\nnext_hop = [\"{}\"]\n[events]\n\
         path = \"events.jsonl\"\n",
        domains.join(", "),
        bounce.address
    );
    for (domain, receiver) in receivers {
        let _ = write!(
            config,
            "[[route]]\ndomains = [\"{domain}\"]\ndeliver = \"http\"\nurl = \"http://{}/in?for={domain}\"\n\
             secret = {{ file = \"secret\" }}\ntimeout = \"1s\"\nretry = [\"1s\"]\n",
            receiver.address
        );
    }
    std::fs::write(home.config(), config).expect("a configuration is written");
    std::fs::write(home.path().join("secret"), format!("{SECRET}\n")).expect("a secret is written");
}

fn serve(receivers: &[(&str, &Receiver)]) -> (Home, NextHop, Server) {
    let (home, bounce) = (Home::new(&Options::default()), NextHop::start(Behaviour::default()));
    configure(&home, receivers, &bounce);
    let server = home.serve();
    (home, bounce, server)
}

fn send(server: &Server, to: &[&str], content: &[u8]) -> String {
    let mut client = Client::ready(server.address).expect("a session");
    let id = client.send(SENDER, to, content).expect("a 250");
    client.quit().expect("a goodbye");
    id
}

fn wait_until_empty(home: &Home) {
    eventually("an empty spool", || home.undelivered().is_empty().then_some(()));
}

/// Lets the example of the documentation check the signature.
fn is_genuine(posted: &Posted, secret: &str, now_offset: i64) -> bool {
    let page = tests::source::workspace().join("engine/docs/operations.md");
    let page = std::fs::read_to_string(page).expect("operations.md");
    let (_, example) = page.split_once("```python\n").expect("an example");
    let (example, _) = example.split_once("```").expect("its end");
    let mut fields = String::new();
    for (name, value) in &posted.fields {
        let _ = writeln!(fields, "headers[{name:?}] = {value:?}");
    }
    let script = format!(
        "import hashlib, hmac, sys, time\nfrom email.message import Message\n{example}\nheaders = Message()\n{fields}\
         now = time.time() + {now_offset}\nprint(is_genuine({secret:?}.encode(), headers, sys.stdin.buffer.read(), now))\n"
    );
    let mut python = Command::new("python3");
    let mut python =
        python.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3");
    python.stdin.take().expect("piped").write_all(&posted.body).expect("the body is read");
    let output = python.wait_with_output().expect("python3 ends");
    assert!(output.status.success());
    text(&output.stdout).trim() == "True"
}

#[test]
fn a_receiver_gets_the_message_and_can_trust_it() {
    let receiver = Receiver::start(OK);
    let (home, _, server) = serve(&[("a.example", &receiver)]);
    let id = send(&server, &["x@a.example", "\"y, z%\"@a.example"], CONTENT);
    let posted = receiver.wait_for("a request", 1).remove(0);
    assert_eq!(posted.request_line, "POST /in?for=a.example HTTP/1.1");
    assert_eq!(posted.one("Host"), receiver.address.to_string());
    assert_eq!(posted.one("Content-Type"), "message/rfc822");
    assert_eq!(posted.one("Ringmx-Id"), id);
    assert_eq!(posted.one("Ringmx-Mail-From"), SENDER);
    assert_eq!(posted.all("Ringmx-Rcpt-To"), ["x@a.example", "%22y%2C%20z%25%22@a.example"]);
    assert!(posted.body.starts_with(b"Received: from ") && posted.body.ends_with(CONTENT));
    assert!(is_genuine(&posted, SECRET, 0));
    assert!(!is_genuine(&posted, "another secret", 0) && !is_genuine(&posted, SECRET, 3600));
    let mut forged = posted.clone();
    forged.body.push(b'\n');
    assert!(!is_genuine(&forged, SECRET, 0));
    let mut forged = posted;
    forged.fields.push(("Ringmx-Rcpt-To".to_owned(), "more@a.example".to_owned()));
    assert!(!is_genuine(&forged, SECRET, 0));

    // In a file of its own, over the same connection.
    let large = [b"Subject: large\r\n\r\n", &b".x\r\n..\r\nabcdefgh\r\n".repeat(60_000)[..]].concat();
    send(&server, &["x@a.example"], &large);
    let posted = receiver.wait_for("another", 2).remove(1);
    assert!(posted.body.ends_with(&large) && posted.connection == 0 && is_genuine(&posted, SECRET, 0));
    // More than one request names.
    let many: Vec<String> = (0..120).map(|number| format!("n{number}@a.example")).collect();
    send(&server, &many.iter().map(String::as_str).collect::<Vec<_>>(), CONTENT);
    let posted = receiver.wait_for("three more", 5);
    let named: Vec<&str> = posted[2..].iter().flat_map(|posted| posted.all("Ringmx-Rcpt-To")).collect();
    assert_eq!(named, many);
    wait_until_empty(&home);
    let events = std::fs::read_to_string(home.path().join("events.jsonl")).expect("events");
    assert!(
        events.contains("\"target\":\"http\"") && events.contains("\"reply\":\"200 thanks\""),
        "{events}"
    );
    server.stop();
    home.verify();
}

#[test]
fn answers_decide_and_nobody_waits_for_another() {
    let troubles: &[(&str, Answer)] = &[
        ("broken.example", Answer::Say("HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno")),
        (
            "chunked.example",
            Answer::Say("HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n"),
        ),
        (
            "moved.example",
            Answer::Say("HTTP/1.1 302 Go\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n"),
        ),
        ("closes.example", Answer::Close),
        ("hangs.example", Answer::Hang),
        ("garbled.example", Answer::Say("250 2.0.0 taken\r\n")),
        ("endless.example", Answer::Say("HTTP/1.1 200 OK\r\nX-Endless: ")),
    ];
    let receivers: Vec<Receiver> = troubles.iter().map(|(_, answer)| Receiver::start(*answer)).collect();
    let well = Receiver::start(OK);
    let refusing = Receiver::start(Answer::Say(
        "HTTP/1.1 406 Not Acceptable\r\nConnection: close\r\n\r\nno such ticket\nand more\n",
    ));
    let mut all: Vec<(&str, &Receiver)> =
        troubles.iter().zip(&receivers).map(|((domain, _), receiver)| (*domain, receiver)).collect();
    all.extend([("well.example", &well), ("refusing.example", &refusing)]);
    let (home, bounce, server) = serve(&all);
    let ids: Vec<String> =
        troubles.iter().map(|(domain, _)| send(&server, &[&format!("a@{domain}")], CONTENT)).collect();
    send(&server, &["a@well.example"], CONTENT);
    well.wait_for("mail beside troubles", 1);
    send(&server, &["nobody@refusing.example"], CONTENT);
    let notice = text(&bounce.wait_for("a notice", 1)[0].content);
    for part in ["<nobody@refusing.example>", "    no such ticket\r\n", "Status: 5.0.0\r\n"] {
        assert!(notice.contains(part), "{part}:\n{notice}");
    }
    assert!(!notice.contains("and more") && !notice.contains("Diagnostic-Code"), "{notice}");
    eventually("an attempt at each", || {
        let events = std::fs::read_to_string(home.path().join("events.jsonl")).unwrap_or_default();
        let is_deferred =
            |id: &String| events.lines().any(|line| line.contains("\"deferred\"") && line.contains(id));
        ids.iter().all(is_deferred).then_some(())
    });
    receivers.iter().for_each(|receiver| receiver.answer(OK));
    for ((domain, _), receiver) in troubles.iter().zip(&receivers) {
        let is_there = || receiver.posted().last().filter(|posted| posted.body.ends_with(CONTENT)).cloned();
        let posted = eventually(domain, is_there);
        assert_eq!(posted.all("Ringmx-Rcpt-To"), [format!("a@{domain}")]);
    }
    wait_until_empty(&home);
    assert_eq!((bounce.taken().len(), refusing.posted().len()), (1, 1));
    server.stop();
}

#[test]
fn a_kill_loses_nothing() {
    let receiver = Receiver::start(OK);
    let (home, _, mut server) = serve(&[("a.example", &receiver)]);
    let mut sent = BTreeSet::new();
    for _ in 0..5 {
        let mut client = Client::ready(server.address).expect("a session");
        sent.extend((0..20).map(|_| client.send(SENDER, &["x@a.example"], CONTENT).expect("a 250")));
        server.kill();
        server = home.serve();
    }
    wait_until_empty(&home);
    let posted = receiver.posted();
    let got: BTreeSet<String> = posted.iter().map(|posted| posted.one("Ringmx-Id").to_owned()).collect();
    assert_eq!(got, sent);
    assert!(posted.iter().all(|posted| posted.body.ends_with(CONTENT)));
    server.stop();
}
