//! Fresh messages whose next hop has no place yet, though it keeps up, or takes none by its rate.
//!
//! They wait here, a bounded number of them, while what is read behind them goes to other hops. When there is no room
//! for another one, the tail stops reading, as long as nobody else's mail is known to come: a hop that gets more than
//! it takes then has all of it in order. Where there is other mail, what is too much is put off.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::job::Job;
use super::relay::Hop;
use crate::config::{Config, Deliver};
use crate::limits::STALLED_COUNT_MAX;

/// For how long other mail is expected behind some that was seen, and between two looks for it.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Messages that are put off for one such look.
const LOOK_COUNT: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Stalled {
    /// The oldest in front.
    jobs: VecDeque<Box<Job>>,
    look: Look,
    /// When a next hop of them takes another by its rate.
    free_at: Option<Instant>,
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

    /// `full`: the next hop that has no place for it.
    pub(super) fn push(&mut self, job: Box<Job>, full: &Hop) {
        self.free_at = [self.free_at, full.free_at()].into_iter().flatten().min();
        self.jobs.push_back(job);
    }

    /// When to look here again though nothing else has happened; right when [`Self::pop`] gave nothing.
    pub(super) fn free_at(&self) -> Option<Instant> {
        self.free_at
    }

    /// The first whose next hops have a place.
    pub(super) fn pop(&mut self) -> Option<Box<Job>> {
        let mut full: Vec<Rc<Hop>> = Vec::new();
        let is_ready = |job: &Job| {
            if job.hops().any(|hop| full.contains(hop)) {
                return false;
            }
            let busy = job.full_hop();
            full.extend(busy.clone());
            busy.is_none()
        };
        let index = self.jobs.iter().map(|job| &**job).position(is_ready);
        self.free_at = full.iter().filter_map(|hop| hop.free_at()).min();
        index.and_then(|index| self.jobs.remove(index))
    }

    /// Those for whose full next hop no route of this configuration is any more.
    pub(super) fn take_outdated(&mut self, config: &Config) -> Vec<(Box<Job>, Rc<Hop>)> {
        let is_named = |hop: &Rc<Hop>| {
            config
                .routes
                .iter()
                .any(|route| matches!(&route.deliver, Deliver::Relay(named) if **named == *hop.relay()))
        };
        let (outdated, rest): (VecDeque<Box<Job>>, _) =
            std::mem::take(&mut self.jobs).into_iter().partition(|job| !job.hops().all(is_named));
        self.jobs = rest;
        let of = |job: Box<Job>| {
            let hop = job.hops().find(|hop| !is_named(hop)).cloned()?;
            Some((job, hop))
        };
        outdated.into_iter().filter_map(of).collect()
    }

    /// A message for another hop has been read.
    pub(super) fn note_other(&mut self, now: Instant) {
        if !self.jobs.is_empty() {
            self.look.others_at = Some(now);
        }
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
