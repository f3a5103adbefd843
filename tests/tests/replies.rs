//! Every reply the engine can give: well-formed, registered, said in some dialogue, and in `engine/docs/replies.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use ringmx::protocol::reply::{self, Entry};
use tests::dialogue::{Dialogue, Outcome, Splits};
use tests::generated;

/// The highest detail registered for each subject; below it there are no gaps. IANA, "Simple Mail Transfer Protocol
/// (SMTP) Enhanced Status Codes Registry", <https://www.iana.org/assignments/smtp-enhanced-status-codes>, made of RFC
/// 3463, 3886, 4468, 4954, 5248, 6531, 6710, 7293, 7372, 7505, 8617 and 8689.
const REGISTERED: &[(u8, u8)] = &[(0, 0), (1, 10), (2, 4), (3, 6), (4, 7), (5, 6), (6, 10), (7, 30)];

const HEAD: &str = "# Replies

<!-- Written by tests/tests/replies.rs from the code: `UPDATE_DOCS=1 cargo test -p tests --test replies`. -->

Every reply that ringmx can give. A text says what is wrong, then, behind a semicolon, what the sender can do about it.
It holds nothing that the client sent. *In the log* is the `fault` or `error` of the log line. Each of them is given in a
dialogue of `tests/dialogue`.

- 2yz: done. Only `250 2.0.0 queued as` takes responsibility for a message: then it is on stable storage.
- 4yz: not now. Nothing was taken; the client keeps the message and tries again. Behind a 421 the connection is closed.
- 5yz: not like this. The same again gets the same answer; the client's operator, or the message's author, has to change
  something.

Codes are RFC 5321's (sections 4.2.2 and 4.3.2), enhanced status codes those of RFC 3463 and IANA's registry. RFC 2034,
section 4: they stand in each 2yz, 4yz and 5yz reply but the greeting and the replies to EHLO and HELO. A reply has one
line, of at most 512 octets; the reply to EHLO has one for each extension (`250-` but for the last, which has `250 `).

The operator can set the text of 4yz and 5yz replies by enhanced status code, and a URL that stands behind the text of
each 5yz reply: `[replies]` in the configuration.
";

fn dialogues() -> Vec<(Dialogue, Outcome)> {
    let play = |dialogue: Result<Dialogue, String>| {
        let dialogue = dialogue.expect("a dialogue");
        let outcome = dialogue.run(Splits::Whole).expect("it goes as written");
        (dialogue, outcome)
    };
    // What the operator wrote is no reply of ours.
    Dialogue::all().into_iter().map(play).filter(|(dialogue, _)| !dialogue.has_own_texts()).collect()
}

/// Whether a line is the reply: with the host's name before its text, or an id behind it.
fn says(line: &str, entry: &Entry) -> bool {
    let reply = entry.reply;
    let start = format!("{} {}", reply.code, reply.enhanced);
    let has_start = line.starts_with(start.trim_end())
        || (reply.enhanced.is_empty() && line.starts_with(&format!("{}-", reply.code)));
    has_start && line.contains(reply.text)
}

/// An extension's line of the reply to EHLO.
fn is_extension(line: &str) -> bool {
    line.get(4..).and_then(|text| text.split(' ').next()).is_some_and(|keyword| {
        line.starts_with("250")
            && keyword.len() > 2
            && keyword.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
    })
}

/// The causes in the log of the replies that dialogues give, by the name of the reply.
fn seen() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let mut seen: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (dialogue, outcome) in dialogues() {
        let mut causes = outcome.causes.iter().peekable();
        for line in &outcome.replies {
            let Some(entry) = reply::ALL.iter().find(|entry| says(line, entry)) else {
                assert!(is_extension(line), "{}.smtp: `{line}` has no row in reply.rs", dialogue.name);
                continue;
            };
            let names = seen.entry(entry.name).or_default();
            // Each refusal has its line in the log, in their order; the last words of a session that we end have none.
            if entry.reply.code >= 400
                && let Some((name, _)) = causes.next_if(|(_, code)| *code == entry.reply.code)
            {
                names.insert(*name);
            }
        }
    }
    seen
}

#[test]
fn enhanced_status_codes_are_registered() {
    for Entry { name, reply, .. } in reply::ALL.iter().filter(|entry| !entry.reply.enhanced.is_empty()) {
        let numbers: Vec<u8> =
            reply.enhanced.split('.').map(|part| part.parse().expect("a number")).collect();
        let [class, subject, detail] = numbers[..] else { panic!("{name}: {}", reply.enhanced) };
        // RFC 2034 §4: the class is the reply code's first digit.
        assert_eq!(u16::from(class), reply.code / 100, "{name}");
        let highest = REGISTERED.iter().find(|(registered, _)| *registered == subject);
        assert!(
            highest.is_some_and(|(_, highest)| detail <= *highest),
            "{name}: {} is not registered",
            reply.enhanced
        );
    }
}

#[test]
fn a_refusal_says_what_to_do_about_it() {
    let mut texts = BTreeSet::new();
    for Entry { name, reply, .. } in reply::ALL.iter().filter(|entry| entry.reply.code >= 400) {
        let (wrong, remedy) = reply.text.split_once("; ").unwrap_or_default();
        assert!(!wrong.is_empty() && !remedy.is_empty(), "{name}: `{}` has no `; ` and advice", reply.text);
        assert!(texts.insert((reply.code, reply.text)), "{name}: another reply says the same");
        // RFC 5321 §3.8, §4.2.2: 421 is what comes before we close, and it says so.
        assert_eq!(reply.code == 421, remedy.starts_with("closing"), "{name}: `{}`", reply.text);
    }
}

#[test]
fn every_reply_is_said_in_a_dialogue_and_stands_in_the_documentation() {
    let seen = seen();
    let mut text = HEAD.to_owned();
    for (class, title) in [(2, "done"), (3, "go on"), (4, "not now"), (5, "not like this")] {
        write!(text, "\n## {class}yz: {title}\n\n| reply | when | in the log |\n|---|---|---|\n")
            .expect("a String takes all");
        for Entry { name, reply, meaning } in
            reply::ALL.iter().filter(|entry| entry.reply.code / 100 == class)
        {
            assert!(seen.contains_key(name), "{name} is said in no dialogue; write one");
            let causes: Vec<String> = seen[name].iter().map(|name| format!("`{name}`")).collect();
            writeln!(
                text,
                "| `{}` | {} | {} |",
                [&reply.code.to_string(), reply.enhanced, reply.text].join(" ").replace("  ", " "),
                meaning.split_whitespace().collect::<Vec<_>>().join(" "),
                causes.join(", "),
            )
            .expect("a String takes all");
        }
    }
    generated::compare("engine/docs/replies.md", &text);
}
