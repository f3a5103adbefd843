//! One transaction through a session without a socket or a disk: what the protocol costs a message, plain and with
//! every check on that a listener has. The two stand beside each other in one run, to be compared as a ratio.

use std::hash::RandomState;
use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bench::{ENVELOPE, content_with_end};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringmx::event::EventQueue;
use ringmx::id::SessionId;
use ringmx::policy::clients::{ClientLimits, Clients, Rate, ScopeLimits};
use ringmx::policy::network::NetworkSet;
use ringmx::policy::recipient::Recipients;
use ringmx::session::{Context, EarlyTalker, Guard, Next, Pool, Service, Session, SessionLimits, Settings};
use ringmx::time::Now;

/// Every limit set, and none that is reached; networks that the client is looked up in, and is in none of.
fn every_check() -> Guard {
    let networks = |first: u8| -> NetworkSet {
        (0..=255u8).map(|second| format!("{first}.{second}.0.0/16").parse().expect("a network")).collect()
    };
    let rate = Some(Rate { count: 1_000_000_000_000, per: Duration::from_secs(60) });
    let scope = ScopeLimits {
        open_max: Some(1000),
        connections: rate,
        transactions: rate,
        recipients: rate,
        faults: rate,
        octets: rate,
    };
    Guard {
        proxies: networks(10),
        xclient: networks(11),
        unlimited: networks(12),
        client_limits: ClientLimits { client: scope, network: scope },
        session_limits: SessionLimits {
            transactions_max: Some(u32::MAX),
            recipients_max: Some(u32::MAX),
            octets_max: Some(u64::MAX),
            ..SessionLimits::default()
        },
        early_talker: EarlyTalker::Reject,
        tarpit: Duration::from_secs(5),
        ..Guard::default()
    }
}

fn transaction(c: &mut Criterion) {
    let policy = Recipients::new(["example.com"]).expect("a domain").into();
    let service = || Service::new(Settings::new("mx1.example.com"));
    let mut checked = service();
    checked.settings.guard = every_check();
    let events = EventQueue::new(16);
    // All content stays in memory: no file takes part here.
    let mut pool = Pool::new(Arc::default(), events.clone(), 1 << 30, 2 << 20);
    pool.clients = Arc::new(Clients::new(1 << 16, RandomState::new()));
    let now = Now { monotonic: Duration::from_secs(1), unix: Duration::from_secs(1_795_317_300) };
    let client: SocketAddr = "192.0.2.1:40000".parse().expect("an address");

    let mut group = c.benchmark_group("session");
    for len in [4 << 10, 1 << 20] {
        let envelope = [&ENVELOPE.join(&b"\r\n"[..])[..], b"\r\n"].concat();
        let input = (envelope, content_with_end(len));
        for (name, service) in
            [("transaction, pipelined", &service()), ("transaction, pipelined, all checks on", &checked)]
        {
            let mut session = Session::new(SessionId(1), client, now.monotonic);
            let mut out = Vec::new();
            let cx = &mut Context { now, service, policy: &policy, pool: &mut pool };
            session.greet(cx, None, &mut out);
            session.receive(cx, b"EHLO client.example\r\n", &mut out);
            group.throughput(Throughput::Elements(1));
            group.bench_with_input(BenchmarkId::new(name, len), &input, |b, (envelope, content)| {
                b.iter(|| {
                    out.clear();
                    // A client waits for the 354 before it sends content.
                    session.receive(cx, black_box(envelope), &mut out);
                    let progress = session.receive(cx, black_box(content), &mut out);
                    assert_eq!((progress.consumed, progress.next), (content.len(), Next::Commit));
                    session.committed(cx, Ok(()), &mut out);
                    while events.pop().is_some() {}
                    black_box(out.len())
                });
            });
            session.end(cx);
        }
    }
    group.finish();
}

criterion_group!(benches, transaction);
criterion_main!(benches);
