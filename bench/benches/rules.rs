//! Rules with long lists: the verdict over a client, and whether a mailbox is one of ours; hot, and cold, where every
//! cache line has to come from memory. A published longest-prefix crate runs beside them.
//!
//! `RINGMX_BENCH_MAILBOXES=10000000` for ten million mailboxes, which take a while to build. What is no time of a
//! lookup is printed, a line of JSON each: `scripts/perf --only rules` reads it.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, criterion_group, criterion_main};
use prefix_trie::PrefixMap;
use ringmx::policy::network::Network;
use ringmx::policy::recipient::Recipients;
use ringmx::policy::rules::{Action, Facts, Protection, RuleSet, RuleSpec, Stage};
use ringmx::protocol::path::{ForwardPath, Mailbox};

const NETWORKS_COUNTS: [usize; 3] = [10, 10_000, 1_000_000];
const MAILBOXES_COUNT: usize = 1_000_000;
/// More than the caches of the processors that this runs on.
const EVICTION_LEN: usize = 256 << 20;
const COLD_SAMPLES_COUNT: usize = 50;
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

/// A list that is accepted, one that is dropped, and a rule for all others.
fn rules(networks: &[Network]) -> RuleSet {
    let of = |part: usize| networks.iter().skip(part).step_by(2).copied().collect();
    let rule = |client: Option<Vec<Network>>, action: Action| RuleSpec {
        stage: Stage::Connect,
        client,
        listeners: None,
        helo: None,
        from: None,
        to: None,
        size_over: None,
        protection: Protection::default(),
        action,
        place: "rules.rs".into(),
    };
    let specs =
        [rule(Some(of(0)), Action::Accept), rule(Some(of(1)), Action::Drop), rule(None, Action::Accept)];
    RuleSet::compile(&specs, Vec::new(), "localhost").expect("three classes").0
}

/// What the server does with a client that connects.
fn verdict<'a>(rules: &'a RuleSet, client: &IpAddr) -> Option<&'a Action> {
    let client = (*client).into();
    let facts =
        Facts { client, helo: b"", reverse_path: None, forward_path: None, size: None, secured: None };
    rules.matching(Stage::Connect, "mx", &facts).next().map(|rule| &rule.action)
}

/// A figure that is no time of a lookup.
fn tell(name: &str, entries: usize, octets: usize, built: Duration) {
    let (octets_each, built_ms) = (octets as f64 / entries as f64, built.as_secs_f64() * 1e3);
    println!(
        "{{\"name\": \"{name}\", \"entries\": {entries}, \"octets_each\": {octets_each:.1}, \"built_ms\": {built_ms:.0}}}"
    );
}

/// What the caches hold in place of what is looked up. Made once: the system takes longer to give it than to fill it.
struct Eviction(Vec<u8>);

impl Eviction {
    fn new() -> Self {
        Self(vec![1; EVICTION_LEN])
    }

    /// The time of `look` at one of these after the other, with caches that hold nothing of what it reads.
    fn cold<T>(&mut self, iterations: u64, asked: &[T], mut look: impl FnMut(&T)) -> Duration {
        let mut total = Duration::ZERO;
        for at in 0..iterations {
            self.0.iter_mut().step_by(64).for_each(|octet| *octet = octet.wrapping_add(1));
            black_box(&self.0);
            let one = &asked[at as usize % asked.len()];
            let began_at = Instant::now();
            look(black_box(one));
            total += began_at.elapsed();
        }
        total
    }
}

fn networks(c: &mut Criterion) {
    let mut group = c.benchmark_group("client");
    let mut colds = Vec::new();
    for (family, make) in [
        ("IPv4", ipv4_networks as fn(usize) -> Vec<Network>),
        ("IPv6", ipv6_networks as fn(usize) -> Vec<Network>),
    ] {
        for count in NETWORKS_COUNTS {
            let networks = make(count);
            let clients = clients(&networks, family == "IPv4");
            let began_at = Instant::now();
            let rules = rules(&networks);
            tell(family, count, rules.memory_len(), began_at.elapsed());
            let mut at = 0;
            let mut next = || {
                at = (at + 1) % CLIENTS_COUNT;
                &clients[at]
            };
            group.bench_function(BenchmarkId::new(format!("{family}, hot"), count), |b| {
                b.iter(|| black_box(verdict(&rules, black_box(&clients[0]))));
            });
            group.bench_function(BenchmarkId::new(format!("{family}, any client"), count), |b| {
                b.iter(|| black_box(verdict(&rules, black_box(next()))));
            });
            colds.push((family, count, clients, rules));
        }
    }
    // Each look takes an eviction, so there are few of them.
    group.sampling_mode(SamplingMode::Flat).sample_size(COLD_SAMPLES_COUNT);
    let mut eviction = Eviction::new();
    for (family, count, clients, rules) in &colds {
        group.bench_function(BenchmarkId::new(format!("{family}, cold"), count), |b| {
            b.iter_custom(|iterations| {
                eviction.cold(iterations, clients, |client| {
                    black_box(verdict(rules, client));
                })
            });
        });
    }
    // What the cold figures have too much: the clock's own time.
    group.bench_function("clock, cold", |b| {
        b.iter_custom(|iterations| eviction.cold(iterations, &colds[0].2, |client| _ = black_box(client)));
    });
    group.finish();
}

/// The longest prefix only, which is not the first match: the crate is here for its time.
fn published(c: &mut Criterion) {
    let mut group = c.benchmark_group("client, prefix-trie");
    for count in NETWORKS_COUNTS {
        let networks = ipv4_networks(count);
        let clients = clients(&networks, true);
        let began_at = Instant::now();
        let mut map: PrefixMap<(u32, u8), u16> = PrefixMap::new();
        for network in &networks {
            let IpAddr::V4(first) = network.first() else { continue };
            map.insert((first.to_bits(), network.prefix_len()), 0);
        }
        let key = |client: IpAddr| match client {
            IpAddr::V4(client) => (client.to_bits(), 32),
            IpAddr::V6(_) => unreachable!("IPv4 networks have IPv4 clients"),
        };
        compare(&mut group, "IPv4", count, began_at.elapsed(), &clients, |client| {
            black_box(map.get_lpm(&key(client)));
        });
    }
    for count in NETWORKS_COUNTS {
        let networks = ipv6_networks(count);
        let clients = clients(&networks, false);
        let began_at = Instant::now();
        let mut map: PrefixMap<(u128, u8), u16> = PrefixMap::new();
        for network in &networks {
            let IpAddr::V6(first) = network.first() else { continue };
            map.insert((first.to_bits(), network.prefix_len()), 0);
        }
        let key = |client: IpAddr| match client {
            IpAddr::V6(client) => (client.to_bits(), 128),
            IpAddr::V4(_) => unreachable!("IPv6 networks have IPv6 clients"),
        };
        compare(&mut group, "IPv6", count, began_at.elapsed(), &clients, |client| {
            black_box(map.get_lpm(&key(client)));
        });
    }
    group.finish();
}

/// The same clients as [`networks`] asks for.
fn compare(
    group: &mut BenchmarkGroup<'_, WallTime>,
    family: &str,
    count: usize,
    built: Duration,
    clients: &[IpAddr],
    look: impl Fn(IpAddr),
) {
    tell(&format!("prefix-trie, {family}"), count, 0, built);
    let mut at = 0;
    group.bench_function(BenchmarkId::new(format!("{family}, hot"), count), |b| {
        b.iter(|| look(black_box(clients[0])));
    });
    group.bench_function(BenchmarkId::new(format!("{family}, any client"), count), |b| {
        b.iter(|| {
            at = (at + 1) % CLIENTS_COUNT;
            look(black_box(clients[at]));
        });
    });
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
    tell("mailbox", count, recipients.memory_len(), began_at.elapsed());
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
    group.sampling_mode(SamplingMode::Flat).sample_size(COLD_SAMPLES_COUNT);
    let mut eviction = Eviction::new();
    group.bench_function(BenchmarkId::new("cold", count), |b| {
        b.iter_custom(|iterations| {
            eviction.cold(iterations, &paths, |path| {
                black_box(recipients.check(path)).ok();
            })
        });
    });
    group.finish();
}

criterion_group!(benches, networks, published, mailboxes);
criterion_main!(benches);
