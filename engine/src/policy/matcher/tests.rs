use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::limits::RULE_LIST_ENTRIES_COUNT_MAX;

/// What the matcher has to say, by looking at every network.
fn naive(rules: &NetworkRules, client: IpAddr) -> Vec<RuleIndex> {
    let listed = rules.networks.iter().filter(|(network, _)| network.contains(client)).map(|(_, rule)| *rule);
    let mut found: Vec<RuleIndex> = listed.chain(rules.everywhere.iter().copied()).collect();
    found.sort_unstable();
    found.dedup();
    let end = found.iter().position(|rule| rules.is_final.get(usize::from(*rule)) == Some(&true));
    found.truncate(end.map_or(found.len(), |at| at + 1));
    found
}

/// Both ends of a network and their neighbours.
fn edges(network: Network) -> Vec<IpAddr> {
    match network.first() {
        IpAddr::V4(first) => {
            let first = first.to_bits();
            let last = first | u32::MAX.checked_shr(network.prefix_len().into()).unwrap_or(0);
            [first.wrapping_sub(1), first, first / 2 + last / 2, last, last.wrapping_add(1)]
                .map(|bits| Ipv4Addr::from_bits(bits).into())
                .to_vec()
        }
        IpAddr::V6(first) => {
            let first = first.to_bits();
            let last = first | u128::MAX.checked_shr(network.prefix_len().into()).unwrap_or(0);
            [first.wrapping_sub(1), first, first / 2 + last / 2, last, last.wrapping_add(1)]
                .map(|bits| Ipv6Addr::from_bits(bits).into())
                .to_vec()
        }
    }
}

const FIXED: [IpAddr; 6] = [
    IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    IpAddr::V4(Ipv4Addr::BROADCAST),
    IpAddr::V4(Ipv4Addr::new(10, 0, 255, 255)),
    IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)),
    IpAddr::V6(Ipv6Addr::from_bits(0xffff_0a00_0001)),
];

fn check(rules: &NetworkRules) {
    let matcher = NetworkMatcher::new(rules.clone()).expect("few classes");
    let networks = rules.networks.iter().map(|(network, _)| *network);
    for client in networks.flat_map(edges).chain(FIXED) {
        assert_eq!(matcher.rules(client.into()), naive(rules, client), "{client}");
    }
}

/// Networks that crowd: few places, all lengths.
fn networks(count: usize) -> impl Strategy<Value = Vec<(Network, RuleIndex)>> {
    let ipv4 = (any::<u16>(), 0..4_u32, 0..=32_u8).prop_map(|(low, high, len)| {
        Network::around(Ipv4Addr::from_bits(high << 30 | u32::from(low)).into(), len)
    });
    let ipv6 = (any::<u128>(), 0..3_u32, 0..=128_u8).prop_map(|(bits, place, len)| {
        let bits = match place {
            0 => bits & 0xffff,
            1 => 0x2001_0db8 << 96 | bits >> 40,
            _ => bits,
        };
        Network::around(Ipv6Addr::from_bits(bits).into(), len)
    });
    proptest::collection::vec((prop_oneof![ipv4, ipv6], 0..12_u16), 0..count)
}

proptest! {
    #[test]
    fn lists_are_those_of_the_naive_search(
        networks in networks(80),
        everywhere in proptest::collection::btree_set(12..20_u16, 0..3),
        is_final in proptest::collection::vec(proptest::bool::weighted(0.3), 0..20),
    ) {
        check(&NetworkRules { networks, everywhere: everywhere.into_iter().collect(), is_final });
    }

    #[test]
    fn reachable_is_what_some_address_finds(
        networks in networks(20),
        is_final in proptest::collection::vec(any::<bool>(), 12),
    ) {
        let rules = NetworkRules { networks, everywhere: vec![12], is_final };
        let reachable = Coverage::new(rules.clone()).expect("few classes").reachable_rules(13);
        // Between two neighbouring ends nothing changes: the ends are all addresses there are.
        let ends: Vec<IpAddr> = rules.networks.iter().flat_map(|(network, _)| edges(*network)).chain(FIXED).collect();
        for rule in 0..13 {
            let found = ends.iter().any(|client| naive(&rules, *client).contains(&rule));
            prop_assert_eq!(reachable[usize::from(rule)], found, "rule {}", rule);
        }
    }

    #[test]
    fn the_first_common_rule_is_the_first_that_every_list_has(
        lists in proptest::array::uniform3(proptest::collection::btree_set(0..40_u16, 0..40)),
        from in 0..45_u16,
    ) {
        let vecs = lists.clone().map(|list| list.into_iter().collect::<Vec<_>>());
        let common = (from..45).find(|rule| lists.iter().all(|list| list.contains(rule)));
        prop_assert_eq!(first_common(&[&vecs[0], &vecs[1], &vecs[2]], from), common);
        let alone = vecs[0].iter().copied().find(|rule| *rule >= from);
        prop_assert_eq!(first_common(&[&vecs[0]], from), alone);
    }
}

/// Numbers that look drawn, the same ones at each run (a 64-bit linear congruence, its high bits).
fn drawn(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.rotate_left(29) ^ state >> 33
    }
}

fn ipv4(bits: u32, len: u8) -> Network {
    Network::around(Ipv4Addr::from_bits(bits).into(), len)
}

fn ipv6(bits: u128, len: u8) -> Network {
    Network::around(Ipv6Addr::from_bits(bits).into(), len)
}

fn loads(matcher: &NetworkMatcher, client: IpAddr) -> usize {
    let mut count = 0;
    matcher.class(client.into(), || count += 1);
    count
}

/// Long lists of every density: the kinds of bucket, both sizes of root, and how many lines a lookup waits for.
#[test]
fn ipv4_takes_three_dependent_loads() {
    for (count, spread, len) in
        [(10, 32, 24), (300, 16, 32), (3_000, 18, 32), (20_000, 15, 32), (20_000, 22, 30), (400_000, 32, 28)]
    {
        let mut draw = drawn(count);
        let mut host =
            || (draw() as u32).checked_shl(32 - spread).unwrap_or(0).rotate_left(spread) | 0x4000_0000;
        let networks: Vec<_> = (0..count).map(|at| (ipv4(host(), len), (at % 5) as RuleIndex)).collect();
        let by_first: std::collections::HashMap<Network, Vec<RuleIndex>> = networks.iter().fold(
            Default::default(),
            |mut map: std::collections::HashMap<_, Vec<_>>, (net, rule)| {
                map.entry(*net).or_default().push(*rule);
                map
            },
        );
        let rules = NetworkRules { networks, everywhere: vec![7], is_final: vec![false; 8] };
        let matcher = NetworkMatcher::new(rules.clone()).expect("few classes");
        let mut most = 0;
        for client in rules.networks.iter().step_by(7).flat_map(|(network, _)| edges(*network)) {
            let mut expected = by_first.get(&Network::around(client, len)).cloned().unwrap_or_default();
            expected.push(7);
            expected.sort_unstable();
            expected.dedup();
            assert_eq!(matcher.rules(client.into()), expected, "{client} of {count}");
            most = most.max(loads(&matcher, client));
        }
        assert!((2..=3).contains(&most), "{most} loads with {count} networks of {spread} bits");
    }
}

#[test]
fn ipv6_takes_six_dependent_loads_with_five_million_intervals() {
    const COUNT: u128 = 5_000_000;
    // Every second network of a row of them: twice as many intervals as networks, all in one bucket.
    for (shift, len) in [(64, 64), (0, 128)] {
        let base = 0x2001_0db8_u128 << 96;
        let networks: Vec<_> =
            (0..COUNT / 2).map(|at| (ipv6(base | (2 * at + 1) << shift, len), 0)).collect();
        let rules = NetworkRules { networks, everywhere: vec![1], is_final: vec![true, true] };
        let matcher = NetworkMatcher::new(rules).expect("few classes");
        let mut most = 0;
        for at in (0..COUNT).step_by(997).chain([COUNT - 1]) {
            let client = IpAddr::from(Ipv6Addr::from_bits(base | at << shift));
            assert_eq!(matcher.rules(client.into()), if at % 2 == 1 { &[0][..] } else { &[1] }, "{client}");
            most = most.max(loads(&matcher, client));
        }
        assert_eq!(most, 6, "/{len}");
        assert!(matcher.memory_len() < COUNT as usize * 22, "{} octets", matcher.memory_len());
    }
}

#[test]
fn ipv6_lists_spread_and_crowded() {
    for (count, spread) in [(10, 61), (5_000, 20), (40_000, 61), (200_000, 30)] {
        let mut draw = drawn(count);
        let networks: Vec<_> = (0..count)
            .map(|_| (ipv6(0x2000_u128 << 112 | u128::from(draw() >> (64 - spread)) << 64, 64), 0))
            .collect();
        let set: std::collections::HashSet<Network> = networks.iter().map(|(network, _)| *network).collect();
        let rules = NetworkRules { networks, everywhere: vec![], is_final: vec![true] };
        let matcher = NetworkMatcher::new(rules.clone()).expect("few classes");
        for client in rules.networks.iter().step_by(3).flat_map(|(network, _)| edges(*network)) {
            let listed = set.contains(&Network::around(client, 64));
            assert_eq!(!matcher.rules(client.into()).is_empty(), listed, "{client} of {count}");
            assert!(loads(&matcher, client) <= 6);
        }
    }
}

#[test]
fn a_crowd_of_nested_networks() {
    let address = 0xc000_0207;
    let nested = |is_final: Vec<bool>| NetworkRules {
        networks: (0..=32).map(|len| (ipv4(address, len), RuleIndex::from(len))).collect(),
        everywhere: vec![],
        is_final,
    };
    check(&nested(vec![false; 33]));
    check(&nested(vec![true; 33]));
    let coverage = Coverage::new(nested((0..33).map(|rule| rule == 8).collect())).expect("few classes");
    let reachable = coverage.reachable_rules(33);
    assert_eq!(reachable.iter().filter(|reachable| **reachable).count(), 9);
    assert_eq!(coverage.final_rules(ipv4(address, 24)), [8]);
    assert_eq!(coverage.final_rules(ipv4(address, 4)), [8]);
    assert!(coverage.final_rules(ipv4(0, 8)).is_empty());
}

#[test]
fn more_classes_than_there_are_is_an_error() {
    let rules = |count: u32| NetworkRules {
        networks: (0..count).map(|at| (ipv4(at << 8, 24), at as RuleIndex)).collect(),
        everywhere: vec![],
        is_final: vec![],
    };
    // The list that is empty is one too.
    assert!(NetworkMatcher::new(rules(65_535)).is_ok());
    assert_eq!(NetworkMatcher::new(rules(65_536)).err(), Some(TooManyClasses));
}

#[test]
fn more_entries_than_the_lists_may_have_is_an_error() {
    const LEN: usize = 1 << 10;
    let list = |at: usize| -> Vec<RuleIndex> { (at as RuleIndex..).take(LEN).collect() };
    let mut classes = Classes::new(vec![]);
    for at in 0..RULE_LIST_ENTRIES_COUNT_MAX / LEN {
        assert_eq!(classes.class_of(&list(at)), Ok(at as Class));
    }
    assert_eq!(classes.class_of(&[0]), Err(TooManyClasses));
    assert_eq!(classes.class_of(&list(1)), Ok(1), "what is known takes no more room");
}

#[test]
fn mapped_addresses_are_ipv4_addresses() {
    let rules =
        NetworkRules { networks: vec![(ipv4(0x0a00_0000, 8), 0)], everywhere: vec![], is_final: vec![true] };
    let matcher = NetworkMatcher::new(rules).expect("few classes");
    assert_eq!(matcher.rules("::ffff:10.0.0.1".parse::<IpAddr>().unwrap().into()), [0]);
    assert!(matcher.rules("::10.0.0.1".parse::<IpAddr>().unwrap().into()).is_empty());
}
