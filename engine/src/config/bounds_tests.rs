//! Each bound on a value: the most is taken, and one more is an error that says so.

use std::fs;

use super::{Config, Severity, check_text};
use crate::limits;

const TEXT: &str = r#"
HEAD
hostname = "mx.example.com"
[[listener]]
LISTENER
bind = ["127.0.0.1:2525"]
[recipients]
domains = ["example.com"]
RECIPIENTS
[[route]]
domains = ["*"]
deliver = "hold"
REST
"#;

/// The errors of a configuration with this in one place of it.
fn errors(place: &str, line: &str) -> Vec<String> {
    let text = ["HEAD", "LISTENER", "RECIPIENTS", "REST"]
        .iter()
        .fold(TEXT.to_owned(), |text, here| text.replace(here, if *here == place { line } else { "" }));
    let findings = check_text(&text, "test.toml").findings;
    findings.into_iter().filter(|it| it.severity == Severity::Error).map(|it| it.message).collect()
}

#[test]
fn the_most_is_taken_and_one_more_is_not() {
    let x = |len: usize| "x".repeat(len);
    let rule = |rest: String| format!("[[rule]]\nstage = \"mail\"\n{rest}");
    let tags =
        |n: usize| (0..n).map(|n| rule(format!("action = \"tag\"\ntag = \"t{n}\"\n"))).collect::<String>();
    let certified = |n: usize| {
        (0..n)
            .map(|n| rule(format!("client_certificate = [\"c{n}.example\"]\naction = \"reject\"\n")))
            .collect::<String>()
    };
    type Line<'a> = &'a dyn Fn(usize) -> String;
    let url = "https://help/";
    let table: &[(&str, usize, Line<'_>, &str)] = &[
        ("HEAD", limits::WORKERS_COUNT_MAX, &|n| format!("workers = {n}"), "from 1 to 256"),
        ("LISTENER", limits::LISTENER_NAME_LEN_MAX, &|n| format!("name = \"{}\"", x(n)), "takes 1 to 32"),
        ("LISTENER", limits::BANNER_LEN_MAX, &|n| format!("banner = \"{}\"", x(n)), "1 to 200"),
        ("LISTENER", limits::MESSAGE_SIZE_MOST as usize, &|n| format!("max_message_size = \"{n}B\""), "1GiB"),
        ("LISTENER", limits::CONNECTIONS_COUNT_MOST, &|n| format!("connections_max = {n}"), "to 1048576"),
        (
            "LISTENER",
            limits::DELAY_TIME_MOST.as_secs() as usize,
            &|n| format!("greet_delay = \"{n}s\""),
            "takes up to 150 s",
        ),
        (
            "RECIPIENTS",
            limits::SEPARATORS_COUNT_MAX,
            &|n| format!("subaddress = \"{}\"", &"+-=#!%&*?"[..n]),
            "begin a subaddress",
        ),
        ("REST", limits::REPLY_TEXT_LEN_MAX, &|n| format!("[replies]\n\"5.7.1\" = \"{}\"", x(n)), "1 to 280"),
        (
            "REST",
            limits::HELP_URL_LEN_MAX,
            &|n| format!("[replies]\nhelp_url = \"{url}{}\"", x(n - url.len())),
            "at most 200",
        ),
        ("REST", limits::TAG_LEN_MAX, &|n| rule(format!("action = \"tag\"\ntag = \"{}\"", x(n))), "1 to 64"),
        (
            "REST",
            limits::RULE_TEXT_LEN_MAX,
            &|n| rule(format!("action = \"reject\"\ntext = \"{}\"", x(n))),
            "1 to 400",
        ),
        (
            "REST",
            limits::DELAY_TIME_MOST.as_secs() as usize,
            &|n| rule(format!("action = \"tarpit\"\ndelay = \"{n}s\"")),
            "150",
        ),
        ("REST", limits::TAGS_COUNT_MAX, &tags, "64 different tags"),
        ("REST", limits::PROTECTIONS_COUNT_MAX, &certified, "more than 64 different lists of client"),
        ("REST", limits::SEGMENT_SIZE_MAX as usize, &|n| format!("[spool]\nsegment_size = \"{n}B\""), "4GiB"),
    ];
    for (place, most, line, why) in table {
        let taken = errors(place, &line(*most));
        assert!(!taken.iter().any(|error| error.contains(why)), "`{why}`: {taken:?}");
        let errors = errors(place, &line(most + 1));
        assert!(errors.iter().any(|error| error.contains(why)), "`{why}`: {errors:?}");
    }
}

#[test]
fn files_that_make_up_a_configuration_are_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let text =
        ["HEAD", "LISTENER", "RECIPIENTS", "REST"].iter().fold(TEXT.to_owned(), |it, at| it.replace(at, ""));
    let load = |text: &str| {
        fs::write(at("ringmx.toml"), text).unwrap();
        Config::load(&at("ringmx.toml")).map(drop).map_err(|error| error.to_string())
    };
    // The file itself is one of them.
    for (count, is_taken) in
        [(limits::INCLUDED_FILES_COUNT_MAX - 1, true), (limits::INCLUDED_FILES_COUNT_MAX, false)]
    {
        let names: Vec<String> = (0..count).map(|n| format!("\"{n}.toml\"")).collect();
        (0..count).for_each(|n| fs::write(at(&format!("{n}.toml")), "").unwrap());
        let loaded = load(&format!("include = [{}]\n{text}", names.join(", ")));
        assert_eq!(loaded.is_ok(), is_taken, "{loaded:?}");
        if let Err(why) = loaded {
            assert!(why.contains("more than 100 files"), "{why}");
        }
    }
    let secret = text.replace("hostname = \"mx.example.com\"", "hostname = { file = \"secret\" }");
    let name = b"mx.example.com";
    let most = limits::SECRET_LEN_MAX as usize;
    for (len, is_taken) in [(most, true), (most + 1, false)] {
        let mut octets = name.to_vec();
        octets.resize(len, b'\n');
        fs::write(at("secret"), octets).unwrap();
        let loaded = load(&secret);
        let is_too_long = loaded.is_err_and(|why| why.contains("longer than 65536 octets"));
        assert_eq!(is_too_long, !is_taken, "{len}");
    }
}

#[test]
fn less_than_the_rfc_gives_a_client_is_warned_of() {
    for (key, least) in
        [("command_timeout", limits::COMMAND_TIMEOUT_LEAST), ("data_timeout", limits::DATA_TIMEOUT_LEAST)]
    {
        let is_warned_of = |secs: u64| {
            let text = TEXT.replace("LISTENER", &format!("{key} = \"{secs}s\""));
            let text = ["HEAD", "RECIPIENTS", "REST"].iter().fold(text, |text, here| text.replace(here, ""));
            check_text(&text, "test.toml").findings.iter().any(|finding| finding.code == "timeout-short")
        };
        assert!(!is_warned_of(least.as_secs()), "{key}");
        assert!(is_warned_of(least.as_secs() - 1), "{key}");
    }
}
