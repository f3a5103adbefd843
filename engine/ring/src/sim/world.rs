//! The simulated machine: descriptors, events in virtual time, and what becomes of each operation.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::time::Duration;

use super::descriptors::{Descriptors, Object};
use super::disk::File;
use super::network::Connection;
use super::operation::{Cancelled, Kind, Operation};
use super::{Random, Settings};
use crate::{Completion, Errno, Fd, Lent, Payload, Token};

/// Something that happens at its time.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// An operation tries to make progress.
    Attempt(u64),
    /// What the server sent arrives at a client.
    Arrival(usize),
}

/// When, behind how many others of that moment, and in which order scheduled.
pub(super) type Place = (Duration, u64, u64);

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) random: Random,
    pub(super) settings: Settings,
    pub(super) now: Duration,
    /// No turn goes beyond this moment.
    pub(super) stop_at: Option<Duration>,
    pub(super) descriptors: Descriptors,
    /// Connections that wait to be accepted, for each listener; `None` once it is closed.
    pub(super) listeners: Vec<Option<VecDeque<usize>>>,
    pub(super) connections: Vec<Connection>,
    /// In the order of their creation, with the numbers they had then.
    pub(super) files: Vec<(Fd, File)>,
    pub(super) bells: Vec<u64>,
    pub(super) queued: Vec<(Token, Fd, Kind)>,
    pub(super) operations: BTreeMap<u64, Operation>,
    pub(super) free_buffers: VecDeque<u16>,
    /// Every write fails so, if set.
    pub(super) write_error: Option<Errno>,
    pub(super) power_is_cut: bool,
    pub(super) ring_is_out: bool,
    events: BTreeMap<Place, Event>,
    sequence: u64,
    turned: Turned,
}

/// What a turn brings.
#[derive(Default)]
pub(super) struct Turned {
    pub(super) completions: Vec<Completion>,
    /// What the receive buffers lent in this turn hold, by their index.
    pub(super) fills: Vec<(u16, Vec<u8>)>,
}

impl World {
    pub(super) fn new(seed: u64, settings: Settings) -> Self {
        Self {
            seed,
            random: Random::new(seed),
            now: Duration::ZERO,
            stop_at: None,
            descriptors: Descriptors::default(),
            listeners: Vec::new(),
            connections: Vec::new(),
            files: Vec::new(),
            bells: Vec::new(),
            queued: Vec::new(),
            operations: BTreeMap::new(),
            free_buffers: (0..settings.buffers_count).collect(),
            write_error: None,
            power_is_cut: false,
            ring_is_out: false,
            events: BTreeMap::new(),
            sequence: 0,
            turned: Turned::default(),
            settings,
        }
    }

    /// Stops the test: the caller broke a rule of the ring.
    pub(super) fn misuse(&self, what: &str) -> ! {
        panic!("simulation, seed {}, at {:?}: {what}", self.seed, self.now);
    }

    /// The description and the index of an open bell.
    pub(super) fn bell(&self, fd: Fd) -> (usize, usize) {
        match self.descriptors.find(fd).map(|found| (found, self.descriptors.object(found))) {
            Some((description, Object::Bell(index))) => (description, index),
            _ => self.misuse(&format!("{fd:?} is no bell")),
        }
    }

    pub(super) fn file(&mut self, fd: Fd) -> &mut File {
        match self.descriptors.find(fd).map(|found| self.descriptors.object(found)) {
            Some(Object::File(file)) => &mut self.files[file].1,
            _ => self.misuse(&format!("{fd:?} is no open file")),
        }
    }

    // A turn.

    /// Submits what is queued and moves the clock until something completes, `timeout` is over, or nothing is left that
    /// could happen.
    pub(super) fn turn(&mut self, timeout: Option<Duration>) -> io::Result<Turned> {
        if self.power_is_cut {
            return Err(io::Error::other("the power is cut"));
        }
        for (token, fd, kind) in std::mem::take(&mut self.queued) {
            self.submit(token, fd, kind);
        }
        let time_out = timeout.map(|timeout| self.now + timeout);
        let deadline = time_out.into_iter().chain(self.stop_at).min().map(|deadline| deadline.max(self.now));
        let interrupted = self.random.chance(self.settings.faults.interrupt);
        loop {
            while let Some(entry) = self.events.first_entry().filter(|entry| entry.key().0 <= self.now) {
                match entry.remove() {
                    Event::Attempt(id) => self.attempt(id),
                    Event::Arrival(connection) => self.arrive(connection),
                }
            }
            if interrupted || !self.turned.completions.is_empty() {
                break;
            }
            match (self.events.keys().next(), deadline) {
                (Some(&(at, ..)), deadline) if deadline.is_none_or(|deadline| at <= deadline) => {
                    self.now = at
                }
                (_, Some(deadline)) => {
                    self.now = deadline;
                    break;
                }
                (_, None) => break,
            }
        }
        Ok(std::mem::take(&mut self.turned))
    }

    /// Nothing happens until a client, the owner of the test, or a timer of the caller acts.
    pub(super) fn is_idle(&self) -> bool {
        self.queued.is_empty() && self.events.is_empty()
    }

    /// Something happens at this very moment.
    pub(super) fn is_due(&self) -> bool {
        self.events.keys().next().is_some_and(|&(at, ..)| at <= self.now)
    }

    fn submit(&mut self, token: Token, fd: Fd, mut kind: Kind) {
        let found = self.descriptors.find(fd);
        self.refuse_misuse(fd, found, &kind);
        let id = self.next_sequence();
        let outcome = match kind {
            Kind::Cancel(target) => Some(self.cancel(target)),
            Kind::Close => self.close(fd),
            _ if found.is_none() => Some(Err(Errno::BAD_DESCRIPTOR)),
            Kind::CancelAll => found.map(|description| Ok(self.cancel_all(description))),
            _ => None,
        };
        let description = found.filter(|_| kind.holds_description());
        if let Some(description) = description {
            self.descriptors.retain(description);
        }
        if let (Kind::Sync { before }, Some(Object::File(file))) =
            (&mut kind, description.map(|description| self.descriptors.object(description)))
        {
            *before = self.files[file].1.writes_count();
        }
        let on_disk = kind.is_of_disk();
        let time = if on_disk { self.time(self.settings.write_time_max) } else { Duration::ZERO };
        let operation =
            Operation { token, fd, kind, description, scheduled: None, cancelled: Cancelled::No, outcome };
        self.operations.insert(id, operation);
        self.schedule(id, time);
        // The kernel tries at submission; only what is of the disk goes to its worker threads.
        let place = self.operations.get(&id).and_then(|operation| operation.scheduled);
        if !on_disk && place.is_some_and(|(at, behind, _)| at == self.now && behind == 0) {
            self.attempt(id);
        }
    }

    // Events.

    fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    pub(super) fn time(&mut self, max: Duration) -> Duration {
        Duration::from_nanos(self.random.below(max.as_nanos() as u64 + 1))
    }

    /// An attempt of this operation follows after `time`, or later by the faults' will. At most one is scheduled, which
    /// keeps the completions of one operation in order.
    pub(super) fn schedule(&mut self, id: u64, mut time: Duration) {
        let faults = self.settings.faults;
        if self.random.chance(faults.delay) {
            time += self.time(faults.delay_max);
        }
        let behind = if self.random.chance(faults.reorder) { self.random.below(1 << 32) } else { 0 };
        let place = (self.now + time, behind, self.next_sequence());
        if let Some(operation) = self.operations.get_mut(&id) {
            operation.scheduled = Some(place);
            self.events.insert(place, Event::Attempt(id));
        }
    }

    pub(super) fn unschedule(&mut self, place: Place) {
        self.events.remove(&place);
    }

    /// The description has changed: what waits for it tries again.
    pub(super) fn wake(&mut self, description: usize) {
        let waiting: Vec<u64> = self
            .operations
            .iter()
            .filter(|(_, operation)| {
                operation.description == Some(description) && operation.scheduled.is_none()
            })
            .map(|(id, _)| *id)
            .collect();
        waiting.into_iter().for_each(|id| self.schedule(id, Duration::ZERO));
    }

    /// The connection has changed: wakes its operations, and lets what was sent arrive.
    pub(super) fn touch(&mut self, connection: usize) {
        let changed = &mut self.connections[connection];
        let arrives = changed.arriving_len() > 0 && !changed.arriving;
        changed.arriving |= arrives;
        if let Some(description) = changed.description {
            self.wake(description);
        }
        if arrives {
            let at = self.now + self.time(self.settings.network_time_max);
            let place = (at, 0, self.next_sequence());
            self.events.insert(place, Event::Arrival(connection));
        }
    }

    fn arrive(&mut self, connection: usize) {
        let len = self.connections[connection].arriving_len();
        let len = self.part(len, self.settings.faults.short_arrival);
        let changed = &mut self.connections[connection];
        changed.arriving = false;
        changed.arrive(len);
        self.touch(connection);
    }

    /// All of `len`, or from one on with the given probability.
    pub(super) fn part(&mut self, len: usize, probability: f64) -> usize {
        if self.random.chance(probability) && len > 0 { self.random.len(1..=len) } else { len }
    }

    // Ends.

    /// One completion of an operation; the last if not `more`.
    pub(super) fn complete(&mut self, id: u64, result: Result<u32, Errno>, more: bool) {
        let Some(operation) = self.operations.get(&id) else { return };
        let token = operation.token;
        let mut payload = Payload::None;
        if !more && let Some(operation) = self.operations.remove(&id) {
            if let Kind::Close = operation.kind {
                self.descriptors.free(operation.fd);
            }
            if let Some(description) = operation.description {
                self.release(description);
            }
            payload = operation.kind.into_payload();
        }
        self.turned.completions.push(Completion { token, result, more, payload });
    }

    /// A completion of a `recv` that lends a buffer.
    pub(super) fn complete_received(&mut self, id: u64, buffer_index: u16, bytes: Vec<u8>, more: bool) {
        let len = bytes.len() as u32;
        self.turned.fills.push((buffer_index, bytes));
        self.complete(id, Ok(len), more);
        if let Some(completion) = self.turned.completions.last_mut() {
            completion.payload = Payload::Lent(Lent { buffer_index, len });
        }
    }

    /// Gives up one reference; the last one closes what it refers to.
    pub(super) fn release(&mut self, description: usize) {
        match self.descriptors.release(description) {
            Some(Object::Connection(connection)) => {
                self.connections[connection].release();
                self.touch(connection);
            }
            Some(Object::Listener(listener)) => {
                let waiting = self.listeners[listener].take().unwrap_or_default();
                waiting.into_iter().for_each(|connection| self.connections[connection].reset_by_server());
            }
            Some(Object::File(_) | Object::Bell(_)) | None => {}
        }
    }

    fn close(&mut self, fd: Fd) -> Option<Result<u32, Errno>> {
        let description = self.descriptors.close(fd)?;
        self.release(description);
        Some(Ok(0))
    }

    /// The ring is gone, as when its thread ends: nothing that it had in flight goes on.
    pub(super) fn drop_ring(&mut self) {
        self.queued.clear();
        self.events.retain(|_, event| matches!(event, Event::Arrival(_)));
        for (_, operation) in std::mem::take(&mut self.operations) {
            if let Kind::Close = operation.kind {
                self.descriptors.free(operation.fd);
            }
            if let Some(description) = operation.description {
                self.release(description);
            }
        }
        self.free_buffers = (0..self.settings.buffers_count).collect();
        self.ring_is_out = false;
    }
}
