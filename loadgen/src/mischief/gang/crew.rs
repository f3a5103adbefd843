//! What a worker asks of a gang, and tells it.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use socket2::Socket;

use super::{Act, Gang, Link, nanos};
use crate::crew::{Crew, Wishes};
use crate::limits::{
    CLOSE_MAX, DEAF_RECEIVE_BUFFER_LEN, MISCHIEF_LOOK, MISCHIEF_PAUSE, OPENING_COUNT_MAX, OUTCOME_WAIT_MAX,
};
use crate::mischief::Kind;
use crate::stats::ErrorKind;

impl Crew for Gang {
    fn connections_count(&self) -> u32 {
        self.rogues.len() as u32
    }

    fn wishes(&mut self) -> &mut Wishes {
        &mut self.wishes
    }

    fn advance(&mut self, now: u64) {
        self.now = now;
        match self.stopped_until {
            None if now < self.next_tick_at => {}
            None => {
                self.next_tick_at = now + nanos(MISCHIEF_LOOK);
                let (first, count) = (self.first_slot, self.connections_count());
                (first..count).chain(0..first).for_each(|slot| self.tick(slot, now));
                self.first_slot = (first + OPENING_COUNT_MAX as u32) % count.max(1);
            }
            Some(until) if now >= until => self.done_count = self.rogues.len(),
            Some(_) => {}
        }
    }

    fn wake_at(&mut self, now: u64) -> u64 {
        self.stopped_until.unwrap_or(self.next_tick_at).max(now)
    }

    fn stop(&mut self, now: u64, _interrupted: bool) {
        let until = now + nanos(CLOSE_MAX);
        self.stopped_until.get_or_insert(until);
        for slot in 0..self.connections_count() {
            let rogue = &mut self.rogues[slot as usize];
            if let Link::Vacant { .. } = rogue.link {
                rogue.link = Link::Done;
                self.done_count += 1;
            }
            self.close(slot);
        }
    }

    fn is_done(&self) -> bool {
        self.stopped_until.is_some() && self.done_count == self.rogues.len()
    }

    fn account(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn progress(&self) -> [u64; 3] {
        [0, 0, self.open_count]
    }

    fn source(&self, slot: u32) -> Option<IpAddr> {
        let number = self.plan.first_connection as usize + slot as usize;
        self.plan.sources.get(number % self.plan.sources.len().max(1)).copied()
    }

    fn shape(&self, slot: u32, socket: &Socket) -> io::Result<()> {
        match self.rogues[slot as usize].kind {
            // Its close is a reset, whatever is unsent.
            Kind::Rst => socket.set_linger(Some(Duration::ZERO)),
            // So that it is soon full.
            Kind::NeverReads => socket.set_recv_buffer_size(DEAF_RECEIVE_BUFFER_LEN),
            Kind::Drip | Kind::HalfOpen | Kind::Early | Kind::Vanish => Ok(()),
        }
    }

    fn reads(&self, slot: u32) -> bool {
        self.rogues[slot as usize].kind != Kind::NeverReads
    }

    fn is_open(&self, slot: u32) -> bool {
        self.rogues[slot as usize].link == Link::Open
    }

    fn on_connected(&mut self, slot: u32) {
        let now = self.now;
        let rogue = &mut self.rogues[slot as usize];
        if rogue.link != Link::Opening {
            return;
        }
        rogue.link = Link::Open;
        self.opening_count -= 1;
        self.open_count += 1;
        self.tally(slot).connections_opened += 1;
        match self.rogues[slot as usize].kind {
            Kind::HalfOpen => {
                self.rogues[slot as usize].act = Act::Over { until: u64::MAX };
                self.done(slot);
            }
            Kind::Early | Kind::NeverReads => {
                self.rogues[slot as usize].act = Act::At { due_at: now };
                self.want_send(slot);
            }
            Kind::Drip | Kind::Rst | Kind::Vanish => {}
        }
    }

    fn on_received(&mut self, slot: u32, now: u64, input: &[u8]) {
        let rogue = &self.rogues[slot as usize];
        if rogue.act == Act::Behaving {
            return self.on_replies(slot, now, input);
        }
        // Whatever is said now is not read as an answer; a refusal is told apart from a welcome by its first digit.
        let refuses = matches!(input.first(), Some(b'4' | b'5'));
        let waits_for_verdict = matches!(rogue.kind, Kind::Early | Kind::HalfOpen | Kind::Drip);
        if rogue.link == Link::Open && refuses && waits_for_verdict {
            self.tally(slot).refused += 1;
            self.close(slot);
        }
    }

    fn on_lost(&mut self, slot: u32, kind: ErrorKind, _reason: &[u8]) {
        let link = self.rogues[slot as usize].link;
        if matches!(link, Link::Opening | Link::Open) {
            let closed = matches!(kind, ErrorKind::ConnectionClosed | ErrorKind::ConnectionReset);
            let tally = self.tally(slot);
            *(if closed { &mut tally.ended_by_server } else { &mut tally.failed }) += 1;
            self.close(slot);
        }
    }

    fn on_closed(&mut self, slot: u32, now: u64) {
        let stopped = self.stopped_until.is_some();
        let rogue = &mut self.rogues[slot as usize];
        if rogue.link != Link::Closing {
            return;
        }
        rogue.in_sending = false;
        rogue.sending_since = None;
        rogue.client.lose();
        rogue.link = if stopped { Link::Done } else { Link::Vacant { at: now + nanos(MISCHIEF_PAUSE) } };
        self.done_count += usize::from(stopped);
    }

    fn transmit(&mut self, slot: u32, now: u64, out: &mut Vec<u8>) {
        let rogue = &mut self.rogues[slot as usize];
        rogue.in_sending = false;
        if rogue.link != Link::Open {
            return;
        }
        match rogue.act {
            Act::Behaving => rogue.client.transmit(now, &self.plan.workload, out),
            Act::At { .. } => self.misspeak(slot, now, out),
            Act::Over { .. } => {}
        }
        if !out.is_empty() {
            self.rogues[slot as usize].sending_since = Some(now);
        }
    }

    fn postpone(&mut self, slot: u32) {
        self.rogues[slot as usize].in_sending = false;
    }

    fn on_sent(&mut self, slot: u32) {
        let now = self.now;
        let rogue = &mut self.rogues[slot as usize];
        rogue.sending_since = None;
        if rogue.link != Link::Open {
            return;
        }
        match (rogue.act, rogue.kind) {
            (Act::Behaving, _) if rogue.client.has_outgoing() => self.want_send(slot),
            (Act::At { .. }, Kind::Rst | Kind::Vanish) => {
                self.done(slot);
                self.close(slot);
            }
            (Act::At { .. }, Kind::Early) => {
                self.rogues[slot as usize].act = Act::Over { until: now + nanos(OUTCOME_WAIT_MAX) };
                self.done(slot);
            }
            (Act::At { .. }, Kind::Drip) => self.done(slot),
            _ => {}
        }
    }
}
