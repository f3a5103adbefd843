//! Lines of the log, from the event to the octets: there are two for each message.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ringmx::admin::EventLog;
use ringmx::config::{Log, LogFormat, LogLevel};
use ringmx::event::{Event, EventQueue, Kind};
use ringmx::id::{MessageId, SessionIds};
use ringmx::logging;
use ringmx::reload::RulePlaces;
use ringmx::time::Now;

const LINES_COUNT: u32 = 1000;

fn log(c: &mut Criterion) {
    let mut group = c.benchmark_group("log");
    group.throughput(Throughput::Elements(u64::from(LINES_COUNT)));
    for (name, format) in [("human", LogFormat::Human), ("json", LogFormat::Json)] {
        let output = |line: &[u8]| _ = black_box(line);
        let subscriber = logging::subscriber(Log { format, level: LogLevel::Info }, false, output);
        tracing::subscriber::with_default(subscriber, || {
            group.bench_function(format!("accepted, {name}"), |b| {
                let queue = EventQueue::new(LINES_COUNT as usize);
                let mut log = EventLog::new(vec![queue.clone()], Arc::<RulePlaces>::default());
                b.iter_batched(|| fill(&queue), |()| log.drain(), BatchSize::PerIteration);
            });
            group.bench_function(format!("delivered, {name}"), |b| {
                let session = SessionIds::new(0).next(Now::default());
                b.iter(|| {
                    (1..=LINES_COUNT).for_each(|count| delivered(MessageId { session, transaction: count }))
                });
            });
        });
    }
    group.finish();
}

/// What a worker tells in a few milliseconds.
fn fill(queue: &EventQueue) {
    let mut ids = SessionIds::new(0);
    for count in 1..=LINES_COUNT {
        let unix = Duration::from_secs(1_763_780_000) + Duration::from_micros(10 * u64::from(count));
        let at = Now { monotonic: unix, unix };
        let session = ids.next(at);
        let kind = Kind::Accepted {
            cipher: None,
            message: MessageId { session, transaction: 1 },
            client: "192.0.2.7:54321".parse().expect("an address"),
            content_len: 4096,
            recipients_count: 2,
            wait: Duration::from_micros(250),
        };
        queue.push(Event { at, session, kind });
    }
}

/// As the delivery thread tells of it.
fn delivered(id: MessageId) {
    let (route, octets, age_ms, attempts) = black_box((0_usize, 4096_u64, 12_u64, 1_u32));
    tracing::info!(target: "ringmx::egress", %id, route, octets, age_ms, attempts, "delivered");
}

criterion_group!(benches, log);
criterion_main!(benches);
