//! What a worker asks of a fleet, and tells it.

use std::cmp::Reverse;
use std::io;
use std::net::IpAddr;

use super::{Fleet, nanos};
use crate::crew::{Crew, Wishes};
use crate::limits::{
    FAILURES_IN_A_ROW_MAX, OPENING_COUNT_MAX, RETRY_FIRST, RETRY_LAST, SWEEP_INTERVAL, WARM_UP_MAX,
};
use crate::secure::{Begin, Terms};
use crate::slot::Link;
use crate::stats::{ErrorKind, Interval};

impl Crew for Fleet {
    fn connections_count(&self) -> u32 {
        self.orders.connections_count
    }

    fn wishes(&mut self) -> &mut Wishes {
        &mut self.wishes
    }

    fn stop(&mut self, now: u64, interrupted: bool) {
        self.stop_soon(now, interrupted);
    }

    fn progress(&self) -> [u64; 3] {
        [self.stats.accepted, self.stats.errors.total(), self.open_count as u64]
    }

    fn is_done(&self) -> bool {
        self.done_count == self.slots.len()
    }

    fn is_open(&self, slot: u32) -> bool {
        self.slots[slot as usize].link == Link::Open
    }

    fn advance(&mut self, now: u64) {
        while let Some(&Reverse((at, slot))) = self.retries.peek() {
            if at > now {
                break;
            }
            self.retries.pop();
            self.queue(slot);
        }
        if self.opening_count == 0 && self.queued.is_empty() || now >= nanos(WARM_UP_MAX) {
            self.orders.pace.begin(now);
        }
        self.hand_out(now);
        if now >= self.next_sweep_at {
            self.next_sweep_at = now + nanos(SWEEP_INTERVAL);
            self.sweep(now);
        }
        self.end(now);
        while self.opening_count < OPENING_COUNT_MAX {
            let Some(slot) = self.queued.pop_front() else { break };
            let index = slot as usize;
            if self.slots[index].link != Link::Queued {
                continue;
            }
            self.slots[index].link = Link::Opening;
            self.slots[index].client.open(now);
            self.opening_count += 1;
            self.wishes.opening.push(slot);
        }
    }

    fn wake_at(&mut self, now: u64) -> u64 {
        let mut at = self.next_sweep_at;
        if let Some(&Reverse((retry_at, _))) = self.retries.peek() {
            at = at.min(retry_at);
        }
        if let (false, Some(due_at)) = (self.idle.is_empty(), self.orders.pace.due_at(now)) {
            at = at.min(due_at);
        }
        at
    }

    fn on_connected(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        if entry.link == Link::Opening {
            entry.link = Link::Open;
            self.open_count += 1;
        }
    }

    fn on_received(&mut self, slot: u32, now: u64, mut input: &[u8]) {
        while self.slots[slot as usize].link == Link::Open {
            let entry = &mut self.slots[slot as usize];
            match entry.client.receive(now, &self.orders.workload, &mut input) {
                Ok(Some(event)) => self.on_event(slot, now, event),
                Ok(None) => break,
                Err(failure) => return self.on_failure(slot, failure),
            }
        }
        self.settle(slot, now);
    }

    fn source(&self, slot: u32) -> Option<IpAddr> {
        let number = self.orders.first_connection as usize + slot as usize;
        let sources = &self.orders.sources;
        sources.get(number % sources.len().max(1)).copied()
    }

    fn tls(&self) -> Option<&Terms> {
        self.orders.tls.as_ref()
    }

    fn starts_tls(&mut self, slot: u32) -> bool {
        std::mem::take(&mut self.slots[slot as usize].starts_tls)
    }

    fn on_secured(&mut self, slot: u32, took_ns: u64, resumed: bool) {
        self.stats.handshakes += 1;
        self.stats.handshakes_resumed += u64::from(resumed);
        self.stats.record(Interval::Handshake, took_ns);
        let entry = &mut self.slots[slot as usize];
        if entry.link == Link::Open
            && self.orders.tls.as_ref().is_some_and(|tls| tls.begin == Begin::StartTls)
        {
            entry.client.secured();
        }
        self.want_send(slot);
    }

    fn want_flush(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        if entry.link == Link::Open && !entry.in_sending {
            entry.in_sending = true;
            self.wishes.sending.push(slot);
        }
    }

    fn on_lost(&mut self, slot: u32, kind: ErrorKind, reason: &[u8]) {
        if matches!(self.slots[slot as usize].link, Link::Opening | Link::Open) {
            self.stats.errors.add(kind, 0, reason);
            self.drop_link(slot);
        }
    }

    fn on_closed(&mut self, slot: u32, now: u64) {
        let entry = &mut self.slots[slot as usize];
        entry.messages_count = 0;
        entry.starts_tls = false;
        let failures = entry.failures_in_a_row;
        if failures == 0 || self.ending.is_some() {
            return self.vacate(slot);
        }
        if failures >= FAILURES_IN_A_ROW_MAX && !self.orders.pace.has_end() {
            self.stats.errors.add(ErrorKind::GivenUp, 0, b"");
            return self.finish(slot);
        }
        entry.link = Link::Retrying;
        let wait = RETRY_FIRST.saturating_mul(1 << failures.min(16)).min(RETRY_LAST);
        self.retries.push(Reverse((now + nanos(wait), slot)));
    }

    fn transmit(&mut self, slot: u32, now: u64, out: &mut Vec<u8>) {
        let entry = &mut self.slots[slot as usize];
        entry.in_sending = false;
        if entry.link == Link::Open {
            entry.client.transmit(now, &self.orders.workload, out);
        }
    }

    fn postpone(&mut self, slot: u32) {
        self.slots[slot as usize].in_sending = false;
    }

    fn on_sent(&mut self, slot: u32) {
        self.want_send(slot);
    }

    fn account(&mut self) -> io::Result<()> {
        if let Some(ledger) = &mut self.orders.ledger {
            ledger.flush()?;
        }
        self.stats.accepted += self.acknowledged_count;
        self.acknowledged_count = 0;
        Ok(())
    }
}
