//! What a session is given with each call: the time, what its listener offers, and its worker's pool.

use std::collections::HashMap;
use std::hash::RandomState;
use std::sync::Arc;
use std::time::Duration;

use ringmx_ring::BlockBuffer;

use crate::event::{Event, EventQueue, Kind};
use crate::id::SessionId;
use crate::limits;
use crate::policy::clients::Clients;
use crate::policy::recipient::Recipients;
use crate::protocol::reply::{self, Reply};
use crate::protocol::xclient;
use crate::session::memory::Memory;
use crate::session::{DateCache, Error, Guard, Next, Transaction};
use crate::stats::WorkerStats;
use crate::time::Now;

/// Arguments of every call that can reply.
#[derive(Debug)]
pub struct Context<'a> {
    pub now: Now,
    pub service: &'a Service,
    pub pool: &'a mut Pool,
}

impl Context<'_> {
    /// Appends a reply and goes on.
    pub(super) fn reply(&self, reply: &Reply, out: &mut Vec<u8>) -> Next {
        self.service.replies.encode(reply, out);
        Next::Input
    }

    pub(super) fn log(&self, session: SessionId, kind: Kind) {
        self.pool.events.push(Event { at: self.now, session, kind });
    }
}

/// What a listener offers: immutable, shared by the sessions of a worker.
#[derive(Debug)]
pub struct Service {
    /// In the greeting, the EHLO reply and the trace field.
    pub hostname: Box<str>,
    /// Octets of content without our trace field; announced as SIZE.
    pub message_len_max: u64,
    pub recipients: Arc<Recipients>,
    pub replies: Replies,
    /// RFC 5321 §4.5.3.2.7.
    pub command_timeout: Duration,
    /// RFC 5321 §4.5.3.2.5.
    pub data_timeout: Duration,
    /// Whom it trusts, and what it lets clients do. At first the least.
    pub guard: Guard,
    pub(super) ehlo_reply: Box<[u8]>,
    /// To those who may use XCLIENT.
    pub(super) xclient_ehlo_reply: Box<[u8]>,
    pub(super) helo_reply: Box<[u8]>,
}

impl Service {
    pub fn new(
        hostname: &str,
        message_len_max: u64,
        recipients: Arc<Recipients>,
        replies: Replies,
        command_timeout: Duration,
        data_timeout: Duration,
    ) -> Self {
        let (mut ehlo_reply, mut helo_reply) = (Vec::new(), Vec::new());
        let size = format!("SIZE {message_len_max}");
        let extensions = ["PIPELINING", size.as_str(), "8BITMIME", "ENHANCEDSTATUSCODES"];
        reply::encode_ehlo(hostname, &extensions, &mut ehlo_reply);
        let mut xclient_ehlo_reply = Vec::new();
        reply::encode_ehlo(
            hostname,
            &[&extensions[..], &[xclient::EXTENSION]].concat(),
            &mut xclient_ehlo_reply,
        );
        reply::encode_helo(hostname, &mut helo_reply);
        Self {
            hostname: hostname.into(),
            message_len_max,
            recipients,
            replies,
            command_timeout,
            data_timeout,
            guard: Guard::default(),
            ehlo_reply: ehlo_reply.into(),
            xclient_ehlo_reply: xclient_ehlo_reply.into(),
            helo_reply: helo_reply.into(),
        }
    }
}

/// The operator's own words for replies.
#[derive(Debug, Default)]
pub struct Replies {
    /// By enhanced status code.
    texts: HashMap<Box<str>, Box<str>>,
    /// Appended to permanent negative replies: where a refused sender finds help.
    help_url: Option<Box<str>>,
}

impl Replies {
    /// Texts by enhanced status code; both texts and URL are printable ASCII (the configuration checks it).
    pub fn new(texts: HashMap<Box<str>, Box<str>>, help_url: Option<Box<str>>) -> Self {
        Self { texts, help_url }
    }

    pub(super) fn encode(&self, reply: &Reply, out: &mut Vec<u8>) {
        // RFC 5321 §4.2.1: 4yz and 5yz are the negative ones; the others' texts are nobody's concern.
        if reply.code < 400 || (self.texts.is_empty() && self.help_url.is_none()) {
            return reply::encode(reply, out);
        }
        let text = self.texts.get(reply.enhanced).map_or(reply.text, |text| text);
        let help_url = self.help_url.as_deref().filter(|_| reply.code >= 500);
        reply::encode_text(reply, text, help_url, out);
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
    spare: Vec<Box<Transaction>>,
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
        (!full).then(|| self.spare.pop().unwrap_or_default())
    }

    /// Takes the buffer of a [`Piece`](super::Piece) back, whatever came of its write.
    pub fn give_back(&mut self, buffer: BlockBuffer) {
        self.memory.give_back(buffer);
        self.stats.memory_octets_now.set(self.memory.held_len() as u64);
    }

    pub(super) fn release(&mut self, mut transaction: Box<Transaction>) {
        transaction.clear(&mut self.memory);
        self.stats.memory_octets_now.set(self.memory.held_len() as u64);
        if self.spare.len() < limits::POOLED_TRANSACTIONS_COUNT_MAX {
            self.spare.push(transaction);
        }
    }
}
