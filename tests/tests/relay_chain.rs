//! One server hands on to another: under TLS, beside a dead next hop, and killed while it does.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::Path;

use tests::client::Client;
use tests::engine::{Home, Options, Server, eventually, text};
use tests::maildir::Delivered;
use tests::next_hop::{Act, Behaviour, NextHop};
use tests::tls::Authority;

const CONTENT: &[u8] = b"Subject: x\r\n\r\n.\r\nthe end\r\n";

/// The second server, which puts everything into its Maildir.
fn back(listener: &str, prepare: impl FnOnce(&Path)) -> (Home, Server) {
    let limits = "[limits]\nconnections_per_client = 10000\nconnection_rate_per_client = \"none\"\n\
                  connection_rate_per_network = \"none\"";
    let listener = Box::leak(format!("{listener}\n{limits}").into_boxed_str());
    let home = Home::new(&Options { listener, ..Options::default() });
    prepare(home.path());
    let server = home.serve();
    (home, server)
}

/// The first: a domain for each of `routes`, which say more of it than its next hop.
fn front(routes: &[(&str, String)]) -> Home {
    let home = Home::new(&Options::default());
    let domains: Vec<String> = routes.iter().map(|(domain, _)| format!("\"{domain}\"")).collect();
    let mut config = format!(
        "hostname = \"front.example\"\nworkers = 2\n[[listener]]\nbind = [\"127.0.0.1:0\"]\n[spool]\npath = \"spool\"\n\
         segment_size = \"4MiB\"\n[recipients]\ndomains = [{}]\n",
        domains.join(", ")
    );
    for (domain, route) in routes {
        let _ = write!(config, "[[route]]\ndomains = [\"{domain}\"]\nretry = [\"1s\"]\n{route}\n");
    }
    std::fs::write(home.config(), config).expect("a configuration is written");
    home
}

fn to(server: &Server, more: &str) -> String {
    format!("deliver = \"smtp\"\nnext_hop = [\"127.0.0.1:{}\"]\n{more}", server.address.port())
}

fn send(server: &Server, to: &str, content: &[u8]) -> String {
    let mut client = Client::ready(server.address).expect("a session");
    let id = client.send("ada@client.example", &[to], content).expect("a 250");
    client.quit().expect("a goodbye");
    id
}

#[test]
fn tls_is_what_the_route_wants() {
    const LISTENER: &str = "tls = \"starttls\"\n[[certificate]]\nchain = \"mx.pem\"\nkey = \"mx.key\"";
    let (back_home, secure) = back(LISTENER, |path| {
        let authority = Authority::new("ringmx tests");
        authority.write(path);
        authority.issue(path, "mx", &["localhost", "127.0.0.1"]);
    });
    let (clear_home, clear) = back("", |_| {});
    let authorities = format!("authorities = \"{}\"", back_home.path().join("authority.pem").display());
    let localhost = |tls: &str| {
        let port = secure.address.port();
        format!("deliver = \"smtp\"\nnext_hop = [\"localhost:{port}\"]\ntls = \"{tls}\"\n{authorities}")
    };
    let other = Authority::new("somebody else").write(clear_home.path());
    let untrusted = format!("tls = \"verified\"\nauthorities = \"{}\"", other.display());
    let home = front(&[
        ("off.example", to(&secure, "tls = \"off\"")),
        ("opportunistic.example", to(&secure, "")),
        ("required.example", to(&secure, "tls = \"required\"")),
        ("verified.example", localhost("verified")),
        ("untrusted.example", to(&secure, &untrusted)),
        ("clear.example", to(&clear, "")),
        ("clear-required.example", to(&clear, "tls = \"required\"")),
        ("clear-verified.example", to(&clear, &format!("tls = \"verified\"\n{authorities}"))),
    ]);
    // The second server takes mail for one domain.
    for (home, server) in [(&back_home, &secure), (&clear_home, &clear)] {
        let config = std::fs::read_to_string(home.config()).expect("its configuration");
        let all = "domains = [\"example.com\", \"off.example\", \"opportunistic.example\", \"required.example\", \
                   \"verified.example\", \"untrusted.example\", \"clear.example\", \"clear-required.example\", \
                   \"clear-verified.example\"]";
        std::fs::write(home.config(), config.replace("domains = [\"example.com\"]", all)).expect("written");
        server.signal(rustix::process::Signal::HUP);
        eventually("a reload", || server.log.find("reloaded"));
    }
    let server = home.serve();
    for (domain, tls) in [
        ("off.example", "off"),
        ("opportunistic.example", "TLSv1_3 TLS13_AES_256_GCM_SHA384"),
        ("required.example", "TLSv1_3 TLS13_AES_256_GCM_SHA384"),
        ("verified.example", "TLSv1_3 TLS13_AES_256_GCM_SHA384"),
        ("clear.example", "off"),
    ] {
        let id = send(&server, &format!("a@{domain}"), CONTENT);
        let line = eventually(domain, || {
            let is_it = |line: &String| line.contains(&id) && line.contains("\"message\":\"delivered\"");
            server.log.lines().into_iter().find(is_it)
        });
        assert!(line.contains(&format!("\"tls\":\"{tls}\"")), "{domain}: {line}");
    }
    for (domain, why) in [
        ("untrusted.example", "UnknownIssuer"),
        ("clear-required.example", "it does not offer STARTTLS"),
        ("clear-verified.example", "it does not offer STARTTLS"),
    ] {
        let id = send(&server, &format!("a@{domain}"), CONTENT);
        let line = eventually(domain, || {
            server.log.lines().into_iter().find(|line| line.contains(&id) && line.contains("delivery failed"))
        });
        assert!(line.contains(why), "{line}");
    }
    assert_eq!(home.undelivered().len(), 3);
    server.stop();
    secure.stop();
    clear.stop();
}

/// A next hop that nobody answers at, one that never greets, and one that answers an octet at a time: mail to the
/// others passes.
#[test]
fn dead_next_hops_hold_up_nobody() {
    const DEAD_COUNT: usize = 300;
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
    let hangs = NextHop::start(Behaviour { acts: vec![("connect", Act::Hang)], ..Behaviour::default() });
    let drip = Act::Drip("250 2.1.0 as slowly as can be, and then slower", std::time::Duration::from_secs(1));
    let drips = NextHop::start(Behaviour { acts: vec![("MAIL", drip)], ..Behaviour::default() });
    let well = NextHop::start(Behaviour { extensions: vec!["PIPELINING"], ..Behaviour::default() });
    let route = |address| format!("deliver = \"smtp\"\nnext_hop = [\"{address}\"]");
    let home = front(&[
        ("gone.example", route(free)),
        ("hangs.example", route(hangs.address)),
        ("drips.example", route(drips.address)),
        ("well.example", route(well.address)),
    ]);
    let server = home.serve();
    for number in 0..DEAD_COUNT {
        for domain in ["gone", "hangs", "drips"] {
            send(&server, &format!("a{number}@{domain}.example"), CONTENT);
        }
        send(&server, &format!("a{number}@well.example"), CONTENT);
    }
    // The timeout of those that hang is five minutes; the test's patience is less.
    well.wait_for("all mail to the one that is well", DEAD_COUNT);
    assert_eq!(home.undelivered().len(), 3 * DEAD_COUNT);
    server.kill();
}

/// Killed again and again while it hands on: nothing is lost, and what comes twice is what was under way.
#[test]
fn a_server_that_is_killed_delivers_everything() {
    const ROUNDS_COUNT: usize = 5;
    const MESSAGES_COUNT: usize = 60;
    let (back_home, second) = back("", |_| {});
    let home = front(&[("example.com", to(&second, "connections_max = 4"))]);
    let mut sent = BTreeMap::new();
    for round in 0..ROUNDS_COUNT {
        let server = home.serve();
        for number in 0..MESSAGES_COUNT {
            let content = format!("Subject: {round}-{number}\r\n\r\n{}\r\n", "x".repeat(number * 50));
            sent.insert(format!("{round}-{number}"), content.clone());
            send(&server, "a@example.com", content.as_bytes());
        }
        server.kill();
    }
    let server = home.serve();
    eventually("an empty spool", || home.undelivered().is_empty().then_some(()));
    server.stop();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let maildir = back_home.maildir();
    // What the second server took it has delivered soon.
    eventually("an empty spool there", || back_home.undelivered().is_empty().then_some(()));
    for name in maildir.names() {
        let whole = text(&Delivered::parse(&name, &maildir.read(&name)).content);
        let subject = whole.lines().find_map(|line| line.strip_prefix("Subject: ")).expect("a subject");
        let (name, content) = sent.get_key_value(subject).expect("one that was sent");
        assert!(whole.ends_with(&content.replace("\r\n", "\n")), "{subject}");
        *counts.entry(name).or_default() += 1;
    }
    assert_eq!(counts.len(), sent.len(), "every message arrives");
    let twice = counts.values().filter(|count| **count > 1).count();
    // At most what was under way or not acknowledged at each kill.
    assert!(twice <= ROUNDS_COUNT * MESSAGES_COUNT / 2, "{twice} came more than once");
    second.stop();
    home.verify();
}
