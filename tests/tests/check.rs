//! `ringmx check` on configurations, on this machine, and beside a running server: which findings, by their codes.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;
use tests::engine::{Home, Options, binary, text};
use tests::occupant::{Mode, Occupant};
use tests::source::{self, Source};

/// Exit status, codes, and all that was said.
fn check(dir: &std::path::Path, args: &[&str]) -> (Option<i32>, Vec<String>, String) {
    let output =
        Command::new(binary("ringmx")).args(["check", "--json"]).args(args).current_dir(dir).output();
    let output = output.expect("it runs");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let of = |report: &Value, key: &str| report[key].as_array().cloned().unwrap_or_default();
    let mut findings = of(&report, "findings");
    of(&report, "files").iter().for_each(|file| findings.extend(of(file, "findings")));
    findings.extend(of(&report, "across"));
    let codes = findings.iter().map(|finding| finding["code"].as_str().expect("a code").to_owned());
    (output.status.code(), codes.collect(), text(&output.stdout))
}

fn write(dir: &std::path::Path, name: &str, listener: &str) {
    let config = format!(
        "hostname = \"mx.example.com\"\nworkers = 1\nservices = \"services\"\n[[listener]]\nname = \"mx\"\n{listener}\n\
         [spool]\npath = \"{name}-spool\"\n[recipients]\ndomains = [\"example.com\"]\n[[route]]\ndomains = [\"*\"]\n\
         deliver = \"hold\"\n"
    );
    std::fs::write(dir.join(name), config).expect("a configuration");
    std::fs::write(dir.join("services"), "smtp 25/tcp\nalt 2525/tcp\nudp-only 99/udp\n").expect("services");
}

#[test]
fn addresses_that_are_hardly_meant_have_codes() {
    let dir = tempfile::tempdir().expect("a directory");
    for (listener, code, part) in [
        ("bind = [\"192.0.2.1:smtp\", \"192.0.2.1:alt\"]", "port-several", "connect to port 25 only"),
        ("bind = [\"192.0.2.1:alt\"]", "port-not-25", "no listener binds port 25, only 2525"),
        ("bind = [\"192.0.2.1:0\"]", "port-chosen-by-system", "port 0"),
        ("bind = [\"192.0.2.1:25\"]\nexclusive = false", "address-not-exclusive", "may take a share"),
        ("bind = [\"0.0.0.0:25\", \"192.0.2.1:25\"]", "address-overlaps", "all addresses of that port"),
        ("bind = [\"192.0.2.1:25\"]\ndurability = \"none\"", "durability-none", "loses mail"),
    ] {
        write(dir.path(), "a.toml", listener);
        let (status, codes, said) = check(dir.path(), &["a.toml", "--strict"]);
        assert!(
            status == Some(1) && codes.iter().any(|it| it == code) && said.contains(part),
            "{code}: {said}"
        );
        let (status, ..) = check(dir.path(), &["a.toml"]);
        assert_eq!(status, Some(0), "{code} is a warning");
    }
    for (listener, part) in [
        ("bind = [\"192.0.2.1:65536\"]", "not a port from 0 to 65535"),
        ("bind = [\"192.0.2.1:no-such\"]", "`no-such` is no TCP service in "),
        ("bind = [\"192.0.2.1:udp-only\"]", "`udp-only` is no TCP service in "),
        ("bind = [\"192.0.2.1:25\", \"192.0.2.1:smtp\"]", "is there twice"),
        ("bind = [\"192.0.2.1:25\"]\nexclusive = \"no\"", "takes true or false"),
    ] {
        write(dir.path(), "a.toml", listener);
        let (status, _, said) = check(dir.path(), &["a.toml"]);
        assert!(status == Some(2) && said.contains(part), "{part}: {said}");
    }
    let bind = |count: u32| {
        let address = |n: u32| format!("\"127.1.{}.{}:2525\"", n / 256, n % 256);
        format!("bind = [{}]", (0..count).map(address).collect::<Vec<_>>().join(", "))
    };
    let most = ringmx::limits::PORTS_COUNT_MAX as u32;
    for (count, is_too_many) in [(most, false), (most + 1, true)] {
        write(dir.path(), "a.toml", &bind(count));
        let (status, codes, _) = check(dir.path(), &["a.toml"]);
        assert_eq!(codes.iter().any(|code| code == "too-many-addresses"), is_too_many, "{count}: {codes:?}");
        assert_eq!(status == Some(2), is_too_many, "{count}: {codes:?}");
    }
    write(dir.path(), "a.toml", "bind = [\"[::1]:2525\"]\nv6only = true");
    assert_eq!(check(dir.path(), &["a.toml"]).0, Some(0));
    write(dir.path(), "a.toml", "bind = [\"[::1]:2525\"]\nv6only = false");
    let (_, codes, said) = check(dir.path(), &["a.toml"]);
    assert!(codes == ["not-available"] && said.contains("bind both"), "{said}");
    std::fs::remove_file(dir.path().join("services")).expect("a file");
    let (status, _, said) = check(dir.path(), &["a.toml"]);
    assert!(status == Some(2) && said.contains("cannot read the services in "), "{said}");
}

/// What has no effect, what costs mail, what others may see, and what this machine lacks.
#[test]
fn what_is_hardly_meant_is_told_with_its_reason() {
    let dir = tempfile::tempdir().expect("a directory");
    let said = |from: &str, to: &str, more: &str| {
        write(dir.path(), "a.toml", "bind = [\"127.0.0.1:2525\"]");
        let path = dir.path().join("a.toml");
        let text = std::fs::read_to_string(&path).expect("it was just written");
        assert!(text.contains(from), "{from}");
        std::fs::write(path, format!("{}{more}", text.replacen(from, to, 1))).expect("a configuration");
        check(dir.path(), &["a.toml", "--strict"])
    };
    let rule = |lines: &str| format!("[[rule]]\nstage = \"connect\"\n{lines}\n");
    let halves = rule("client = [\"192.0.2.0/25\"]\naction = \"accept\"")
        + &rule("client = [\"192.0.2.128/25\"]\naction = \"drop\"");
    let whole = rule("client = [\"192.0.2.0/24\"]\naction = \"reject\"");
    let hold = "deliver = \"hold\"";
    let smtp = "deliver = \"smtp\"\nnext_hop = [\"127.0.0.1:25\"]";
    for (from, to, more, code, part) in [
        ("", "", &*(halves + &whole), "rule-never-matches", "taken before it, by a.toml:14, a.toml:18"),
        (
            "",
            "",
            &(rule("action = \"drop\"") + &whole),
            "rule-behind-catch-all",
            "the rule at a.toml:14 takes",
        ),
        (
            "",
            "",
            &rule("client = [\"192.0.2.0/24\"]\naction = \"accept\""),
            "rule-no-catch-all",
            "changes nothing",
        ),
        ("\"a.toml-spool\"", "\"/dev/shm/ringmx-check\"", "", "spool-place", "is on tmpfs"),
        (
            "[recipients]",
            "durability = \"async\"\n[recipients]",
            "",
            "durability-async",
            "a crash loses mail",
        ),
        ("workers", "user = \"no-such-user\"\nworkers", "", "user-unknown", "`no-such-user` is not known"),
        (hold, "deliver = \"maildir\"\npath = \"a.toml/x\"", "", "directory-not-writable", "is no directory"),
        (hold, "deliver = \"discard\"", "", "mail-discarded", "thrown away"),
        (hold, smtp, "", "no-bounce", "its sender hears nothing"),
        (
            "",
            "",
            "[[route]]\ndomains = [\"example.com\"]\ndeliver = \"hold\"\n",
            "route-never-matches",
            "one before it",
        ),
        ("workers = 1", "workers = 200", "", "workers-share-cores", "200 workers share"),
        ("", "", "[admin]\nbind = \"192.0.2.1:8025\"\n", "admin-exposed", "asks nobody for a password"),
    ] {
        let (status, codes, said) = said(from, to, more);
        assert!(
            status == Some(1) && codes.iter().any(|it| it == code) && said.contains(part),
            "{code}: {said}"
        );
    }
    std::fs::write(dir.path().join("empty"), "# nobody\n").expect("a file");
    std::fs::write(dir.path().join("bad"), "192.0.2.0/24\n192.0.2.1/24\n").expect("a file");
    let listed = |file: &str| rule(&format!("client_file = \"{file}\"\naction = \"reject\""));
    let verified = format!("{smtp}\ntls = \"verified\"\nauthorities = \"empty\"");
    for (from, to, more, code, part) in [
        ("", "", &*listed("empty"), "empty-file", "empty has no entry"),
        ("", "", &listed("none"), "unreadable-file", "none cannot be read: No such file"),
        ("", "", &listed("bad"), "bad-entry", "bad:2: `192.0.2.1/24` is no network"),
        (hold, &*verified, "", "authorities-unusable", "empty cannot be used: it has no certificate"),
    ] {
        let (status, codes, said) = said(from, to, more);
        assert!(status == Some(2) && codes == [code] && said.contains(part), "{code}: {said}");
    }
}

/// Words between `open` and `close`, of the form of a code.
fn codes_in(text: &str, open: &str, close: &str) -> BTreeSet<String> {
    let is_code = |word: &&str| {
        !word.is_empty() && word.bytes().all(|octet| octet.is_ascii_lowercase() || b"-25".contains(&octet))
    };
    let words = text.split(open).skip(1).filter_map(|rest| rest.split(close).next());
    words.filter(is_code).map(str::to_owned).collect()
}

#[test]
fn every_code_is_documented() {
    let mut said = BTreeSet::new();
    let places = ["engine/src/config/", "engine/src/cli/check", "engine/src/tls/check.rs"];
    for source in Source::all() {
        if !places.iter().any(|place| source.path.starts_with(place)) || source.path.ends_with("tests.rs") {
            continue;
        }
        // Where an argument stands on a line of its own.
        let text: String = source.text.split_whitespace().collect::<Vec<_>>().join(" ").replace("( ", "(");
        for open in ["_as(\"", "finding(\"", "warning(\"", "refused(\"", ".error(\"", "code: \""] {
            said.extend(codes_in(&text, open, "\""));
        }
    }
    let docs = std::fs::read_to_string(source::workspace().join("engine/docs/operations.md")).expect("docs");
    let table = docs.split("| code | what it finds |").nth(1).and_then(|rest| rest.split("\n\n").next());
    let rows = table.expect("a table").lines().filter_map(|row| row.split('|').nth(1));
    let documented: BTreeSet<String> =
        rows.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect();
    assert!(said.len() > 60, "{said:?}");
    let missing: Vec<_> = said.difference(&documented).collect();
    let gone: Vec<_> = documented.difference(&said).collect();
    assert!(missing.is_empty() && gone.is_empty(), "not documented: {missing:?}; not said: {gone:?}");
}

#[test]
fn a_port_in_use_is_named_with_its_program() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut occupant = Occupant::new();
    let (_, address) = occupant.bind(([127, 0, 0, 1], 0).into(), Mode::JOINER).expect("a free port");
    write(dir.path(), "a.toml", &format!("bind = [\"{address}\"]"));
    let (_, codes, said) = check(dir.path(), &["a.toml"]);
    assert!(codes.iter().any(|code| code == "port-in-use"), "{said}");
    assert!(said.contains(&format!("(pid {})", occupant.pid())), "{said}");
}

#[test]
fn configurations_and_a_running_server_are_compared() {
    let home = Home::new(&Options::default());
    let with_admin =
        std::fs::read_to_string(home.config()).expect("it") + "[admin]\nbind = \"127.0.0.1:0\"\n";
    std::fs::write(home.config(), with_admin).expect("a configuration");
    let server = home.serve();
    let line = server.log.find("admin HTTP").expect("a line");
    let admin = line["address"].as_str().expect("an address").to_owned();
    let dir = home.path();
    write(dir, "like.toml", &format!("bind = [\"{}\"]", server.address));
    write(dir, "unlike.toml", &format!("bind = [\"127.0.0.9:{}\"]", server.address.port()));
    let (status, codes, said) = check(dir, &["like.toml", "--from", &admin]);
    assert!(status == Some(0) && !codes.iter().any(|code| code.starts_with("across")), "{said}");
    let (_, codes, said) = check(dir, &["unlike.toml", "--from", &admin]);
    assert!(codes.iter().any(|code| code == "across-not-running"), "{said}");
    let (_, codes, said) = check(dir, &["like.toml", "like.toml"]);
    assert!(codes.iter().any(|code| code == "across-same-address"), "{said}");
    assert!(codes.iter().any(|code| code == "across-same-spool"), "{said}");
    server.stop();
    let output = Command::new(binary("ringmx")).args(["check", "--from", &admin]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(2), "nobody to ask");
}
