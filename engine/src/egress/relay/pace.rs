//! How many messages a time a next hop is given: `message_rate`.
//!
//! They are spread over the time, but for a twentieth of them, which may go at once: so a hop that is waited for gets
//! some together, and whoever counts, from whatever moment on, never counts more than the rate says.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Relay;
use crate::policy::clients::Rate;

/// Of so many messages of a rate one may go at once, besides the first.
const SPREAD_COUNT: u64 = 20;

/// What is counted for one next hop. All times are nanoseconds since `began_at`.
#[derive(Debug)]
pub(super) struct Pace {
    began_at: Instant,
    /// Between two messages.
    each: u64,
    /// How far messages may run ahead of that.
    ahead: u64,
    /// When the next message is due, were they spread evenly.
    next: AtomicU64,
}

impl Pace {
    pub(super) fn new(rate: Rate) -> Self {
        let at_once = rate.count() / SPREAD_COUNT;
        let each = rate.nanos().div_ceil(rate.count() - at_once);
        let ahead = each.saturating_mul(at_once);
        Self { began_at: Instant::now(), each, ahead, next: AtomicU64::new(0) }
    }

    /// Counts a message.
    ///
    /// # Errors
    /// When one may go; none is counted.
    pub(super) fn take(&self, now: Instant) -> Result<(), Instant> {
        let now = self.nanos(now);
        let after = |next: u64| {
            (next <= now.saturating_add(self.ahead)).then(|| next.max(now).saturating_add(self.each))
        };
        // It counts, and orders nothing else.
        let taken = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, after);
        taken.map(drop).map_err(|next| self.at(next))
    }

    /// When a message may go, if not now.
    pub(super) fn free_at(&self, now: Instant) -> Option<Instant> {
        let next = self.next.load(Ordering::Relaxed);
        (next > self.nanos(now).saturating_add(self.ahead)).then(|| self.at(next))
    }

    pub(super) fn each(&self) -> Duration {
        Duration::from_nanos(self.each)
    }

    /// Whether it would count the same if it began now.
    fn is_rested(&self, now: Instant) -> bool {
        self.next.load(Ordering::Relaxed) <= self.nanos(now)
    }

    fn nanos(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.began_at).as_nanos()).unwrap_or(u64::MAX)
    }

    fn at(&self, next: u64) -> Instant {
        self.began_at + Duration::from_nanos(next.saturating_sub(self.ahead))
    }
}

/// Those of all delivery threads: they share what a next hop may get.
#[derive(Debug, Default)]
pub(in crate::egress) struct Paces(Mutex<HashMap<Arc<Relay>, Arc<Pace>>>);

impl Paces {
    /// None where the hop has no rate. Takes a lock: once for each thread and hop.
    pub(super) fn of(&self, relay: &Arc<Relay>) -> Option<Arc<Pace>> {
        let rate = relay.message_rate?;
        let mut paces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        paces.retain(|_, pace| Arc::strong_count(pace) > 1 || !pace.is_rested(now));
        Some(Arc::clone(paces.entry(Arc::clone(relay)).or_insert_with(|| Arc::new(Pace::new(rate)))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When messages go that want to as soon as they may.
    fn times(pace: &Pace, from: Instant, count: usize) -> Vec<Instant> {
        let mut now = from;
        let next = |_| {
            while let Err(free_at) = pace.take(now) {
                assert!(free_at > now && pace.free_at(now) == Some(free_at));
                now = free_at;
            }
            now
        };
        (0..count).map(next).collect()
    }

    #[test]
    fn in_no_such_time_there_are_more_and_few_less() {
        for (count, secs) in [(1, 60), (7, 1), (20, 3), (100, 60), (1000, 1), (12_345, 3600)] {
            let per = Duration::from_secs(secs);
            let pace = Pace::new(Rate::new(count, per));
            // A rest lets nobody catch up.
            let from = pace.began_at + 10 * per;
            let times = times(&pace, from, 3 * count as usize);
            for (index, &first) in times.iter().enumerate() {
                let within = times[index..].iter().take_while(|&&at| at < first + per).count() as u64;
                assert!(within <= count, "{within} of {count} from message {index} on");
                assert!(index as u64 > count || within * 20 >= count * 19, "{within} of {count}");
            }
        }
    }

    #[test]
    fn threads_share_what_a_hop_may_get() {
        let pace = Pace::new(Rate::new(100, Duration::from_secs(1_000_000)));
        let now = pace.began_at;
        let taken: usize = std::thread::scope(|scope| {
            let take = || (0..100).filter(|_| pace.take(now).is_ok()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 1 + 100 / SPREAD_COUNT as usize);
    }
}
