//! The rules: what is done with whom, as the operator lists it, compiled so that a verdict takes the same time for ten
//! rules and for ten thousand.
//!
//! The rules of a stage are tried in their order, and the first that matches and decides ends the stage. Rules that
//! only tag, delay or limit decide nothing, unless their limit is reached: the rules behind them are tried too. What a
//! verdict means is the session's affair.

mod action;
mod compile;
mod protection;
mod reasons;
#[cfg(test)]
mod tests;

pub use action::{Action, LIMIT_PER_IPV4, LIMIT_PER_IPV6, Refusal, RuleLimit};
pub use compile::{CompileError, Hidden, RuleSpec, Why};
pub use protection::{Certificates, Protection};

use crate::policy::matcher::{Key, NameMatcher, NetworkMatcher, RuleIndex, first_common};
use crate::policy::network::Address;
use crate::protocol::path::{Domain, ForwardPath, ReversePath};
use crate::security::Secured;

/// When a rule is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// The client has connected, and its address is known.
    Connect,
    /// EHLO or HELO.
    Helo,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
}

/// What is known of a session at a stage.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub client: Address,
    /// As given with EHLO or HELO; empty before.
    pub helo: &'a [u8],
    /// `None` before MAIL.
    pub reverse_path: Option<ReversePath<'a>>,
    /// `None` before RCPT.
    pub forward_path: Option<&'a ForwardPath<'a>>,
    /// What MAIL announced.
    pub size: Option<u64>,
    /// `None` in clear.
    pub secured: Option<&'a Secured>,
}

/// A compiled rule: what of it is not in the matchers of its stage.
#[derive(Clone, Debug)]
pub struct Rule {
    pub action: Action,
    /// Among all rules of the configuration, from 1 on.
    pub number: u32,
    /// File and line.
    pub place: Box<str>,
    /// `None`: any.
    listeners: Option<Box<[Box<str>]>>,
    /// Matches only if MAIL announced more octets.
    size_over: Option<u64>,
    /// Its place among what the rules of the stage ask of TLS. `None`: nothing.
    protection: Option<u8>,
}

/// All rules; immutable.
#[derive(Debug, Default)]
pub struct RuleSet {
    stages: [StageRules; Stage::ALL.len()],
    /// By tag.
    tags: Box<[Box<str>]>,
    /// The domain of a `<Postmaster>` without one.
    postmaster_domain: Box<str>,
}

#[derive(Debug, Default)]
struct StageRules {
    rules: Box<[Rule]>,
    /// The rules there are, up to the first that nothing can get behind.
    all: Box<[RuleIndex]>,
    /// What they ask of TLS, each once.
    protections: Box<[Protection]>,
    /// `None` where no rule asks for it; so below.
    client: Option<NetworkMatcher>,
    helo: Option<NameMatcher>,
    reverse_path: Option<NameMatcher>,
    forward_path: Option<NameMatcher>,
}

/// The rules of a stage that match some facts, in their order.
#[derive(Clone, Debug)]
pub struct Matching<'a> {
    rules: &'a [Rule],
    listener: &'a str,
    /// 0 where nothing was announced.
    announced_size: u64,
    /// Bit n: the nth of what the stage asks of TLS holds.
    protections: u64,
    /// Of the conditions that any rule has: those of one condition have the rules that do not ask for it too.
    lists: [&'a [RuleIndex]; 4],
    lists_count: usize,
    /// A word, since it is read as one right behind its writing. Beyond what a [`RuleIndex`] is: nothing is left.
    from: u32,
}

impl Stage {
    pub const ALL: [Self; 4] = [Self::Connect, Self::Helo, Self::Mail, Self::Rcpt];

    /// The name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Helo => "helo",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
        }
    }
}

impl RuleSet {
    /// The rules that match what has come to the listener of this name, in their order. Nothing is allocated.
    // Inlined, so that it is made where it stays: a copy would wait for all that was just written.
    #[inline]
    pub fn matching<'a>(&'a self, stage: Stage, listener: &'a str, facts: &Facts<'_>) -> Matching<'a> {
        let rules = &self.stages[stage as usize].rules;
        let announced_size = facts.size.unwrap_or(0);
        let mut matching = Matching {
            rules,
            listener,
            announced_size,
            protections: 0,
            // Without rules there is one list, and nothing in it.
            lists: [&[]; 4],
            lists_count: usize::from(rules.is_empty()),
            from: 0,
        };
        // Most servers have no rule at most stages.
        if !rules.is_empty() {
            self.look_up(stage, facts, &mut matching);
        }
        matching
    }

    /// Whether a stage has any rule.
    pub fn has(&self, stage: Stage) -> bool {
        !self.stages[stage as usize].rules.is_empty()
    }

    /// All of a stage.
    pub fn rules(&self, stage: Stage) -> &[Rule] {
        &self.stages[stage as usize].rules
    }

    /// Whether any message gets a tag.
    pub fn has_tags(&self) -> bool {
        !self.tags.is_empty()
    }

    /// File and line of each rule, by its number less 1.
    pub fn places(&self) -> Vec<Box<str>> {
        let mut rules: Vec<&Rule> = self.stages.iter().flat_map(|stage| &stage.rules).collect();
        rules.sort_unstable_by_key(|rule| rule.number);
        rules.into_iter().map(|rule| rule.place.clone()).collect()
    }

    /// The text of a tag.
    pub fn tag(&self, tag: u8) -> &str {
        &self.tags[usize::from(tag)]
    }

    /// Octets of memory of its tables.
    pub fn memory_len(&self) -> usize {
        let names = |matcher: &Option<NameMatcher>| matcher.as_ref().map_or(0, NameMatcher::memory_len);
        let of_stage = |stage: &StageRules| {
            let clients = stage.client.as_ref().map_or(0, NetworkMatcher::memory_len);
            clients + names(&stage.helo) + names(&stage.reverse_path) + names(&stage.forward_path)
        };
        self.stages.iter().map(of_stage).sum()
    }

    fn look_up<'a>(&'a self, stage: Stage, facts: &Facts<'_>, matching: &mut Matching<'a>) {
        let StageRules { all, protections, client, .. } = &self.stages[stage as usize];
        if let Some(matcher) = client {
            matching.add(matcher.rules(facts.client));
        }
        // When a client connects it has said nothing yet: that verdict is the quick one.
        if stage != Stage::Connect {
            self.look_names_up(stage, facts, matching);
        }
        if matching.lists_count == 0 {
            // No rule has a condition.
            matching.add(all);
        }
        let held = protections.iter().enumerate().filter(|(_, asked)| asked.holds(facts.secured));
        matching.protections = held.fold(0, |bits, (bit, _)| bits | 1 << bit);
    }

    #[inline(never)]
    fn look_names_up<'a>(&'a self, stage: Stage, facts: &Facts<'_>, matching: &mut Matching<'a>) {
        let StageRules { helo, reverse_path, forward_path, .. } = &self.stages[stage as usize];
        if let Some(matcher) = helo {
            matching.add(matcher.rules(&helo_key(facts.helo)));
        }
        if let (Some(matcher), Some(path)) = (reverse_path, facts.reverse_path) {
            matching.add(match path {
                ReversePath::Mailbox(mailbox) => matcher.rules(&Key::of_mailbox(&mailbox)),
                ReversePath::Null => matcher.rules_of_null(),
            });
        }
        if let (Some(matcher), Some(path)) = (forward_path, facts.forward_path) {
            matching.add(matcher.rules(&self.recipient_key(path)));
        }
    }

    fn recipient_key(&self, path: &ForwardPath<'_>) -> Key {
        match path {
            ForwardPath::Mailbox(mailbox) => Key::of_mailbox(mailbox),
            ForwardPath::Postmaster => Key::of_postmaster(&self.postmaster_domain),
        }
    }
}

impl<'a> Matching<'a> {
    fn add(&mut self, list: &'a [RuleIndex]) {
        self.lists[self.lists_count] = list;
        self.lists_count += 1;
    }
}

impl<'a> Iterator for Matching<'a> {
    type Item = &'a Rule;

    fn next(&mut self) -> Option<&'a Rule> {
        loop {
            let from = RuleIndex::try_from(self.from).ok()?;
            let index = first_common(&self.lists[..self.lists_count], from)?;
            let rule = &self.rules[usize::from(index)];
            self.from = u32::from(index) + 1;
            if rule.matches(self.listener, self.announced_size, self.protections) {
                return Some(rule);
            }
        }
    }
}

impl Rule {
    /// The conditions that no matcher knows.
    fn matches(&self, listener: &str, announced_size: u64, protections: u64) -> bool {
        let by_listener =
            self.listeners.as_ref().is_none_or(|listeners| listeners.iter().any(|name| **name == *listener));
        let by_protection = self.protection.is_none_or(|bit| protections & (1 << bit) != 0);
        by_listener && by_protection && self.size_over.is_none_or(|size| announced_size > size)
    }
}

/// What a client calls itself need not be a domain.
fn helo_key(helo: &[u8]) -> Key {
    Domain::parse(helo).map_or_else(|_| Key::of_text(helo), |domain| Key::of_domain(&domain))
}
