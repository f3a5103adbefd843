use std::fs;

use super::*;
use crate::policy::clients::Rate;
use crate::protocol::extension::Extension;
use crate::session::{EarlyTalker, TlsMode};

const VALID: &str = r#"
hostname = "mx.example.com"
[[listener]]
name = "mx"
bind = ["127.0.0.1:2525"]
[recipients]
domains = ["example.com"]
[[route]]
domains = ["*"]
deliver = "hold"
"#;

/// The findings of a text as they are shown.
fn shown(text: &str) -> String {
    let findings = check_text(text, "test.toml").findings;
    findings.iter().map(|finding| format!("{finding}\n")).collect()
}

/// The findings of the valid configuration with `more` put into it.
fn shown_with(place: &str, more: &str) -> String {
    assert_eq!(VALID.matches(place).count(), 1, "{place}");
    shown(&VALID.replace(place, more))
}

#[track_caller]
fn assert_shown(shown: String, expected: &str) {
    let expected = expected.strip_prefix('\n').unwrap_or(expected);
    assert!(shown == expected, "found:\n{shown}\nexpected:\n{expected}");
}

#[test]
fn the_quick_start_is_as_documented() {
    let config = Config::quick_start();
    assert_eq!(config.listeners[0].bind, ["127.0.0.1:2525".parse().unwrap()]);
    assert_eq!(config.listeners[0].max_message_size, 50 << 20);
    assert_eq!(config.listeners[0].command_timeout, Duration::from_secs(300));
    assert_eq!(config.spool.path, Path::new("./ringmx-data"));
    assert_eq!(config.spool.durability, Durability::Sync);
    assert_eq!(config.recipients.domains, BTreeSet::from(["example.com", "localhost"].map(String::from)));
    assert_eq!(config.recipients.postmaster_domain, "localhost");
    let path = PathTemplate::parse("./ringmx-data/maildir").unwrap();
    assert_eq!(
        config.route_for(&Addressed::to("x@Example.COM")).unwrap().1.deliver,
        Deliver::Maildir { path }
    );
    assert_eq!(config.admin, Some("127.0.0.1:8025".parse().unwrap()));
    assert_eq!(config.listeners[0].tls, TlsMode::StartTls);
    assert!(config.certificates[0].self_signed);
    assert!(config.workers >= 1);
}

#[test]
fn the_examples_are_valid() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        assert!(Config::load(&path).is_ok(), "{}", Config::load(&path).unwrap_err());
    }
    let mx = Config::load(&Path::new(directory).join("mx.toml")).unwrap();
    assert_eq!(mx.listeners[0].bind, ["0.0.0.0:25".parse().unwrap(), "[::]:25".parse().unwrap()]);
    assert_eq!(mx.route_for(&Addressed::to("x@example.org")).unwrap().0, 0);
    assert_eq!(mx.route_for(&Addressed::to("x@EXAMPLE.com")).unwrap().0, 1);
    assert_eq!(mx.replies.texts["5.7.1"], "Mail for this domain is not accepted here");
    assert_eq!(shown(VALID), "");
}

#[test]
fn a_text_with_nothing_in_it_names_all_that_is_missing() {
    assert_shown(
        shown(""),
        r#"
test.toml: error: no [[listener]]: there is no address to receive mail at
  help: add [[listener]] with bind = ["0.0.0.0:25", "[::]:25"]
test.toml: error: no [recipients]: no mail would be accepted
  help: write [recipients] and domains = ["example.com"]
test.toml: error: no [[route]]: accepted mail would go nowhere
  help: add [[route]] with domains = ["*"] and deliver = "maildir" or "hold"
"#,
    );
}

#[test]
fn unknown_keys_name_the_key_that_was_meant() {
    assert_shown(
        shown_with("hostname", "hostnam"),
        r#"
test.toml:2:1: error: unknown key `hostnam`
    2 | hostnam = "mx.example.com"
      | ^^^^^^^
  help: did you mean `hostname`?
"#,
    );
    assert_shown(
        shown_with("name = \"mx\"", "\tmax_mesage_size = \"1MiB\""),
        r#"
test.toml:4:2: error: unknown key `max_mesage_size` in `listener`
    4 | 	max_mesage_size = "1MiB"
      | 	^^^^^^^^^^^^^^^
  help: did you mean `max_message_size`?
"#,
    );
    assert_shown(
        shown_with("[recipients]", "[log]\nzebra = 1\n[recipients]"),
        r#"
test.toml:7:1: error: unknown key `zebra` in `log`
    7 | zebra = 1
      | ^^^^^
  help: the keys here are format, level
"#,
    );
}

#[test]
fn all_errors_are_told_at_once_in_order() {
    let text = r#"
workers = "two"
hostname = 5
[[listener]]
bind = ["127.0.0.1", "localhost:25", "[::1]:nosuchservice", 25]
max_message_size = "50M"
command_timeout = 300
[spool]
durability = "snyc"
[recipients]
domains = ["*", "exa mple.com", "xn--ü.example"]
[[route]]
domains = ["*"]
deliver = "mialdir"
[log]
level = "verbose"
"#;
    assert_shown(
        shown(text),
        r#"
test.toml:2:11: error: `workers` takes a whole number from 1 to 256
    2 | workers = "two"
      |           ^^^^^
test.toml:3:12: error: `hostname` takes a string, but this is a number
    3 | hostname = 5
      |            ^
  help: put it between double quotes
test.toml:5:9: error: `127.0.0.1` is no address to bind to: it has no port
    5 | bind = ["127.0.0.1", "localhost:25", "[::1]:nosuchservice", 25]
      |         ^^^^^^^^^^^
  help: write IP address and port, such as 192.0.2.1:25 or [2001:db8::1]:smtp; 0.0.0.0 and [::] are all addresses
test.toml:5:22: error: `localhost:25` is no address to bind to: `localhost` is not an IP address
    5 | bind = ["127.0.0.1", "localhost:25", "[::1]:nosuchservice", 25]
      |                      ^^^^^^^^^^^^^^
  help: write IP address and port, such as 192.0.2.1:25 or [2001:db8::1]:smtp; 0.0.0.0 and [::] are all addresses
test.toml:5:38: error: `[::1]:nosuchservice` is no address to bind to: `nosuchservice` is no TCP service in /etc/services
    5 | bind = ["127.0.0.1", "localhost:25", "[::1]:nosuchservice", 25]
      |                                      ^^^^^^^^^^^^^^^^^^^^^
  help: write IP address and port, such as 192.0.2.1:25 or [2001:db8::1]:smtp; 0.0.0.0 and [::] are all addresses
test.toml:5:61: error: `bind` takes a string, but this is a number
    5 | bind = ["127.0.0.1", "localhost:25", "[::1]:nosuchservice", 25]
      |                                                             ^^
  help: put it between double quotes
test.toml:6:20: error: `max_message_size` takes a size: the units are B, KiB, MiB, GiB, and kB, MB, GB for powers of 1000
    6 | max_message_size = "50M"
      |                    ^^^^^
  help: write a number and its unit, such as "50MiB"
test.toml:7:19: error: `command_timeout` takes a time: its unit is missing
    7 | command_timeout = 300
      |                   ^^^
  help: write numbers and their units, such as "5m" or "1h30m"
test.toml:9:14: error: `durability` cannot be "snyc"
    9 | durability = "snyc"
      |              ^^^^^^
  help: did you mean "sync"?
test.toml:11:12: error: `*` would accept mail for domains that are not yours
   11 | domains = ["*", "exa mple.com", "xn--ü.example"]
      |            ^^^
  help: name each domain; a long list can go into domains_file
test.toml:11:17: error: `domains` takes a domain, and `exa mple.com` is none: only letters, digits, `-`, `_` and dots make up a domain
   11 | domains = ["*", "exa mple.com", "xn--ü.example"]
      |                 ^^^^^^^^^^^^^^
test.toml:11:33: error: `domains` takes a domain, and `xn--ü.example` is none: it is no internationalized domain name
   11 | domains = ["*", "exa mple.com", "xn--ü.example"]
      |                                 ^^^^^^^^^^^^^^^
test.toml:14:11: error: `deliver` cannot be "mialdir"
   14 | deliver = "mialdir"
      |           ^^^^^^^^^
  help: did you mean "maildir"?
test.toml:16:9: error: `level` cannot be "verbose"
   16 | level = "verbose"
      |         ^^^^^^^^^
  help: write one of "error", "warn", "info", "debug", "trace"
"#,
    );
}

#[test]
fn errors_of_syntax_come_alone_and_with_their_place() {
    let found = shown("hostname = \"a\nworkers = = 2\n");
    assert!(found.starts_with("test.toml:1:14: error: "), "{found}");
    assert!(found.contains("\ntest.toml:2:11: error: "), "{found}");
    assert!(!found.contains("listener"), "{found}");
    assert!(shown("workers = 1\nworkers = 2\n").contains("test.toml:2:1: error: duplicate key"));
    for text in ["\u{feff}", "[", "[[", "a.b.c = {", "\"", "'''", "x = [1,", "\u{0}", "=\n=\n=", "é = é"] {
        shown(text);
        shown(&format!("{VALID}{text}"));
    }
}

#[test]
fn retention_is_a_time_or_a_size() {
    for (text, expected) in [
        ("", None),
        ("retain = \"1h\"", Some(Retention::Time(Duration::from_secs(3600)))),
        ("retain = \"5m\"", Some(Retention::Time(Duration::from_secs(300)))),
        ("retain = \"10GiB\"", Some(Retention::Octets(10 << 30))),
    ] {
        let text = VALID.replacen("[[route]]", &format!("[spool]\n{text}\n[[route]]"), 1);
        assert_eq!(Config::parse(&text, "test.toml").unwrap().spool.retention, expected, "{text}");
    }
}

#[test]
fn values_that_do_not_fit_together_are_errors() {
    for (place, more, expected) in [
        (
            "[[route]]",
            "[spool]\nsegment_size = \"64KiB\"\n[[route]]",
            "`segment_size` of 64KiB cannot hold a message of `inline_size`, 256KiB",
        ),
        ("[[route]]", "[spool]\nasync_interval = \"0s\"\n[[route]]", "`async_interval` takes 10ms to 1m"),
        ("[[route]]", "[spool]\nasync_interval = \"61s\"\n[[route]]", "`async_interval` takes 10ms to 1m"),
        ("name = \"mx\"", "durability = \"later\"", "`durability` cannot be \"later\""),
        ("[[route]]", "[spool]\nretain = \"10\"\n[[route]]", "`retain` takes a time or a size"),
        ("[[route]]", "[spool]\nretain = \"long\"\n[[route]]", "\"long\" is neither"),
        ("\"hold\"", "\"smtp\"", "it has no `next_hop`"),
        ("\"hold\"", "\"lmtp\"\nnext_hop = [\"mail\"]", "`mail` is no next hop: it has no port"),
        ("\"hold\"", "\"smtp\"\nnext_hop = []", "`next_hop` is empty"),
        ("\"hold\"", "\"smtp\"\nnext_hop = [\"a:x\"]", "the port is no number"),
        ("\"hold\"", "\"smtp\"\nnext_hop = [\"a\"]\ntls = \"on\"", "`tls` cannot be \"on\""),
        (
            "\"hold\"",
            "\"smtp\"\nnext_hop = [\"a\"]\nmessage_rate = \"600\"",
            "`message_rate` is none: it has no `/`",
        ),
        ("\"hold\"", "\"hold\"\nnext_hop = [\"a\"]", "`next_hop` means nothing to deliver = \"hold\""),
        ("[[route]]", "[bounce]\n[[route]]", "it has no `next_hop`"),
        ("\"hold\"", "\"maildir\"", "delivery to a Maildir needs `path`"),
        (
            "\"hold\"",
            "\"hold\"\nmessage_rate = \"1/s\"",
            "`message_rate` means nothing to deliver = \"hold\"",
        ),
        ("\"hold\"", "\"hold\"\npath = \"/x\"", "`path` means nothing to deliver = \"hold\""),
        ("\"hold\"", "\"maildir\"\npath = \"/x/{user}\"", "`{user}` stands for nothing"),
        ("\"hold\"", "\"hold\"\nretry = [\"0s\"]", "a wait of 0"),
        ("\"hold\"", "\"hold\"\nretry = []", "`retry` is empty"),
        ("[\"*\"]", "[\"other.example\"]", "no [[route]] takes all mail of example.com"),
        ("[\"*\"]", "[]", "`domains` is empty: the route takes no mail"),
        ("[\"127.0.0.1:2525\"]", "[]", "`bind` is empty"),
        ("[\"127.0.0.1:2525\"]", "[\"127.0.0.1:25\", \"127.0.0.1:smtp\"]", "127.0.0.1:25 is there twice"),
        ("[\"example.com\"]", "[]", "[recipients] names no domain"),
        ("name = \"mx\"", "name = \"m x\"", "`name` takes 1 to 32"),
        ("name = \"mx\"", "max_message_size = 1000", "`max_message_size` takes 64KiB to 1GiB"),
        ("name = \"mx\"", "command_timeout = \"0s\"", "`command_timeout` is 0"),
        ("name = \"mx\"", "bind = [\"127.0.0.1:2525\"]\n[[listener]]", "binds 127.0.0.1:2525 already"),
        ("[[listener]]", "[listener]", "`listener` may be there several times"),
        ("[[route]]", "[replies]\n5.7.1 = \"x\"\n[[route]]", "write it between quotes"),
        ("[[route]]", "[replies]\n\"2.0.0\" = \"x\"\n[[route]]", "`2.0.0` is no enhanced status code"),
        ("[[route]]", "[replies]\n\"5.7.1\" = \"a\\r\\nb\"\n[[route]]", "a reply's text is one line"),
        (
            "[[route]]",
            "[replies]\nhelp_url = \"ftp://x\"\n[[route]]",
            "`help_url` takes an http or https URL",
        ),
        ("[[route]]", "[admin]\n[[route]]", "[admin] has no `bind`"),
        ("[recipients]", "spool = 1\n[recipients]", "unknown key `spool` in `listener`"),
        ("hostname", "log = 1\nhostname", "`log` is a table, but this is a number"),
        ("\"mx.example.com\"", "{ env = \"RINGMX_NO_SUCH\" }", "the environment variable RINGMX_NO_SUCH"),
        ("\"mx.example.com\"", "{ file = \"/no/such\" }", "cannot read /no/such for `hostname`"),
        ("\"mx.example.com\"", "{ vault = \"x\" }", "`hostname` cannot come from `vault`"),
        ("\"mx.example.com\"", "{ env = \"A\", file = \"B\" }", "`hostname` takes a string"),
    ] {
        let found = shown_with(place, more);
        assert!(found.contains("error: ") && found.contains(expected), "{more}: {found}");
    }
}

#[test]
fn warnings_say_what_is_hardly_meant() {
    for (place, more, expected) in [
        ("mx.example.com", "mx", "`mx` is not fully qualified"),
        ("[[route]]", "[spool]\ndurability = \"none\"\n[[route]]", "durability \"none\""),
        ("[[route]]", "[spool]\ndurability = \"async\"\n[[route]]", "in the last 1s or more"),
        ("name = \"mx\"", "durability = \"none\"", "durability \"none\""),
        ("[[route]]", "[spool]\npath = \"/dev/null/x\"\n[[route]]", "/dev/null is no directory"),
        // A tmpfs since Linux 2.6, also in containers.
        (
            "[[route]]",
            "[spool]\npath = \"/dev/shm/x\"\n[[route]]",
            "a restart of the machine loses all mail in it",
        ),
        ("[[route]]", "[admin]\nbind = \"0.0.0.0:8025\"\n[[route]]", "asks nobody for a password"),
        ("\"hold\"", "\"discard\"", "answered with 250 and thrown away"),
        (
            "\"hold\"",
            "\"hold\"\n[[route]]\ndomains = [\"example.com\"]\ndeliver = \"hold\"",
            "one before it takes \"*\"",
        ),
        (
            "[\"*\"]",
            "[\"a.example\"]\ndeliver = \"hold\"\n[[route]]\ndomains = [\"*\"]",
            "are not in [recipients]",
        ),
        (
            "\"127.0.0.1:2525\"",
            "\"0.0.0.0:25\", \"127.0.0.1:25\"",
            "0.0.0.0:25 is all addresses of that port",
        ),
        ("name = \"mx\"", "command_timeout = \"10s\"", "shorter than the 5 minutes"),
        ("hostname", "workers = 256\nhostname", "256 workers share"),
    ] {
        let checked = check_text(&VALID.replace(place, more), "test.toml");
        let found: String = checked.findings.iter().map(ToString::to_string).collect();
        assert!(checked.config.is_some() && found.contains(expected), "{more}: {found}");
        assert!(checked.findings.iter().all(|finding| finding.severity == Severity::Warning), "{found}");
    }
}

#[test]
fn secrets_and_long_lists_come_from_elsewhere() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::write(at("name"), "mx.example.com\r\n").unwrap();
    fs::write(at("domains"), "# ours\nExample.COM\n\n  example.org # too\n").unwrap();
    let text = VALID
        .replace("\"mx.example.com\"", "{ file = \"name\" }")
        .replace("name = \"mx\"", "name = { env = \"CARGO_PKG_NAME\" }")
        .replace("domains = [\"example.com\"]", "domains_file = \"domains\"");
    fs::write(at("ringmx.toml"), &text).unwrap();
    let config = Config::load(&at("ringmx.toml")).unwrap();
    assert_eq!(config.hostname, "mx.example.com");
    assert_eq!(config.listeners[0].name, "ringmx");
    assert_eq!(config.recipients.domains, BTreeSet::from(["example.com", "example.org"].map(String::from)));
    assert_eq!(config.recipients.postmaster_domain, "example.com");

    fs::write(at("domains"), "a b\n".repeat(12)).unwrap();
    let error = Config::load(&at("ringmx.toml")).unwrap_err().to_string();
    assert!(error.contains("domains:10: `a b` is no domain") && !error.contains("domains:11"), "{error}");
    assert!(error.contains("2 more lines are wrong"), "{error}");
    fs::write(at("domains"), "# none\n").unwrap();
    assert!(Config::load(&at("ringmx.toml")).unwrap_err().to_string().contains("has no entry"));
}

#[test]
fn included_files_are_merged() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::create_dir(at("sub")).unwrap();
    fs::write(at("ringmx.toml"), format!("include = [\"sub/a.toml\", \"b.toml\"]\n{VALID}")).unwrap();
    fs::write(
        at("sub/a.toml"),
        "include = [\"c.toml\"]\n[[route]]\ndomains = [\"*\"]\ndeliver = \"discard\"\n",
    )
    .unwrap();
    fs::write(at("sub/c.toml"), "[spool]\npath = \"spool\"\n[replies]\n\"5.7.1\" = \"no\"\n").unwrap();
    fs::write(at("b.toml"), "[spool]\nsegment_size = \"1GiB\"\n[replies]\n\"5.1.1\" = \"nobody\"\n").unwrap();
    let config = Config::load(&at("ringmx.toml")).unwrap();
    assert_eq!(config.spool.path, at("sub/spool"));
    assert_eq!(config.spool.segment_size, 1 << 30);
    let delivers: Vec<_> = config.routes.iter().map(|route| route.deliver.clone()).collect();
    assert_eq!(delivers, [Deliver::Hold, Deliver::Discard]);
    assert_eq!(config.replies.texts.len(), 2);

    let error = |name: &str, text: &str| {
        fs::write(at(name), text).unwrap();
        Config::load(&at("ringmx.toml")).unwrap_err().to_string()
    };
    let place = at("ringmx.toml:3:1").display().to_string();
    assert!(error("b.toml", "hostname = \"b\"\n").contains(&format!("`hostname` is already set at {place}")));
    assert!(error("b.toml", "include = [\"ringmx.toml\"]").contains("ringmx.toml includes itself"));
    assert!(error("b.toml", "include = [\"b.toml\"]").contains("b.toml includes itself"));
    assert!(error("b.toml", "include = [\"sub/c.toml\"]").contains("is included a second time"));
    assert!(error("b.toml", "include = [\"none.toml\"]").contains("none.toml: No such file"));
    assert!(error("b.toml", "include = [1]").contains("but this is a number"));
    assert!(error("b.toml", "wrokers = 1").contains("did you mean `workers`?"));
    assert!(Config::load(&at("none.toml")).unwrap_err().to_string().starts_with("error: cannot read"));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(at in 0..VALID.len(), len in 0usize..20, more in "[\\PC\\n\\t=\\[\\]{}\"'#.]{0,12}") {
        let end = (at + len).min(VALID.len());
        shown(&format!("{}{more}{}", &VALID[..at], &VALID[end..]));
        shown(&more);
    }
}

#[test]
fn networks_are_read_or_told_why_not() {
    let networks = r#"proxy_protocol = ["10.0.0.1/8", "10.0.0.0/255.0.0.0", "x"]"#;
    let shown = shown_with("name = \"mx\"", networks);
    let hint = "write 10.0.0.0/8 for the network, or 10.0.0.1 for the one address";
    for expected in
        ["test.toml:4:19: error: `10.0.0.1/8` in `proxy_protocol` is no network: ", hint, "test.toml:4:55: "]
    {
        assert!(shown.contains(expected), "{shown}");
    }
    assert_eq!(shown.matches("error:").count(), 2, "{shown}");
}

#[test]
fn limits_of_a_listener_begin_with_those_of_all() {
    let text = VALID.replace(
        "[recipients]",
        r#"[listener.limits]
connections_per_client = 7
fault_rate_per_client = "none"
[limits]
connections_per_client = 5
connection_rate_per_network = "90/10s"
size_rate_per_client = "1GiB/h"
transactions_per_session = 100
unlimited = ["192.0.2.0/24"]
[recipients]"#,
    );
    let guard = Config::parse(&text, "test.toml").unwrap().listeners.remove(0).guard;
    let Guard { unlimited, client_limits, session_limits, .. } = guard;
    assert_eq!(client_limits.client.open_max, Some(7));
    assert_eq!(client_limits.client.faults, None);
    assert_eq!(client_limits.network.connections, Some(Rate::new(90, Duration::from_secs(10))));
    assert_eq!(client_limits.client.octets, Some(Rate::new(1 << 30, Duration::from_secs(3600))));
    assert_eq!(session_limits.transactions_max, Some(100));
    assert!(
        unlimited.contains("192.0.2.7".parse().unwrap()) && !unlimited.contains("127.0.0.1".parse().unwrap())
    );
    let guard = Config::parse(VALID, "test.toml").unwrap().listeners.remove(0).guard;
    assert!(
        guard.unlimited.contains("127.0.0.1".parse().unwrap())
            && guard.unlimited.contains("::1".parse().unwrap())
    );
    assert!(guard.client_limits.client.open_max > Some(7) && guard.proxies.is_empty());
    assert_eq!(guard.early_talker, EarlyTalker::Reject);
}

#[test]
fn limits_that_are_none() {
    for (line, why) in [
        ("connections_per_client = 0", "takes a whole number from 1 on, or \"none\""),
        ("connections_per_client = \"many\"", "takes a whole number from 1 on, or \"none\""),
        ("connection_rate_per_client = \"600\"", "it has no `/`"),
        ("connection_rate_per_client = \"0/m\"", "can be 0"),
        ("commands_without_message = 100", "takes a whole number from 1002"),
        ("faults_per_session = 0", "takes a whole number from 1"),
        ("refused_recipients_per_session = 60001", "takes a whole number from 1 to 60000"),
        ("connexions_per_client = 1", "did you mean `connections_per_client`?"),
    ] {
        let shown = shown_with("[recipients]", &format!("[limits]\n{line}\n[recipients]"));
        assert!(shown.contains(why), "{line}: {shown}");
    }
    for (line, why) in [
        ("early_talker = \"ignore\"", "write one of \"reject\", \"close\", \"note\""),
        ("greet_delay = \"5m\"", "`greet_delay` takes up to 150 s"),
        ("data_total_timeout = \"0s\"", "no message could be sent"),
        ("data_progress = \"1048577B\"", "takes 1B to 1MiB"),
    ] {
        let shown = shown_with("name = \"mx\"", line);
        assert!(shown.contains(why), "{line}: {shown}");
    }
}

#[test]
fn a_listener_says_what_it_offers() {
    let listener = "bind = [\"127.0.0.1:2525\"]\n";
    let config = |more: &str| {
        Config::parse(&VALID.replace(listener, &format!("{listener}{more}")), "test.toml").unwrap()
    };
    let plain = &config("").listeners[0];
    assert_eq!((plain.hostname.as_str(), &plain.banner), ("mx.example.com", &None));
    assert_eq!((plain.extensions, plain.bare_newline), (Extensions::DEFAULT, BareNewline::Normalize));
    let own = config(
        "hostname = \"MX2.example.com\"\nbanner = \"ESMTP\"\ndisable_extensions = [\"chunking\", \"LIMITS\"]\n\
         bare_newline = \"reject\"\nbare_newline_exclude = [\"192.0.2.0/24\"]\n",
    );
    let own = &own.listeners[0];
    assert_eq!((own.hostname.as_str(), own.banner.as_deref()), ("mx2.example.com", Some("ESMTP")));
    assert_eq!(own.extensions, Extensions::DEFAULT.without(Extension::Chunking).without(Extension::Limits));
    assert_eq!(own.bare_newline, BareNewline::Reject);
    assert!(own.bare_newline_exclude.contains("192.0.2.9".parse().unwrap()));
    for (wrong, why) in [
        ("disable_extensions = [\"CHUNKNG\"]", "did you mean \"CHUNKING\"?"),
        ("disable_extensions = [\"XYZZY\"]", "write one of \"PIPELINING\", \"SIZE\", "),
        (
            "disable_extensions = [\"ENHANCEDSTATUSCODES\"]",
            "cannot be disabled: every reply carries its code",
        ),
        ("disable_extensions = [\"8BITMIME\"]", "SMTPUTF8 needs 8BITMIME, which is disabled"),
        ("bare_newline = \"rejected\"", "did you mean \"reject\"?"),
        ("bare_newline_exclude = [\"192.0.2.1/24\"]", "is no network"),
        ("banner = \"a\\nb\"", "`banner` takes one line of 1 to 200 ASCII characters"),
        ("banner = \" \"", "`banner` takes one line of 1 to 200 ASCII characters"),
    ] {
        let found = shown_with(listener, &format!("{listener}{wrong}\n"));
        assert!(found.contains(&format!("    6 | {wrong}\n")) && found.contains(why), "{found}");
    }
}

#[test]
fn domains_are_found_in_every_form() {
    let text = VALID.replace("\"example.com\"", "\"B\u{dc}CHER.example\"");
    let config = Config::parse(&text, "test.toml").unwrap();
    assert_eq!(config.recipients.domains, BTreeSet::from(["xn--bcher-kva.example".to_owned()]));
    let spellings = idn::spellings("xn--bcher-kva.example");
    assert_eq!(spellings, ["xn--bcher-kva.example", "b\u{fc}cher.example"]);
    assert!(config.route_for(&Addressed::to("x@b\u{fc}cher.example")).is_some());
}

#[test]
fn what_tls_needs_is_told() {
    let listener = |more: &str| shown_with("name = \"mx\"", &format!("name = \"mx\"\n{more}"));
    for (more, told) in [
        ("tls = \"starttls\"", "tls = \"starttls\" of the listener `mx` needs a [[certificate]]"),
        ("tls = \"ssl\"", "`tls` cannot be \"ssl\""),
        ("client_certificates = \"record\"", "`client_certificates` means nothing without TLS"),
        ("client_authorities = \"a.pem\"", "`client_authorities` means nothing by itself"),
        ("tls = \"implicit\"\nclient_certificates = \"verify\"", "needs `client_authorities`"),
        (
            "tls = \"implicit\"\nclient_certificates = \"record\"\nclient_authorities = \"a.pem\"",
            "`client_authorities` is for \"verify\" only",
        ),
    ] {
        let shown = listener(more);
        assert!(shown.contains(told), "{more}:\n{shown}");
    }
    let certificate = |text: &str| shown_with("[[route]]", &format!("[[certificate]]\n{text}\n[[route]]"));
    assert!(certificate("key = \"a.key\"").contains("the certificate has no `chain`"));
    assert!(certificate("chain = \"a.pem\"").contains("the certificate has no `key`"));
    assert_eq!(certificate("chain = \"a.pem\"\nkey = \"a.key\""), "");
}

#[test]
fn rules_on_certificates_are_checked() {
    let rule = |listener: &str, condition: &str| {
        let listener = format!(
            "name = \"mx\"\ntls = \"starttls\"\n{listener}\n[[certificate]]\nchain = \"a.pem\"\nkey = \"a.key\"\n\
             [[rule]]\naction = \"accept\"\n{condition}\n[[listener]]\nname = \"other\""
        );
        shown_with("name = \"mx\"", &listener)
    };
    let record = "client_certificates = \"record\"\nbind = [\"127.0.0.1:2526\"]";
    let off = "bind = [\"127.0.0.1:2526\"]";
    for (listener, condition, told) in [
        (record, "stage = \"connect\"\ntls = true", "`tls` is not known at stage \"connect\""),
        (record, "stage = \"mail\"\nclient_certificate = []", "the rule would never match"),
        (record, "stage = \"mail\"\nclient_certificate = [\"sha256:1\"]", "has 64 hexadecimal digits"),
        (off, "stage = \"mail\"\nclient_certificate = [\"verified\"]", "no listener asks for certificates"),
    ] {
        let shown = rule(listener, condition);
        assert!(shown.contains(told), "{condition}:\n{shown}");
    }
    let fine =
        rule(record, "stage = \"mail\"\ntls = true\nclient_certificate = [\"verified\", \".a.example\"]");
    assert!(!fine.contains("error"), "{fine}");
}
