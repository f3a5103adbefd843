//! All misbehaving clients of a run, without a ring.

mod crew;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Kind, Tally};
use crate::client::{Client, Event, Failure, Pipelining};
use crate::crew::Wishes;
use crate::limits::{MISCHIEF_TICK, OPENING_COUNT_MAX, OUTCOME_WAIT_MAX};
use crate::token::Token;
use crate::workload::Workload;

/// What comes before what drips, again and again: ordinary text.
const DRIPPED_LINE: &[u8] = b"It is a long way from the first octet of this message to the last.\r\n";

/// What a gang is told.
#[derive(Debug)]
pub struct Plan {
    pub run: u64,
    /// Number of the first connection, which tokens carry: behind those of the clients that behave.
    pub first_connection: u32,
    pub counts: Vec<(Kind, u32)>,
    pub sources: Vec<IpAddr>,
    pub reply_timeout: Duration,
    /// By DATA.
    pub workload: Arc<Workload>,
    /// Octets of content, in lines, that come at once from who drips what follows.
    pub drip_after: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// Opens at this time.
    Vacant {
        at: u64,
    },
    Opening,
    Open,
    Closing,
    Done,
}

/// How far a client is with what it is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// On the way there, as any client.
    Behaving,
    /// At it; what is next is due at this time.
    At { due_at: u64 },
    /// Done; it stays to see what the server makes of it until this time.
    Over { until: u64 },
}

#[derive(Debug)]
struct Rogue {
    /// In `tallies`.
    group: usize,
    kind: Kind,
    client: Client,
    link: Link,
    act: Act,
    /// Counted as done on this connection.
    done: bool,
    number: u64,
    in_sending: bool,
    /// A send is under way since then.
    sending_since: Option<u64>,
}

#[derive(Debug)]
pub struct Gang {
    plan: Plan,
    rogues: Vec<Rogue>,
    tallies: Vec<Tally>,
    opening_count: usize,
    open_count: u64,
    done_count: usize,
    /// Ending: nothing is opened, and when the kernel has had its time, too.
    stopped_until: Option<u64>,
    /// A turn is no reason to look at all of them.
    next_tick_at: u64,
    /// Who is looked at first then: so many may be opening at once, and each is to have its turn.
    first_slot: u32,
    now: u64,
    wishes: Wishes,
}

impl Gang {
    pub fn new(plan: Plan) -> Self {
        let mut rogues = Vec::new();
        for (group, &(kind, count)) in plan.counts.iter().enumerate() {
            rogues.extend((0..count).map(|_| Rogue {
                group,
                kind,
                client: Client::new(Pipelining::Off, false),
                link: Link::Vacant { at: 0 },
                act: Act::Behaving,
                done: false,
                number: 0,
                in_sending: false,
                sending_since: None,
            }));
        }
        Self {
            tallies: plan.counts.iter().map(|&(kind, count)| Tally::new(kind, count)).collect(),
            plan,
            rogues,
            opening_count: 0,
            open_count: 0,
            done_count: 0,
            stopped_until: None,
            next_tick_at: 0,
            first_slot: 0,
            now: 0,
            wishes: Wishes::default(),
        }
    }

    pub fn tallies(self) -> Vec<Tally> {
        self.tallies
    }

    fn tally(&mut self, slot: u32) -> &mut Tally {
        &mut self.tallies[self.rogues[slot as usize].group]
    }

    fn done(&mut self, slot: u32) {
        if !std::mem::replace(&mut self.rogues[slot as usize].done, true) {
            self.tally(slot).done += 1;
        }
    }

    fn close(&mut self, slot: u32) {
        let rogue = &mut self.rogues[slot as usize];
        match rogue.link {
            Link::Opening => self.opening_count -= 1,
            Link::Open => self.open_count -= 1,
            Link::Vacant { .. } | Link::Closing | Link::Done => return,
        }
        rogue.link = Link::Closing;
        self.wishes.closing.push(slot);
    }

    fn want_send(&mut self, slot: u32) {
        let rogue = &mut self.rogues[slot as usize];
        if rogue.link == Link::Open && !rogue.in_sending && rogue.sending_since.is_none() {
            rogue.in_sending = true;
            self.wishes.sending.push(slot);
        }
    }

    /// What the time asks of one that has no connection yet, or has one.
    fn tick(&mut self, slot: u32, now: u64) {
        let rogue = &mut self.rogues[slot as usize];
        match (rogue.link, rogue.act) {
            (Link::Vacant { at }, _) if at <= now && self.opening_count < OPENING_COUNT_MAX => {
                rogue.link = Link::Opening;
                rogue.act = Act::Behaving;
                rogue.done = false;
                rogue.client.open(now);
                self.opening_count += 1;
                self.wishes.opening.push(slot);
            }
            (Link::Opening, _) => self.give_up_when_overdue(slot, now),
            (Link::Open, Act::Over { until }) if now >= until => self.close(slot),
            (Link::Open, Act::At { due_at }) => {
                // What is not taken for so long is not going to be: the server reads no more.
                let stuck = |since: u64| now.saturating_sub(since) > nanos(OUTCOME_WAIT_MAX);
                if rogue.kind == Kind::NeverReads && rogue.sending_since.is_some_and(stuck) {
                    self.done(slot);
                } else if now >= due_at {
                    self.want_send(slot);
                }
            }
            (Link::Open, Act::Behaving) => self.give_up_when_overdue(slot, now),
            _ => {}
        }
    }

    fn give_up_when_overdue(&mut self, slot: u32, now: u64) {
        let asked_at = self.rogues[slot as usize].client.asked_at();
        if now.saturating_sub(asked_at) > nanos(self.plan.reply_timeout) {
            self.tally(slot).failed += 1;
            self.close(slot);
        }
    }

    /// 354 has come: content is what most of them are waiting for.
    fn on_permission(&mut self, slot: u32, now: u64) {
        let rogue = &mut self.rogues[slot as usize];
        if matches!(rogue.kind, Kind::Drip | Kind::Rst | Kind::Vanish) {
            rogue.act = Act::At { due_at: now };
            self.want_send(slot);
        }
    }

    /// A client that behaves so far, and has something to read.
    fn on_replies(&mut self, slot: u32, now: u64, mut input: &[u8]) {
        loop {
            let rogue = &mut self.rogues[slot as usize];
            if rogue.link != Link::Open || rogue.act != Act::Behaving {
                return;
            }
            match rogue.client.receive(now, &self.plan.workload, &mut input) {
                Ok(Some(Event::Opened { .. })) => {
                    let connection = self.plan.first_connection + slot;
                    let token = Token { run: self.plan.run, connection, number: rogue.number };
                    rogue.number += 1;
                    rogue.client.begin(token, None, &self.plan.workload);
                }
                Ok(Some(Event::EnvelopeAccepted { .. })) => return self.on_permission(slot, now),
                Ok(Some(Event::Refused(_))) => {
                    self.tally(slot).refused += 1;
                    return self.close(slot);
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(failure) => {
                    let refused = matches!(
                        failure,
                        Failure::ServiceClosing | Failure::GreetingRefused | Failure::EhloRefused
                    );
                    let tally = self.tally(slot);
                    *(if refused { &mut tally.refused } else { &mut tally.failed }) += 1;
                    return self.close(slot);
                }
            }
        }
        if self.rogues[slot as usize].client.has_outgoing() {
            self.want_send(slot);
        }
    }

    /// What is said where it is not a client's word.
    fn misspeak(&mut self, slot: u32, now: u64, out: &mut Vec<u8>) {
        let workload = &self.plan.workload;
        let rogue = &mut self.rogues[slot as usize];
        let token = Token {
            run: self.plan.run,
            connection: self.plan.first_connection + slot,
            number: rogue.number.saturating_sub(1),
        };
        // One send has room for all of it.
        let content = |out: &mut Vec<u8>| workload.append_content(token, 0, out);
        match rogue.kind {
            Kind::Drip => {
                let at_once = if rogue.done { 0 } else { self.plan.drip_after };
                out.extend(DRIPPED_LINE.iter().cycle().take(at_once));
                out.push(b'x');
                rogue.act = Act::At { due_at: now + nanos(Duration::from_secs(1)) };
            }
            Kind::Rst => {
                content(out);
                out.truncate(out.len() / 2);
            }
            Kind::Vanish => {
                content(out);
            }
            Kind::Early => {
                out.extend_from_slice(&workload.ehlo);
                out.extend_from_slice(workload.mail(token, false));
            }
            Kind::NeverReads => {
                while out.len() + workload.ehlo.len() <= 4096 {
                    out.extend_from_slice(&workload.ehlo);
                }
                rogue.act = Act::At { due_at: now + nanos(MISCHIEF_TICK) };
            }
            Kind::HalfOpen => {}
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
mod tests;
