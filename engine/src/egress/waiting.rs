//! Records that wait for their next attempt.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Duration;

use tokio::time::Instant;

use super::job::Ticket;

/// The waiting records of one shard, the next due first.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    heap: BinaryHeap<Reverse<Entry>>,
}

#[derive(Debug)]
struct Entry {
    due_at: Instant,
    ticket: Ticket,
}

impl Waiting {
    pub(super) fn push(&mut self, due_at: Instant, ticket: Ticket) {
        self.heap.push(Reverse(Entry { due_at, ticket }));
    }

    /// A record whose time has come.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Ticket> {
        self.next_due_at().filter(|&due_at| due_at <= now)?;
        self.heap.pop().map(|Reverse(entry)| entry.ticket)
    }

    pub(super) fn next_due_at(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse(entry)| entry.due_at)
    }

    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }
}

/// The wait after this many failures: the last repeats.
pub(super) fn retry_wait(waits: &[Duration], failures_count: u32) -> Duration {
    let index = usize::try_from(failures_count).unwrap_or(usize::MAX).saturating_sub(1);
    waits.get(index).or_else(|| waits.last()).copied().unwrap_or(Duration::from_secs(60))
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.due_at.cmp(&other.due_at)
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Entry {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_wait_repeats() {
        let waits = [Duration::from_secs(60), Duration::from_secs(300)];
        let found: Vec<_> = (1..5).map(|failures| retry_wait(&waits, failures).as_secs()).collect();
        assert_eq!(found, [60, 300, 300, 300]);
    }
}
