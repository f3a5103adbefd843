//! Certificates from outside: exchanged while the server runs, checked before it does, and what an idle session holds.

use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ringmx::limits::{CERTIFICATE_RENEWAL_TIME_MAX, CERTIFICATE_TIME_LEAST};
use rustix::process::Signal;
use rustls::ClientConfig;
use serde_json::Value;
use tests::engine::{Home, Options, Server, allow_descriptors, binary, eventually, text};
use tests::tls::{self, Authority};

const STARTTLS: &str = "tls = \"starttls\"\n[[certificate]]\nchain = \"live/mx.pem\"\nkey = \"live/mx.key\"\n\
                        [admin]\nbind = \"127.0.0.1:0\"\n";

/// A home whose certificates are in a directory that a symbolic link names, as ACME clients have it.
struct Renewing {
    home: Home,
    authority: Authority,
    config: Arc<ClientConfig>,
}

impl Renewing {
    fn new() -> Self {
        let home = Home::new(&Options { listener: STARTTLS, ..Options::default() });
        let authority = Authority::new("ringmx tests");
        let config = tls::client_config(&authority.write(home.path()));
        let renewing = Self { home, authority, config };
        renewing.link_to("first", &["mx.example", "first.example"]);
        renewing
    }

    fn path(&self) -> &Path {
        self.home.path()
    }

    /// Issues into a directory of this name, and exchanges the link by one rename.
    fn link_to(&self, directory: &str, names: &[&str]) {
        let path = self.path().join(directory);
        std::fs::create_dir(&path).expect("a directory");
        self.authority.issue(&path, "mx", names);
        let new = self.path().join("live.new");
        std::os::unix::fs::symlink(directory, &new).expect("a link");
        std::fs::rename(new, self.path().join("live")).expect("renamed");
    }

    /// Whether a new connection gets a certificate that is good for this name.
    fn serves(&self, server: &Server, name: &str) -> bool {
        tls::start_tls(server.address, &self.config, name).is_ok()
    }

    /// To be called right behind the exchange: there is a bound for how long the old one is served.
    fn wait_for(&self, server: &Server, name: &str) {
        let began = Instant::now();
        eventually(name, || self.serves(server, name).then_some(()));
        let took = began.elapsed();
        assert!(took <= CERTIFICATE_RENEWAL_TIME_MAX, "{name}: in use behind {took:?}");
    }
}

#[test]
fn new_connections_get_the_new_certificate_and_no_session_fails() {
    let renewing = Renewing::new();
    let server = renewing.home.serve();
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, config, address) = (Arc::clone(&stop), Arc::clone(&renewing.config), server.address);
            std::thread::spawn(move || {
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    let mut stream = tls::start_tls(address, &config, "mx.example").expect("secured");
                    for line in ["EHLO x", "MAIL FROM:<>", "RCPT TO:<b@example.com>", "DATA"] {
                        tls::say(&mut stream, line).expect("a reply");
                    }
                    let reply = tls::say(&mut stream, "Subject: x\r\n\r\nx\r\n.").expect("a reply");
                    assert!(reply.starts_with("250 2.0.0 queued"), "{reply}");
                    assert!(tls::say(&mut stream, "QUIT").expect("a reply").starts_with("221"));
                    count += 1;
                }
                count
            })
        })
        .collect();
    let mut kept = tls::start_tls(server.address, &renewing.config, "first.example").expect("secured");
    for name in ["second", "third", "fourth"] {
        let host = format!("{name}.example");
        assert!(!renewing.serves(&server, &host));
        renewing.link_to(name, &["mx.example", &host]);
        renewing.wait_for(&server, &host);
    }
    assert!(!renewing.serves(&server, "first.example"));
    // In place, too: a file is exchanged by a rename.
    renewing.authority.issue(&renewing.path().join("live"), "mx", &["mx.example", "fifth.example"]);
    renewing.wait_for(&server, "fifth.example");
    stop.store(true, Ordering::Relaxed);
    let count: usize = clients.into_iter().map(|client| client.join().expect("no session fails")).sum();
    assert!(tls::say(&mut kept, "EHLO x").expect("a session from before goes on").starts_with("250 "));
    println!("{count} sessions while certificates were exchanged four times");
    assert!(count > 0);
    server.stop();
    renewing.home.maildir().wait_for(count);
}

#[test]
fn a_bad_certificate_changes_nothing_and_raises_an_alarm() {
    let renewing = Renewing::new();
    let other = tempfile::tempdir().expect("a directory");
    renewing.authority.issue(other.path(), "mx", &["mx.example"]);
    let other_key = std::fs::read(other.path().join("mx.key")).expect("a key");
    let server = renewing.home.serve();
    let lines_count = |wanted: &[&str]| {
        let has_all = |line: &&String| wanted.iter().all(|word| line.contains(word));
        server.log.lines().iter().filter(has_all).count()
    };
    let damages: [(&str, Option<&[u8]>, &str); 5] = [
        ("mx.pem", Some(b"no certificate"), "no certificate in it"),
        ("mx.key", Some(b"no key"), "no private key"),
        ("mx.key", Some(&other_key), "is not the key of the first certificate"),
        ("mx.pem", None, "cannot read"),
        ("mx.key", None, "cannot read"),
    ];
    for (index, (file, damaged, why)) in damages.into_iter().enumerate() {
        let path = renewing.path().join("live").join(file);
        let whole = std::fs::read(&path).expect("a file");
        match damaged {
            Some(octets) => std::fs::write(&path, octets).expect("written"),
            None => std::fs::remove_file(&path).expect("removed"),
        }
        let alarm = ["certificates cannot be read again", file, why];
        eventually(why, || (lines_count(&alarm) == 1).then_some(()));
        assert!(renewing.serves(&server, "first.example"), "{why}: the old one serves");
        assert_eq!(server.metric("ringmx_certificates_stale"), 1, "{why}");
        // Until 2099.
        assert_eq!(server.metric("ringmx_certificate_not_after_seconds"), 4_070_908_800);
        server.signal(Signal::HUP);
        eventually(why, || (lines_count(&["reload refused", file, why]) == 1).then_some(()));
        assert!(renewing.serves(&server, "first.example"), "{why}: behind SIGHUP, too");
        // What was there before is whole again.
        std::fs::write(&path, whole).expect("written");
        let end = ["certificates are read again"];
        eventually("the end of the alarm", || (lines_count(&end) == index + 1).then_some(()));
        assert_eq!(server.metric("ringmx_certificates_stale"), 0, "{why}");
    }
    server.stop();
}

/// What `ringmx check` says of a listener.
fn check(home: &Home) -> (Option<i32>, String) {
    let output = home.run(["check"]);
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

#[test]
fn weak_settings_are_warned_of() {
    let renewing = Renewing::new();
    let (status, told) = check(&renewing.home);
    assert_eq!(status, Some(0), "{told}");
    assert!(!told.contains("mx.pem") && !told.contains("mx.key"), "{told}");
    let live = renewing.path().join("live");
    renewing.authority.issue_until(&live, "mx", &["other.example"], 2021);
    std::fs::set_permissions(live.join("mx.key"), Permissions::from_mode(0o644)).expect("a mode");
    let (_, told) = check(&renewing.home);
    for warning in [
        "the certificate has ended",
        "no certificate has the name `mx.example` of the listener `mx`",
        "the key can be read by everybody",
    ] {
        assert!(told.contains(warning), "{warning}:\n{told}");
    }
    std::fs::remove_file(renewing.path().join("live/mx.key")).expect("removed");
    let (status, told) = check(&renewing.home);
    assert!(status == Some(2) && told.contains("cannot read") && told.contains("mx.key"), "{told}");
    for (listener, warning) in [
        ("tls = \"required\"", "turns senders without TLS away"),
        ("tls = \"implicit\"", "no MTA expects it there"),
        ("tls = \"off\"", "all its mail comes in clear"),
    ] {
        let listener: &'static str =
            Box::leak(STARTTLS.replace("tls = \"starttls\"", listener).into_boxed_str());
        renewing.home.configure(&Options { listener, ..Options::default() }, "127.0.0.1:25");
        let (_, told) = check(&renewing.home);
        assert!(told.contains(warning), "{warning}:\n{told}");
    }
}

/// By `check`, and by the server when it starts, which serves it all the same: most senders do not look.
#[test]
fn the_end_of_a_certificate_is_told_before_it_comes() {
    let renewing = Renewing::new();
    let live = renewing.path().join("live");
    let (hour, day) = (Duration::from_secs(3600), Duration::from_secs(24 * 3600));
    for (rest, checked, logged) in [
        (CERTIFICATE_TIME_LEAST + hour, None, "\"days\":21"),
        (CERTIFICATE_TIME_LEAST - hour, Some("ends in 20 days"), "a certificate ends soon: renew it"),
        (day - hour, Some("ends in 0 days"), "a certificate ends soon: renew it"),
    ] {
        renewing.authority.issue_for(&live, "mx", &["mx.example"], rest);
        let (status, told) = check(&renewing.home);
        assert_eq!(status, Some(0), "{told}");
        match checked {
            Some(warning) => assert!(told.contains(warning), "{warning}:\n{told}"),
            None => assert!(!told.contains("mx.pem"), "{told}"),
        }
        let server = renewing.home.serve();
        assert!(renewing.serves(&server, "mx.example"), "{rest:?}");
        let log = server.stop().join("\n");
        assert!(log.contains(logged), "{logged}:\n{log}");
    }
    renewing.authority.issue_until(&live, "mx", &["mx.example"], 2021);
    let server = renewing.home.serve();
    assert!(!renewing.serves(&server, "mx.example"), "who looks is not deceived");
    let log = server.stop().join("\n");
    assert!(log.contains("a certificate has ended: renew it"), "{log}");
}

#[test]
fn a_certificate_is_made_where_that_is_wanted() {
    const MADE: &str = "tls = \"starttls\"\n[[certificate]]\nchain = \"tls/mx.pem\"\nkey = \"tls/mx.key\"\n\
                        if_missing = \"self-signed\"\n";
    let home = Home::new(&Options { listener: MADE, ..Options::default() });
    let server = home.serve();
    let path = home.path().join("tls/mx.pem");
    let config = tls::client_config(&path);
    tls::start_tls(server.address, &config, "mx.example").expect("who trusts it is served");
    server.stop();
    let made = std::fs::read(&path).expect("it stays");
    let key = std::fs::metadata(home.path().join("tls/mx.key")).expect("a key");
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
    home.serve().stop();
    assert_eq!(std::fs::read(&path).expect("it stays"), made);
}

#[test]
fn probe_tells_of_protocol_chain_names_and_expiry() {
    let renewing = Renewing::new();
    renewing.link_to("local", &["mx.example", "localhost"]);
    let server = renewing.home.serve();
    let probe = |args: &[&str]| {
        let mut command = Command::new(binary("ringmx"));
        command.args(["probe", &format!("localhost:{}", server.address.port()), "--json"]).args(args);
        let output = command.current_dir(renewing.path()).output().expect("it runs");
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (output.status.code(), report)
    };
    let (status, report) = probe(&["--tls", "--authorities", "authority.pem"]);
    let tls = &report["tls"];
    assert_eq!(status, Some(0), "{report}");
    assert_eq!((&tls["protocol"], &tls["cipher"]), (&"TLSv1.3".into(), &"TLS_AES_256_GCM_SHA384".into()));
    assert_eq!(tls["trusted"], true, "{tls}");
    let first = &tls["chain"][0];
    assert_eq!(first["names"], serde_json::json!(["mx.example", "localhost"]));
    assert!(first["days"].as_i64().expect("days") > 0 && first["key"] == "ECDSA 256", "{first}");
    assert!(first["issuer"].as_str().expect("an issuer").contains("ringmx tests"), "{first}");
    // STARTTLS stands in the first reply to EHLO, and not in the one behind it.
    assert!(!report["extensions"].as_array().expect("a list").contains(&"STARTTLS".into()), "{report}");
    let (status, report) = probe(&["--tls", "--authorities", "nowhere.pem"]);
    assert_eq!((status, &report["tls"]["trusted"]), (Some(0), &false.into()), "{report}");
    let (status, report) = probe(&["--tls=implicit"]);
    assert!(status == Some(1) && report["error"].as_str().expect("why").starts_with("no TLS"), "{report}");
    assert_eq!(probe(&[]).0, Some(0));
    server.stop();
}

/// Sessions that do nothing.
const IDLE_COUNT: usize = 2000;
/// Such sessions that are there before.
const EARLIER_COUNT: usize = 1000;
/// Resident octets of the process that one of them may add: what rustls keeps of keys and states, and ours. About half
/// as much again as is measured.
const IDLE_RESIDENT_LEN_MAX: usize = 7 * 1024;

/// Together three times the receive buffers of two workers, since the kernel deals the connections out.
const WARM_MESSAGES_COUNT: usize = 128;
const WARM_CONTENT_LEN: usize = 768 << 10;

fn resident(server: &Server) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("the server runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel says it");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
}

#[test]
fn idle_sessions_hold_little() {
    const LISTENER: &str = "tls = \"starttls\"\nconnections_max = 8000\n[limits]\nconnections_per_client = 10000\n\
                            connections_per_network = 10000\nconnection_rate_per_client = \"none\"\n\
                            connection_rate_per_network = \"none\"\n\
                            [[certificate]]\nchain = \"mx.pem\"\nkey = \"mx.key\"\n";
    allow_descriptors((EARLIER_COUNT + IDLE_COUNT) as u64 + 512);
    let home = Home::new(&Options {
        listener: LISTENER,
        deliver: Some("deliver = \"discard\""),
        ..Options::default()
    });
    let authority = Authority::new("ringmx tests");
    let config = tls::client_config(&authority.write(home.path()));
    authority.issue(home.path(), "mx", &["mx.example"]);
    let server = home.serve();
    let connect = || {
        let mut stream = tls::start_tls(server.address, &config, "mx.example").expect("secured");
        assert!(tls::say(&mut stream, "EHLO client.example").expect("a reply").starts_with("250 "));
        stream
    };
    // What the workers keep, whatever the sessions do: enough content to touch all receive buffers.
    let content = "x\r\n".repeat(WARM_CONTENT_LEN / 3);
    for _ in 0..WARM_MESSAGES_COUNT {
        let mut client = tests::client::Client::ready(server.address).expect("a session in clear");
        client.send("a@example.org", &["b@example.com"], content.as_bytes()).expect("a 250");
        client.quit().expect("a goodbye");
    }
    // They stay: what they would give back is memory in which others hide.
    let earlier: Vec<_> = (0..EARLIER_COUNT).map(|_| connect()).collect();
    let before = resident(&server);
    let mut streams: Vec<_> = (0..IDLE_COUNT).map(|_| connect()).collect();
    let each = resident(&server).saturating_sub(before) / IDLE_COUNT;
    eprintln!("{IDLE_COUNT} idle sessions under TLS: {each} octets each");
    assert!(each <= IDLE_RESIDENT_LEN_MAX, "{each} octets each");
    for stream in streams.iter_mut().step_by(50) {
        assert!(tls::say(stream, "NOOP").expect("every session lives").starts_with("250 "));
    }
    drop(earlier);
    server.stop();
}

#[test]
fn those_who_begin_a_handshake_and_do_not_go_on_keep_nobody_out() {
    let renewing = Renewing::new();
    let server = renewing.home.serve();
    // The beginning of a ClientHello that never ends.
    let idle: Vec<TcpStream> = (0..200)
        .map(|_| {
            let mut client = tests::client::Client::ready(server.address).expect("a session in clear");
            client.say("STARTTLS", 220).expect("220");
            client.write(&[22, 3, 1, 2, 0, 1]).expect("written");
            client.stream().try_clone().expect("a socket")
        })
        .collect();
    assert!(renewing.serves(&server, "mx.example"));
    let mut client = tests::client::Client::ready(server.address).expect("a session in clear");
    client.send("a@example.org", &["b@example.com"], b"x\r\n").expect("a 250");
    client.quit().expect("a goodbye");
    for mut stream in idle {
        stream.write_all(b"not what was begun").ok();
        stream.shutdown(std::net::Shutdown::Write).ok();
        stream.read_to_end(&mut Vec::new()).ok();
    }
    server.stop();
}
