//! Names of mailboxes and domains, in the configuration and in its lists.

use crate::config::idn::spellings;
use crate::config::reader::Section;
use crate::config::value::parse_domain;
use crate::policy::matcher::Patterns;
use crate::protocol::path::{Domain, Mailbox};

/// The names of a condition; `None` where it is not there.
pub(super) fn patterns(section: &Section<'_>, key: &'static str) -> Option<Patterns> {
    let list = section.texts(key)?;
    if list.is_empty {
        let help = format!("leave `{key}` out for all");
        section.reader.error_as(
            "empty-list",
            list.span,
            format!("`{key}` is empty: the rule would never match"),
            help,
        );
    }
    let mut patterns = Patterns::default();
    for text in &list.texts {
        if let Err(why) = add_pattern(&mut patterns, key, &text.text) {
            let message = format!("`{}` in `{key}` {why}", text.text.escape_debug());
            section.reader.error_as("not-a-pattern", text.span, message, "");
        }
    }
    Some(patterns)
}

/// Adds a mailbox, a domain, `.domain` for all below it, or `<>`, in every spelling; or says why it is none.
pub(super) fn add_pattern(patterns: &mut Patterns, key: &str, text: &str) -> Result<(), String> {
    match text.strip_prefix('.') {
        _ if text == "<>" && key == "from" => patterns.add_null(),
        _ if text.contains('@') && key != "helo" => {
            return each_spelling(text, |mailbox| patterns.add_mailbox(mailbox));
        }
        _ if text.starts_with('[') => {
            let domain = Domain::parse(text.as_bytes()).map_err(|_| "is no address literal".to_owned())?;
            patterns.add_domain(&domain);
        }
        below => {
            let name = parse_domain(below.unwrap_or(text)).map_err(|why| {
                let mailbox = if key == "helo" { "" } else { "mailbox, " };
                format!("is no {mailbox}domain or .domain: {why}")
            })?;
            for spelling in spellings(&name) {
                let domain = Domain::Name(spelling.as_bytes());
                match below {
                    None => patterns.add_domain(&domain),
                    Some(_) if patterns.add_domains_below(&domain) => {}
                    Some(_) => return Err("is too long to have domains below it".to_owned()),
                }
            }
        }
    }
    Ok(())
}

/// Gives the mailbox with each spelling of its domain; or says why it is none.
pub(super) fn each_spelling(text: &str, mut add: impl FnMut(&Mailbox<'_>)) -> Result<(), String> {
    let mailbox = Mailbox::parse(text.as_bytes()).map_err(|_| "is no mailbox".to_owned())?;
    let Domain::Name(name) = mailbox.domain else {
        add(&mailbox);
        return Ok(());
    };
    let name = str::from_utf8(name).map_err(|_| "is not UTF-8".to_owned())?;
    let name = parse_domain(name).map_err(|why| format!("is no mailbox: {why}"))?;
    for spelling in spellings(&name) {
        add(&Mailbox { domain: Domain::Name(spelling.as_bytes()), ..mailbox });
    }
    Ok(())
}
