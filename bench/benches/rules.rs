//! Rules with long lists: the verdict over a client, and whether a mailbox is one of ours; hot, and cold, where every
//! cache line has to come from memory.
//!
//! `RINGMX_BENCH_MAILBOXES=10000000` for ten million mailboxes, which take a while to build.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use prefix_trie::PrefixMap;
use ringmx::policy::matcher::{NetworkMatcher, NetworkRules};
use ringmx::policy::network::Network;
use ringmx::policy::recipient::Recipients;
use ringmx::protocol::path::{ForwardPath, Mailbox};

const NETWORKS_COUNTS: [usize; 3] = [10, 10_000, 1_000_000];
const MAILBOXES_COUNT: usize = 1_000_000;
/// More than the caches of the processors that this runs on.
const EVICTION_LEN: usize = 256 << 20;
const CLIENTS_COUNT: usize = 1 << 16;

/// Numbers that look drawn, the same at each run.
fn drawn() -> impl FnMut() -> u64 {
    let mut state = 1_u64;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.rotate_left(29) ^ state >> 33
    }
}

/// Prefixes as lists have them: mostly /24 and single hosts.
fn ipv4_networks(count: usize) -> Vec<Network> {
    let mut draw = drawn();
    let len = |number: u64| [24, 24, 24, 32, 32, 22, 16, 28][(number % 8) as usize];
    (0..count)
        .map(|_| draw())
        .map(|at| Network::around(Ipv4Addr::from_bits(at as u32).into(), len(at >> 40)))
        .collect()
}

/// In the part of the space that is given out, mostly /48 and /64.
fn ipv6_networks(count: usize) -> Vec<Network> {
    let mut draw = drawn();
    let len = |number: u64| [48, 48, 48, 64, 64, 32, 56, 40][(number % 8) as usize];
    let address = |at: u64| Ipv6Addr::from_bits(0x2000_u128 << 112 | u128::from(at >> 3) << 64);
    (0..count).map(|_| draw()).map(|at| Network::around(address(at).into(), len(at & 7))).collect()
}

/// Half of them in a listed network.
fn clients(networks: &[Network], is_ipv4: bool) -> Vec<IpAddr> {
    let mut draw = drawn();
    let mut client = |at: usize| -> IpAddr {
        let number = draw();
        match networks[number as usize % networks.len()].first() {
            first if at.is_multiple_of(2) => first,
            _ if is_ipv4 => Ipv4Addr::from_bits(number as u32).into(),
            _ => Ipv6Addr::from_bits(0x2000_u128 << 112 | u128::from(number >> 3) << 64).into(),
        }
    };
    (0..CLIENTS_COUNT).map(&mut client).collect()
}

fn matcher(networks: &[Network]) -> NetworkMatcher {
    // A list that accepts, one that rejects, and a rule for all others.
    let networks = networks.iter().enumerate().map(|(at, network)| (*network, (at % 2) as u16)).collect();
    let rules = NetworkRules { networks, everywhere: vec![2], is_final: vec![true; 3] };
    NetworkMatcher::new(rules).expect("three classes")
}

/// The time of `look` with caches that hold nothing of what it reads.
fn cold(iterations: u64, clients: &[IpAddr], mut look: impl FnMut(IpAddr)) -> Duration {
    let mut eviction = vec![1_u8; EVICTION_LEN];
    let mut total = Duration::ZERO;
    for at in 0..iterations {
        eviction.iter_mut().step_by(64).for_each(|octet| *octet = octet.wrapping_add(1));
        let client = clients[at as usize % clients.len()];
        let began_at = Instant::now();
        look(black_box(client));
        total += began_at.elapsed();
    }
    black_box(&eviction);
    total
}

fn networks(c: &mut Criterion) {
    let mut group = c.benchmark_group("client");
    for (family, make) in [
        ("IPv4", ipv4_networks as fn(usize) -> Vec<Network>),
        ("IPv6", ipv6_networks as fn(usize) -> Vec<Network>),
    ] {
        for count in NETWORKS_COUNTS {
            let networks = make(count);
            let clients = clients(&networks, family == "IPv4");
            let matcher = matcher(&networks);
            println!("client/{family}/{count}: {} octets a network", matcher.memory_len() / count);
            let mut at = 0;
            let mut next = || {
                at = (at + 1) % CLIENTS_COUNT;
                clients[at]
            };
            group.bench_function(BenchmarkId::new(format!("{family}, hot"), count), |b| {
                b.iter(|| black_box(matcher.rules(black_box(clients[0]))));
            });
            group.bench_function(BenchmarkId::new(format!("{family}, any client"), count), |b| {
                b.iter(|| black_box(matcher.rules(black_box(next()))));
            });
            group.bench_function(BenchmarkId::new(format!("{family}, cold"), count), |b| {
                b.iter_custom(|iterations| {
                    cold(iterations, &clients, |client| {
                        black_box(matcher.rules(client));
                    })
                });
            });
        }
    }
    group.finish();
}

/// The longest prefix only, which is not the first match: the crate is here for its time.
fn published(c: &mut Criterion) {
    let mut group = c.benchmark_group("client, prefix-trie");
    for count in NETWORKS_COUNTS {
        let networks = ipv4_networks(count);
        let clients = clients(&networks, true);
        let mut map: PrefixMap<(u32, u8), u16> = PrefixMap::new();
        for network in &networks {
            let IpAddr::V4(first) = network.first() else { continue };
            map.insert((first.to_bits(), network.prefix_len()), 0);
        }
        let key = |client: IpAddr| match client {
            IpAddr::V4(client) => (client.to_bits(), 32),
            IpAddr::V6(_) => (0, 32),
        };
        let mut at = 0;
        group.bench_function(BenchmarkId::new("IPv4, hot", count), |b| {
            b.iter(|| black_box(map.get_lpm(&black_box(key(clients[0])))));
        });
        group.bench_function(BenchmarkId::new("IPv4, any client", count), |b| {
            b.iter(|| {
                at = (at + 1) % CLIENTS_COUNT;
                black_box(map.get_lpm(&black_box(key(clients[at]))))
            });
        });
    }
    group.finish();
}

fn build(c: &mut Criterion) {
    let mut group = c.benchmark_group("build");
    group.sample_size(10);
    for (family, networks) in [("IPv4", ipv4_networks(1_000_000)), ("IPv6", ipv6_networks(1_000_000))] {
        group.bench_function(BenchmarkId::new(family, networks.len()), |b| {
            b.iter(|| black_box(matcher(&networks)));
        });
    }
    group.finish();
}

fn mailboxes(c: &mut Criterion) {
    let count = std::env::var("RINGMX_BENCH_MAILBOXES").ok().and_then(|count| count.parse().ok());
    let count = count.unwrap_or(MAILBOXES_COUNT);
    let mailbox = |at: usize| format!("user.{at}@domain-{}.example", at % 1000);
    let mut recipients = Recipients::with_separators("+");
    (0..1000).for_each(|at| recipients.add_domain(&format!("domain-{at}.example"), false).expect("a domain"));
    let began_at = Instant::now();
    for at in 0..count {
        assert!(recipients.add_mailbox(&Mailbox::parse(mailbox(at).as_bytes()).expect("a mailbox")));
    }
    recipients.shrink();
    println!(
        "mailbox/{count}: {} octets each, built in {:?}",
        recipients.memory_len() / count,
        began_at.elapsed()
    );
    let mut draw = drawn();
    let mut any = || mailbox((draw() >> 20) as usize % (2 * count));
    let paths: Vec<String> = (0..CLIENTS_COUNT).map(|_| format!("<{}>", any())).collect();
    let parsed = |path: &'static str| ForwardPath::parse(path.as_bytes()).expect("a path").0;
    let paths: Vec<ForwardPath<'static>> = paths.into_iter().map(|path| parsed(path.leak())).collect();
    let mut group = c.benchmark_group("mailbox");
    let mut at = 0;
    group.bench_function(BenchmarkId::new("hot", count), |b| {
        b.iter(|| black_box(recipients.check(black_box(&paths[0]))));
    });
    group.bench_function(BenchmarkId::new("any recipient", count), |b| {
        b.iter(|| {
            at = (at + 1) % CLIENTS_COUNT;
            black_box(recipients.check(black_box(&paths[at])))
        });
    });
    group.finish();
}

criterion_group!(benches, networks, published, build, mailboxes);
criterion_main!(benches);
