//! The tail of one shard: follows its segments, delivers what is committed, acknowledges what is delivered.
//!
//! A turn reads as long as there is room ([`Tail::has_room`]); each record becomes a [`Job`] that runs by itself. A job
//! that is through waits for the next [`super::flush::Flush`], which makes many durable, copies to the deferred mail
//! what was not delivered, and acknowledges them at once. [`DeferredMail`] knows when those are due again.

use std::collections::VecDeque;
use std::fs::File as StdFile;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ringmx_ring::Doorbell;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_uring::fs::File;

use super::Routing;
use super::deferred::DeferredMail;
use super::events::Events;
use super::flush::{Flushed, unix_us};
use super::job::{Job, Origin, Ticket};
use super::moves::{Move, Sources};
use super::orders::Inbox;
use super::relay::Hops;
use super::report::{Report, Topic};
use super::room::{Load, Room};
use super::segments::{Segments, note_unreadable};
use super::stalled::Stalled;
use super::stats::EgressStats;
use crate::config::Config;
use crate::limits::DELIVERY_STOP_TIME_MAX;
use crate::logging::batched;
use crate::protocol::deferral::Deferral;
use crate::spool::index::Handle;
use crate::store::{FormerMail, Segment, ShardFeed, read_backlog, read_record};

/// Between two tries to read a deferred message, or all of them.
const READ_INTERVAL: Duration = Duration::from_secs(1);
/// Where mail has just come more comes soon: it is looked for after this time, not told of. A bell for each commit
/// costs the worker and this thread more than the mail itself, and has them share a core.
const GATHER_INTERVAL: Duration = Duration::from_millis(1);
/// Between two looks at the segments at most, should a bell not have rung.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);

/// What a tail is made of; it goes to its thread like this.
#[derive(Debug)]
pub(super) struct TailParts {
    pub feed: ShardFeed,
    pub routing: Arc<Routing>,
    pub bell: Arc<Doorbell>,
    pub stats: Arc<EgressStats>,
    pub stopping: Arc<AtomicBool>,
    pub inbox: Inbox,
    pub events: Option<Arc<Events>>,
}

pub(super) struct Tail {
    /// Where the newest configuration is found.
    routing: Arc<Routing>,
    /// What new attempts go by.
    pub(super) config: Arc<Config>,
    bell: Arc<Doorbell>,
    /// Told by [`listen`] when the bell has rung.
    rung: Rc<Notify>,
    pub(super) stats: Arc<EgressStats>,
    stopping: Arc<AtomicBool>,
    /// What an operator wants done.
    pub(super) inbox: Inbox,
    pub(super) events: Option<Arc<Events>>,
    pub(super) segments: Segments,
    /// Of the shard.
    directory: Arc<Path>,
    /// Files of large messages that are settled, by the epoch in which their acknowledgement is not durable yet.
    pub(super) settled_content: Vec<(u64, u32)>,
    /// Files of messages that were deferred and are delivered now: see [`Tail::give_content_back`].
    pub(super) idle_content: Vec<u32>,
    pub(super) report: Report,
    pub(super) deferred: DeferredMail,
    /// Deferred segments of former runs that were not read yet.
    unread: Vec<Arc<Segment>>,
    /// When to read them.
    read_at: Option<Instant>,
    pub(super) tasks: JoinSet<Event>,
    room: Room,
    pub(super) hops: Rc<Hops>,
    stalled: Stalled,
    /// Tried, waiting for the next flush.
    pub(super) finished: VecDeque<Box<Job>>,
    /// What a flush could not write to the log of deferred mail, and when to write it again.
    pub(super) unmoved: Vec<Move>,
    pub(super) log_rests_until: Option<Instant>,
    /// Since when that fails.
    pub(super) log_failed_at: Option<Instant>,
    /// Jobs in the flush under way.
    pub(super) flushing: Option<usize>,
    /// When the last flush was started.
    pub(super) flushed_at: Option<Instant>,
    /// Acknowledgements could not be written: not before then are they written again, and nothing is read meanwhile.
    pub(super) acks_at: Option<Instant>,
    /// Reused for records that are read again.
    record_buffer: Vec<u8>,
}

/// What a task ends with.
pub(super) enum Event {
    Delivered { job: Box<Job>, load: Load },
    Flushed(Flushed),
    BacklogRead { segments: Vec<Arc<Segment>>, outcome: io::Result<FormerMail> },
}

impl Tail {
    /// Within the runtime of its thread.
    pub(super) fn new(parts: TailParts, hops: &Rc<Hops>) -> io::Result<Self> {
        let TailParts { feed, routing, bell, stats, stopping, inbox, events } = parts;
        let rung = Rc::new(Notify::new());
        let ear = StdFile::from(bell.as_fd().try_clone_to_owned()?);
        tokio_uring::spawn(listen(File::from_std(ear), Rc::clone(&rung)));
        let ShardFeed { directory, recovered, deferred: unread, former_content, log, incoming, done, .. } =
            feed;
        Ok(Self {
            config: routing.load_full(),
            routing,
            bell,
            rung,
            stats,
            stopping,
            inbox,
            events,
            deferred: DeferredMail::new(log, &unread, done.clone(), unix_us() / 1000),
            segments: Segments::new(recovered, former_content, incoming, done),
            directory,
            settled_content: Vec::new(),
            idle_content: Vec::new(),
            report: Report::default(),
            unread,
            read_at: Some(Instant::now()),
            tasks: JoinSet::new(),
            room: Room::default(),
            hops: Rc::clone(hops),
            stalled: Stalled::default(),
            finished: VecDeque::new(),
            unmoved: Vec::new(),
            log_rests_until: None,
            log_failed_at: None,
            flushing: None,
            flushed_at: None,
            acks_at: None,
            record_buffer: Vec::new(),
        })
    }

    /// Until a stop, and then until what is under way has ended or [`DELIVERY_STOP_TIME_MAX`] is over.
    pub(super) async fn run(mut self) {
        while !self.is_stopping() {
            let mail_came = self.turn();
            let pause = if mail_came { GATHER_INTERVAL } else { IDLE_INTERVAL };
            if !mail_came && self.has_room() {
                // A worker that saw nobody wait has made its work visible before this second look.
                self.bell.will_wait();
                self.turn();
            }
            self.wait(Instant::now() + pause).await;
            self.bell.awake();
        }
        let give_up_at = Instant::now() + DELIVERY_STOP_TIME_MAX;
        loop {
            self.start_flush();
            if self.tasks.is_empty() || Instant::now() >= give_up_at {
                break;
            }
            self.wait(give_up_at).await;
        }
        self.segments.retire();
        let unfinished_count = self.in_flight_count();
        if unfinished_count > 0 {
            let shard = self.stats.shard;
            tracing::warn!(
                shard,
                unfinished_count,
                "stopped before all deliveries ended; the next start repeats them"
            );
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Starts what can be started. Whether there was fresh mail.
    fn turn(&mut self) -> bool {
        self.reconfigure();
        self.unload_deferred();
        self.start_reading_backlog();
        self.segments.admit(&mut self.report);
        self.take_orders();
        self.start_retries();
        let mail_came = self.start_fresh();
        self.start_flush();
        self.segments.retire();
        self.give_content_back();
        self.hops.reap();
        let stats = &self.stats;
        let (deferred_count, waiting_count) = self.deferred.counts();
        let (deferred_segments_count, live_len) = self.deferred.usage();
        stats.in_flight_now.set(self.in_flight_count() as u64);
        stats.waiting_now.set(waiting_count as u64);
        stats.deferred_now.set(deferred_count as u64);
        stats.deferred_octets_now.set(live_len);
        stats.deferred_segments_now.set(deferred_segments_count as u64);
        stats.segments_now.set(self.segments.count() as u64);
        mail_came
    }

    /// What is under way goes on as it was planned. Held mail is looked at again.
    fn reconfigure(&mut self) {
        let newest = self.routing.load();
        if !Arc::ptr_eq(&newest, &self.config) {
            self.config = Arc::clone(&newest);
            self.deferred.read_again();
            // A place at a next hop as it was may not come for long.
            for (mut job, hop) in self.stalled.take_outdated(&newest) {
                job.put_off(&hop);
                self.tell_and_finish(job);
            }
        }
    }

    fn in_flight_count(&self) -> usize {
        self.room.count() + self.stalled.len() + self.finished_count()
    }

    /// Tried, and neither acknowledged nor deferred yet.
    fn finished_count(&self) -> usize {
        self.finished.len() + self.flushing.unwrap_or(0) + self.unmoved.len()
    }

    /// Whether another record may be read.
    fn has_room(&self) -> bool {
        self.acks_at.is_none() && self.room.is_left(self.finished_count())
    }

    fn has_room_for_retry(&self) -> bool {
        self.room.is_left_for_retry(self.finished_count())
    }

    /// Whether there was any.
    fn start_fresh(&mut self) -> bool {
        while self.has_room()
            && let Some(job) = self.stalled.pop()
        {
            self.start(job);
        }
        let (now, mut came) = (Instant::now(), false);
        while self.has_room() && self.stalled.lets_read(now) {
            let (config, hops, directory) = (&self.config, &self.hops, &self.directory);
            let job = self.segments.next(&mut self.report, &self.stats, |segment, record| {
                let ticket = Ticket::fresh(segment, record);
                Job::new(ticket, record.envelope, record, config, hops, directory, None)
            });
            let Some(mut job) = job else { break };
            came = true;
            match job.full_hop() {
                None => {
                    self.stalled.note_other(now);
                    self.start(job);
                }
                Some(hop) if self.stalled.has_room() => self.stalled.push(job, &hop),
                Some(hop) => {
                    job.put_off(&hop);
                    self.tell_and_finish(job);
                }
            }
        }
        came
    }

    fn start_retries(&mut self) {
        let now_unix_ms = unix_us() / 1000;
        while !self.deferred.wants_reload() && self.has_room_for_retry() {
            let Some(handle) = self.deferred.pop_due(now_unix_ms) else { return };
            let Some(sources) = self.deferred.sources(handle) else { continue };
            let wait_ms = u64::try_from(READ_INTERVAL.as_millis()).unwrap_or(u64::MAX);
            match self.read_deferred(handle, &sources) {
                Ok(Some(job)) => match job.full_hop() {
                    Some(hop) => self.deferred.schedule(handle, hop.next_look(now_unix_ms)),
                    None => {
                        self.deferred.forget_order(handle);
                        self.start(job);
                    }
                },
                // A flush may be moving it.
                Ok(None) if self.flushing.is_some() || !self.deferred.is_settled() => {
                    self.deferred.schedule(handle, now_unix_ms.saturating_add(wait_ms));
                }
                Ok(None) => {
                    self.note_lost(&sources);
                    self.deferred.remove(handle);
                }
                Err(error) => {
                    note_unreadable(&sources.message.segment, &error, &mut self.report);
                    self.deferred.schedule(handle, now_unix_ms.saturating_add(wait_ms));
                }
            }
            self.record_buffer.truncate(0);
            self.record_buffer.shrink_to(1 << 20);
        }
    }

    /// `None` when it is not readable any more.
    fn read_deferred(&mut self, handle: Handle, sources: &Sources) -> io::Result<Option<Box<Job>>> {
        let Sources { message, update } = sources;
        let buffer = &mut self.record_buffer;
        let mut envelope = Vec::new();
        if let Some(update) = update {
            let Some(record) = read_record(&update.segment, update.place(), buffer)? else { return Ok(None) };
            envelope.extend_from_slice(record.envelope);
        }
        let Some(record) = read_record(&message.segment, message.place(), buffer)? else { return Ok(None) };
        let envelope = if update.is_some() { &envelope[..] } else { record.envelope };
        let deferral = Deferral::read(envelope).unwrap_or_default();
        let ticket = Ticket { origin: Origin::Deferred(handle), meta: record.meta, deferral: Some(deferral) };
        let order = self.deferred.order_for(handle, ticket.meta.id);
        let (config, hops, directory) = (&self.config, &self.hops, &self.directory);
        Ok(Some(Job::new(ticket, envelope, &record, config, hops, directory, order)))
    }

    /// A record that was readable once is no more.
    pub(super) fn note_lost(&self, sources: &Sources) {
        let records = [Some(&sources.message), sources.update.as_ref()];
        for source in records.into_iter().flatten() {
            source.segment.mark_damaged();
        }
        self.stats.damages.bump();
        let (path, offset) = (sources.message.segment.path.display(), sources.message.offset);
        tracing::error!(
            %path, offset,
            "a message was readable and is no more; `ringmx spool verify` lists the damage"
        );
    }

    /// Makes the index of deferred mail anew when it is to be, and no retry is under way.
    fn unload_deferred(&mut self) {
        let is_quiet = self.flushing.is_none()
            && self.room.retries_count() == 0
            && self.unmoved.is_empty()
            && self.deferred.is_settled()
            && !self.finished.iter().any(|job| job.ticket.is_retry());
        if is_quiet && self.read_at.is_none() && self.deferred.wants_reload() {
            (self.unread, self.read_at) = (self.deferred.unload(), Some(Instant::now()));
        }
    }

    /// Reads what former runs have deferred, beside everything else but their own undelivered mail.
    fn start_reading_backlog(&mut self) {
        if self.read_at.is_none_or(|read_at| Instant::now() < read_at) {
            return;
        }
        self.read_at = None;
        let segments = std::mem::take(&mut self.unread);
        if segments.is_empty() {
            self.segments.release_recovered(Vec::new());
            return;
        }
        let slots = self.deferred.slots();
        self.tasks.spawn_local(async move {
            let reading = tokio::task::spawn_blocking(move || {
                let outcome = read_backlog(&segments, slots);
                (segments, outcome)
            });
            let (segments, outcome) = reading.await.expect("reading the spool does not panic");
            Event::BacklogRead { segments, outcome }
        });
    }

    fn on_backlog_read(&mut self, segments: Vec<Arc<Segment>>, outcome: io::Result<FormerMail>) {
        let FormerMail { mut summary, unreadable, content_files } = match outcome {
            Ok(read) => read,
            Err(error) => {
                let shard = self.stats.shard;
                self.report.problem(Topic::Spool, |suppressed_count| {
                    tracing::error!(
                        shard, %error, suppressed_count,
                        "cannot read or write the acknowledgements of deferred mail; it waits, and so does all other \
                         mail of former runs"
                    );
                });
                (self.unread, self.read_at) = (segments, Some(Instant::now() + READ_INTERVAL));
                return;
            }
        };
        for (index, error) in &unreadable {
            note_unreadable(&segments[*index], error, &mut self.report);
        }
        let has_damage = !unreadable.is_empty() || segments.iter().any(|segment| segment.is_unsound());
        self.segments.note_content(&content_files, has_damage);
        let unreadable: Vec<usize> = unreadable.into_iter().map(|(index, _)| index).collect();
        let copied = std::mem::take(&mut summary.copied);
        self.deferred.load(segments, summary, &unreadable);
        self.segments.release_recovered(copied);
        let (count, _) = self.deferred.counts();
        if count > 0 {
            tracing::info!(shard = self.stats.shard, count, "deferred mail of former runs is known");
        }
        self.deferred.retire(self.segments.recovered_is_settled());
    }

    fn start(&mut self, mut job: Box<Job>) {
        if job.is_idle() {
            self.tell_and_finish(job);
            return;
        }
        self.tell_accepted(&job);
        let relays = !job.failed.is_empty() || job.hops().next().is_some();
        let load = Load { relays, is_retry: job.ticket.is_retry(), content_len: job.content.len() };
        self.room.begin(load);
        job.take_places();
        let hops = Rc::clone(&self.hops);
        self.tasks.spawn_local(async move {
            let job = job.deliver(hops).await;
            Event::Delivered { job, load }
        });
    }

    fn tell_accepted(&self, job: &Job) {
        if let Some(events) = self.events.as_ref().filter(|_| !job.ticket.is_retry()) {
            events.tell_accepted(job);
        }
    }

    /// Nothing is to be carried anywhere now.
    fn tell_and_finish(&mut self, job: Box<Job>) {
        self.tell_accepted(&job);
        self.finished.push_back(job);
    }

    /// Until something has happened: a task has ended, the bell has rung, an attempt is due, or it is `until`.
    async fn wait(&mut self, until: Instant) {
        // Without room the end of a delivery wakes, not the clock: it would wake for ever.
        let due_unix_ms = self.deferred.next_due().filter(|_| self.has_room_for_retry());
        let due_at = due_unix_ms.map(|due| {
            Instant::now() + Duration::from_millis(due.saturating_add(1).saturating_sub(unix_us() / 1000))
        });
        let log_at = self.log_rests_until.filter(|_| self.flushing.is_none());
        let now = Instant::now();
        let flush_at = self.next_flush_at().filter(|&at| self.flushing.is_none() && at > now);
        let free_at = self.stalled.free_at().filter(|_| self.has_room());
        let wake_at = [due_at, log_at, flush_at, free_at].into_iter().flatten().fold(until, Instant::min);
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
            Event::Delivered { job, load } => {
                self.room.end(load);
                self.finished.push_back(job);
            }
            Event::Flushed(flushed) => batched(|| self.on_flushed(flushed)),
            Event::BacklogRead { segments, outcome } => self.on_backlog_read(segments, outcome),
        }
    }
}

/// Passes on what the bell rings, until the runtime ends. One read that always waits: this runtime cannot cancel one.
async fn listen(ear: File, rung: Rc<Notify>) {
    let mut buffer = vec![0; 8];
    loop {
        let (read, back) = ear.read_at(buffer, 0).await;
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
