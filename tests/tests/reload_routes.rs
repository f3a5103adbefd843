//! Routes that change while mail waits: what is deferred or held goes by those of the latest reload, and next hops are
//! verified by what the file of authorities holds then. So are rates.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tests::client::Client;
use tests::engine::{Home, Options, Server, eventually, text};
use tests::next_hop::{Act, Behaviour, NextHop};
use tests::receiver::{OK, Receiver};
use tests::reloading::Reloading;
use tests::tls::Authority;

const BASE: &str = "hostname = \"front.example\"\nworkers = 2\n[[listener]]\nbind = [\"127.0.0.1:0\"]\n[spool]\n\
                    path = \"spool\"\nsegment_size = \"4MiB\"\n[recipients]\ndomains = [\"example.com\"]\n\
                    [[route]]\ndomains = [\"*\"]\n";

fn start(route: &str) -> Reloading {
    let home = Home::new(&Options::default());
    fs::write(home.config(), BASE).expect("a configuration is written");
    Reloading::start(home, route)
}

fn to(hop: &NextHop, retry: &str) -> String {
    format!("deliver = \"smtp\"\nnext_hop = [\"{}\"]\nretry = [\"{retry}\"]\n", hop.address)
}

fn refusing() -> NextHop {
    NextHop::start(Behaviour { acts: vec![("MAIL", Act::Say("451 4.3.0 not now"))], ..Behaviour::default() })
}

fn send(setup: &Reloading) -> String {
    let mut client = Client::ready(setup.server.address).expect("a session");
    let id =
        client.send("ada@client.example", &["x@example.com"], b"Subject: x\r\n\r\nhello\r\n").expect("a 250");
    client.quit().expect("a goodbye");
    id
}

/// Why the message waits, once it was tried.
fn deferred(setup: &Reloading, id: &str) -> String {
    eventually("an attempt", || {
        let output = setup.home.run(["queue", "ls", "--json", id]);
        let listed: Value = serde_json::from_slice(&output.stdout).ok()?;
        listed["last_error"].as_str().map(str::to_owned)
    })
}

fn reload(setup: &Reloading, route: &str) {
    let line = setup.reload(route);
    assert!(line.contains("\"reloaded\""), "{line}");
}

fn retry(setup: &Reloading, count: usize) {
    let output = setup.home.run(["queue", "retry", "--all", "--json"]);
    let said = text(&output.stdout);
    assert!(output.status.success() && said.contains(&format!("\"done\":{count}")), "{said}");
}

fn wait_for_held(setup: &Reloading, count: usize) {
    eventually("held mail", || {
        let output = setup.home.run(["queue", "ls", "--held", "--json"]);
        (text(&output.stdout).lines().count() == count).then_some(())
    });
}

fn wait_until_empty(setup: &Reloading) {
    eventually("an empty spool", || setup.home.undelivered().is_empty().then_some(()));
}

#[test]
fn deferred_mail_goes_to_the_new_next_hop_by_order() {
    let (old, new) = (refusing(), NextHop::start(Behaviour::default()));
    let setup = start(&to(&old, "1h"));
    let id = send(&setup);
    deferred(&setup, &id);
    reload(&setup, &to(&new, "1h"));
    // Not before somebody asks for it, or its time has come.
    assert_eq!((setup.home.undelivered(), new.connections_count()), (vec![id], 0));
    retry(&setup, 1);
    assert_eq!(new.wait_for("the message", 1)[0].recipients, ["RCPT TO:<x@example.com>"]);
    wait_until_empty(&setup);
    assert_eq!((old.taken().len(), old.connections_count()), (0, 1));
    setup.server.stop();
}

#[test]
fn deferred_mail_goes_to_the_new_next_hop_when_its_time_comes() {
    let (old, new) = (refusing(), NextHop::start(Behaviour::default()));
    let setup = start(&to(&old, "1s"));
    let id = send(&setup);
    deferred(&setup, &id);
    reload(&setup, &to(&new, "1h"));
    new.wait_for("the message", 1);
    wait_until_empty(&setup);
    assert_eq!(old.taken(), []);
    setup.server.stop();
}

/// What the operator holds is no route's affair. What comes behind the reload goes by the new route at once.
#[test]
fn held_mail_goes_on_when_no_route_holds_it_any_more() {
    let new = NextHop::start(Behaviour::default());
    let setup = start("deliver = \"hold\"\n");
    let ids = [(); 3].map(|()| send(&setup));
    wait_for_held(&setup, 3);
    let output = setup.home.run(["queue", "hold", &ids[1]]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    reload(&setup, &to(&new, "1h"));
    new.wait_for("what a route held", 2);
    eventually("the end of it", || (setup.home.undelivered() == [ids[1].clone()]).then_some(()));
    send(&setup);
    assert_eq!(new.wait_for("what came then", 3).len(), 3);
    // And the other way round.
    reload(&setup, "deliver = \"hold\"\n");
    send(&setup);
    wait_for_held(&setup, 2);
    assert_eq!(new.taken().len(), 3);
    setup.server.stop();
}

/// A server with a certificate of this authority, which puts everything into its Maildir.
fn secure(authority: &Authority) -> (Home, Server) {
    let listener = "tls = \"starttls\"\n[[certificate]]\nchain = \"mx.pem\"\nkey = \"mx.key\"";
    let home = Home::new(&Options { listener, ..Options::default() });
    authority.issue(home.path(), "mx", &["localhost"]);
    let server = home.serve();
    (home, server)
}

#[test]
fn next_hops_are_verified_by_the_authorities_of_the_latest_reload() {
    let authority = Authority::new("whom it should trust");
    let (_back_home, back) = secure(&authority);
    let home = Home::new(&Options::default());
    fs::write(home.config(), BASE).expect("a configuration is written");
    let trusted = home.path().join("trusted.pem");
    let trust = |pem: &Path| assert_ne!(fs::copy(pem, &trusted).expect("a file"), 0);
    let (right, wrong) = (home.path().join("right"), home.path().join("wrong"));
    [&right, &wrong].into_iter().for_each(|dir| fs::create_dir(dir).expect("a directory"));
    let (right, wrong) = (authority.write(&right), Authority::new("somebody else").write(&wrong));
    trust(&wrong);
    let route = format!(
        "deliver = \"smtp\"\nnext_hop = [\"localhost:{}\"]\nretry = [\"1h\"]\ntls = \"verified\"\n\
         authorities = \"trusted.pem\"\n",
        back.address.port()
    );
    let setup = Reloading::start(home, &route);
    let first = send(&setup);
    let why = deferred(&setup, &first);
    assert!(why.contains("UnknownIssuer"), "{why}");
    trust(&right);
    reload(&setup, &route);
    retry(&setup, 1);
    wait_until_empty(&setup);
    // What is cut off is refused, and those that were read before are trusted on.
    let whole = fs::read(&right).expect("a file");
    fs::write(&trusted, &whole[..whole.len() / 2]).expect("a file");
    let line = setup.reload(&route);
    for part in ["reload refused", "ringmx.toml:", "trusted.pem cannot be used: it is not PEM"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let second = send(&setup);
    let is_it = |line: &String| line.contains(&second) && line.contains("\"message\":\"delivered\"");
    let line = eventually("a delivery", || setup.server.log.lines().into_iter().find(is_it));
    assert!(line.contains("\"tls\":\"TLSv1_3"), "{line}");
    // The connection on which it went is still there, and is not used by those who trust nobody there.
    trust(&wrong);
    reload(&setup, &route);
    let third = send(&setup);
    let why = deferred(&setup, &third);
    assert!(why.contains("UnknownIssuer"), "{why}");
    assert_eq!(setup.home.undelivered(), [third]);
    setup.server.stop();
    back.stop();
}

#[test]
fn receivers_by_https_are_verified_by_the_authorities_of_the_latest_reload() {
    let home = Home::new(&Options::default());
    fs::write(home.config(), BASE).expect("a configuration is written");
    let authority = Authority::new("whom it should trust");
    authority.issue(home.path(), "in", &["localhost"]);
    let receiver = Receiver::start_secure(OK, &home.path().join("in"));
    Authority::new("somebody else").write(home.path());
    let route = format!(
        "deliver = \"http\"\nurl = \"https://localhost:{}/in\"\nsecret = \"x\"\nretry = [\"1h\"]\n\
         authorities = \"authority.pem\"\n",
        receiver.address.port()
    );
    let setup = Reloading::start(home, &route);
    let first = send(&setup);
    let why = deferred(&setup, &first);
    assert!(why.contains("UnknownIssuer"), "{why}");
    let told = |line: &&String| line.contains(&first) && line.contains("UnknownIssuer");
    assert_eq!(setup.server.log.lines().iter().filter(told).count(), 1);
    assert_eq!(receiver.posted(), []);
    authority.write(setup.home.path());
    reload(&setup, &route);
    retry(&setup, 1);
    let posted = receiver.wait_for("what was not trusted to it before", 1).remove(0);
    assert!(posted.one("Ringmx-Id") == first && posted.body.ends_with(b"\r\nhello\r\n"), "{posted:?}");
    wait_until_empty(&setup);
    let is_it = |line: &String| line.contains(&first) && line.contains("\"message\":\"delivered\"");
    let line = eventually("a delivery", || setup.server.log.lines().into_iter().find(is_it));
    assert!(line.contains("\"tls\":\"TLSv1_3"), "{line}");
    setup.server.stop();
}

/// What is over it waits, holds up nobody else's mail, and is no failed attempt.
#[test]
fn a_rate_is_held_to_until_there_is_another() {
    const COUNT: usize = 6;
    let (slow, swift) = (NextHop::start(Behaviour::default()), NextHop::start(Behaviour::default()));
    let routes = |rate: &str| {
        format!(
            "mailboxes = [\"slow@example.com\"]\n{}{rate}[[route]]\ndomains = [\"*\"]\n{}[events]\n\
             path = \"events.jsonl\"\n[admin]\nbind = \"127.0.0.1:0\"\n",
            to(&slow, "1h"),
            to(&swift, "1h")
        )
    };
    let setup = start(&routes("message_rate = \"1/h\"\n"));
    let mut client = Client::ready(setup.server.address).expect("a session");
    let mut send = |to: &str, count: usize| {
        let one =
            |_| client.send("ada@client.example", &[to], b"Subject: x\r\n\r\nhello\r\n").expect("a 250");
        (0..count).map(one).collect::<Vec<String>>()
    };
    let mut ids = send("slow@example.com", COUNT);
    slow.wait_for("the first", 1);
    send("swift@example.com", COUNT);
    swift.wait_for("mail that the rate is not for", COUNT);
    assert_eq!(slow.taken().len(), 1);
    reload(&setup, &routes("message_rate = \"1000/s\"\n"));
    slow.wait_for("the rest", COUNT);
    wait_until_empty(&setup);
    assert_eq!((slow.taken().len(), swift.taken().len()), (COUNT, COUNT));

    let events = fs::read_to_string(setup.home.path().join("events.jsonl")).expect("events");
    let events: Vec<Value> =
        events.lines().map(|line| serde_json::from_str(line).expect("an event")).collect();
    let of = |id: &str, kind: &str| {
        let is = |event: &&Value| event["id"] == id && event["event"] == kind;
        events.iter().filter(is).cloned().collect::<Vec<Value>>()
    };
    assert!(ids.iter().all(|id| of(id, "deferred").is_empty() && of(id, "delivered")[0]["attempt"] == 1));
    ids.retain(|id| !of(id, "put-off").is_empty());
    assert_eq!(ids.len(), COUNT - 1, "all but the first: {events:?}");
    for id in &ids {
        let put_off = &of(id, "put-off")[0];
        assert_eq!(put_off["next_hop"], slow.address.to_string());
        assert!(put_off["next_attempt"].is_string() && put_off["attempt"].is_null(), "{put_off}");
        assert!(
            put_off["why"].as_str().is_some_and(|why| why.contains("as many messages as it may have now"))
        );
    }
    let put_off = setup.server.metric("ringmx_delivery_put_off_total");
    let failed = setup.server.metric("ringmx_delivery_failed_attempts_total");
    assert_eq!((put_off, failed), (COUNT as u64 - 1, 0));
    let log = setup.server.stop().join("\n");
    assert!(log.contains("put off, the next hop has no place") && !log.contains("delivery failed"), "{log}");
}
