//! One transaction through a session without a socket or a disk: what the protocol costs a message.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bench::{ENVELOPE, content_with_end};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringmx::event::EventQueue;
use ringmx::id::SessionId;
use ringmx::policy::recipient::Recipients;
use ringmx::session::{Context, Next, Pool, Replies, Service, Session};
use ringmx::time::Now;

fn transaction(c: &mut Criterion) {
    let recipients = Arc::new(Recipients::new(["example.com"]).expect("a domain"));
    let minutes = Duration::from_secs(300);
    let service = Service::new("mx1.example.com", 50 << 20, recipients, Replies::default(), minutes, minutes);
    let events = EventQueue::new(16);
    let mut pool = Pool::new(Arc::default(), events.clone(), 1 << 30, 256 << 10);
    let now = Now { monotonic: Duration::from_secs(1), unix: Duration::from_secs(1_795_317_300) };
    let client: SocketAddr = "192.0.2.1:40000".parse().expect("an address");

    let mut group = c.benchmark_group("session");
    for len in [4 << 10, 1 << 20] {
        let envelope = [&ENVELOPE.join(&b"\r\n"[..])[..], b"\r\n"].concat();
        let input = (envelope, content_with_end(len));
        let mut session = Session::new(SessionId(1), client, now.monotonic);
        let mut out = Vec::new();
        let cx = &mut Context { now, service: &service, pool: &mut pool };
        session.receive(cx, b"EHLO client.example\r\n", &mut out);
        group.throughput(Throughput::Elements(1));
        group.bench_with_input(
            BenchmarkId::new("transaction, pipelined", len),
            &input,
            |b, (envelope, content)| {
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
            },
        );
    }
    group.finish();
}

criterion_group!(benches, transaction);
criterion_main!(benches);
