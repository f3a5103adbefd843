//! One transaction through a session without a socket or a disk: what the protocol costs a message, plain and with
//! every check on that a listener has, each by itself and then as a ratio.
//!
//! The ratio is measured by turns: some messages plain, as many with all checks, again and again, so that whatever else
//! the machine does meets both alike. `cargo bench -p bench --bench session -- ratio` measures nothing else.

mod ratio;

use std::hash::RandomState;
use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bench::{ENVELOPE, content, content_with_end};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ratio::Ratio;
use ringmx::event::EventQueue;
use ringmx::id::SessionId;
use ringmx::policy::Policy;
use ringmx::policy::clients::{ClientLimits, Clients, Rate, ScopeLimits};
use ringmx::policy::network::NetworkSet;
use ringmx::policy::newline::BareNewline;
use ringmx::policy::recipient::Recipients;
use ringmx::session::{Context, EarlyTalker, Guard, Next, Pool, Service, Session, SessionLimits, Settings};
use ringmx::time::Now;

const LENS: [usize; 2] = [4 << 10, 1 << 20];
/// Octets of content that one side of a ratio takes before it is the other's turn.
const TURN_LEN: usize = 128 << 10;
/// Octets a second that a client is let send, in the bench's own time: more than any does, so that no limit is reached.
const OCTETS_PER_SEC: u64 = 1 << 30;

/// Networks that the client is looked up in, and is in none of.
fn networks(first: u8) -> NetworkSet {
    (0..=255u8).map(|second| format!("{first}.{second}.0.0/16").parse().expect("a network")).collect()
}

/// Every limit set, and none that is reached.
fn every_check() -> Settings {
    let rate = |per_sec| Some(Rate::new(per_sec * 60, Duration::from_secs(60)));
    let scope = ScopeLimits {
        open_max: Some(1000),
        connections: rate(1 << 20),
        transactions: rate(1 << 20),
        recipients: rate(1 << 20),
        faults: rate(1 << 20),
        octets: rate(2 * OCTETS_PER_SEC),
        commands: rate(1 << 24),
    };
    let guard = Guard {
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
    };
    let mut settings = Settings::new("mx1.example.com");
    settings.guard = guard;
    settings.bare_newline = BareNewline::Reject;
    settings.bare_newline_exclude = networks(13);
    settings
}

/// A session behind its EHLO, and what its worker has for it.
struct Side {
    service: Service,
    policy: Policy,
    pool: Pool,
    events: EventQueue,
    session: Session,
    now: Now,
    out: Vec<u8>,
}

impl Side {
    fn new(settings: Settings) -> Self {
        let events = EventQueue::new(16);
        // All content stays in memory: no file takes part here.
        let mut pool = Pool::new(Arc::default(), events.clone(), 1 << 30, 2 << 20);
        pool.clients = Arc::new(Clients::new(1 << 16, RandomState::new()));
        let now = Now { monotonic: Duration::from_secs(1), unix: Duration::from_secs(1_795_317_300) };
        let client: SocketAddr = "192.0.2.1:40000".parse().expect("an address");
        let mut side = Self {
            service: Service::new(settings),
            policy: Recipients::new(["example.com"]).expect("a domain").into(),
            pool,
            events,
            session: Session::new(SessionId(1), client, now.monotonic),
            now,
            out: Vec::new(),
        };
        let Self { service, policy, pool, session, out, .. } = &mut side;
        let cx = &mut Context { now, service, policy, pool };
        session.greet(cx, None, out);
        session.receive(cx, b"EHLO client.example\r\n", out);
        side
    }

    fn plain() -> Self {
        Self::new(Settings::new("mx1.example.com"))
    }

    fn checked() -> Self {
        Self::new(every_check())
    }

    fn transaction(&mut self, Input { envelope, content }: &Input) {
        let Self { service, policy, pool, events, session, now, out } = self;
        // A message takes its time, and rates recover meanwhile.
        let took = Duration::from_nanos(content.len() as u64 * 1_000_000_000 / OCTETS_PER_SEC);
        *now = Now { monotonic: now.monotonic + took, unix: now.unix + took };
        let cx = &mut Context { now: *now, service, policy, pool };
        out.clear();
        // A client waits for the 354 before it sends content.
        session.receive(cx, black_box(envelope), out);
        let progress = session.receive(cx, black_box(content), out);
        assert_eq!((progress.consumed, progress.next), (content.len(), Next::Commit));
        session.committed(cx, Ok(()), out);
        while events.pop().is_some() {}
        black_box(out.len());
    }
}

/// How content comes.
const FORMS: [(&str, Form); 2] = [("", Form::Data), ("by BDAT, ", Form::Bdat)];

#[derive(Clone, Copy)]
enum Form {
    Data,
    /// In one chunk: RFC 3030.
    Bdat,
}

struct Input {
    envelope: Vec<u8>,
    content: Vec<u8>,
}

impl Input {
    fn of_len(len: usize, form: Form) -> Self {
        let lines = |lines: &[&[u8]]| [&lines.join(&b"\r\n"[..])[..], b"\r\n"].concat();
        match form {
            Form::Data => Self { envelope: lines(ENVELOPE), content: content_with_end(len) },
            Form::Bdat => {
                let (data, envelope) = ENVELOPE.split_last().expect("commands");
                assert_eq!(*data, b"DATA");
                let content = content(len);
                let chunk = [format!("BDAT {} LAST\r\n", content.len()).as_bytes(), &content].concat();
                Self { envelope: lines(envelope), content: chunk }
            }
        }
    }
}

fn transaction(c: &mut Criterion) {
    let mut group = c.benchmark_group("session");
    for ((form_name, form), len) in FORMS.into_iter().flat_map(|form| LENS.map(|len| (form, len))) {
        let input = Input::of_len(len, form);
        for (name, mut side) in [
            ("transaction, pipelined", Side::plain()),
            ("transaction, pipelined, all checks on", Side::checked()),
        ] {
            group.throughput(Throughput::Elements(1));
            let name = format!("{form_name}{name}");
            group.bench_with_input(BenchmarkId::new(name, len), &input, |b, input| {
                b.iter(|| side.transaction(input));
            });
        }
    }
    group.finish();
}

/// Time of some transactions of one side.
fn turn(side: &mut Side, input: &Input, count: usize) -> Duration {
    let begun = Instant::now();
    (0..count).for_each(|_| side.transaction(input));
    begun.elapsed()
}

fn ratio(c: &mut Criterion<Ratio>) {
    let mut group = c.benchmark_group("session ratio");
    for ((form_name, form), len) in FORMS.into_iter().flat_map(|form| LENS.map(|len| (form, len))) {
        let input = Input::of_len(len, form);
        let (mut plain, mut checked) = (Side::plain(), Side::checked());
        let count = (TURN_LEN / len).max(1);
        let name = format!("{form_name}all checks on to plain");
        group.bench_with_input(BenchmarkId::new(name, len), &input, |b, input| {
            b.iter_custom(|turns_count| {
                let ratios = (0..turns_count).map(|index| {
                    // Who comes second finds warmer caches: each does half the time.
                    let (plain_time, checked_time) = if index % 2 == 0 {
                        let plain_time = turn(&mut plain, input, count);
                        (plain_time, turn(&mut checked, input, count))
                    } else {
                        let checked_time = turn(&mut checked, input, count);
                        (turn(&mut plain, input, count), checked_time)
                    };
                    checked_time.as_secs_f64() / plain_time.as_secs_f64()
                });
                Ratio::of(ratios.collect())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, transaction);
criterion_group!(name = ratios; config = Criterion::default().with_measurement(Ratio); targets = ratio);
criterion_main!(benches, ratios);
