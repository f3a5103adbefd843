//! Why a rule matches, for people: condition by condition, by trying each thing that the rule lists. The compiled rules
//! have forgotten it.

use std::fmt::Display;
use std::net::IpAddr;

use super::{Facts, RuleSpec, helo_key};
use crate::policy::matcher::{Key, Patterns};
use crate::protocol::path::{ForwardPath, ReversePath};

impl RuleSpec {
    /// A reason for each condition; `None` where one does not hold. `postmaster_domain`: see [`RuleSpec`'s
    /// compilation](super::RuleSet::compile).
    pub fn reasons(&self, listener: &str, facts: &Facts<'_>, postmaster_domain: &str) -> Option<Vec<String>> {
        let mut reasons = Vec::new();
        if let Some(networks) = &self.client {
            let client = IpAddr::from(facts.client);
            let around = networks.iter().filter(|network| network.contains(client));
            let narrowest = around.max_by_key(|network| network.prefix_len())?;
            reasons.push(format!("client {client} is in {narrowest}"));
        }
        if let Some(listeners) = &self.listeners {
            listeners.iter().find(|name| ***name == *listener)?;
            reasons.push(format!("listener is {listener}"));
        }
        if let Some(names) = &self.helo {
            reasons.push(named("helo name", &helo_key(facts.helo), names)?);
        }
        if let Some(names) = &self.from {
            reasons.push(match facts.reverse_path? {
                ReversePath::Null => named("reverse-path", &Key::of_text(Key::NULL), names)?,
                ReversePath::Mailbox(mailbox) => named("reverse-path", &Key::of_mailbox(&mailbox), names)?,
            });
        }
        if let Some(names) = &self.to {
            let key = match facts.forward_path? {
                ForwardPath::Mailbox(mailbox) => Key::of_mailbox(mailbox),
                ForwardPath::Postmaster => Key::of_postmaster(postmaster_domain),
            };
            reasons.push(named("recipient", &key, names)?);
        }
        if let Some(over) = self.size_over {
            let size = facts.size.filter(|size| *size > over)?;
            reasons.push(format!("announced size {size} is over {over}"));
        }
        reasons.extend(self.protection.reasons(facts.secured)?);
        Some(reasons)
    }
}

/// The listed name that a name is, or lies in; of several the longest.
fn named(what: &str, key: &Key, names: &Patterns) -> Option<String> {
    let (whole, domain) = (key.as_bytes(), key.domain());
    let lists = |listed: &[u8]| {
        let is_below = listed.starts_with(b".") && domain.len() > listed.len() && domain.ends_with(listed);
        listed == whole || listed == domain || is_below
    };
    let listed = names.iter().map(|name| name.as_bytes()).filter(|listed| lists(listed));
    let longest = listed.max_by_key(|listed| listed.len())?;
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    let (whole, longest): (String, String) = (text(whole), text(longest));
    let reason = |relation: &dyn Display| format!("{what} {whole} {relation}");
    Some(if whole == longest { reason(&"is listed") } else { reason(&format_args!("lies in {longest}")) })
}
