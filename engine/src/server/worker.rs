//! One worker: a ring, its listeners, its connections and its shard of the spool, on one thread. A turn is
//!
//! 1. submit and wait: one system call (`Ring::turn`),
//! 2. handle every completion (`dispatch`), then every deadline, then some handshakes,
//! 3. start a commit for all messages that ended in this turn,
//! 4. one send for each connection that has something to say.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use ringmx_ring::{AcceptMode, Completion, Doorbell, Fd, Key, Payload, Ring, Slab, Wheel};

use crate::config::Durability;
use crate::event::{Event, EventQueue, Kind};
use crate::id::{SessionId, SessionIds};
use crate::limits;
use crate::policy::clients::Clients;
use crate::server::connection::{Connection, Reason};
use crate::server::journal::{Journal, Segments, key_of};
use crate::server::op::{ConnectionOp, Op};
use crate::server::policies::{Policies, Published};
use crate::server::ports::{PortChange, Use};
use crate::server::visitors::{PortId, Visit, Visitors};
use crate::session::{Error, Pool, Service, Session};
use crate::spool::commit::{FlightId, Ticket};
use crate::stats::{LINES_LEN, WorkerStats};
use crate::time::Now;
use crate::tls::Acceptor;

/// A listening socket of one worker and what is offered there. It never changes: what is offered anew is another port,
/// perhaps with the same socket, so that sessions keep what they began with.
#[derive(Clone, Debug)]
pub struct Port {
    pub id: PortId,
    pub fd: Fd,
    pub mode: AcceptMode,
    pub service: Arc<Service>,
    /// None where there is no TLS.
    pub tls: Option<Arc<Acceptor>>,
    /// Connections that the worker holds open here; beyond it, 421.
    pub connections_max: usize,
    /// What a 250 promises here.
    pub durability: Durability,
}

/// How a worker is told to stop: set the flag, then ring the bell.
#[derive(Debug)]
pub struct Stop {
    pub requested: AtomicBool,
    pub bell: Doorbell,
}

const _: () = assert!(align_of::<Stop>() >= LINES_LEN);

/// What a worker is made of besides its ring and its segments.
#[derive(Debug)]
pub struct Setup {
    /// Also the number of its shard.
    pub worker_index: u8,
    pub ports: Vec<Port>,
    /// Where the newest is found.
    pub policy: Arc<Published>,
    /// Octets of envelopes and content that its sessions may hold in memory together.
    pub memory_len_max: usize,
    /// Octets of content, trace field included, from which on it goes to a file.
    pub inline_len_max: usize,
    /// What clients do, over all workers.
    pub clients: Arc<Clients>,
    /// How long a message of a listener with `durability = "async"` may wait for its sync.
    pub async_interval: Duration,
    /// How long sessions may go on once the server stops.
    pub drain_time: Duration,
    pub stats: Arc<WorkerStats>,
    pub events: EventQueue,
    pub stop: Arc<Stop>,
    /// Looked at when the bell of `stop` rings.
    pub changes: Arc<ArrayQueue<PortChange>>,
    pub visitors: Arc<Visitors>,
}

/// Somebody to ask whether they are due.
#[derive(Clone, Copy, Debug)]
pub(super) enum Due {
    Connection(Key),
    Listener(u32),
}

pub struct Worker<R: Ring, S: Segments> {
    pub(super) ring: R,
    pub(super) journal: Journal<S>,
    pub(super) pool: Pool,
    pub(super) ports: Vec<Port>,
    pub(super) policies: Policies,
    pub(super) connections: Slab<Connection<S::File>>,
    /// By port.
    pub(super) uses: Vec<Use>,
    ids: SessionIds,
    pub(super) stats: Arc<WorkerStats>,
    stop: Arc<Stop>,
    changes: Arc<ArrayQueue<PortChange>>,
    visitors: Arc<Visitors>,
    async_interval: Duration,
    /// When the messages that were answered without a sync get one. Not in the wheel, which may be late.
    sync_at: Option<Duration>,
    drain_time: Duration,
    /// Set when the stop was seen: what is still open then is ended.
    pub(super) drain_until: Option<Duration>,
    pub(super) now: Now,
    pub(super) wheel: Wheel<Due>,
    due: Vec<Due>,
    completions: Vec<Completion>,
    /// Connections whose handshake can go on, in the order in which it could.
    pub(super) handshakes: VecDeque<Key>,
    /// Where records are decrypted to.
    pub(super) plain: Vec<u8>,
    /// Connections with something to send this turn.
    pub(super) touched: Vec<Key>,
    /// Sessions that wait for a file, and since when; the longest first.
    pub(super) awaiting_files: VecDeque<(Key, Duration)>,
    /// Empty buffers of former sends and parked input.
    pub(super) spare: Vec<Vec<u8>>,
    /// Octets of parked input of all connections.
    pub(super) parked_len: usize,
}

impl<R: Ring, S: Segments> Worker<R, S> {
    pub fn new(mut ring: R, segments: S, setup: Setup) -> Self {
        let Setup { worker_index, ports, memory_len_max, inline_len_max, clients, async_interval, .. } =
            setup;
        let Setup { policy, drain_time, stats, events, stop, changes, visitors, .. } = setup;
        let clock = ring.clock();
        let shard = u16::from(worker_index);
        let connections_max: usize = ports.iter().map(|port| port.connections_max).sum();
        let uses = ports.iter().map(|_| Use::default()).collect();
        let mut pool = Pool::new(Arc::clone(&stats), events.clone(), memory_len_max, inline_len_max);
        pool.clients = clients;
        let policies = Policies::new(policy, &mut pool.live);
        stats.policy_generation_now.set(policies.newest().into());
        let mut worker = Self {
            ring,
            journal: Journal::new(shard, segments, Arc::clone(&stats), events),
            pool,
            ports,
            policies,
            // With address space for ports that come later.
            connections: Slab::new(
                connections_max.max(limits::CONNECTIONS_COUNT_LEAST) + limits::SHED_CONNECTIONS_COUNT_MAX,
            ),
            uses,
            ids: SessionIds::new(worker_index),
            stats,
            stop,
            changes,
            visitors,
            async_interval,
            sync_at: None,
            drain_time,
            drain_until: None,
            now: Now { monotonic: clock.monotonic, unix: clock.unix },
            wheel: Wheel::new(clock.monotonic),
            due: Vec::new(),
            completions: Vec::new(),
            handshakes: VecDeque::new(),
            plain: Vec::new(),
            touched: Vec::new(),
            awaiting_files: VecDeque::new(),
            spare: Vec::new(),
            parked_len: 0,
        };
        (0..worker.ports.len()).for_each(|index| worker.accept(index as u32));
        worker.await_wake();
        worker
    }

    /// Works until told to stop and drained.
    pub fn run(&mut self) -> io::Result<()> {
        while !self.is_drained() {
            self.turn()?;
        }
        self.journal.finish();
        Ok(())
    }

    /// Told to stop, and nothing is left to do.
    pub fn is_drained(&self) -> bool {
        self.drain_until.is_some() && self.connections.is_empty() && self.journal.is_idle()
    }

    pub fn turn(&mut self) -> io::Result<()> {
        let mut completions = std::mem::take(&mut self.completions);
        self.ring.turn(self.wait_max(), &mut completions)?;
        let clock = self.ring.clock();
        self.now = Now { monotonic: clock.monotonic, unix: clock.unix };
        self.pool.storage_error = self.journal.error();
        if self.policies.refresh(&mut self.pool.live) {
            // Whoever waits for it may say from now on that nobody is answered by an older one.
            self.stats.policy_generation_now.set(self.policies.newest().into());
            let took = self.ring.clock().monotonic - clock.monotonic;
            let longest = &self.stats.reload_turn_longest_micros_now;
            longest.set(longest.get().max(took.as_micros() as u64));
        }
        self.stats.turns.bump();
        self.stats.completions.add(completions.len() as u64);
        for completion in completions.drain(..) {
            self.dispatch(completion);
        }
        self.completions = completions;
        self.expire();
        self.bring_files();
        self.append_delayed();
        self.shake_hands();
        self.journal.flush(&mut self.ring);
        self.keep_promises();
        self.send_all();
        Ok(())
    }

    /// Sees to it that what was answered without a sync gets one in time; at once when the server stops.
    fn keep_promises(&mut self) {
        let at_risk_count = self.journal.at_risk_count();
        self.stats.messages_at_risk_now.set(at_risk_count as u64);
        if at_risk_count == 0 {
            self.sync_at = None;
            return;
        }
        let now = self.now.monotonic;
        let sync_at = *self.sync_at.get_or_insert(now + self.async_interval);
        if now >= sync_at || self.drain_until.is_some() {
            self.journal.sync(&mut self.ring);
            self.sync_at = Some(now + self.async_interval);
        }
    }

    /// For tests that drive the worker: the ring.
    pub fn ring(&mut self) -> &mut R {
        &mut self.ring
    }

    fn wait_max(&self) -> Option<Duration> {
        if !self.handshakes.is_empty() {
            return Some(Duration::ZERO);
        }
        let now = self.now.monotonic;
        // Behind the drain's end only the kernel is waited for.
        let drain_end = self.drain_until.filter(|until| *until > now).map(|until| until - now);
        let awaits_storage = !self.awaiting_files.is_empty() || self.journal.first_delayed(now).is_some();
        let storage = awaits_storage.then_some(limits::STORAGE_LOOK_INTERVAL);
        let sync_in = self.sync_at.map(|sync_at| sync_at.saturating_sub(now));
        self.wheel.next_after(now).into_iter().chain(drain_end).chain(storage).chain(sync_in).min()
    }

    fn dispatch(&mut self, completion: Completion) {
        match Op::of(completion.token) {
            Some(Op::Accept { listener_index }) => self.on_accept(listener_index, &completion),
            Some(Op::Connection(op, key)) => self.on_connection(op, key, completion),
            Some(Op::Commit { flight }) => self.on_commit(flight, completion),
            Some(Op::Sync { epoch }) => self.on_synced(epoch, &completion),
            Some(Op::Wake) => self.on_wake(&completion),
            Some(Op::Aside) | None => {}
        }
    }

    fn on_connection(&mut self, op: ConnectionOp, key: Key, completion: Completion) {
        match op {
            ConnectionOp::Recv => self.on_recv(key, completion),
            ConnectionOp::Send => self.on_send(key, completion),
            ConnectionOp::Cancel => {
                self.op_ended(key);
                self.settle(key);
            }
            ConnectionOp::Close => self.on_close(key),
            ConnectionOp::Piece => self.on_piece(key, completion),
            ConnectionOp::Sync => self.on_file_synced(key, &completion),
        }
    }

    /// A new connection: the server speaks first.
    pub(super) fn begin(&mut self, fd: Fd, listener_index: u32) {
        let Some(client) = self.ring.peer(fd) else {
            // Reset before we came to it.
            return self.ring.close(Op::Aside.token(), fd);
        };
        let port = &self.ports[listener_index as usize];
        if self.visitors.arrived(client, port.id) == Some(Visit::Look) {
            return self.ring.close(Op::Aside.token(), fd);
        }
        let now = self.now.monotonic;
        let session = Session::new(self.ids.next(self.now), client, now);
        let refusal = self.refusal(listener_index);
        let counted = refusal.is_none();
        let connection = Connection::new(fd, session, listener_index, counted, now);
        let has_room = counted || self.refused_count() < limits::SHED_CONNECTIONS_COUNT_MAX;
        let Some(key) = has_room.then(|| self.connections.insert(connection).ok()).flatten() else {
            self.stats.connections_shed.bump();
            return self.ring.close(Op::Aside.token(), fd);
        };
        let used = &mut self.uses[listener_index as usize];
        used.connections_count += 1;
        used.sessions_count += usize::from(counted);
        self.stats.connections.bump();
        self.stats.connections_now.set(self.connections.len() as u64);
        self.greet(key, refusal);
    }

    /// Why a new connection gets no session, if it gets none.
    fn refusal(&self, listener_index: u32) -> Option<Error> {
        let index = listener_index as usize;
        if self.drain_until.is_some() {
            // It was accepted before the cancel came to it.
            Some(Error::Stopping)
        } else if self.uses[index].sessions_count >= self.ports[index].connections_max {
            Some(Error::Full)
        } else if self.journal.error() == Some(Error::SpoolFailed) {
            Some(Error::SpoolStopped)
        } else {
            None
        }
    }

    /// The commit's write has ended: every message in it is answered.
    fn on_commit(&mut self, flight: FlightId, completion: Completion) {
        let Payload::Written(bytes) = completion.payload else { unreachable!("a write returns its bytes") };
        let result = completion.result;
        let (tickets, result) = self.journal.complete(&mut self.ring, self.now, flight, result, bytes);
        self.answer(tickets, result);
    }

    /// A sync for messages that are answered already has ended.
    fn on_synced(&mut self, epoch: u32, completion: &Completion) {
        let (tickets, result) = self.journal.synced(&mut self.ring, self.now, epoch, completion.result);
        self.answer(tickets, result);
    }

    fn answer(&mut self, tickets: Vec<Ticket>, result: Result<(), Error>) {
        self.pool.storage_error = self.journal.error();
        for &ticket in &tickets {
            self.on_committed(key_of(ticket), result);
        }
        self.journal.recycle(tickets);
    }

    fn await_wake(&mut self) {
        self.ring.await_signal(Op::Wake.token(), self.stop.bell.fd());
    }

    fn on_wake(&mut self, completion: &Completion) {
        if let Err(errno) = completion.result {
            // Armed again it would fail again, at once and for ever.
            return self.log(Kind::RingError { operation: "wake", errno: errno.0 });
        }
        while let Some(change) = self.changes.pop() {
            self.apply(change);
        }
        if !self.stop.requested.load(Ordering::Acquire) {
            return self.await_wake();
        }
        // Nobody rings for anything else from here on.
        self.drain_until = Some(self.now.monotonic + self.drain_time);
        self.pool.draining = true;
        for listener_index in 0..self.ports.len() as u32 {
            self.ring.cancel(Op::Aside.token(), Op::Accept { listener_index }.token());
        }
        let keys: Vec<Key> = self.connections.keys().collect();
        keys.into_iter().for_each(|key| self.stop_session(key));
    }

    /// Asks everybody whose time may have come.
    fn expire(&mut self) {
        let now = self.now.monotonic;
        if self.drain_until.is_some_and(|until| now >= until) {
            let keys: Vec<Key> = self.connections.keys().collect();
            keys.into_iter().for_each(|key| self.abandon(key, Reason::Stopped));
        }
        let mut due = std::mem::take(&mut self.due);
        self.wheel.advance(now, &mut due);
        for entry in due.drain(..) {
            match entry {
                Due::Listener(listener_index) => self.accept(listener_index),
                Due::Connection(key) => {
                    if let Some(deadline) = self.on_due(key) {
                        self.wheel.schedule(entry, deadline);
                    }
                }
            }
        }
        self.due = due;
    }

    /// Asks for `on_due` of this connection at `deadline`.
    pub(super) fn schedule(&mut self, key: Key, deadline: Duration) {
        self.wheel.schedule(Due::Connection(key), deadline);
    }

    /// A client whom its limits leave no session takes nobody's place, for as long as it lingers: it is counted among
    /// those for whom there is no room. Whether there are more of them than can be told.
    pub(super) fn is_one_refused_too_many(&mut self, key: Key) -> bool {
        let Some(connection) = self.connections.get_mut(key) else { return false };
        if !connection.counted || !connection.session.is_refused() {
            return false;
        }
        connection.counted = false;
        self.uses[connection.listener_index as usize].sessions_count -= 1;
        self.refused_count() > limits::SHED_CONNECTIONS_COUNT_MAX
    }

    /// Connections that are or were told that there is no session for them, and linger.
    fn refused_count(&self) -> usize {
        let sessions_count: usize = self.uses.iter().map(|used| used.sessions_count).sum();
        self.connections.len() - sessions_count
    }

    /// The slot of a connection is free.
    pub(super) fn left(&mut self, connection: &Connection<S::File>) {
        let used = &mut self.uses[connection.listener_index as usize];
        used.connections_count -= 1;
        used.sessions_count -= usize::from(connection.counted);
        self.stats.connections_now.set(self.connections.len() as u64);
    }

    pub(super) fn log(&self, kind: Kind) {
        self.pool.events.push(Event { at: self.now, session: SessionId::default(), kind });
    }
}
