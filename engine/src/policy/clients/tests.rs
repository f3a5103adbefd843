use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Barrier;
use std::sync::atomic::AtomicUsize;

use proptest::prelude::*;

use super::*;
use crate::limits;

const START: Duration = Duration::from_secs(1000);

fn table(entries_count: usize) -> Clients {
    Clients::new(entries_count, RandomState::new())
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn open_max(client: u32, network: u32) -> ClientLimits {
    let open = |max| ScopeLimits { open_max: Some(max), ..ScopeLimits::default() };
    ClientLimits { client: open(client), network: open(network) }
}

fn per_client(limits: ScopeLimits) -> ClientLimits {
    ClientLimits { client: limits, network: ScopeLimits::default() }
}

fn per_minute(count: u64) -> Option<Rate> {
    Some(Rate::new(count, Duration::from_secs(60)))
}

#[test]
fn of_four_workers_the_eleventh_connection_is_refused() {
    let (clients, limits) = (table(1024), open_max(10, 100));
    let (entered, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let barrier = Barrier::new(4);
    for round in 0..50 {
        entered.store(0, Ordering::SeqCst);
        refused.store(0, Ordering::SeqCst);
        // Another client each round: the entry is new, and all four want to make it.
        let client = IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + (round << 8)));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    barrier.wait();
                    let mut visits = Vec::new();
                    for _ in 0..5 {
                        match clients.enter(client, &limits, START) {
                            Ok(visit) => visits.push(visit),
                            Err(limit) => {
                                assert_eq!(limit, Limit::Open(Scope::Client));
                                refused.fetch_add(1, Ordering::SeqCst);
                            }
                        }
                    }
                    entered.fetch_add(visits.len(), Ordering::SeqCst);
                    barrier.wait();
                    visits.into_iter().for_each(|visit| clients.leave(visit));
                });
            }
        });
        assert_eq!((entered.load(Ordering::SeqCst), refused.load(Ordering::SeqCst)), (10, 10), "{round}");
    }
    let open = clients.entries.iter().map(|entry| entry.word.load(Ordering::SeqCst) & OPEN_MAX).sum::<u64>();
    assert_eq!(open, 0, "everybody has left");
}

#[test]
fn who_leaves_makes_room() {
    let (clients, limits) = (table(64), open_max(2, 100));
    let client = address("192.0.2.7");
    let first = clients.enter(client, &limits, START).unwrap();
    let _second = clients.enter(client, &limits, START).unwrap();
    assert_eq!(clients.enter(client, &limits, START), Err(Limit::Open(Scope::Client)));
    // The same client, as an IPv6 socket sees it; then its neighbour.
    assert_eq!(clients.enter(address("::ffff:192.0.2.7"), &limits, START), Err(Limit::Open(Scope::Client)));
    assert!(clients.enter(address("192.0.2.8"), &limits, START).is_ok());
    clients.leave(first);
    assert!(clients.enter(client, &limits, START).is_ok());
}

#[test]
fn neighbours_share_a_network() {
    for (addresses, stranger) in [
        (["192.0.2.1", "192.0.2.200", "192.0.2.255"], "192.0.3.1"),
        (["2001:db8:1::1", "2001:db8:1:2::1", "2001:db8:1:ffff::1"], "2001:db8:2::1"),
    ] {
        let (clients, limits) = (table(64), open_max(9, 2));
        let [first, second, third] = addresses.map(|text| clients.enter(address(text), &limits, START));
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(third, Err(Limit::Open(Scope::Network)));
        assert!(clients.enter(address(stranger), &limits, START).is_ok());
    }
    // A /64 is one client, however many addresses it takes.
    let (clients, limits) = (table(64), open_max(1, 9));
    let _visit = clients.enter(address("2001:db8::1"), &limits, START).unwrap();
    let refused = clients.enter(address("2001:db8::2:3:4:5"), &limits, START);
    assert_eq!(refused, Err(Limit::Open(Scope::Client)));
}

#[test]
fn a_million_networks_do_not_make_it_grow() {
    let entries_count = limits::CLIENTS_COUNT_MAX;
    let (clients, limits) = (table(entries_count), open_max(10, u32::MAX));
    let entries = clients.entries.as_ptr_range();
    let nth = |number: u128| IpAddr::from(Ipv6Addr::from_bits(0x2001_0db8 << 96 | number << 64));
    let mut held = Vec::new();
    for number in 0..1_000_000 {
        let visit = clients.enter(nth(number), &limits, START).expect("each is another client");
        // One in ten stays: more than there is room for.
        if number % 10 == 0 { held.push(visit) } else { clients.leave(visit) }
    }
    assert_eq!(clients.entries.as_ptr_range(), entries);
    let untracked_count = held.iter().filter(|visit| visit.is_untracked()).count();
    assert!((held.len() - entries_count..held.len()).contains(&untracked_count), "{untracked_count}");
    // Who is in the table is counted still; when all have left, there is room for anybody.
    let (first, network_max) = (nth(0), open_max(1, 1));
    assert!(!held[0].is_untracked());
    assert_eq!(clients.enter(first, &network_max, START), Err(Limit::Open(Scope::Client)));
    held.into_iter().for_each(|visit| clients.leave(visit));
    let visit = clients.enter(address("203.0.113.1"), &network_max, START).unwrap();
    assert!(!visit.is_untracked());
}

#[test]
fn a_network_is_not_escaped_by_its_many_addresses() {
    let (clients, limits) = (table(1 << 12), open_max(10, 100));
    let nth = |number: u128| IpAddr::from(Ipv6Addr::from_bits(0x2001_0db8_0001 << 80 | number << 64));
    let visits: Vec<_> = (0..60_000).map(|number| clients.enter(nth(number), &limits, START)).collect();
    assert_eq!(visits.iter().filter(|visit| visit.is_ok()).count(), 100);
}

#[test]
fn a_rate_is_spent_at_once_or_slowly_and_recovers() {
    let limits = per_client(ScopeLimits { connections: per_minute(6), ..ScopeLimits::default() });
    let (clients, client) = (table(64), address("192.0.2.7"));
    let refused = Err(Limit::Rate(Scope::Client, Amount::Connections));
    let mut now = START;
    let connect = |now| clients.enter(client, &limits, now).map(|visit| clients.leave(visit));
    (0..6).for_each(|_| assert_eq!(connect(now), Ok(())));
    (0..3).for_each(|_| assert_eq!(connect(now), refused));
    // One of six has recovered after a sixth of the time; who was refused meanwhile has not used it up.
    now += Duration::from_secs(9);
    assert_eq!(connect(now), refused);
    now += Duration::from_secs(1);
    assert_eq!(connect(now), Ok(()));
    assert_eq!(connect(now), refused);
    now += Duration::from_secs(60);
    (0..6).for_each(|_| assert_eq!(connect(now), Ok(())));
    assert_eq!(connect(now), refused);
}

fn used(amount: Amount, count: u32) -> Used {
    match amount {
        Amount::Recipients => Used { recipients: count as u16, ..Used::default() },
        Amount::Octets => Used { octets: count, ..Used::default() },
        Amount::Faults => Used { faults: count as u16, ..Used::default() },
        Amount::Commands => Used { commands: count, ..Used::default() },
        Amount::Connections | Amount::Transactions => unreachable!("counted one by one"),
    }
}

#[test]
fn what_a_session_did_is_held_against_the_next_transaction_and_the_next_connection() {
    for amount in [Amount::Recipients, Amount::Octets, Amount::Faults, Amount::Commands] {
        let (recipients, octets) = (per_minute(100), per_minute(100));
        let (faults, commands) = (per_minute(100), per_minute(100));
        let scope = ScopeLimits { recipients, octets, faults, commands, ..ScopeLimits::default() };
        let limits = per_client(scope);
        let (clients, client) = (table(64), address("192.0.2.7"));
        let visit = clients.enter(client, &limits, START).unwrap();
        assert_eq!(clients.begin_transaction(&visit, &limits, used(amount, 99), START), Ok(()));
        let refused = Limit::Rate(Scope::Client, amount);
        // A session's own faults have a budget in the session.
        let expected = if amount == Amount::Faults { Ok(()) } else { Err(refused) };
        assert_eq!(clients.begin_transaction(&visit, &limits, used(amount, 1), START), expected);
        clients.leave(visit);
        assert_eq!(clients.enter(client, &limits, START), Err(refused));
        let visit = clients.enter(client, &limits, START + Duration::from_secs(1)).unwrap();
        // At its end a session is charged, and forbidden nothing.
        clients.charge(&visit, &limits, used(amount, 1), START + Duration::from_secs(1));
        clients.leave(visit);
        assert_eq!(clients.enter(client, &limits, START + Duration::from_secs(1)), Err(refused));
    }
}

#[test]
fn a_transaction_that_is_refused_for_one_amount_is_charged_all_of_them() {
    let (recipients, octets) = (per_minute(10), per_minute(10));
    let limits = per_client(ScopeLimits { recipients, octets, ..ScopeLimits::default() });
    let (clients, client) = (table(64), address("192.0.2.7"));
    let visit = clients.enter(client, &limits, START).unwrap();
    let both = Used { recipients: 10, octets: 10, ..Used::default() };
    let refused = |amount| Err(Limit::Rate(Scope::Client, amount));
    assert_eq!(clients.begin_transaction(&visit, &limits, both, START), refused(Amount::Recipients));
    let octets_alone = per_client(ScopeLimits { octets, ..ScopeLimits::default() });
    let begun = clients.begin_transaction(&visit, &octets_alone, Used::default(), START);
    assert_eq!(begun, refused(Amount::Octets));
    clients.leave(visit);
}

proptest! {
    #[test]
    fn a_rate_recovers_as_long_division_says(count in 1_u64.., secs: u32, nanos in 1..1_000_000_000_u32, spent: u32) {
        let rate = Rate::new(count, Duration::new(secs.into(), nanos));
        let per = Duration::new(secs.into(), nanos).as_nanos();
        let expected = per * u128::from(spent) / u128::from(count);
        prop_assert_eq!(rate.cost(spent), u64::try_from(expected).unwrap_or(u64::MAX));
        prop_assert_eq!(u128::from(rate.each), per / u128::from(count));
    }
}

#[test]
fn however_much_it_was_it_is_forgiven() {
    let limits = per_client(ScopeLimits { octets: per_minute(1000), ..ScopeLimits::default() });
    let (clients, client) = (table(64), address("192.0.2.7"));
    let visit = clients.enter(client, &limits, START).unwrap();
    clients.charge(&visit, &limits, used(Amount::Octets, u32::MAX), START);
    let begin = |now| clients.begin_transaction(&visit, &limits, Used::default(), now);
    assert!(begin(START + Duration::from_secs(60)).is_err());
    assert!(begin(START + Duration::from_secs(61)).is_ok());
    clients.leave(visit);
}

#[test]
fn a_crowded_table_lets_everybody_in() {
    let (clients, limits) = (table(1), open_max(1, 100));
    assert_eq!(clients.entries.len(), PLACES_COUNT);
    let visits: Vec<_> = (0..100)
        .map(|number| clients.enter(IpAddr::from(Ipv4Addr::from_bits(number << 8)), &limits, START).unwrap())
        .collect();
    assert_eq!(visits.iter().filter(|visit| !visit.is_untracked()).count(), PLACES_COUNT / 2);
    visits.into_iter().for_each(|visit| clients.leave(visit));
    assert!(clients.entries.iter().all(|entry| entry.word.load(Ordering::SeqCst) & OPEN_MAX == 0));
}

/// As the table would be if memory cost nothing.
#[derive(Default)]
struct Oracle(HashMap<Network, (u32, Vec<Duration>)>);

impl Oracle {
    fn enter(&mut self, client: IpAddr, limits: &ClientLimits, now: Duration) -> Result<(), Limit> {
        let scopes = [Scope::Client, Scope::Network];
        let of = |scope: Scope| Network::around(client, scope.prefix_len(client));
        for scope in scopes {
            if self.0.entry(of(scope)).or_default().0 >= limits.of(scope).open_max.unwrap() {
                return Err(Limit::Open(scope));
            }
        }
        for scope in scopes {
            // A bucket that holds `count` and gains one every `per / count`.
            let rate = limits.of(scope).connections.unwrap();
            let mut full_at = Duration::ZERO;
            for &time in &self.0[&of(scope)].1 {
                full_at = full_at.max(time) + Duration::from_nanos(rate.each);
            }
            if full_at.max(now) + Duration::from_nanos(rate.each) > now + Duration::from_nanos(rate.per) {
                return Err(Limit::Rate(scope, Amount::Connections));
            }
        }
        for scope in scopes {
            let entry = self.0.get_mut(&of(scope)).unwrap();
            entry.0 += 1;
            entry.1.push(now);
        }
        Ok(())
    }

    fn leave(&mut self, client: IpAddr) {
        for scope in [Scope::Client, Scope::Network] {
            self.0.get_mut(&Network::around(client, scope.prefix_len(client))).unwrap().0 -= 1;
        }
    }
}

proptest! {
    #[test]
    fn it_decides_as_a_map_without_bounds_would(
        steps in prop::collection::vec((0u32..12, 0u64..8, any::<bool>()), 1..200),
    ) {
        let scope = |open, count| ScopeLimits {
            open_max: Some(open),
            connections: Some(Rate::new(count, Duration::from_secs(10))),
            ..ScopeLimits::default()
        };
        let limits = ClientLimits { client: scope(2, 4), network: scope(3, 5) };
        let (clients, mut oracle) = (table(1 << 10), Oracle::default());
        let mut now = START;
        let mut visits: Vec<(IpAddr, Visit)> = Vec::new();
        for (number, pause, leaves) in steps {
            now += Duration::from_millis(pause * 400);
            if leaves && !visits.is_empty() {
                let (client, visit) = visits.swap_remove(number as usize % visits.len());
                clients.leave(visit);
                oracle.leave(client);
                continue;
            }
            let client = IpAddr::from(Ipv4Addr::from_bits((number / 4) << 8 | number));
            let entered = clients.enter(client, &limits, now);
            prop_assert_eq!(entered.as_ref().map(|_| ()).map_err(|limit| *limit), oracle.enter(client, &limits, now));
            visits.extend(entered.ok().map(|visit| (client, visit)));
        }
    }
}

/// What a rule limits: connections and a rate of each prefix.
fn rule_limit(open_max: Option<u32>, rate: Option<Rate>) -> RuleLimit {
    let refusal = crate::policy::rules::Refusal::new(450, "4.7.1", "no");
    RuleLimit { key: 7, prefix_len_ipv4: 24, prefix_len_ipv6: 64, rate, open_max, refusal }
}

#[test]
fn a_rule_counts_connections_of_a_prefix_until_they_leave() {
    let (clients, limit) = (table(64), rule_limit(Some(2), None));
    let admit = |visit: &mut Visit, client| clients.admit(visit, address(client), &limit, START);
    let mut visits = [Visit::default(), Visit::default(), Visit::default()];
    assert!(admit(&mut visits[0], "192.0.2.1") && admit(&mut visits[1], "192.0.2.2"));
    assert!(!admit(&mut visits[2], "192.0.2.3"), "the third of its network");
    assert!(admit(&mut visits[2], "198.51.100.1"), "another network");
    let [first, ..] = &mut visits;
    clients.leave(std::mem::take(first));
    assert!(admit(first, "192.0.2.3"));
    // Another rule counts for itself, and what it has no room to hold on to is let through.
    let other = RuleLimit { key: 8, ..rule_limit(Some(1), None) };
    assert!(clients.admit(first, address("192.0.2.3"), &other, START));
    let third = RuleLimit { key: 9, ..rule_limit(Some(1), None) };
    assert!(clients.admit(first, address("192.0.2.3"), &third, START));
    assert!(clients.admit(&mut Visit::default(), address("192.0.2.3"), &third, START));
}

#[test]
fn a_rule_counts_a_rate_and_holds_nothing() {
    let (clients, limit) = (table(64), rule_limit(None, per_minute(2)));
    let mut visit = Visit::default();
    let mut admit = |secs| {
        let now = START + Duration::from_secs(secs);
        clients.admit(&mut visit, address("192.0.2.1"), &limit, now)
    };
    assert_eq!([admit(0), admit(0), admit(0), admit(29), admit(31)], [true, true, false, false, true]);
    assert_eq!(visit, Visit::default());
}
