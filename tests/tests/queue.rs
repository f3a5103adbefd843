//! What an operator does with mail that waits: `ringmx queue`, with the real program and next hops that refuse.

use std::fmt::Write as _;

use serde_json::Value;
use tests::client::Client;
use tests::engine::{Home, Options, Server, eventually, text};
use tests::next_hop::{Act, Behaviour, NextHop};

const SENDER: &str = "ada@client.example";
const CONTENT: &[u8] = b"Subject: x\r\n\r\nhello\r\n";

/// Says no for now to everything.
fn refusing() -> Behaviour {
    Behaviour { acts: vec![("MAIL", Act::Say("451 4.3.0 not now"))], ..Behaviour::default() }
}

/// One next hop for `a.example` and `b.example`, another for notices; what is tagged is held.
fn serve(hop: &NextHop, bounce: &NextHop) -> (Home, Server) {
    let home = Home::new(&Options::default());
    let mut config = "hostname = \"mx.example\"\nworkers = 2\n[[listener]]\nname = \"internet\"\nbind = [\"127.0.0.1:0\"]\n[spool]\n\
                      path = \"spool\"\nsegment_size = \"4MiB\"\n[recipients]\n\
                      domains = [\"a.example\", \"b.example\"]\n\
                      [[rule]]\nstage = \"mail\"\nfrom = [\"spam.example\"]\naction = \"tag\"\ntag = \"suspect\"\n\
                      [[route]]\ntag = [\"suspect\"]\nlistener = [\"internet\"]\ndeliver = \"hold\"\n"
        .to_owned();
    let _ = write!(
        config,
        "[[route]]\ndomains = [\"*\"]\ndeliver = \"smtp\"\nnext_hop = [\"{}\"]\nretry = [\"1h\"]\n\
         [bounce]\nnext_hop = [\"{}\"]\n",
        hop.address, bounce.address
    );
    std::fs::write(home.config(), config).expect("a configuration is written");
    let server = home.serve();
    (home, server)
}

fn send(server: &Server, from: &str, to: &[&str]) -> String {
    let mut client = Client::ready(server.address).expect("a session");
    let id = client.send(from, to, CONTENT).expect("a 250");
    client.quit().expect("a goodbye");
    id
}

/// Sends it and waits until it was refused for now.
fn defer(home: &Home, server: &Server, to: &[&str]) -> String {
    let id = send(server, SENDER, to);
    eventually("a message that waits", || {
        listed(home, &[&id]).first().filter(|it| it["attempts"] == 1).cloned()
    });
    id
}

/// What `queue ls` says.
fn listed(home: &Home, selection: &[&str]) -> Vec<Value> {
    let output = home.run([&["queue", "ls", "--json"], selection].concat());
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// How many messages the server did it with.
fn order(home: &Home, verb: &str, selection: &[&str]) -> u64 {
    let output = home.run([&["queue", verb, "--json"], selection].concat());
    let told: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("no JSON: {} {}", text(&output.stdout), text(&output.stderr)));
    assert_eq!(output.status.success(), told["done"] != 0 && told["missed"] == 0, "{told}");
    told["done"].as_u64().expect("a count")
}

fn wait_until_empty(home: &Home) {
    eventually("an empty spool", || home.undelivered().is_empty().then_some(()));
}

#[test]
fn what_waits_is_tried_when_the_operator_says_so() {
    let (hop, bounce) = (NextHop::start(refusing()), NextHop::start(Behaviour::default()));
    let (home, server) = serve(&hop, &bounce);
    let first = defer(&home, &server, &["x@a.example"]);
    let second = defer(&home, &server, &["x@b.example"]);
    hop.behave(Behaviour::default());
    assert_eq!(listed(&home, &["--domain", "B.example"])[0]["id"], second.as_str());
    assert_eq!(order(&home, "retry", &["--domain", "b.example"]), 1);
    assert_eq!(hop.wait_for("the second", 1)[0].recipients, ["RCPT TO:<x@b.example>"]);
    assert_eq!(home.undelivered(), [first]);
    assert_eq!(order(&home, "retry", &["--all"]), 1);
    hop.wait_for("the first", 2);
    wait_until_empty(&home);
    assert_eq!(order(&home, "retry", &["--all"]), 0, "nothing is left");
    server.stop();
}

/// A next hop that cannot be reached is left alone, but not when somebody knows that it is well.
#[test]
fn a_next_hop_that_is_left_alone_is_tried_by_order() {
    let closing = || Behaviour { acts: vec![("connect", Act::Close)], ..Behaviour::default() };
    let (hop, bounce) = (NextHop::start(closing()), NextHop::start(Behaviour::default()));
    let (home, server) = serve(&hop, &bounce);
    // Each failure makes it rest for twice as long: 8 seconds and more behind the fifth.
    let id = defer(&home, &server, &["x@a.example"]);
    for attempts in 2..=5 {
        assert_eq!(order(&home, "retry", &[&id]), 1);
        eventually("another attempt", || {
            listed(&home, &[&id]).first().filter(|it| it["attempts"] == attempts).cloned()
        });
    }
    assert_eq!(hop.connections_count(), 5);
    hop.behave(Behaviour::default());
    assert_eq!(order(&home, "retry", &[&id]), 1);
    hop.wait_for("the message", 1);
    wait_until_empty(&home);
    server.stop();
}

/// All that waits for it, and not only one message that sees whether it is well.
#[test]
fn by_order_all_mail_for_a_next_hop_is_tried() {
    let closing = || Behaviour { acts: vec![("connect", Act::Close)], ..Behaviour::default() };
    let (hop, bounce) = (NextHop::start(closing()), NextHop::start(Behaviour::default()));
    let (home, server) = serve(&hop, &bounce);
    let ids: Vec<String> = (0..30).map(|_| defer(&home, &server, &["x@a.example"])).collect();
    hop.behave(Behaviour::default());
    assert_eq!(order(&home, "retry", &["--all"]), ids.len() as u64);
    hop.wait_for("all of it", ids.len());
    wait_until_empty(&home);
    server.stop();
}

#[test]
fn what_is_held_stays_until_it_is_released() {
    let (hop, bounce) = (NextHop::start(refusing()), NextHop::start(Behaviour::default()));
    let (home, server) = serve(&hop, &bounce);
    let held = defer(&home, &server, &["x@a.example", "y@b.example"]);
    let other = defer(&home, &server, &["z@a.example"]);
    assert_eq!(order(&home, "hold", &[&held]), 1);
    eventually("a held message", || {
        listed(&home, &["--held"]).first().filter(|it| it["mark"] == "held").cloned()
    });
    let shown = text(&home.run(["spool", "show", &held]).stdout);
    assert!(shown.lines().any(|line| line.starts_with("mark ") && line.ends_with(" held")), "{shown}");
    hop.behave(Behaviour::default());
    assert_eq!(order(&home, "retry", &["--all"]), 2);
    assert_eq!(hop.wait_for("the other", 1)[0].recipients, ["RCPT TO:<z@a.example>"]);
    eventually("the end of the other", || (home.undelivered() == [held.clone()]).then_some(()));
    server.kill();
    // Nor by a restart.
    let server = home.serve();
    let last = send(&server, SENDER, &["last@a.example"]);
    hop.wait_for("one behind it", 2);
    eventually("a held message", || (home.undelivered() == [held.clone()]).then_some(()));
    assert_ne!(last, held);
    assert_ne!(other, held);
    assert_eq!(order(&home, "release", &["--held"]), 1);
    let expected = ["RCPT TO:<x@a.example>", "RCPT TO:<y@b.example>"];
    assert_eq!(hop.wait_for("what was held", 3)[2].recipients, expected);
    wait_until_empty(&home);
    server.stop();
}

/// What a route holds goes on by the route behind it, and stays released when that fails at first.
#[test]
fn quarantine_ends_with_a_release() {
    let (hop, bounce) = (NextHop::start(refusing()), NextHop::start(Behaviour::default()));
    let (home, server) = serve(&hop, &bounce);
    let ids = [(); 2].map(|()| send(&server, "x@spam.example", &["x@a.example"]));
    eventually("quarantine", || (listed(&home, &["--held", "--tag", "suspect"]).len() == 2).then_some(()));
    assert_eq!(order(&home, "release", &[&ids[0]]), 1);
    eventually("an attempt", || listed(&home, &[&ids[0]]).first().filter(|it| it["attempts"] == 1).cloned());
    server.stop();
    let server = home.serve();
    hop.behave(Behaviour::default());
    assert_eq!(order(&home, "retry", &["--sender", "x@spam.example"]), 2);
    hop.wait_for("what was released", 1);
    eventually("the other in quarantine", || (home.undelivered() == [ids[1].clone()]).then_some(()));
    server.stop();
    assert_eq!(hop.taken().len(), 1);
}

#[test]
fn what_is_given_up_is_told_and_what_is_removed_is_not() {
    let (hop, bounce) = (NextHop::start(refusing()), NextHop::start(Behaviour::default()));
    let (home, server) = serve(&hop, &bounce);
    let bounced = defer(&home, &server, &["x@a.example", "y@b.example"]);
    let removed = defer(&home, &server, &["z@a.example"]);
    assert_eq!(order(&home, "rm", &[&removed]), 1);
    eventually("the end of it", || (home.undelivered() == [bounced.clone()]).then_some(()));
    assert_eq!(order(&home, "bounce", &["--sender", SENDER]), 1);
    let notice = text(&bounce.wait_for("a notice", 1)[0].content);
    for part in ["<x@a.example>", "<y@b.example>", "Status: 5.0.0", "given up by the operator"] {
        assert!(notice.contains(part), "{part}: {notice}");
    }
    wait_until_empty(&home);
    assert_eq!((hop.taken().len(), bounce.taken().len()), (0, 1));
    let log = server.stop().join("\n");
    for line in ["removed by order of the operator", "given up by order of the operator"] {
        assert!(log.contains(line), "{line}: {log}");
    }
    home.verify();
}

#[test]
fn an_order_without_a_server_or_a_selection_is_refused() {
    let (hop, bounce) = (NextHop::start(refusing()), NextHop::start(Behaviour::default()));
    let (home, server) = serve(&hop, &bounce);
    let id = defer(&home, &server, &["x@a.example"]);
    let output = home.run(["queue", "rm"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("say which messages"), "{}", text(&output.stderr));
    assert_eq!(order(&home, "rm", &["0000000000000-1"]), 0);
    server.stop();
    let output = home.run(["queue", "rm", &id]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("cannot be asked"), "{}", text(&output.stderr));
    assert_eq!(home.undelivered(), [id]);
}
