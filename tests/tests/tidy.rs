//! The rules of the house, executable: which way dependencies point, how long things may be, what may not be written.

use std::collections::BTreeSet;

use tests::source::{self, Source};

/// Files longer than this, tests not counted, are refused; those near it are named.
const FILE_LINES_MAX: usize = 700;
const FILE_LINES_MANY: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
const COLUMNS_MAX: usize = 120;
/// Of a line with a string in it, or of a table's row, which nothing can break: what is said to people is found by a
/// search if it stands in one piece.
const COLUMNS_OF_TEXT_MAX: usize = 140;

/// Functions outside tests that are one long table: (file, function).
const LONG_FUNCTIONS: &[(&str, &str)] = &[];

/// What a layer without a socket, a file, a thread and a clock must not name. `std::net` is left for its addresses.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::thread",
    "std::process",
    "std::env",
    "std::os",
    "std::io::stdin",
    "std::time::Instant",
    "std::time::SystemTime",
    "Instant::now",
    "SystemTime::now",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::net::ToSocketAddrs",
    "ringmx_ring",
    "rustix",
    "socket2",
    "tokio",
    "tokio_uring",
    "io_uring",
];

/// Memory and numbers, though they come from where the system calls are.
const PURE_THOUGH_OF_THE_RING: &[&str] = &["ringmx_ring::BlockBuffer", "ringmx_ring::BLOCK_LEN"];

/// Where `unsafe` may stand: the ring, and the tests whose allocator counts.
const UNSAFE_ALLOWED: &[&str] = &["engine/ring/", "tests/src/allocations.rs", "loadgen/tests/allocations.rs"];

/// Bounds that nobody chose and that stand beside their code: what a format, a word of so many bits or the shape of a
/// structure has room for. (file, name)
const BOUNDS_OF_A_FORM: &[(&str, &str)] = &[
    // RFC 8446 §5.1.
    ("engine/src/server/tls.rs", "RECORD_LEN_MAX"),
    // Bits of a word.
    ("engine/src/policy/clients.rs", "OPEN_MAX"),
    ("engine/src/spool/index.rs", "INDEXED_COUNT_MAX"),
    ("engine/src/spool/index.rs", "MS_MAX"),
    // Sums of others.
    ("engine/src/policy/matcher/key.rs", "KEY_LEN_MAX"),
    ("engine/src/session/memory.rs", "CLASS_MAX"),
    // Cache lines.
    ("engine/src/policy/matcher/ipv4.rs", "LEAVES_COUNT_MAX"),
    ("engine/src/policy/matcher/ipv4.rs", "ROOT_BITS_MOST"),
    ("engine/src/policy/matcher/ipv6.rs", "ROOT_BITS_MOST"),
];

fn check(violations: &[String]) {
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

fn engine_sources() -> Vec<Source> {
    Source::all().into_iter().filter(|source| source.path.starts_with("engine/src/")).collect()
}

/// The layers as the documentation of `engine/src/lib.rs` states them, left to right.
fn layers() -> Vec<String> {
    let text =
        std::fs::read_to_string(source::workspace().join("engine/src/lib.rs")).expect("engine/src/lib.rs");
    let drawn = text.lines().filter_map(|line| line.strip_prefix("//! ").filter(|line| line.contains("<-")));
    // Behind three spaces stands what a line's layers have to do with.
    let names = drawn.filter_map(|line| line.trim().split("   ").next());
    let names = names.flat_map(|line| line.split("<-")).flat_map(|group| group.split(','));
    let layers: Vec<String> =
        names.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect();
    assert!(layers.len() > 10, "lib.rs draws its layers with `<-`");
    layers
}

/// The layer that a file of the engine belongs to; none for `lib.rs`.
fn layer_of(path: &str) -> Option<&str> {
    let name = path.strip_prefix("engine/src/")?.split('/').next()?.trim_end_matches(".rs");
    (name != "lib").then_some(name)
}

/// The layer that a path names, if it names one of this crate: `crate::x`, or as many `super::` as lead to its root.
fn named_layer<'a>(file: &str, path: &'a str) -> Option<&'a str> {
    if let Some(rest) = path.strip_prefix("crate::") {
        return rest.split("::").next();
    }
    // Of `engine/src/a/b.rs` the module is a::b, of `engine/src/a/mod.rs` it is a.
    let depth = file.split('/').count() - 2 - usize::from(file.ends_with("/mod.rs"));
    let mut rest = path;
    let mut ups = 0;
    while let Some(up) = rest.strip_prefix("super::") {
        (rest, ups) = (up, ups + 1);
    }
    (ups == depth && ups > 0).then(|| rest.split("::").next().unwrap_or_default())
}

#[test]
fn layers_depend_on_what_stands_to_their_left() {
    let layers = layers();
    let position = |name: &str| layers.iter().position(|layer| layer == name);
    let mut violations = Vec::new();
    for source in engine_sources() {
        let Some(layer) = layer_of(&source.path) else { continue };
        let Some(own) = position(layer) else {
            violations.push(format!("{}: `{layer}` has no place among the layers of lib.rs", source.path));
            continue;
        };
        for (line, path) in source.paths() {
            let Some(named) = named_layer(&source.path, &path).filter(|_| !source.is_test(line)) else {
                continue;
            };
            match position(named) {
                Some(other) if other <= own => {}
                Some(_) => violations.push(format!(
                    "{}:{line}: `{path}`: {named} stands to the right of {layer}; move the code, or pass the value in",
                    source.path
                )),
                None => violations.push(format!("{}:{line}: `{path}` names no layer", source.path)),
            }
        }
    }
    check(&violations);
}

#[test]
fn pure_layers_touch_no_socket_file_thread_or_clock() {
    let layers = layers();
    let pure = &layers[..layers.iter().position(|layer| layer == "store").expect("the layer store")];
    let mut violations = Vec::new();
    for source in engine_sources() {
        if !layer_of(&source.path).is_some_and(|layer| pure.iter().any(|pure| pure == layer)) {
            continue;
        }
        for (line, path) in source.paths() {
            let named = |banned: &&&str| path == **banned || path.starts_with(&format!("{banned}::"));
            let allowed = source.is_test(line) || PURE_THOUGH_OF_THE_RING.contains(&path.as_str());
            if let Some(banned) = IMPURE.iter().find(named).filter(|_| !allowed) {
                violations.push(format!(
                    "{}:{line}: `{banned}` in a pure layer; take it as an argument",
                    source.path
                ));
            }
        }
    }
    check(&violations);
}

#[test]
fn the_ring_knows_no_mail_and_loadgen_no_engine() {
    let mut violations = Vec::new();
    for source in Source::all() {
        if source.path.starts_with("engine/ring/src/") {
            for word in ["smtp", "mail", "ringmx::"] {
                if source.code.to_ascii_lowercase().contains(word) {
                    violations.push(format!("{}: the ring must not know `{word}`", source.path));
                }
            }
        }
        if source.path.starts_with("loadgen/")
            && source.paths().iter().any(|(_, path)| path.starts_with("ringmx::"))
        {
            violations.push(format!("{}: loadgen shares no code with the engine it measures", source.path));
        }
    }
    check(&violations);
}

#[test]
fn files_functions_and_lines_stay_short() {
    let mut violations = Vec::new();
    for source in Source::all() {
        let lines = source.lines_count_without_tests();
        if lines > FILE_LINES_MAX {
            violations
                .push(format!("{}: {lines} lines without tests, {FILE_LINES_MAX} at most", source.path));
        } else if lines > FILE_LINES_MANY {
            println!("warning: {}: {lines} lines without tests; aim for 150 to 350", source.path);
        }
        for (name, line, lines) in source.functions() {
            let allowed = LONG_FUNCTIONS.contains(&(source.path.as_str(), name.as_str()));
            if lines > FUNCTION_LINES_MAX && !allowed && !source.is_test(line) {
                let path = &source.path;
                violations
                    .push(format!("{path}:{line}: `{name}` has {lines} lines, {FUNCTION_LINES_MAX} at most"));
            }
        }
        let lines_of = |(at, text): &(usize, String)| source.line_of(*at)..=source.line_of(at + text.len());
        let strings: Vec<_> = source.strings.iter().map(lines_of).collect();
        for (index, line) in source.text.lines().enumerate() {
            let columns = line.chars().count();
            let is_text =
                strings.iter().any(|lines| lines.contains(&(index + 1))) || line.starts_with("//! |");
            let max = if is_text { COLUMNS_OF_TEXT_MAX } else { COLUMNS_MAX };
            if columns > max {
                violations.push(format!("{}:{}: {columns} columns, {max} at most", source.path, index + 1));
            }
        }
    }
    check(&violations);
}

#[test]
fn nothing_unfinished_and_no_unwrap_outside_tests() {
    // Put together here, so that this file passes its own test.
    let anywhere = [concat!("FIX", "ME"), concat!("TO", "DO"), concat!("XX", "X")];
    let in_code = [concat!("db", "g!"), concat!("to", "do!"), concat!("unimplem", "ented!")];
    let mut violations = Vec::new();
    for source in Source::all() {
        let mut report = |at: usize, what: &str| {
            violations.push(format!("{}:{}: {what}", source.path, source.line_of(at)));
        };
        for word in anywhere {
            source::words(&source.text, word).for_each(|at| report(at, word));
        }
        for word in in_code {
            source.code.match_indices(word).for_each(|(at, _)| report(at, word));
        }
        for (at, word) in source.code.match_indices(".unwrap()") {
            if !source.is_test(source.line_of(at)) {
                report(
                    at,
                    &format!("`{word}` outside tests; use `expect` with the reason why it cannot fail"),
                );
            }
        }
        if !UNSAFE_ALLOWED.iter().any(|allowed| source.path.starts_with(allowed)) {
            source::words(&source.code, "unsafe")
                .for_each(|at| report(at, "unsafe belongs into engine/ring"));
        }
    }
    check(&violations);
}

#[test]
fn bounds_stand_in_limits() {
    let mut violations = Vec::new();
    let mut found = BTreeSet::new();
    for source in engine_sources() {
        if layer_of(&source.path) == Some("limits") {
            continue;
        }
        for at in source::words(&source.code, "const") {
            let rest = &source.code[at + "const".len()..];
            let Some((name, _)) = rest.split_once(':') else { continue };
            let (name, line) = (name.trim(), source.line_of(at));
            let is_bound = ["_MAX", "_MOST"].iter().any(|end| name.ends_with(end));
            if !is_bound || source.is_test(line) {
                continue;
            }
            if BOUNDS_OF_A_FORM.contains(&(source.path.as_str(), name)) {
                found.insert((source.path.clone(), name.to_owned()));
            } else {
                violations.push(format!(
                    "{}:{line}: `{name}` bounds something: it stands in engine/src/limits, with a reason and a test",
                    source.path
                ));
            }
        }
    }
    for (file, name) in BOUNDS_OF_A_FORM {
        if !found.contains(&((*file).to_owned(), (*name).to_owned())) {
            violations.push(format!("{file}: there is no `{name}`"));
        }
    }
    check(&violations);
}

/// A time that somebody waits is a bound. What may stand beside its code says by its name that it is none: how often
/// something is looked at or tried, or what the configuration has where it says nothing.
#[test]
fn times_that_somebody_waits_stand_in_limits() {
    let mut violations = Vec::new();
    for source in engine_sources() {
        if layer_of(&source.path) == Some("limits") {
            continue;
        }
        for at in source::words(&source.code, "const") {
            let rest = &source.code[at + "const".len()..];
            let Some((name, rest)) = rest.split_once(':') else { continue };
            let (name, line) = (name.trim(), source.line_of(at));
            let is_time = rest.trim_start().starts_with("Duration ");
            let is_no_bound = ["_INTERVAL", "_DEFAULT"].iter().any(|end| name.ends_with(end));
            if is_time && !is_no_bound && !source.is_test(line) {
                violations.push(format!(
                    "{}:{line}: `{name}` is a time that somebody waits: it stands in engine/src/limits, with a reason \
                     and a test; what is only looked at or tried so often ends in _INTERVAL",
                    source.path
                ));
            }
        }
    }
    check(&violations);
}

#[test]
fn replies_are_written_in_one_file() {
    let mut violations = Vec::new();
    for source in engine_sources() {
        if source.path == "engine/src/protocol/reply.rs" {
            continue;
        }
        for (at, text) in &source.strings {
            let line = source.line_of(*at);
            if !source.is_test(line) && text.split("\\n").any(is_reply) {
                violations
                    .push(format!("{}:{line}: \"{text}\": replies stand in protocol/reply.rs", source.path));
            }
        }
    }
    check(&violations);
}

/// `550 no`, `250-SIZE`, `421` CR LF.
fn is_reply(text: &str) -> bool {
    let (digits, rest) = text.split_at_checked(3).unwrap_or((text, ""));
    let code = digits.len() == 3
        && digits.bytes().all(|digit| digit.is_ascii_digit())
        && matches!(digits.as_bytes()[0], b'2'..=b'5');
    code && (rest.starts_with([' ', '-']) || rest.starts_with("\\r"))
}

#[test]
fn text_files_are_clean() {
    // Where somebody's machine keeps things; put together here, so that this file passes its own test.
    let machine =
        [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/tmp", "/wt"), concat!("/Us", "ers/")];
    let mut violations = Vec::new();
    let mut endings = BTreeSet::new();
    for path in source::files(source::workspace()) {
        let name = source::relative(&path);
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        endings.insert(path.extension().map(|extension| extension.to_owned()));
        if !text.is_empty() && !text.ends_with('\n') {
            violations.push(format!("{name}: does not end with a newline"));
        }
        for (index, line) in text.lines().enumerate() {
            if let Some(place) = machine.iter().find(|place| line.contains(**place)) {
                violations.push(format!("{name}:{}: `{place}` is a path of one machine", index + 1));
            }
            if line.ends_with([' ', '\t']) && !name.ends_with(".smtp") {
                violations.push(format!("{name}:{}: ends with white space", index + 1));
            }
        }
    }
    assert!(endings.len() > 2, "the walk found no files: {endings:?}");
    check(&violations);
}

#[test]
fn the_rules_bite() {
    assert_eq!(named_layer("engine/src/session/mod.rs", "crate::server::Worker"), Some("server"));
    assert_eq!(named_layer("engine/src/session/mod.rs", "super::server"), Some("server"));
    assert_eq!(named_layer("engine/src/session/trace.rs", "super::phase"), None);
    assert_eq!(named_layer("engine/src/session/trace.rs", "super::super::server"), Some("server"));
    assert_eq!(named_layer("engine/src/limits.rs", "super::server::X"), Some("server"));
    assert_eq!(named_layer("engine/src/limits.rs", "std::fs"), None);
    assert_eq!(layer_of("engine/src/main.rs"), Some("main"));
    assert!(is_reply("550 no") && is_reply("250-SIZE") && is_reply("421\\r"));
    assert!(!is_reply("5500") && !is_reply("127 ") && !is_reply("2026-01") && !is_reply(""));
}
