//! `[replies]`

use std::collections::BTreeMap;

use crate::config::Replies;
use crate::config::reader::{Reader, Section, Text};
use crate::limits::{HELP_URL_LEN_MAX, REPLY_LINE_LEN_MAX, REPLY_TEXT_LEN_MAX};

// `550 5.123.123 TEXT URL` CR LF
const _: () = assert!(4 + 10 + REPLY_TEXT_LEN_MAX + 1 + HELP_URL_LEN_MAX + 2 <= REPLY_LINE_LEN_MAX);

pub(super) fn replies(root: &Section<'_>) -> Replies {
    let Some(section) = root.section("replies") else { return Replies::default() };
    let reader = section.reader;
    let help_url = section.text("help_url").and_then(|url| help_url(reader, url));
    let mut texts = BTreeMap::new();
    for entry in section.entries().iter().filter(|entry| entry.key != "help_url") {
        if !is_negative_status(&entry.key) {
            let message = format!("`{}` is no enhanced status code of a negative reply", entry.key);
            let help = "write it between quotes, as in \"5.7.1\" = \"text\"; it begins with 4 or 5";
            reader.error_as("bad-status-code", entry.key_span, message, help);
        } else if let Some(text) = reader.text(&entry.key, &entry.node) {
            let printable = text.text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
            if !printable || !(1..=REPLY_TEXT_LEN_MAX).contains(&text.text.trim().len()) {
                let message =
                    format!("a reply's text is one line of 1 to {REPLY_TEXT_LEN_MAX} ASCII characters");
                reader.error_as("bad-text", text.span, message, "");
            }
            texts.insert(entry.key.clone(), text.text.trim().to_owned());
        }
    }
    Replies { texts, help_url }
}

fn help_url(reader: &Reader, url: Text) -> Option<String> {
    let is_url = url.text.starts_with("https://") || url.text.starts_with("http://");
    if is_url && url.text.len() <= HELP_URL_LEN_MAX && url.text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Some(url.text);
    }
    let message = format!("`help_url` takes an http or https URL of at most {HELP_URL_LEN_MAX} octets");
    reader.error_as("not-a-url", url.span, message, "");
    None
}

/// RFC 3463 §2: `class.subject.detail`, of class 4 or 5.
fn is_negative_status(code: &str) -> bool {
    let is_number = |part: &str| {
        (1..=3).contains(&part.len())
            && part.bytes().all(|byte| byte.is_ascii_digit())
            && (part == "0" || !part.starts_with('0'))
    };
    let parts: Vec<&str> = code.split('.').collect();
    matches!(parts[..], ["4" | "5", subject, detail] if is_number(subject) && is_number(detail))
}
