//! No allocation per command: a session that has warmed up answers a pipelined dialogue out of what it already holds.

use std::sync::Arc;
use std::time::Duration;

use ringmx::event::EventQueue;
use ringmx::id::SessionIds;
use ringmx::policy::Policy;
use ringmx::policy::recipient::Recipients;
use ringmx::session::{Context, Next, Pool, Service, Session, Settings};
use ringmx::stats::WorkerStats;
use ringmx::time::Now;
use tests::allocations::{Counting, counted};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A session, driven without anything that allocates.
struct Driver {
    session: Session,
    service: Service,
    policy: Policy,
    pool: Pool,
    now: Now,
    out: Vec<u8>,
    replies_count: usize,
}

impl Driver {
    fn new() -> Self {
        let now = Now { monotonic: Duration::from_secs(1), unix: Duration::from_secs(1_795_317_300) };
        Self {
            session: Session::new(
                SessionIds::new(0).next(now),
                "192.0.2.7:40123".parse().expect("an address"),
                now.monotonic,
            ),
            service: Service::new(Settings::new("mx.example")),
            policy: Recipients::new(["example.com"]).expect("a domain").into(),
            pool: Pool::new(Arc::new(WorkerStats::default()), EventQueue::new(64), 64 << 20, 256 << 10),
            now,
            out: Vec::with_capacity(1 << 16),
            replies_count: 0,
        }
    }

    fn send(&mut self, mut input: &[u8]) {
        while !input.is_empty() {
            let cx = &mut Context {
                now: self.now,
                service: &self.service,
                policy: &self.policy,
                pool: &mut self.pool,
            };
            let progress = self.session.receive(cx, input, &mut self.out);
            input = &input[progress.consumed..];
            if progress.next == Next::Commit {
                self.session.committed(cx, Ok(()), &mut self.out);
            } else {
                assert!(
                    progress.consumed > 0 && progress.next == Next::Input,
                    "all is taken, the session goes on"
                );
            }
        }
        self.replies_count += self.out.iter().filter(|&&octet| octet == b'\n').count();
        self.out.clear();
        // A new date each time, and what the log would take.
        self.now.unix += Duration::from_millis(700);
        self.now.monotonic += Duration::from_millis(700);
        while self.pool.events.pop().is_some() {}
    }
}

const TRANSACTION: &[u8] =
    b"MAIL FROM:<sender@example.org> SIZE=4096 BODY=8BITMIME\r\nRCPT TO:<one@example.com>\r\n\
    RCPT TO:<\"two\"@EXAMPLE.com>\r\nRCPT TO:<three@example.org>\r\nRCPT TO:<Postmaster>\r\nNOOP\r\nDATA\r\n";
const REPLIES_COUNT: usize = 7;

#[test]
fn no_command_allocates_once_warm() {
    let content = ["Subject: x\r\n\r\n", &"..a line of text\r\n".repeat(230), ".\r\n"].concat();
    let message = [TRANSACTION, content.as_bytes()].concat();
    let mut driver = Driver::new();
    driver.send(b"EHLO client.example\r\n");
    (0..3).for_each(|_| driver.send(&message));
    driver.send(b"XYZZY\r\nVRFY x\r\nHELP\r\nRSET\r\n");
    driver.replies_count = 0;

    let before = counted();
    for _ in 0..200 {
        driver.send(&message);
        // The same command by command, and what is refused.
        driver.send(b"MAIL FROM:<>\r\n");
        driver.send(b"RCPT TO:<one@example.com>\r\n");
        driver.send(b"RSET\r\nXYZZY\r\nVRFY x\r\nHELP\r\nMAIL FROM:<a@example.org> X=Y\r\n");
    }
    let allocations = counted() - before;
    assert_eq!(driver.replies_count, 200 * (REPLIES_COUNT + 1 + 2 + 5));
    assert_eq!(allocations, 0, "allocations in {} commands", driver.replies_count);
}

#[test]
fn the_counter_counts() {
    let before = counted();
    drop(std::hint::black_box(vec![0u8; 100]));
    assert_eq!(counted() - before, 1);
}
