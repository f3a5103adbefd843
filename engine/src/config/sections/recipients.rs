//! `[recipients]`

use std::collections::BTreeSet;
use std::sync::Arc;

use super::domain;
use super::names::each_spelling;
use crate::config::idn::spellings;
use crate::config::reader::{Reader, Section, Text};
use crate::config::value::parse_domain;
use crate::config::{Recipients, list};
use crate::limits::SEPARATORS_COUNT_MAX;
use crate::policy::recipient;

pub(super) fn recipients(root: &Section<'_>, hostname: &str) -> Recipients {
    let reader = root.reader;
    let help = r#"write [recipients] and domains = ["example.com"]"#;
    let Some(section) = root.section("recipients") else {
        if root.entry("recipients").is_none() {
            reader.error_as(
                "missing-section",
                root.span(),
                "no [recipients]: no mail would be accepted",
                help,
            );
        }
        return build(root, Vec::new(), hostname, None);
    };
    let mut domains = Vec::new();
    let list = section.texts("domains");
    let file = section.text("domains_file");
    if list.as_ref().is_none_or(|list| list.is_empty) && section.entry("domains_file").is_none() {
        reader.error_as(
            "missing-key",
            section.span(),
            "[recipients] names no domain: no mail would be accepted",
            help,
        );
    }
    let named = list.map_or_else(Vec::new, |list| list.texts);
    domains.extend(named.iter().filter_map(|text| own_domain(reader, "domains", text)));
    if let Some(path) = file {
        list::read(reader, "domains_file", &path, |entry| {
            domains.push(parse_domain(entry).map_err(|why| format!("is no domain: {why}"))?);
            Ok(())
        });
    }
    let recipients = build(root, domains, hostname, Some(&section));
    section.finish();
    recipients
}

/// The tables; `section` has the mailboxes.
fn build(
    root: &Section<'_>,
    domains: Vec<String>,
    hostname: &str,
    section: Option<&Section<'_>>,
) -> Recipients {
    let first = domains.first().cloned().unwrap_or_default();
    let domains = BTreeSet::from_iter(domains);
    let postmaster_domain = if domains.contains(hostname) { hostname.to_owned() } else { first };
    let separators = section.and_then(separators).unwrap_or_default();
    let mut table = recipient::Recipients::with_separators(&separators);
    let lists_mailboxes = section.is_some_and(|section| {
        section.entry("mailboxes").is_some() || section.entry("mailboxes_file").is_some()
    });
    for spelling in domains.iter().flat_map(|domain| spellings(domain)) {
        if let Err(why) = table.add_domain(&spelling, !lists_mailboxes) {
            root.reader.error_as("not-a-domain", root.span(), why.to_string(), "");
        }
    }
    if let Some(section) = section {
        catch_all(section, &domains, &mut table);
        mailboxes(section, &mut table);
    }
    table.shrink();
    Recipients { domains, postmaster_domain, table: Arc::new(table) }
}

/// The octets that begin a subaddress.
fn separators(section: &Section<'_>) -> Option<String> {
    let text = section.text("subaddress")?;
    let is_valid = text.text.len() <= SEPARATORS_COUNT_MAX
        && text.text.bytes().all(|octet| octet.is_ascii_punctuation() && !b"@.\"\\<>".contains(&octet));
    if is_valid {
        return Some(text.text);
    }
    let message = "`subaddress` takes the characters that begin a subaddress, such as \"+\" or \"+-\"";
    section.reader.error_as("not-a-separator", text.span, message, "write subaddress = \"+\"");
    None
}

fn catch_all(section: &Section<'_>, domains: &BTreeSet<String>, table: &mut recipient::Recipients) {
    let reader = section.reader;
    for text in section.texts("catch_all").map_or_else(Vec::new, |list| list.texts) {
        let Some(name) = own_domain(reader, "catch_all", &text) else { continue };
        if !domains.contains(&name) {
            let message = format!("`{name}` in `catch_all` is none of the domains of [recipients]");
            reader.error_as("foreign-domain", text.span, message, "name it in `domains` too");
        }
        for spelling in spellings(&name) {
            // It parsed as a domain.
            drop(table.add_domain(&spelling, true));
        }
    }
}

fn mailboxes(section: &Section<'_>, table: &mut recipient::Recipients) {
    let mut add = |text: &str| {
        let mut is_ours = true;
        each_spelling(text, |mailbox| is_ours &= table.add_mailbox(mailbox))?;
        if is_ours { Ok(()) } else { Err("is of none of the domains of [recipients]".to_owned()) }
    };
    for text in section.texts("mailboxes").map_or_else(Vec::new, |list| list.texts) {
        if let Err(why) = add(&text.text) {
            let message = format!("`{}` in `mailboxes` {why}", text.text.escape_debug());
            section.reader.error_as("not-a-mailbox", text.span, message, "");
        }
    }
    if let Some(path) = section.text("mailboxes_file") {
        list::read(section.reader, "mailboxes_file", &path, add);
    }
}

fn own_domain(reader: &Reader, key: &str, text: &Text) -> Option<String> {
    if !text.text.starts_with('*') {
        return domain(reader, key, text);
    }
    // The one mistake that would make an open relay gets its own words.
    let message = format!("`{}` would accept mail for domains that are not yours", text.text.escape_debug());
    reader.error_as(
        "open-relay",
        text.span,
        message,
        "name each domain; a long list can go into domains_file",
    );
    None
}
