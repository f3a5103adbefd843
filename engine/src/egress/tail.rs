//! The tail of one shard: follows its segments, delivers what is committed, acknowledges what is delivered.
//!
//! A turn reads as long as there is room ([`Tail::has_room`]); each record becomes a [`Job`] that runs by itself. A job
//! that is through waits for the next [`Flush`], which makes many durable and acknowledges them at once. A job of which
//! something failed waits in memory for its next attempt, its record stays in the spool. What a restart forgets is how
//! often an attempt was made and which of a message's copies were delivered already.

use std::fs::File as StdFile;
use std::io;
use std::os::fd::AsFd as _;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ringmx_ring::Doorbell;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_uring::fs::File;

use super::flush::{Flush, Flushed};
use super::job::{Job, Ticket};
use super::report::Report;
use super::segments::{Segments, note_unreadable};
use super::stats::EgressStats;
use super::waiting::{Waiting, retry_wait};
use crate::config::Config;
use crate::spool::commit::Place;
use crate::store::{ShardFeed, read_record};

/// Messages being written at the same time: enough for their syncs to share the file system's commits.
const DELIVERIES_COUNT_MAX: usize = 64;
/// Of those, second and later attempts: a dead disk behind one route must not take all places.
const RETRIES_COUNT_MAX: usize = DELIVERIES_COUNT_MAX / 2;
/// Octets of content held for deliveries. One message more may be held, of whatever length.
const CONTENT_LEN_MAX: usize = 64 << 20;
/// Messages written and not yet acknowledged.
const FINISHED_COUNT_MAX: usize = 1024;
/// Messages that wait for another attempt; beyond it the tail reads no further.
pub(super) const WAITING_COUNT_MAX: usize = 10_000;
/// Longest sleep without a look at the segments, should a bell not have rung.
const IDLE_WAIT: Duration = Duration::from_secs(1);
/// How long deliveries under way may take to end after a stop.
pub(super) const STOP_WAIT: Duration = Duration::from_secs(10);

/// What a tail is made of; it goes to its thread like this.
#[derive(Debug)]
pub(super) struct TailParts {
    pub feed: ShardFeed,
    pub config: Arc<Config>,
    pub bell: Arc<Doorbell>,
    pub stats: Arc<EgressStats>,
    pub stopping: Arc<AtomicBool>,
}

pub(super) struct Tail {
    pub(super) config: Arc<Config>,
    bell: Arc<Doorbell>,
    /// Told by [`listen`] when the bell has rung.
    rung: Rc<Notify>,
    pub(super) stats: Arc<EgressStats>,
    stopping: Arc<AtomicBool>,
    pub(super) segments: Segments,
    pub(super) report: Report,
    pub(super) waiting: Waiting,
    tasks: JoinSet<Event>,
    deliveries_count: usize,
    retries_count: usize,
    content_len: usize,
    /// Written, waiting for the next flush.
    finished: Vec<Job>,
    /// Jobs in the flush under way.
    pub(super) flushing: Option<usize>,
    /// Acknowledgements could not be written: not before then are they written again, and nothing is read meanwhile.
    pub(super) acks_at: Option<Instant>,
    /// Reused for records that are read again.
    record_buffer: Vec<u8>,
}

/// What a task ends with.
enum Event {
    Delivered { job: Box<Job>, content_len: usize },
    Flushed(Flushed),
}

impl Tail {
    /// Within the runtime of its thread.
    pub(super) fn new(parts: TailParts) -> io::Result<Self> {
        let TailParts { feed, config, bell, stats, stopping } = parts;
        let rung = Rc::new(Notify::new());
        let eventfd = StdFile::from(bell.as_fd().try_clone_to_owned()?);
        tokio_uring::spawn(listen(File::from_std(eventfd), Rc::clone(&rung)));
        Ok(Self {
            config,
            bell,
            rung,
            stats,
            stopping,
            segments: Segments::new(feed),
            report: Report::default(),
            waiting: Waiting::default(),
            tasks: JoinSet::new(),
            deliveries_count: 0,
            retries_count: 0,
            content_len: 0,
            finished: Vec::new(),
            flushing: None,
            acks_at: None,
            record_buffer: Vec::new(),
        })
    }

    /// Until a stop, and then until what is under way has ended or [`STOP_WAIT`] is over.
    pub(super) async fn run(mut self) {
        while !self.stopping.load(Ordering::Acquire) {
            self.turn();
            if self.has_room() {
                // A worker that saw nobody wait has made its work visible before this second look.
                self.bell.will_wait();
                self.turn();
            }
            self.wait(Instant::now() + IDLE_WAIT).await;
            self.bell.awake();
        }
        let give_up_at = Instant::now() + STOP_WAIT;
        loop {
            self.start_flush();
            if self.tasks.is_empty() || Instant::now() >= give_up_at {
                break;
            }
            self.wait(give_up_at).await;
        }
        self.segments.retire();
        let unfinished_count = self.deliveries_count + self.finished.len() + self.flushing.unwrap_or(0);
        if unfinished_count > 0 {
            let shard = self.stats.shard;
            tracing::warn!(
                shard,
                unfinished_count,
                "stopped before all deliveries ended; the next start repeats them"
            );
        }
    }

    /// Starts what can be started.
    fn turn(&mut self) {
        self.segments.admit(&mut self.report);
        self.start_retries();
        self.start_fresh();
        self.start_flush();
        self.segments.retire();
        let in_flight_count = self.deliveries_count + self.finished.len() + self.flushing.unwrap_or(0);
        self.stats.in_flight_now.set(in_flight_count as u64);
        self.stats.waiting_now.set(self.waiting.len() as u64);
        self.stats.segments_now.set(self.segments.count() as u64);
    }

    /// Whether another record may be read.
    fn has_room(&self) -> bool {
        self.acks_at.is_none()
            && self.deliveries_count < DELIVERIES_COUNT_MAX
            && self.content_len < CONTENT_LEN_MAX
            && self.finished.len() + self.flushing.unwrap_or(0) < FINISHED_COUNT_MAX
            && self.waiting.len() < WAITING_COUNT_MAX
    }

    fn has_room_for_retry(&self) -> bool {
        self.retries_count < RETRIES_COUNT_MAX
            && self.deliveries_count < DELIVERIES_COUNT_MAX
            && self.content_len < CONTENT_LEN_MAX
    }

    fn start_fresh(&mut self) {
        while self.has_room() {
            let config = &self.config;
            let job = self.segments.next(&mut self.report, &self.stats, |segment, record| {
                Job::new(Ticket::new(segment, record), record, config)
            });
            let Some(job) = job else { return };
            self.start(job);
        }
    }

    fn start_retries(&mut self) {
        let now = Instant::now();
        while self.has_room_for_retry() {
            let Some(ticket) = self.waiting.pop_due(now) else { return };
            let place = Place { epoch: ticket.segment.epoch, offset: ticket.offset };
            let segment = Arc::clone(&ticket.segment);
            match read_record(&segment, place, &mut self.record_buffer) {
                Ok(Some(record)) => {
                    let job = Job::new(ticket, &record, &self.config);
                    self.start(job);
                }
                Ok(None) => {
                    segment.mark_damaged();
                    self.stats.damages.bump();
                    self.stats.kept.bump();
                    self.segments.keep(segment.epoch);
                    let (path, offset) = (segment.path.display(), place.offset);
                    tracing::error!(
                        %path, offset, id = %ticket.meta.id,
                        "a message was readable and is no more; `ringmx spool verify` lists the damage"
                    );
                }
                Err(error) => {
                    note_unreadable(&segment, &error, &mut self.report);
                    self.waiting.push(now + retry_wait(&[], 1), ticket);
                }
            }
            self.record_buffer.truncate(0);
            self.record_buffer.shrink_to(1 << 20);
        }
    }

    fn start(&mut self, job: Job) {
        if job.copies.is_empty() {
            self.finished.push(job);
            return;
        }
        self.deliveries_count += 1;
        self.retries_count += usize::from(job.ticket.failures_count > 0);
        let content_len = job.content.len();
        self.content_len += content_len;
        let config = Arc::clone(&self.config);
        self.tasks.spawn_local(async move {
            let job = Box::new(job.deliver(&config.hostname).await);
            Event::Delivered { job, content_len }
        });
    }

    /// Starts a flush for all that is finished, unless one is under way: the end of that one starts the next.
    fn start_flush(&mut self) {
        let again = self.acks_at.is_some_and(|acks_at| Instant::now() >= acks_at);
        if self.flushing.is_some() || (self.finished.is_empty() && !again) {
            return;
        }
        let jobs = std::mem::take(&mut self.finished);
        let mut writers = self.segments.lend_unwritten_acks();
        for job in &jobs {
            let epoch = job.ticket.segment.epoch;
            writers.extend(self.segments.lend_acks(epoch).map(|writer| (epoch, writer)));
        }
        self.flushing = Some(jobs.len());
        self.stats.flushes.bump();
        self.tasks.spawn_local(async { Event::Flushed(Flush { jobs, writers }.run().await) });
    }

    /// Until something has happened: a task has ended, the bell has rung, an attempt is due, or it is `until`.
    async fn wait(&mut self, until: Instant) {
        // Without room the end of a delivery wakes, not the clock: it would wake for ever.
        let due_at = self.waiting.next_due_at().filter(|_| self.has_room_for_retry());
        let wake_at = due_at.map_or(until, |due_at| due_at.min(until));
        tokio::select! {
            biased;
            Some(event) = self.tasks.join_next(), if !self.tasks.is_empty() => self.on_event(ended(event)),
            () = self.rung.notified() => {}
            () = tokio::time::sleep_until(wake_at) => {}
        }
        while let Some(event) = self.tasks.try_join_next() {
            self.on_event(ended(event));
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Delivered { job, content_len } => {
                self.deliveries_count -= 1;
                self.retries_count -= usize::from(job.ticket.failures_count > 0);
                self.content_len -= content_len;
                self.finished.push(*job);
            }
            Event::Flushed(flushed) => self.on_flushed(flushed),
        }
    }
}

/// Passes on what the bell rings, until the runtime ends. One read that always waits: this runtime cannot cancel one.
async fn listen(eventfd: File, rung: Rc<Notify>) {
    let mut buffer = vec![0; 8];
    loop {
        let (read, back) = eventfd.read_at(buffer, 0).await;
        buffer = back;
        if let Err(error) = read {
            tracing::error!(%error, "a delivery thread cannot be woken; it looks for mail once a second");
            return;
        }
        rung.notify_one();
    }
}

fn ended(event: Result<Event, tokio::task::JoinError>) -> Event {
    event.expect("a delivery does not panic and is not cancelled")
}
