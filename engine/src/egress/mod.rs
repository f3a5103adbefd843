//! Egress: from the spool to where the mail goes.
//!
//! 1. [`start`] spreads the shards over threads, each with a tokio-uring runtime of its own.
//! 2. A [`tail`] per shard reads what its worker has committed and makes a [`job`] of each record, by its [`plan`].
//! 3. A job writes into [`maildir`]s, hands on to next hops ([`relay`]), and tells senders what cannot be delivered
//!    ([`telling`]); a [`flush`] makes many durable, moves what was not delivered to the [`deferred`] mail, and
//!    acknowledges them; [`round`] decides what goes into one.
//! 4. What came of each message is told to the log and to the [`events`].
//! 5. A segment that is sealed and wholly acknowledged goes back to the keeper.
//!
//! A message is acknowledged when all of its copies are durable, not before: a crash in between, or a failed sync,
//! repeats the delivery. A repeat replaces its file as long as that is still in `new`; where a reader has moved it to
//! `cur`, a second one comes. What is deferred keeps the recipients that are left and the state of its attempts: a
//! restart goes on where it was. Mail that is held, because its route holds it or none takes it, is looked at again
//! by the next start, and when the routes change.

mod deferred;
mod error;
mod events;
mod flush;
mod job;
mod large;
mod maildir;
mod moves;
mod notice;
mod orders;
mod outcome;
mod plan;
mod relay;
mod report;
mod room;
mod round;
mod segments;
mod stalled;
mod stats;
mod tail;
mod telling;
#[cfg(test)]
mod tests;
mod thread;
mod waiting;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Instant;

use arc_swap::ArcSwap;
use ringmx_ring::Doorbell;

pub use error::EgressError;
pub use events::{EventsStats, open_for_reading};
pub use orders::{Named, Verb};
pub use stats::EgressStats;

use crate::config::Config;
use crate::id::MessageId;
use crate::limits::{DELIVERY_STOP_TIME_MAX, ORDER_TIME_MAX, THREAD_STOP_TIME_MAX};
use crate::store::ShardFeed;
use events::EventsThread;
use orders::Desk;
use relay::{Hops, Paces};
use tail::{Tail, TailParts};
use thread::Thread;

/// Entries of a thread's ring: for the deliveries and syncs of two or three shards at once.
const RING_ENTRIES: u32 = 512;

/// Where the threads find the newest configuration.
type Routing = ArcSwap<Config>;

/// The running deliveries. Stops when dropped.
#[derive(Debug)]
pub struct Egress {
    router: Router,
    stats: Vec<Arc<EgressStats>>,
    stopping: Arc<AtomicBool>,
    threads: Vec<Thread>,
    /// None where nobody wants events. Ends behind the threads that tell them.
    events: Option<EventsThread>,
    events_stats: Arc<EventsStats>,
}

/// Changes where mail goes, and what becomes of mail that waits. Clones change the same.
#[derive(Clone, Debug)]
pub struct Router {
    routing: Arc<Routing>,
    shards: Vec<Shard>,
}

/// How a shard's thread is told something.
#[derive(Clone, Debug)]
struct Shard {
    number: u16,
    bell: Arc<Doorbell>,
    desk: Desk,
}

/// Starts delivering what the feeds hold and will hold, on `threads` threads (at least one, at most one a shard).
///
/// # Errors
/// When a thread or its ring cannot be set up, or the events cannot be written; nothing runs then.
pub fn start(feeds: Vec<ShardFeed>, config: Arc<Config>, threads: usize) -> Result<Egress, EgressError> {
    let threads_count = threads.clamp(1, feeds.len().max(1));
    let stopping = Arc::new(AtomicBool::new(false));
    let events_stats = Arc::<EventsStats>::default();
    let events = start_events(&config, &events_stats)?;
    let routing = Arc::new(Routing::new(config));
    let (mut shards, mut stats) = (Vec::new(), Vec::new());
    let mut parts: Vec<Vec<TailParts>> = std::iter::repeat_with(Vec::new).take(threads_count).collect();
    for (index, feed) in feeds.into_iter().enumerate() {
        let bell = Arc::new(Doorbell::new().map_err(EgressError::Thread)?);
        let shard_stats = Arc::new(EgressStats::new(feed.shard));
        let (desk, inbox) = orders::desk();
        shards.push(Shard { number: feed.shard, bell: Arc::clone(&bell), desk });
        stats.push(Arc::clone(&shard_stats));
        let (routing, stopping) = (Arc::clone(&routing), Arc::clone(&stopping));
        let events = events.as_ref().map(|thread| Arc::clone(&thread.events));
        let tail = TailParts { feed, routing, bell, stats: shard_stats, stopping, inbox, events };
        parts[index % threads_count].push(tail);
    }
    let paces = Arc::<Paces>::default();
    // Dropped by an error below, it stops the threads that run already.
    let router = Router { routing, shards };
    let mut egress = Egress { router, stats, stopping, threads: Vec::new(), events, events_stats };
    let (ready_sender, ready) = channel();
    for (index, parts) in parts.into_iter().enumerate() {
        let (ready_sender, paces) = (ready_sender.clone(), Arc::clone(&paces));
        let thread = Thread::start(format!("egress-{index}"), move || run(parts, paces, &ready_sender));
        egress.threads.push(thread.map_err(EgressError::Thread)?);
    }
    drop(ready_sender);
    ready.into_iter().take(threads_count).collect::<io::Result<()>>().map_err(EgressError::Ring)?;
    Ok(egress)
}

fn start_events(config: &Config, stats: &Arc<EventsStats>) -> Result<Option<EventsThread>, EgressError> {
    let Some(config) = &config.events else { return Ok(None) };
    let started = EventsThread::start(config, Arc::clone(stats));
    started.map(Some).map_err(|source| EgressError::Events { path: config.path.clone(), source })
}

/// The body of a thread: tells once over `ready` whether it could be set up.
fn run(parts: Vec<TailParts>, paces: Arc<Paces>, ready: &Sender<io::Result<()>>) {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return drop(ready.send(Err(error))),
    };
    runtime.block_on(async {
        let hops = Rc::new(Hops::new(paces));
        // A tail listens to its bell by an operation of this runtime.
        let tails: io::Result<Vec<Tail>> = parts.into_iter().map(|parts| Tail::new(parts, &hops)).collect();
        let tails = match tails {
            Ok(tails) => tails,
            Err(error) => return drop(ready.send(Err(error))),
        };
        let tails: Vec<_> = tails.into_iter().map(|tail| tokio_uring::spawn(tail.run())).collect();
        drop(ready.send(Ok(())));
        for tail in tails {
            tail.await.expect("a tail does not panic");
        }
    });
}

/// tokio-uring hangs with DEFER_TASKRUN, and no flag beyond these two is known to be safe with it.
fn runtime() -> io::Result<tokio_uring::Runtime> {
    let mut ring = tokio_uring::uring_builder();
    ring.setup_coop_taskrun().setup_single_issuer();
    tokio_uring::Runtime::new(tokio_uring::builder().entries(RING_ENTRIES).uring_builder(&ring))
}

impl Router {
    /// Leads nowhere: for tests.
    #[cfg(test)]
    pub(crate) fn to_nobody() -> Self {
        Self { routing: Arc::new(Routing::from_pointee(Config::quick_start())), shards: Vec::new() }
    }

    /// Attempts that begin from now on go by the routes of this configuration, those of queued mail too. Held mail is
    /// looked at again at once, other mail when its next attempt is due.
    pub fn route_by(&self, config: Arc<Config>) {
        self.routing.store(config);
        self.ring();
    }

    /// Has something done with messages that wait, and gives those that are not known: they are delivered, are being
    /// delivered for the first time, or have moved since they were named. `None` when a delivery thread does not
    /// answer within [`ORDER_TIME_MAX`].
    pub fn order(&self, verb: Verb, messages: &[Named]) -> Option<Vec<MessageId>> {
        self.order_until(Instant::now() + ORDER_TIME_MAX, verb, messages)
    }

    fn order_until(&self, until: Instant, verb: Verb, messages: &[Named]) -> Option<Vec<MessageId>> {
        let asked = self.shards.iter().filter_map(|shard| {
            let of_shard = messages.iter().copied().filter(|named| named.shard == shard.number);
            let of_shard: Vec<Named> = of_shard.collect();
            (!of_shard.is_empty()).then(|| shard.desk.leave(verb, of_shard))
        });
        let asked: Vec<_> = asked.collect();
        self.ring();
        let mut missed: Vec<_> = messages.iter().filter(|it| !self.has(it.shard)).map(|it| it.id).collect();
        for answer in asked {
            missed.extend(orders::missed(answer, until)?);
        }
        Some(missed)
    }

    fn has(&self, number: u16) -> bool {
        self.shards.iter().any(|shard| shard.number == number)
    }

    fn ring(&self) {
        self.shards.iter().for_each(|shard| shard.bell.ring());
    }
}

impl Egress {
    /// What changes the routes.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// What the shard's worker rings after it has published a commit or sealed a segment; `None` for a shard without a
    /// feed.
    pub fn doorbell(&self, shard: u16) -> Option<Arc<Doorbell>> {
        let mut shards = self.router.shards.iter();
        shards.find(|of| of.number == shard).map(|shard| Arc::clone(&shard.bell))
    }

    /// One for each shard.
    pub fn stats(&self) -> &[Arc<EgressStats>] {
        &self.stats
    }

    /// What has become of the events.
    pub fn events_stats(&self) -> &Arc<EventsStats> {
        &self.events_stats
    }

    /// Reads no further, ends the deliveries under way, acknowledges them, joins the threads, writes the last
    /// events; takes 20 seconds at most.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Egress {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        self.router.ring();
        let give_up_at = Instant::now() + DELIVERY_STOP_TIME_MAX + THREAD_STOP_TIME_MAX;
        for thread in self.threads.drain(..) {
            let name = thread.name().to_owned();
            if !thread.join(give_up_at) {
                tracing::error!(
                    name,
                    "a delivery thread hangs in the kernel; left behind. The next start repeats its deliveries"
                );
            }
        }
        drop(self.events.take());
    }
}
