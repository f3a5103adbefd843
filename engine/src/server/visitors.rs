//! How the server recognises itself: connections that it is told of before they are made.
//!
//! Whoever wants to know who answers at an address binds a socket, says here which address and port it has, and
//! connects. A worker that accepts a connection from there marks it. Nobody else can make such a mark: it is in this
//! process's memory, the port belongs to the one who asks for as long as it asks, and nothing goes over the wire that a
//! program in between could repeat.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::limits::EXPECTED_COUNT_MAX;

/// Names an address that is listened on, for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u32);

/// What is done with a visitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// The connection has served its purpose.
    Look,
    /// It becomes a session like any other.
    Stay,
}

/// A visitor that is expected. Dropped, it is expected no longer.
#[derive(Debug)]
pub struct Expected<'a> {
    visitors: &'a Visitors,
    ticket: Ticket,
}

/// Names a visitor to who cannot hold an [`Expected`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    slot: usize,
    mark: u64,
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.slot, self.mark)
    }
}

impl FromStr for Ticket {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (slot, mark) = text.split_once('-').ok_or(())?;
        let slot = slot.parse().ok().filter(|&slot: &usize| slot < EXPECTED_COUNT_MAX).ok_or(())?;
        Ok(Self { slot, mark: u64::from_str_radix(mark, 16).map_err(drop)? })
    }
}

/// Shared by all workers. They read one number for each connection, and more only while somebody is expected.
#[derive(Debug)]
pub struct Visitors {
    hasher: RandomState,
    expected_count: AtomicUsize,
    next: AtomicUsize,
    slots: [Slot; EXPECTED_COUNT_MAX],
}

/// Either number is 0 where there is none.
#[derive(Debug, Default)]
struct Slot {
    /// Of the visitor's address and kind.
    mark: AtomicU64,
    /// One more than the port that it came in by.
    seen_at: AtomicU64,
}

impl Default for Visitors {
    fn default() -> Self {
        let (expected_count, next) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { hasher: RandomState::new(), expected_count, next, slots: Default::default() }
    }
}

impl Visitors {
    /// From now on a connection from `peer` is recognised.
    pub fn expect(&self, peer: SocketAddr, visit: Visit) -> Expected<'_> {
        Expected { visitors: self, ticket: self.announce(peer, visit) }
    }

    /// The same where nobody tells when it is over.
    pub fn announce(&self, peer: SocketAddr, visit: Visit) -> Ticket {
        let slot = match visit {
            // Its own, so that nobody who asks by the admin HTTP makes the watch miss its own connection.
            Visit::Look => 0,
            Visit::Stay => 1 + self.next.fetch_add(1, Ordering::Relaxed) % (EXPECTED_COUNT_MAX - 1),
        };
        let mark = self.mark(peer, visit);
        self.slots[slot].seen_at.store(0, Ordering::Relaxed);
        if self.slots[slot].mark.swap(mark, Ordering::Release) == 0 {
            self.expected_count.fetch_add(1, Ordering::Release);
        }
        Ticket { slot, mark }
    }

    /// Where the visitor came in, if it did.
    pub fn seen_at(&self, ticket: Ticket) -> Option<PortId> {
        let slot = &self.slots[ticket.slot];
        let seen_at = slot.seen_at.load(Ordering::Acquire);
        let known = slot.mark.load(Ordering::Acquire) == ticket.mark && seen_at > 0;
        known.then(|| PortId((seen_at - 1) as u32))
    }

    pub fn forget(&self, ticket: Ticket) {
        let mark = &self.slots[ticket.slot].mark;
        if mark.compare_exchange(ticket.mark, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            self.expected_count.fetch_sub(1, Ordering::Release);
        }
    }

    /// Worker: a connection from `peer` came in at `port`. Nothing for all but those who are expected.
    pub fn arrived(&self, peer: SocketAddr, port: PortId) -> Option<Visit> {
        if self.expected_count.load(Ordering::Acquire) == 0 {
            return None;
        }
        [Visit::Look, Visit::Stay].into_iter().find(|&visit| {
            let mark = self.mark(peer, visit);
            let slot = self.slots.iter().find(|slot| slot.mark.load(Ordering::Acquire) == mark);
            slot.inspect(|slot| slot.seen_at.store(u64::from(port.0) + 1, Ordering::Release)).is_some()
        })
    }

    /// Flow label and scope of an IPv6 address differ between the ends.
    fn mark(&self, peer: SocketAddr, visit: Visit) -> u64 {
        self.hasher.hash_one((peer.ip(), peer.port(), visit == Visit::Look)).max(1)
    }
}

impl Expected<'_> {
    pub fn seen_at(&self) -> Option<PortId> {
        self.visitors.seen_at(self.ticket)
    }
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.visitors.forget(self.ticket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[test]
    fn only_the_expected_are_recognised_and_only_for_as_long() {
        let visitors = Visitors::default();
        assert_eq!(visitors.arrived(peer(1), PortId(7)), None);
        let expected = visitors.expect(peer(1), Visit::Look);
        assert_eq!(visitors.arrived(peer(2), PortId(7)), None);
        assert_eq!(expected.seen_at(), None);
        assert_eq!(visitors.arrived(peer(1), PortId(7)), Some(Visit::Look));
        assert_eq!(expected.seen_at(), Some(PortId(7)));
        drop(expected);
        assert_eq!(visitors.arrived(peer(1), PortId(7)), None);
        assert_eq!(visitors.expected_count.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn the_oldest_of_too_many_is_forgotten() {
        let visitors = Visitors::default();
        let tickets: Vec<Ticket> =
            (1..=EXPECTED_COUNT_MAX as u16).map(|port| visitors.announce(peer(port), Visit::Stay)).collect();
        assert_eq!(visitors.arrived(peer(1), PortId(1)), None);
        assert_eq!(visitors.arrived(peer(EXPECTED_COUNT_MAX as u16), PortId(1)), Some(Visit::Stay));
        assert_eq!(visitors.seen_at(tickets[0]), None);
        let last = tickets[EXPECTED_COUNT_MAX - 1];
        assert_eq!(visitors.seen_at(last), Some(PortId(1)));
        assert_eq!(last.to_string().parse(), Ok(last));
        for text in ["", "1", "16-ab", "-1-ab", "1-xyz", "1-10123456789abcdef"] {
            assert!(text.parse::<Ticket>().is_err(), "{text}");
        }
        tickets.into_iter().for_each(|ticket| visitors.forget(ticket));
        assert_eq!(visitors.expected_count.load(Ordering::Relaxed), 0);
    }
}
