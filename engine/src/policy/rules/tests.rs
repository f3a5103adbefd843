use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::policy::matcher::Patterns;
use crate::policy::network::Network;
use crate::protocol::path::Mailbox;
use crate::security::{CipherSuite, Security, Version};

fn refusal() -> Refusal {
    Refusal::new(550, "5.7.1", "no")
}

/// A rule for everything.
fn spec(stage: Stage, action: Action) -> RuleSpec {
    RuleSpec {
        stage,
        client: None,
        listeners: None,
        helo: None,
        from: None,
        to: None,
        size_over: None,
        protection: Protection::default(),
        action,
        place: "a.toml:1".into(),
    }
}

fn patterns(names: &[&str]) -> Patterns {
    let mut patterns = Patterns::default();
    for name in names {
        let domain = |text: &'static str| Domain::parse(text.as_bytes()).expect("a domain");
        let name: &'static str = Box::leak((*name).into());
        match name.strip_prefix('.') {
            _ if name == "<>" => patterns.add_null(),
            Some(below) => assert!(patterns.add_domains_below(&domain(below))),
            None if name.contains('@') => {
                patterns.add_mailbox(&Mailbox::parse(name.as_bytes()).expect("a mailbox"))
            }
            None => patterns.add_domain(&domain(name)),
        }
    }
    patterns
}

fn networks(names: &[&str]) -> Vec<Network> {
    names.iter().map(|name| name.parse().expect("a network")).collect()
}

/// Whether a listed name is that of a mailbox or a domain.
fn lists(listed: &Patterns, local: Option<&str>, domain: &str) -> bool {
    listed.iter().any(|pattern| {
        let pattern = str::from_utf8(pattern.as_bytes()).expect("ASCII");
        match pattern.strip_prefix('.') {
            Some(_) => domain.len() > pattern.len() && domain.ends_with(pattern),
            None if pattern.contains('@') => {
                local.is_some_and(|local| pattern == format!("{local}@{domain}"))
            }
            None => pattern == domain,
        }
    })
}

const LISTENERS: [&str; 2] = ["mx", "inside"];
const LOCALS: [&str; 3] = ["a", "b", "c"];
const DOMAINS: [&str; 8] =
    ["x", "y", "m.x", "n.x", "k.m.x", "k.xm.x", "z.k.m.x", "abcdefghijklmnopqrstuvwxyz.y"];
const PATTERNS: [&str; 14] = [
    "x",
    "y",
    "m.x",
    ".x",
    ".m.x",
    ".k.m.x",
    ".y",
    "a@x",
    "a@m.x",
    "b@k.m.x",
    "c@z.k.m.x",
    "<>",
    "k.m.x",
    "c@y",
];
const CLIENTS: [&str; 6] = ["10.0.0.1", "10.1.0.1", "11.0.0.1", "::1", "2001:db8::1", "2001:db8:1::1"];
const NETWORKS: [&str; 9] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.0/16",
    "10.0.0.1/32",
    "::/0",
    "2001:db8::/32",
    "2001:db8::/48",
    "::1/128",
    "11.0.0.0/8",
];

fn subset(of: &'static [&'static str]) -> impl Strategy<Value = Option<Vec<&'static str>>> {
    proptest::option::weighted(0.4, proptest::sample::subsequence(of.to_vec(), 1..3))
}

fn specs() -> impl Strategy<Value = Vec<RuleSpec>> {
    let action = prop_oneof![
        Just(Action::Accept),
        Just(Action::Reject(refusal())),
        Just(Action::Tag(0)),
        Just(Action::Tarpit(Duration::from_secs(1))),
    ];
    let spec = (
        subset(&NETWORKS),
        proptest::option::weighted(0.2, 0..2_u16),
        subset(&PATTERNS),
        subset(&PATTERNS),
        proptest::option::weighted(0.2, 0..3_u64),
        proptest::option::weighted(0.2, any::<bool>()),
        action,
    )
        .prop_map(|(client, listener, from, to, size_over, tls, action)| RuleSpec {
            client: client.map(|names| networks(&names)),
            listeners: listener.map(|listener| vec![LISTENERS[usize::from(listener)].into()]),
            helo: None,
            from: from.map(|names| patterns(&names)),
            to: to.map(|names| patterns(&names)),
            size_over,
            protection: Protection { tls, certificates: None },
            ..spec(Stage::Rcpt, action)
        });
    proptest::collection::vec(spec, 0..12)
}

/// What matches, by trying each rule: positions, up to the first that decides.
fn naive(specs: &[RuleSpec], listener: &str, facts: &Facts<'_>) -> Vec<u32> {
    let mut found = Vec::new();
    for (at, spec) in specs.iter().enumerate() {
        let parts = |path: &[u8]| {
            let path = String::from_utf8(path.to_vec()).expect("ASCII");
            path.split_once('@').map(|(local, domain)| (local.to_owned(), domain.to_owned()))
        };
        let listed = |listed: &Option<Patterns>, path: &[u8]| {
            listed.as_ref().is_none_or(|listed| match parts(path) {
                Some((local, domain)) => lists(listed, Some(&local), &domain),
                None => listed.iter().any(|pattern| pattern.as_bytes() == b"<>"),
            })
        };
        let mut reverse_path = Vec::new();
        if let Some(ReversePath::Mailbox(mailbox)) = facts.reverse_path {
            mailbox.write(&mut reverse_path);
        }
        let mut forward_path = Vec::new();
        facts.forward_path.expect("a recipient").write(&mut forward_path);
        let matches =
            spec.client.as_ref().is_none_or(|list| list.iter().any(|net| net.contains(facts.client.into())))
                && spec.listeners.as_ref().is_none_or(|list| list.iter().any(|name| **name == *listener))
                && listed(&spec.from, &reverse_path)
                && listed(&spec.to, &forward_path)
                && spec.size_over.is_none_or(|size| facts.size.is_some_and(|announced| announced > size))
                && spec.protection.tls.is_none_or(|tls| tls == facts.secured.is_some());
        if matches {
            found.push(at as u32 + 1);
            if spec.action.decides() {
                break;
            }
        }
    }
    found
}

/// What matches, as a session asks: up to the first that decides.
fn compiled(set: &RuleSet, listener: &str, facts: &Facts<'_>) -> Vec<u32> {
    let mut found = Vec::new();
    for rule in set.matching(Stage::Rcpt, listener, facts) {
        found.push(rule.number);
        if rule.action.decides() {
            break;
        }
    }
    found
}

fn secured() -> Secured {
    let security = Security { version: Version::Tls13, cipher: CipherSuite(0x1302), certificate: None };
    Secured { security, resumed: false, certificate_names: Box::default() }
}

/// Everything that can be asked of the small world above.
fn everything(mut ask: impl FnMut(&str, &Facts<'_>)) {
    let secured = secured();
    let mailboxes: Vec<String> = LOCALS
        .iter()
        .flat_map(|local| DOMAINS.iter().map(move |domain| format!("{local}@{domain}")))
        .collect();
    for client in CLIENTS {
        for (at, from) in mailboxes.iter().map(String::as_str).chain([""]).enumerate() {
            for to in mailboxes.iter().skip(at % 3).step_by(3) {
                let path = format!("<{to}>");
                let forward_path = ForwardPath::parse(path.as_bytes()).expect("a path").0;
                let facts = Facts {
                    client: client.parse::<IpAddr>().expect("an address").into(),
                    helo: b"x",
                    reverse_path: ReversePath::parse_stored(from.as_bytes()).ok(),
                    forward_path: Some(&forward_path),
                    size: [None, Some(1), Some(2)][at % 3],
                    secured: [None, Some(&secured)][at % 2],
                };
                ask(LISTENERS[at % 2], &facts);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_first_match_is_that_of_trying_each(specs in specs()) {
        let (set, hidden) = RuleSet::compile(&specs, vec!["t".into()], "x").expect("few rules");
        everything(|listener, facts| {
            let expected = naive(&specs, listener, facts);
            assert_eq!(compiled(&set, listener, facts), expected, "{facts:?}");
            for hidden in &hidden {
                assert!(!expected.contains(&(hidden.rule as u32 + 1)), "{hidden:?} matches {facts:?}");
            }
        });
    }

    /// A rule of clients alone that is not told of does match somebody.
    #[test]
    fn what_is_hidden_by_networks_is_found_exactly(
        lists in proptest::collection::vec(proptest::sample::subsequence(NETWORKS.to_vec(), 1..4), 1..8),
    ) {
        let rule = |list: &Vec<&str>| {
            RuleSpec { client: Some(networks(list)), ..spec(Stage::Connect, Action::Accept) }
        };
        let specs: Vec<RuleSpec> = lists.iter().map(rule).collect();
        let (_, hidden) = RuleSet::compile(&specs, Vec::new(), "x").expect("few rules");
        let ends: Vec<IpAddr> = ["0.0.0.0", "9.0.0.0", "10.2.0.0", "10.0.1.0", "10.0.0.1", "11.0.0.0", "::", "::1",
            "2001:db8::", "2001:db8:1::"].iter().map(|text| text.parse().expect("an address")).collect();
        for (at, spec) in specs.iter().enumerate() {
            let takes = |spec: &RuleSpec, client: IpAddr| {
                spec.client.iter().flatten().any(|network| network.contains(client))
            };
            let is_first = |client| takes(spec, client) && !specs[..at].iter().any(|spec| takes(spec, client));
            let is_hidden = hidden.iter().any(|hidden| hidden.rule == at);
            prop_assert_eq!(is_hidden, !ends.iter().any(|client| is_first(*client)), "rule {}", at);
        }
    }
}

#[test]
fn hidden_rules_are_named_with_what_hides_them() {
    let client =
        |names: &[&str], action| RuleSpec { client: Some(networks(names)), ..spec(Stage::Connect, action) };
    let specs = [
        client(&["10.0.0.0/9"], Action::Accept),
        client(&["10.128.0.0/9"], Action::Reject(refusal())),
        client(&["10.0.0.0/8"], Action::Accept),
        client(&["10.0.0.0/7"], Action::Tag(0)),
        spec(Stage::Helo, Action::Accept),
        spec(Stage::Connect, Action::Reject(refusal())),
        client(&["192.0.2.1"], Action::Accept),
        RuleSpec { helo: Some(patterns(&["x"])), ..spec(Stage::Helo, Action::Drop) },
    ];
    let (_, hidden) = RuleSet::compile(&specs, vec!["t".into()], "x").expect("few rules");
    let covered = Hidden { rule: 2, by: vec![0, 1], why: Why::Covered };
    let behind = |rule, by| Hidden { rule, by: vec![by], why: Why::CatchAll };
    assert_eq!(hidden, [covered, behind(6, 5), behind(7, 4)]);
}

#[test]
fn names_are_hidden_by_what_they_lie_in() {
    let from = |names: &[&str]| RuleSpec { from: Some(patterns(names)), ..spec(Stage::Mail, Action::Accept) };
    let specs =
        [from(&[".x", "x"]), from(&["a@m.x", "b@x"]), from(&["m.x", "y"]), from(&["<>"]), from(&["<>"])];
    let (_, hidden) = RuleSet::compile(&specs, Vec::new(), "x").expect("few rules");
    let covered = |rule, by: usize| Hidden { rule, by: vec![by], why: Why::Covered };
    assert_eq!(hidden, [covered(1, 0), covered(4, 3)]);
}

#[test]
fn postmaster_is_a_mailbox_of_the_first_domain() {
    let to = RuleSpec { to: Some(patterns(&["postmaster@x"])), ..spec(Stage::Rcpt, Action::Accept) };
    let (set, _) = RuleSet::compile(&[to], Vec::new(), "X").expect("few rules");
    let facts = Facts {
        client: IpAddr::from([127, 0, 0, 1]).into(),
        helo: b"",
        reverse_path: Some(ReversePath::Null),
        forward_path: Some(&ForwardPath::Postmaster),
        size: None,
        secured: None,
    };
    assert_eq!(compiled(&set, "mx", &facts), [1]);
}

#[test]
fn helo_names_are_domains_literals_or_whatever_they_are() {
    let rule =
        RuleSpec { helo: Some(patterns(&["x", ".y", "[192.0.2.1]"])), ..spec(Stage::Helo, Action::Drop) };
    let (set, _) = RuleSet::compile(&[rule], Vec::new(), "x").expect("few rules");
    let matches = |helo: &str| {
        let facts = Facts {
            client: IpAddr::from([127, 0, 0, 1]).into(),
            helo: helo.as_bytes(),
            reverse_path: None,
            forward_path: None,
            size: None,
            secured: None,
        };
        set.matching(Stage::Helo, "mx", &facts).next().is_some()
    };
    assert!(["X", "a.Y", "[192.0.2.1]"].into_iter().all(matches));
    assert!(!["y", "z", "192.0.2.1", "_!", ""].into_iter().any(matches));
}
