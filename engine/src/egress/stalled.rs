//! Fresh messages whose next hop has no place yet, though it keeps up.
//!
//! They wait here, a bounded number of them, while what is read behind them goes to other hops. When there is no room
//! for another one, the tail stops reading, as long as nobody else's mail is known to come: a hop that gets more than
//! it takes then has all of it in order. Where there is other mail, what is too much is put off.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::job::Job;
use super::relay::Hops;
use crate::limits::STALLED_COUNT_MAX;

/// For how long other mail is expected behind some that was seen, and between two looks for it.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Before another look at a deferred message whose next hop has no place.
const RETRY_INTERVAL_MS: u64 = 200;
/// Between two such looks, each of which reads from the disk: however many messages wait, they cost no more.
const RETRY_APART_MS: u64 = 1;
/// Messages that are put off for one such look.
const LOOK_COUNT: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Stalled {
    /// The oldest in front.
    jobs: VecDeque<Job>,
    look: Look,
    /// When the last of those that are deferred is to be looked at again.
    last_retry_unix_ms: u64,
}

/// Whether to read on past a full list.
#[derive(Debug, Default)]
struct Look {
    others_at: Option<Instant>,
    began_at: Option<Instant>,
    left_count: usize,
}

impl Stalled {
    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    pub(super) fn has_room(&self) -> bool {
        self.jobs.len() < STALLED_COUNT_MAX
    }

    pub(super) fn push(&mut self, job: Job) {
        self.jobs.push_back(job);
    }

    /// The first whose next hops have a place.
    pub(super) fn pop(&mut self, hops: &Hops) -> Option<Job> {
        let mut full = Vec::new();
        let is_ready = |job: &Job| {
            let busy = job.relays().find(|relay| full.contains(&std::ptr::from_ref(&***relay)));
            let busy = busy.or_else(|| job.relays().find(|relay| hops.of(relay).is_full()));
            full.extend(busy.map(|relay| std::ptr::from_ref(&**relay)));
            busy.is_none()
        };
        let index = self.jobs.iter().position(is_ready)?;
        self.jobs.remove(index)
    }

    /// A message for another hop has been read.
    pub(super) fn note_other(&mut self, now: Instant) {
        if !self.jobs.is_empty() {
            self.look.others_at = Some(now);
        }
    }

    /// When to look again at a deferred message whose next hop has no place.
    pub(super) fn next_retry(&mut self, now_unix_ms: u64) -> u64 {
        let behind = self.last_retry_unix_ms.saturating_add(RETRY_APART_MS);
        self.last_retry_unix_ms = behind.max(now_unix_ms.saturating_add(RETRY_INTERVAL_MS));
        self.last_retry_unix_ms
    }

    /// Whether to read another message.
    pub(super) fn lets_read(&mut self, now: Instant) -> bool {
        self.has_room() || self.look.goes_on(now)
    }
}

impl Look {
    fn goes_on(&mut self, now: Instant) -> bool {
        let is_recent = |at: Instant| now.saturating_duration_since(at) < LOOK_INTERVAL;
        if self.others_at.is_some_and(is_recent) {
            return true;
        }
        if !self.began_at.is_some_and(is_recent) {
            (self.began_at, self.left_count) = (Some(now), LOOK_COUNT);
        }
        let is_left = self.left_count > 0;
        self.left_count = self.left_count.saturating_sub(1);
        is_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deferred_messages_are_looked_at_one_behind_the_other() {
        let mut stalled = Stalled::default();
        let first: Vec<u64> = (0..3).map(|_| stalled.next_retry(1000)).collect();
        assert_eq!(first, [1200, 1201, 1202]);
        let last = (0..10_000).map(|_| stalled.next_retry(1100)).last();
        assert_eq!(last, Some(1300 + 9_999));
        assert_eq!(stalled.next_retry(20_000), 20_200);
    }

    /// How far one gets before it is to wait.
    fn reads(look: &mut Look, now: Instant) -> usize {
        (0..10 * LOOK_COUNT).take_while(|_| look.goes_on(now)).count()
    }

    #[test]
    fn other_mail_is_looked_for_now_and_then_and_makes_way_when_it_is_there() {
        let (mut look, now) = (Look::default(), Instant::now());
        assert_eq!(reads(&mut look, now), LOOK_COUNT);
        assert_eq!(reads(&mut look, now + LOOK_INTERVAL / 2), 0);
        assert_eq!(reads(&mut look, now + LOOK_INTERVAL), LOOK_COUNT);
        look.others_at = Some(now + LOOK_INTERVAL);
        assert_eq!(reads(&mut look, now + 3 * LOOK_INTERVAL / 2), 10 * LOOK_COUNT);
        assert_eq!(reads(&mut look, now + 2 * LOOK_INTERVAL), LOOK_COUNT);
    }
}
