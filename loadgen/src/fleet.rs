//! All connections of one thread, without a ring: who opens, begins, sends and closes, and what is counted.
//!
//! ```text
//!  Vacant ─> Queued ─> Opening ─connected─> Open ─> Closing ─closed─> Vacant | Queued | Retrying | Done
//!              ^                                                                          │
//!              └───────────────────────────── its wait is over ───────────────────────────┘
//! ```
//! The worker carries out what [`Fleet`] puts into `opening`, `sending` and `closing`, and reports what came of it.

mod crew;
mod ending;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use self::ending::Ending;
use crate::client::{Event, Failure, Step, Unfinished};
use crate::crew::Wishes;
use crate::extension::Extension;
use crate::pace::Claim;
use crate::secure::Begin;
use crate::slot::{Link, Orders, Slot};
use crate::stats::{ErrorKind, Interval, Stats};
use crate::token::Token;

#[derive(Debug)]
pub struct Fleet {
    orders: Orders,
    slots: Vec<Slot>,
    /// Connections without a message, longest idle first, so that all of them are used.
    idle: VecDeque<u32>,
    queued: VecDeque<u32>,
    retries: BinaryHeap<Reverse<(u64, u32)>>,
    opening_count: usize,
    open_count: usize,
    done_count: usize,
    next_sweep_at: u64,
    /// Acknowledged in this turn; they count once the ledger has them.
    acknowledged_count: u64,
    ending: Option<Ending>,
    pub stats: Stats,
    wishes: Wishes,
}

impl Fleet {
    pub fn new(orders: Orders) -> Self {
        let count = orders.connections_count;
        let wants_starttls = orders.tls.as_ref().is_some_and(|terms| terms.begin == Begin::StartTls);
        let slots = (0..count).map(|_| Slot::new(orders.pipelining, wants_starttls)).collect();
        let mut fleet = Self {
            orders,
            slots,
            idle: VecDeque::new(),
            queued: VecDeque::new(),
            retries: BinaryHeap::new(),
            opening_count: 0,
            open_count: 0,
            done_count: 0,
            next_sweep_at: 0,
            acknowledged_count: 0,
            ending: None,
            stats: Stats::default(),
            wishes: Wishes::default(),
        };
        (0..count).for_each(|slot| fleet.vacate(slot));
        fleet
    }

    /// Begins messages that are due on connections that are free.
    fn hand_out(&mut self, now: u64) {
        while let Some(&slot) = self.idle.front() {
            let entry = &mut self.slots[slot as usize];
            let usable = entry.link == Link::Vacant || entry.link == Link::Open && entry.client.is_ready();
            if usable {
                match self.orders.pace.claim(now) {
                    Claim::Begin { intended_at } if entry.link == Link::Open => {
                        self.begin(slot, now, intended_at);
                    }
                    Claim::Begin { intended_at } => {
                        entry.claimed = Some(intended_at);
                        self.queue(slot);
                    }
                    Claim::Wait { .. } | Claim::Over => return,
                }
            }
            self.idle.pop_front();
            self.slots[slot as usize].in_idle = false;
        }
    }

    fn on_event(&mut self, slot: u32, now: u64, event: Event) {
        let entry = &mut self.slots[slot as usize];
        match event {
            Event::Greeted { waited_ns } => {
                self.stats.connections_opened += 1;
                self.stats.record(Interval::Connect, waited_ns);
            }
            Event::StartTls => entry.starts_tls = true,
            Event::Opened { waited_ns } => {
                self.opening_count -= 1;
                self.stats.record(Interval::Ehlo, waited_ns);
            }
            Event::RecipientsAnswered { waited_ns } => self.stats.record(Interval::Recipients, waited_ns),
            Event::EnvelopeAccepted { waited_ns, data_ns } => {
                self.stats.record(Interval::Envelope, waited_ns);
                if let Some(data_ns) = data_ns {
                    self.stats.record(Interval::Data, data_ns);
                }
            }
            Event::Accepted { token, final_ns, transaction_ns } => {
                if let Some(ledger) = &mut self.orders.ledger {
                    ledger.add(token, entry.client.reply_text());
                }
                entry.failures_in_a_row = 0;
                self.acknowledged_count += 1;
                self.stats.accepted_octets += self.orders.workload.content_len(token) as u64;
                self.stats.last_at = self.stats.last_at.max(now);
                self.stats.record(Interval::Final, final_ns);
                self.stats.record(Interval::Transaction, transaction_ns);
            }
            Event::RecipientRefused => self.add_reply_error(slot, ErrorKind::RecipientRefused),
            Event::Refused(step) => {
                self.stats.refused += 1;
                self.add_reply_error(
                    slot,
                    match step {
                        Step::Mail => ErrorKind::MailRefused,
                        Step::Rcpt => ErrorKind::RecipientRefused,
                        Step::Data => ErrorKind::DataRefused,
                        Step::Content => ErrorKind::ContentRefused,
                    },
                );
            }
            Event::Closed => {
                self.drop_link(slot);
                self.slots[slot as usize].failures_in_a_row = 0;
            }
        }
    }

    fn on_failure(&mut self, slot: u32, failure: Failure) {
        let client = &mut self.slots[slot as usize].client;
        match failure {
            Failure::Malformed(malformed) => {
                let text = malformed.to_string();
                self.stats.errors.add(ErrorKind::ReplyMalformed, 0, text.as_bytes());
            }
            Failure::Unexpected => self.add_reply_error(slot, ErrorKind::ReplyUnexpected),
            // RFC 5321 §3.8: 421 in place of a reply says that the command was not carried out.
            Failure::ServiceClosing => {
                self.stats.refused += u64::from(client.lose().is_some());
                self.add_reply_error(slot, ErrorKind::ServiceClosing);
            }
            Failure::GreetingRefused => self.add_reply_error(slot, ErrorKind::GreetingRefused),
            Failure::EhloRefused => self.add_reply_error(slot, ErrorKind::EhloRefused),
            // What the reply to EHLO does not say has no text; the refusal of STARTTLS has one.
            Failure::Missing(Extension::StartTls) => self.add_reply_error(slot, ErrorKind::StartTlsMissing),
            Failure::Missing(extension) => self.stats.errors.add(extension.into(), 0, b""),
        }
        self.drop_link(slot);
    }

    fn add_reply_error(&mut self, slot: u32, kind: ErrorKind) {
        let client = &self.slots[slot as usize].client;
        self.stats.errors.add(kind, client.reply_code(), client.reply_text());
    }

    /// Gives the connection up, whatever its state; its descriptor is still to be closed.
    fn drop_link(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        if !matches!(entry.link, Link::Opening | Link::Open) {
            return;
        }
        // Until EHLO is answered, a connection counts as being opened.
        self.opening_count -= usize::from(!entry.client.is_opened());
        entry.failures_in_a_row += 1;
        self.open_count -= usize::from(entry.link == Link::Open);
        match entry.client.lose() {
            Some(Unfinished::InDoubt) => self.stats.in_doubt += 1,
            Some(Unfinished::Aborted) => self.stats.aborted += 1,
            None => {}
        }
        entry.link = Link::Closing;
        self.wishes.closing.push(slot);
    }

    /// The slot has no connection: open one, wait for a message, or be done.
    fn vacate(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        entry.link = Link::Vacant;
        if self.ending.is_some() {
            self.finish(slot);
        } else if entry.claimed.is_some() || self.opens_ahead() {
            self.queue(slot);
        } else {
            self.rest(slot);
        }
    }

    /// With one message on each connection, opening it belongs to the message: it happens when the message is due.
    fn opens_ahead(&self) -> bool {
        self.orders.messages_per_connection != Some(1)
    }

    fn finish(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        if entry.link != Link::Done {
            entry.link = Link::Done;
            self.done_count += 1;
            if entry.claimed.take().is_some() {
                self.stats.started += 1;
                self.stats.aborted += 1;
            }
        }
    }

    fn queue(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        if matches!(entry.link, Link::Vacant | Link::Retrying) {
            entry.link = Link::Queued;
            self.queued.push_back(slot);
        }
    }

    fn rest(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        if !entry.in_idle {
            entry.in_idle = true;
            self.idle.push_back(slot);
        }
    }

    /// After replies: the next message if the connection is free, and whatever there is to send.
    fn settle(&mut self, slot: u32, now: u64) {
        let entry = &mut self.slots[slot as usize];
        if entry.link != Link::Open {
            return;
        }
        if entry.client.is_ready() {
            let spent = self.orders.messages_per_connection.is_some_and(|most| entry.messages_count >= most);
            if let Some(intended_at) = entry.claimed.take() {
                self.begin(slot, now, intended_at);
            } else if spent || self.ending.is_some() {
                entry.client.quit();
            } else {
                match self.orders.pace.claim(now) {
                    Claim::Begin { intended_at } => self.begin(slot, now, intended_at),
                    Claim::Wait { .. } | Claim::Over => self.rest(slot),
                }
            }
        }
        self.want_send(slot);
    }

    fn begin(&mut self, slot: u32, now: u64, intended_at: Option<u64>) {
        let entry = &mut self.slots[slot as usize];
        let connection = self.orders.first_connection + slot;
        let token = Token { run: self.orders.run, connection, number: entry.number };
        entry.number += 1;
        entry.messages_count += 1;
        entry.client.begin(token, intended_at, &self.orders.workload);
        self.stats.started += 1;
        self.stats.first_at.get_or_insert(now);
        self.want_send(slot);
    }

    fn want_send(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        if entry.link == Link::Open && entry.client.has_outgoing() && !entry.in_sending {
            entry.in_sending = true;
            self.wishes.sending.push(slot);
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
mod tests;
