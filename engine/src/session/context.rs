//! What a session is given with each call: the time, what its listener offers, and its worker's pool.

use std::hash::RandomState;
use std::sync::Arc;

use ringmx_ring::BlockBuffer;

use crate::event::{Event, EventQueue, Kind};
use crate::id::SessionId;
use crate::limits;
use crate::policy::Policy;
use crate::policy::clients::Clients;
use crate::protocol::reply::Reply;
use crate::session::live::LiveTransactions;
use crate::session::memory::Memory;
use crate::session::{DateCache, Error, Next, Service, Transaction};
use crate::stats::WorkerStats;
use crate::time::Now;

/// Arguments of every call that can reply.
#[derive(Debug)]
pub struct Context<'a> {
    pub now: Now,
    pub service: &'a Service,
    /// That of its transaction, or the newest.
    pub policy: &'a Policy,
    pub pool: &'a mut Pool,
}

impl Context<'_> {
    /// Appends a reply and goes on.
    pub(super) fn reply(&self, reply: &Reply, out: &mut Vec<u8>) -> Next {
        self.service.settings.replies.encode(reply, out);
        Next::Input
    }

    pub(super) fn log(&self, session: SessionId, kind: Kind) {
        self.pool.events.push(Event { at: self.now, session, kind });
    }
}

/// What the sessions of one worker share.
#[derive(Debug)]
pub struct Pool {
    pub stats: Arc<WorkerStats>,
    pub events: EventQueue,
    /// Shared with the other workers; at first as small as it can be.
    pub clients: Arc<Clients>,
    pub date: DateCache,
    /// Why the spool cannot take another message, if it cannot: what MAIL is answered.
    pub storage_error: Option<Error>,
    /// Under which configurations the open transactions were begun.
    pub live: LiveTransactions,
    /// Sessions whose TLS handshake is under way.
    pub handshakes_count: usize,
    /// The server stops: no new transaction.
    pub draining: bool,
    /// Octets of content, trace field included, that a message has in memory and in its record at most; what is longer
    /// gets a file of its own.
    pub(super) inline_len_max: usize,
    pub(super) memory: Memory,
    /// Where a trace field is written before it is content.
    pub(super) trace: Vec<u8>,
    /// Unused transactions with their buffers.
    #[expect(
        clippy::vec_box,
        reason = "the boxes themselves are reused: a phase holds its transaction in one"
    )]
    pub(super) spare: Vec<Box<Transaction>>,
}

impl Pool {
    /// `memory_len_max`: octets of envelopes and content that the worker's sessions may hold in memory together.
    pub fn new(
        stats: Arc<WorkerStats>,
        events: EventQueue,
        memory_len_max: usize,
        inline_len_max: usize,
    ) -> Self {
        Self {
            stats,
            events,
            clients: Arc::new(Clients::new(1, RandomState::new())),
            date: DateCache::default(),
            storage_error: None,
            live: LiveTransactions::default(),
            handshakes_count: 0,
            draining: false,
            inline_len_max,
            memory: Memory::new(memory_len_max),
            trace: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// A transaction for MAIL, unless memory is short: those that there are must be able to go on.
    pub(super) fn take_transaction(&mut self) -> Option<Box<Transaction>> {
        let full = self.memory.is_full();
        self.stats.memory_full_now.set(u64::from(full));
        (!full).then(|| {
            let mut transaction = self.spare.pop().unwrap_or_default();
            transaction.generation = self.live.begin();
            transaction
        })
    }

    /// Takes the buffer of a [`Piece`](super::Piece) back, whatever came of its write.
    pub fn give_back(&mut self, buffer: BlockBuffer) {
        self.memory.give_back(buffer);
        self.stats.memory_octets_now.set(self.memory.held_len() as u64);
    }

    pub(super) fn release(&mut self, mut transaction: Box<Transaction>) {
        self.live.end(transaction.generation);
        transaction.clear(&mut self.memory);
        self.stats.memory_octets_now.set(self.memory.held_len() as u64);
        if self.spare.len() < limits::POOLED_TRANSACTIONS_COUNT_MAX {
            self.spare.push(transaction);
        }
    }
}
