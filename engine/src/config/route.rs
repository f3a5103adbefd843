//! Where mail goes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::{PathTemplate, Relay, idn};
use crate::policy::matcher::Key;
use crate::protocol::path::{Domain, Mailbox};

/// Where the mail of some domains goes.
#[derive(Clone, Debug)]
pub struct Route {
    /// At least one.
    pub domains: Vec<DomainPattern>,
    /// What else it asks for.
    pub conditions: Conditions,
    pub deliver: Deliver,
    /// Waits between attempts, at least one; the last repeats.
    pub retry: Vec<Duration>,
    /// How long mail is tried; then it has failed. RFC 5321 §4.5.4.1 asks for 4 to 5 days at least.
    pub lifetime: Duration,
}

/// What mail must be, besides of a domain, to go by a route. What is empty asks for nothing; of what is not, one must
/// be met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// As [`Key`]s have them, so that one is found however it is written.
    pub mailboxes: BTreeSet<Box<[u8]>>,
    /// Octets of a local-part that begin a subaddress: `mailboxes` are tried without it too.
    pub separators: Box<[u8]>,
    /// Names of those that took the message.
    pub listeners: Vec<String>,
    /// What rules have given the message.
    pub tags: Vec<String>,
}

/// A recipient, and what routes ask about its message.
#[derive(Clone, Copy, Debug)]
pub struct Addressed<'a> {
    /// `local-part@domain` or `postmaster`, in any form.
    pub mailbox: &'a [u8],
    /// Its domain, in any case of letters and form of labels.
    pub domain: &'a str,
    pub listener: Option<&'a str>,
    pub tags: &'a [&'a str],
}

impl<'a> Addressed<'a> {
    /// A mailbox of a message that no rule has tagged.
    #[cfg(test)]
    pub(crate) fn to(mailbox: &'a str) -> Self {
        let domain = mailbox.rsplit('@').next().unwrap_or_default();
        Self { mailbox: mailbox.as_bytes(), domain, listener: None, tags: &[] }
    }
}

/// Whom notices of mail that could not be delivered are given to.
#[derive(Clone, Debug)]
pub struct Bounce {
    pub relay: Arc<Relay>,
    /// How long mail is tried before who wants to know (RFC 3461 §4.1) is told that it takes long.
    pub delay_after: Duration,
    /// Waits between attempts, at least one; the last repeats.
    pub retry: Vec<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DomainPattern {
    Any,
    /// In lower case.
    Exact(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deliver {
    Maildir {
        path: PathTemplate,
    },
    /// Over SMTP, LMTP or HTTP.
    Relay(Arc<Relay>),
    /// Acknowledged without a trace.
    Discard,
    /// Kept in the spool.
    Hold,
}

/// The first route that takes the recipient and is `wanted`, and its position.
pub(super) fn first_of<'a>(
    routes: &'a [Route],
    addressed: &Addressed<'_>,
    wanted: impl Fn(&Route) -> bool,
) -> Option<(usize, &'a Route)> {
    let domain = idn::to_ascii(addressed.domain);
    let addressed = &Addressed { domain: &domain, ..*addressed };
    let takes =
        |route: &Route| wanted(route) && route.matches(&domain) && route.conditions.are_met(addressed);
    routes.iter().enumerate().find(|(_, route)| takes(route))
}

impl Route {
    /// Whether it takes mail of this domain, if its conditions are met.
    pub fn matches(&self, domain: &str) -> bool {
        self.domains.iter().any(|pattern| pattern.matches(domain))
    }

    /// Whether it takes all mail of this domain.
    pub fn takes_all(&self, domain: &str) -> bool {
        self.conditions.are_none() && self.matches(domain)
    }
}

impl Conditions {
    pub fn are_none(&self) -> bool {
        self.mailboxes.is_empty() && self.listeners.is_empty() && self.tags.is_empty()
    }

    /// The domain with A-labels.
    fn are_met(&self, addressed: &Addressed<'_>) -> bool {
        let is_listener = |name: &String| addressed.listener == Some(name);
        let has = |tag: &String| addressed.tags.contains(&tag.as_str());
        (self.listeners.is_empty() || self.listeners.iter().any(is_listener))
            && (self.tags.is_empty() || self.tags.iter().any(has))
            && (self.mailboxes.is_empty() || self.names(addressed))
    }

    fn names(&self, addressed: &Addressed<'_>) -> bool {
        let Ok(mut mailbox) = Mailbox::parse(addressed.mailbox) else { return false };
        if let Domain::Name(name) = &mut mailbox.domain {
            *name = addressed.domain.as_bytes();
        }
        let key = Key::of_mailbox(&mailbox);
        let is_listed = |key: &Key| self.mailboxes.contains(key.as_bytes());
        is_listed(&key) || key.without_subaddress(&self.separators).is_some_and(|key| is_listed(&key))
    }
}

impl DomainPattern {
    pub fn matches(&self, domain: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact.eq_ignore_ascii_case(domain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, check_text};

    const CONFIG: &str = r#"
        [[listener]]
        name = "internet"
        bind = ["127.0.0.1:0"]
        [[listener]]
        name = "intranet"
        bind = ["127.0.0.1:0"]
        [recipients]
        domains = ["a.example", "xn--bcher-kva.example"]
        subaddress = "+"
        [[rule]]
        stage = "mail"
        from = ["spam.example"]
        action = "tag"
        tag = "suspect"
        [[route]]
        tag = ["suspect"]
        listener = ["internet"]
        deliver = "hold"
        [[route]]
        domains = ["a.example"]
        mailboxes = ["Sales@a.example", "\"x y\"@a.example", "z@b\u00fccher.example"]
        deliver = "discard"
        [[route]]
        domains = ["*"]
        mailboxes = ["z@b\u00fccher.example"]
        deliver = "discard"
        [[route]]
        domains = ["*"]
        deliver = "maildir"
        path = "/mail"
    "#;

    #[test]
    fn the_first_whose_conditions_are_met_takes_the_mail() {
        let config = Config::parse(CONFIG, "test.toml").unwrap();
        let suspect = |mailbox, listener| {
            let tags: &'static [&str] = &["other", "suspect"];
            Addressed { listener: Some(listener), tags, ..Addressed::to(mailbox) }
        };
        for (addressed, position) in [
            (suspect("sales@a.example", "internet"), 0),
            (suspect("sales@a.example", "intranet"), 1),
            (suspect("postmaster", "intranet"), 3),
            (Addressed { listener: Some("internet"), ..Addressed::to("x@a.example") }, 3),
            (Addressed::to("SALES@A.example"), 1),
            (Addressed::to("sales+list@a.example"), 1),
            (Addressed::to("\"sales\"@a.example"), 1),
            (Addressed::to("\"x y\"@a.example"), 1),
            (Addressed::to("sales@xn--bcher-kva.example"), 3),
            (Addressed::to("Z@B\u{dc}CHER.example"), 2),
            (Addressed::to("z@xn--bcher-kva.example"), 2),
        ] {
            assert_eq!(config.route_for(&addressed).unwrap().0, position, "{addressed:?}");
        }
    }

    /// The findings' codes and messages.
    fn told(from: &str, to: &str) -> Vec<String> {
        assert!(CONFIG.contains(from), "{from}");
        let findings = check_text(&CONFIG.replacen(from, to, 1), "test.toml").findings;
        findings.into_iter().map(|finding| format!("{} {}", finding.code, finding.message)).collect()
    }

    #[test]
    fn conditions_that_cannot_be_met_are_told() {
        for (from, to, expected) in [
            ("[\"suspect\"]\n", "[\"suspcet\"]\n", "condition-never-met no rule gives the tag \"suspcet\""),
            (
                "listener = [\"internet\"]",
                "listener = [\"inet\"]",
                "unknown-value `listener` cannot be \"inet\"",
            ),
            ("\"Sales@a.example\"", "\"sales\"", "not-a-mailbox `sales` in `mailboxes` is no mailbox"),
            ("tag = [\"suspect\"]", "tag = []", "bad-route `tag` is empty: the route takes no mail"),
        ] {
            let told = told(from, to);
            assert!(told.iter().any(|told| told.contains(expected)), "{expected}: {told:?}");
        }
    }

    #[test]
    fn a_route_with_conditions_hides_none_and_covers_none() {
        let told_of =
            |from, to| told(from, to).into_iter().filter(|told| told.contains("route")).collect::<Vec<_>>();
        assert_eq!(told_of("/mail\"", "/mail\""), [""; 0]);
        let last = "domains = [\"*\"]\n        deliver = \"maildir\"";
        let covers = told_of(last, "tag = [\"suspect\"]\n        deliver = \"maildir\"");
        assert!(covers[0].contains("no [[route]] takes all mail of a.example and 1 more"), "{covers:?}");
        let twice = told_of("[\"Sales@a.example\", \"\\\"x y\\\"@a.example\", ", "[");
        assert!(twice.is_empty(), "{twice:?}");
        let hidden = told_of("domains = [\"a.example\"]\n        mailboxes", "mailboxes");
        assert!(hidden.is_empty(), "{hidden:?}");
    }
}
