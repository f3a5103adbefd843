//! When the next message is due: closed loop (at once) or open loop (arrivals evenly spaced, or a Poisson process),
//! until the run is over.

use crate::limits::MISSED_DRAWN_COUNT_MAX;
use crate::profile::Profile;
use crate::random::Random;

/// One thread's share of a run.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Messages still to begin; `None` without a limit.
    left: Option<u64>,
    /// No message begins from here on, in nanoseconds since the run's start.
    end_at: Option<u64>,
    arrivals: Option<Arrivals>,
    /// Arrivals wait for the connections to be open, so that opening them is in no message's latency.
    begun: bool,
    /// Over for another reason: interrupted, or failed.
    stopped: bool,
}

/// When arrivals are due does not depend on when they are taken: one that finds no free connection waits without taking
/// memory. Times come from a profile of the whole run, by how many arrivals of all threads lie before.
#[derive(Clone, Debug)]
struct Arrivals {
    begun_at: u64,
    profile: Profile,
    threads_count: f64,
    /// Arrivals of the whole run before this thread's next one.
    before: f64,
    /// Waits between arrivals are drawn from an exponential distribution: customers who know nothing of each other. In
    /// arrivals they have the same mean all the time, whatever the rate is.
    poisson: Option<Random>,
}

impl Arrivals {
    fn next_at(&self) -> u64 {
        self.begun_at.saturating_add((self.profile.secs_of(self.before) * 1e9) as u64)
    }

    fn take(&mut self) {
        self.before += self.threads_count * self.poisson.as_mut().map_or(1.0, Random::exponential);
    }

    /// Due before `until` and not taken.
    fn left_before(&self, until: u64) -> u64 {
        let by = |at: u64| self.profile.arrivals_by(at.saturating_sub(self.begun_at) as f64 / 1e9);
        if self.poisson.is_none() {
            return ((by(until) - self.before) / self.threads_count).ceil().max(0.0) as u64;
        }
        let mut drawn = self.clone();
        let mut count = 0;
        while drawn.next_at() < until && count < MISSED_DRAWN_COUNT_MAX {
            drawn.take();
            count += 1;
        }
        let rest = (by(until) - drawn.before) / self.threads_count;
        count + rest.max(0.0) as u64
    }
}

/// The answer to "may I begin a message?"
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Yes. In an open loop with the time when it was due, which may be long ago.
    Begin { intended_at: Option<u64> },
    /// Not before then.
    Wait { until: u64 },
    /// Never again.
    Over,
}

impl Pace {
    /// The share of thread `index` of `threads_count`. `profile` is of the whole run; none: a closed loop.
    pub fn share(
        index: u32,
        threads_count: u32,
        messages_count: Option<u64>,
        end_at: Option<u64>,
        profile: Option<&Profile>,
    ) -> Self {
        let (index, threads_count) = (u64::from(index), u64::from(threads_count));
        let left =
            messages_count.map(|count| count / threads_count + u64::from(index < count % threads_count));
        // Thread 0 takes arrival 0, `threads_count`, ...: together they are evenly spaced.
        let arrivals = profile.map(|profile| Arrivals {
            begun_at: 0,
            profile: profile.clone(),
            threads_count: threads_count as f64,
            before: index as f64,
            poisson: None,
        });
        Self { left, end_at, begun: arrivals.is_none(), arrivals, stopped: false }
    }

    /// Arrivals in a Poisson process of the same mean: of independent threads together they are one again.
    pub fn poisson(mut self, seed: u64) -> Self {
        if let Some(arrivals) = &mut self.arrivals {
            arrivals.poisson = Some(Random::new(seed));
            arrivals.before = 0.0;
            arrivals.take();
        }
        self
    }

    /// The connections are open: arrivals, and the time of the run, count from now. Only the first call matters.
    pub fn begin(&mut self, now: u64) {
        if let (false, Some(arrivals)) = (self.begun, &mut self.arrivals) {
            arrivals.begun_at = now;
            self.end_at = self.end_at.map(|end_at| end_at.saturating_add(now));
        }
        self.begun = true;
    }

    pub fn claim(&mut self, now: u64) -> Claim {
        if self.is_over(now) {
            return Claim::Over;
        }
        if !self.begun {
            return Claim::Wait { until: u64::MAX };
        }
        let intended_at = match &mut self.arrivals {
            None => None,
            Some(arrivals) => {
                let at = arrivals.next_at();
                if self.end_at.is_some_and(|end_at| at >= end_at) {
                    self.stopped = true;
                    return Claim::Over;
                }
                if at > now {
                    return Claim::Wait { until: at };
                }
                arrivals.take();
                Some(at)
            }
        };
        if let Some(left) = &mut self.left {
            *left -= 1;
        }
        Claim::Begin { intended_at }
    }

    pub fn is_over(&self, now: u64) -> bool {
        self.stopped || self.left == Some(0) || self.begun && self.end_at.is_some_and(|end_at| now >= end_at)
    }

    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// When the next arrival is due, if there is to be one; in a closed loop it always is.
    pub fn due_at(&self, now: u64) -> Option<u64> {
        if !self.begun || self.is_over(now) {
            return None;
        }
        let at = self.arrivals.as_ref().map_or(now, Arrivals::next_at);
        Some(self.end_at.map_or(at, |end_at| at.min(end_at)))
    }

    /// Arrivals that were due by `now`, within the run's time, and found no free connection.
    pub fn missed_count(&self, now: u64) -> u64 {
        let Some(arrivals) = &self.arrivals else { return 0 };
        let until = self.end_at.map_or(now, |end_at| end_at.min(now));
        arrivals.left_before(until).min(self.left.unwrap_or(u64::MAX))
    }

    /// The run ends at a time, not only by its number of messages.
    pub fn has_end(&self) -> bool {
        self.end_at.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_share_all_messages() {
        for (messages_count, threads_count) in [(10, 3), (2, 4), (1000, 7)] {
            let claimed: u64 = (0..threads_count)
                .map(|index| {
                    let mut pace = Pace::share(index, threads_count, Some(messages_count), None, None);
                    std::iter::from_fn(|| (pace.claim(0) != Claim::Over).then_some(())).count() as u64
                })
                .sum();
            assert_eq!(claimed, messages_count);
        }
    }

    #[test]
    fn a_closed_loop_ends_with_its_time() {
        let mut pace = Pace::share(0, 1, None, Some(100), None);
        assert_eq!(pace.claim(99), Claim::Begin { intended_at: None });
        assert_eq!(pace.claim(100), Claim::Over);
    }

    #[test]
    fn arrivals_keep_their_times_when_nobody_takes_them() {
        // 1000 a second over two threads: this one has the odd milliseconds.
        let mut pace = Pace::share(1, 2, None, Some(10_000_000), Some(&Profile::steady(1000.0)));
        assert_eq!(pace.claim(0), Claim::Wait { until: u64::MAX });
        pace.begin(0);
        pace.begin(77);
        assert_eq!(pace.claim(0), Claim::Wait { until: 1_000_000 });
        let late = 6_500_000;
        for due in [1_000_000, 3_000_000, 5_000_000] {
            assert_eq!(pace.claim(late), Claim::Begin { intended_at: Some(due) });
        }
        assert_eq!(pace.claim(late), Claim::Wait { until: 7_000_000 });
        assert_eq!(pace.missed_count(9_999_999), 2);
        assert_eq!(pace.claim(9_999_999), Claim::Begin { intended_at: Some(7_000_000) });
        assert_eq!(pace.claim(9_999_999), Claim::Begin { intended_at: Some(9_000_000) });
        // The next would be due after the end.
        assert_eq!(pace.claim(9_999_999), Claim::Over);
        assert_eq!(pace.missed_count(u64::MAX), 0);
    }

    #[test]
    fn an_open_loop_counts_from_its_beginning() {
        let mut pace = Pace::share(0, 1, None, Some(10), Some(&Profile::steady(1e9)));
        assert!(!pace.is_over(50));
        pace.begin(50);
        assert_eq!(pace.claim(51), Claim::Begin { intended_at: Some(50) });
        assert!(!pace.is_over(59) && pace.is_over(60));
    }

    /// Mean and variance of the waits are those of an exponential distribution, whoever takes the arrivals and when.
    #[test]
    fn a_poisson_process_has_its_mean_and_its_variance() {
        let mut pace = Pace::share(0, 1, None, None, Some(&Profile::steady(1000.0))).poisson(7);
        pace.begin(0);
        let mut times = Vec::new();
        for _ in 0..100_000 {
            let Claim::Begin { intended_at: Some(at) } = pace.claim(u64::MAX) else { panic!("due") };
            times.push(at as f64 / 1e6);
        }
        let waits: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = waits.iter().sum::<f64>() / waits.len() as f64;
        let variance = waits.iter().map(|wait| (wait - mean).powi(2)).sum::<f64>() / waits.len() as f64;
        assert!((0.98..1.02).contains(&mean) && (0.95..1.05).contains(&variance), "{mean} {variance}");
        let longer = waits.iter().filter(|&&wait| wait > 1.0).count() as f64 / waits.len() as f64;
        assert!((longer - (-1f64).exp()).abs() < 0.01, "{longer}");
    }

    #[test]
    fn of_a_poisson_process_too_what_is_not_taken_is_missed() {
        let pace = |seed| {
            let mut pace =
                Pace::share(0, 1, None, Some(1_000_000_000), Some(&Profile::steady(1000.0))).poisson(seed);
            pace.begin(0);
            pace
        };
        let (untouched, mut taking) = (pace(3), pace(3));
        let mut taken = 0;
        while let Claim::Begin { .. } = taking.claim(500_000_000) {
            taken += 1;
        }
        assert_eq!(taken + taking.missed_count(u64::MAX), untouched.missed_count(u64::MAX));
        assert!((850..1150).contains(&untouched.missed_count(u64::MAX)));
        assert_ne!(pace(4).missed_count(u64::MAX), 0);
    }

    #[test]
    fn arrivals_follow_their_profile_whoever_takes_them() {
        // 10 a second, then 1000 a second: 10 and 1000 of them, over three threads.
        let profile = Profile::steps(&[10.0, 1000.0], 1.0);
        for seed in [None, Some(1)] {
            let mut times = Vec::new();
            for index in 0..3 {
                let mut pace = Pace::share(index, 3, None, Some(2_000_000_000), Some(&profile));
                if let Some(seed) = seed {
                    pace = pace.poisson(seed + u64::from(index));
                }
                pace.begin(0);
                let missed_count = pace.missed_count(u64::MAX);
                let before = times.len();
                while let Claim::Begin { intended_at: Some(at) } = pace.claim(1_999_999_999) {
                    times.push(at);
                }
                assert_eq!(missed_count, (times.len() - before) as u64);
            }
            let early = times.iter().filter(|&&at| at < 1_000_000_000).count();
            match seed {
                None => assert_eq!((early, times.len()), (10, 1010)),
                Some(_) => assert!((1..30).contains(&early) && (850..1150).contains(&times.len()), "{early}"),
            }
        }
    }

    #[test]
    fn a_stopped_pace_is_over() {
        let mut pace = Pace::share(0, 1, Some(5), None, None);
        pace.stop();
        assert_eq!(pace.claim(0), Claim::Over);
    }
}
