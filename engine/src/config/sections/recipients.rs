//! `[recipients]`

use std::collections::BTreeSet;
use std::fs;

use super::domain;
use crate::config::Recipients;
use crate::config::reader::{Reader, Section, Text};
use crate::config::value::parse_domain;

/// Lines of a file that are each reported; the others are counted.
const BAD_LINES_COUNT_MAX: usize = 10;

pub(super) fn recipients(root: &Section<'_>, hostname: &str) -> Recipients {
    let mut domains = Vec::new();
    let reader = root.reader;
    let help = r#"write [recipients] and domains = ["example.com"]"#;
    if let Some(section) = root.section("recipients") {
        let list = section.texts("domains");
        let file = section.text("domains_file");
        if list.as_ref().is_none_or(|list| list.is_empty) && section.entry("domains_file").is_none() {
            reader.error(section.span(), "[recipients] names no domain: no mail would be accepted", help);
        }
        let named = list.map_or_else(Vec::new, |list| list.texts);
        domains.extend(named.iter().filter_map(|text| own_domain(reader, text)));
        if let Some(path) = file {
            domains_file(reader, &path, &mut domains);
        }
        section.finish();
    } else if root.entry("recipients").is_none() {
        reader.error(root.span(), "no [recipients]: no mail would be accepted", help);
    }
    let first = domains.first().cloned().unwrap_or_default();
    let domains = BTreeSet::from_iter(domains);
    let postmaster_domain = if domains.contains(hostname) { hostname.to_owned() } else { first };
    Recipients { domains, postmaster_domain }
}

fn own_domain(reader: &Reader, text: &Text) -> Option<String> {
    if !text.text.starts_with('*') {
        return domain(reader, "domains", text);
    }
    // The one mistake that would make an open relay gets its own words.
    let message = format!("`{}` would accept mail for domains that are not yours", text.text.escape_debug());
    reader.error(text.span, message, "name each domain; a long list can go into domains_file");
    None
}

/// One domain a line; `#` begins a comment.
fn domains_file(reader: &Reader, path: &Text, domains: &mut Vec<String>) {
    let file = reader.path(&path.text, path.span);
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) => {
            let message = format!("cannot read the domains_file {}: {error}", file.display());
            return reader.error(path.span, message, "");
        }
    };
    let (count_before, mut bad_count) = (domains.len(), 0);
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        match parse_domain(line) {
            Ok(domain) => domains.push(domain),
            Err(why) => {
                bad_count += 1;
                if bad_count <= BAD_LINES_COUNT_MAX {
                    let (file, number) = (file.display(), index + 1);
                    let message = format!("{file}:{number}: `{}` is no domain: {why}", line.escape_debug());
                    reader.error(path.span, message, "write one domain a line; `#` begins a comment");
                }
            }
        }
    }
    if bad_count > BAD_LINES_COUNT_MAX {
        let more = bad_count - BAD_LINES_COUNT_MAX;
        reader.error(path.span, format!("{}: {more} more lines are no domains", file.display()), "");
    }
    if bad_count == 0 && domains.len() == count_before {
        reader.error(path.span, format!("{} names no domain", file.display()), "write one domain a line");
    }
}
