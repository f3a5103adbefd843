//! The data plane: listening sockets, and one worker per core that owns a ring, its connections and a shard of the
//! spool.

mod binder;
mod board;
mod connection;
mod conversation;
mod delay;
mod holder;
mod journal;
mod listener;
mod listening;
mod op;
mod parked;
mod policies;
mod ports;
mod retire;
mod securing;
mod segments;
mod spill;
mod tls;
mod visitors;
mod watch;
mod worker;

use std::hash::RandomState;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use ringmx_ring::{Doorbell, Options, SetupError, Uring, pin_to_core};

pub use binder::{Binder, Helper, serve_helper};
pub use board::{Board, Proof, Standing};
pub use holder::{Holder, listens_at, who_listens};
pub use journal::Segments;
pub use listener::{Listeners, Prepared};
pub use policies::{Policies, Published, Publisher};
pub use ports::{Latch, PortChange};
pub use tls::{Step, Tls};
pub use visitors::{Expected, PortId, Ticket, Visit, Visitors};
pub use watch::{Unproven, Watch, WatchOptions};
pub use worker::{Port, Setup, Stop, Worker};

use crate::event::EventQueue;
use crate::limits;
use crate::policy::clients::Clients;
use crate::server::segments::ShardSegments;
use crate::stats::WorkerStats;
use crate::store::ShardHandles;

/// Why there are no workers.
#[derive(Debug, thiserror::Error)]
pub enum WorkersError {
    #[error(transparent)]
    Ring(#[from] SetupError),
    #[error("cannot start a worker: {0}")]
    System(#[from] io::Error),
}

/// What the workers are given besides their number.
#[derive(Debug)]
pub struct WorkersOptions<'a> {
    pub listeners: &'a Listeners,
    /// How the server recognises itself.
    pub visitors: &'a Arc<Visitors>,
    pub policy: &'a Arc<Published>,
    /// The cores to pin to, one per worker; empty to let the kernel place them.
    pub cores: &'a [usize],
    /// Octets of envelopes and content that all workers together may hold in memory.
    pub memory_len_max: usize,
    /// Octets of content, trace field included, from which on it goes to a file.
    pub inline_len_max: usize,
    /// Events that a worker may be ahead of the log.
    pub events_count_max: usize,
    /// How long a message of a listener with `durability = "async"` may wait for its sync.
    pub async_interval: Duration,
    /// How long sessions may go on once the server stops.
    pub drain_time: Duration,
}

/// What leads to a worker's thread.
#[derive(Debug)]
struct Handle {
    stop: Arc<Stop>,
    changes: Arc<ArrayQueue<PortChange>>,
    thread: JoinHandle<()>,
}

/// The running workers.
#[derive(Debug)]
pub struct Workers {
    handles: Vec<Handle>,
    /// By worker.
    pub stats: Vec<Arc<WorkerStats>>,
    /// By worker.
    pub events: Vec<EventQueue>,
}

/// Where a running worker is told of changes to its ports.
#[derive(Clone, Debug)]
pub struct ChangeSender {
    changes: Arc<ArrayQueue<PortChange>>,
    stop: Arc<Stop>,
}

impl ChangeSender {
    /// Waits where the queue is full: the worker empties it at its next turn. One that has ended never does.
    pub fn send(&self, changes: impl IntoIterator<Item = PortChange>) {
        for mut change in changes {
            while let Err(back) = self.changes.push(change) {
                if self.stop.requested.load(Ordering::Acquire) {
                    return;
                }
                change = back;
                self.stop.bell.ring();
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        self.stop.bell.ring();
    }
}

impl Workers {
    /// To each worker.
    pub fn change_senders(&self) -> Vec<ChangeSender> {
        let sender = |handle: &Handle| {
            let (changes, stop) = (Arc::clone(&handle.changes), Arc::clone(&handle.stop));
            ChangeSender { changes, stop }
        };
        self.handles.iter().map(sender).collect()
    }

    /// Starts a worker for each shard. `reader` gives the bell of the egress thread that reads a shard; `ended` is
    /// called on a worker's thread when it ends, with the error if nobody told it to.
    ///
    /// # Errors
    /// When one of them cannot work; then all are stopped again.
    pub fn start(
        shards: Vec<ShardHandles>,
        reader: impl Fn(u16) -> Arc<Doorbell>,
        options: &WorkersOptions<'_>,
        ended: impl Fn(io::Result<()>) + Clone + Send + 'static,
    ) -> Result<Self, WorkersError> {
        let (started, starts) = channel();
        let mut workers = Self { handles: Vec::new(), stats: Vec::new(), events: Vec::new() };
        let shards_count = shards.len();
        let clients = Arc::new(Clients::new(limits::CLIENTS_COUNT_MAX, RandomState::new()));
        for (index, handles) in shards.into_iter().enumerate() {
            let stop = Arc::new(Stop { requested: AtomicBool::new(false), bell: Doorbell::new()? });
            let changes = Arc::new(ArrayQueue::new(2 * limits::PORTS_COUNT_MAX));
            let (stats, events) = (Arc::default(), EventQueue::new(options.events_count_max));
            workers.stats.push(Arc::clone(&stats));
            workers.events.push(events.clone());
            let setup = Setup {
                worker_index: index as u8,
                ports: options.listeners.ports(index),
                policy: Arc::clone(options.policy),
                memory_len_max: options.memory_len_max / shards_count,
                inline_len_max: options.inline_len_max,
                clients: Arc::clone(&clients),
                async_interval: options.async_interval,
                drain_time: options.drain_time,
                stats,
                events,
                stop: Arc::clone(&stop),
                changes: Arc::clone(&changes),
                visitors: Arc::clone(options.visitors),
            };
            let segments = ShardSegments { reader: reader(handles.shard), handles };
            let (core, started, ended) = (options.cores.get(index).copied(), started.clone(), ended.clone());
            let thread = Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || work(core, segments, setup, &started, ended))?;
            workers.handles.push(Handle { stop, changes, thread });
        }
        for result in starts.iter().take(shards_count) {
            if let Err(error) = result {
                workers.stop();
                return Err(error.into());
            }
        }
        Ok(workers)
    }

    /// Each worker's bell, by worker.
    pub fn stops(&self) -> impl Iterator<Item = Arc<Stop>> {
        self.handles.iter().map(|handle| Arc::clone(&handle.stop))
    }

    /// Tells every worker to drain and waits for them.
    pub fn stop(&mut self) {
        for Handle { stop, .. } in &self.handles {
            stop.requested.store(true, Ordering::Release);
            stop.bell.ring();
        }
        for handle in self.handles.drain(..) {
            if handle.thread.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
    }
}

/// A worker's thread: pinned, with a ring made on it, because a ring has one thread for life.
fn work(
    core: Option<usize>,
    segments: ShardSegments,
    setup: Setup,
    started: &Sender<Result<(), SetupError>>,
    ended: impl Fn(io::Result<()>),
) {
    if let Some(error) = core.and_then(|core| pin_to_core(core).err()) {
        tracing::warn!(%error, "a worker runs unpinned");
    }
    let ring = match Uring::new(Options::default()) {
        Ok(ring) => ring,
        Err(error) => return drop(started.send(Err(error))),
    };
    let mut worker = Worker::new(ring, segments, setup);
    drop(started.send(Ok(())));
    ended(worker.run());
}
