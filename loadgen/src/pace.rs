//! When the next message is due: closed loop (at once) or open loop (fixed arrivals), until the run is over.

/// One thread's share of a run.
#[derive(Clone, Copy, Debug)]
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

/// Fixed arrivals. Only their number is kept: an arrival that finds no free connection waits without taking memory.
#[derive(Clone, Copy, Debug)]
struct Arrivals {
    first_at: u64,
    interval_ns: f64,
    count: u64,
}

impl Arrivals {
    fn next_at(&self) -> u64 {
        self.first_at + (self.count as f64 * self.interval_ns) as u64
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
    /// The share of thread `index` of `threads_count`. `rate` is of the whole run, in messages a second.
    pub fn share(
        index: u32,
        threads_count: u32,
        messages_count: Option<u64>,
        end_at: Option<u64>,
        rate: Option<f64>,
    ) -> Self {
        let (index, threads_count) = (u64::from(index), u64::from(threads_count));
        let left =
            messages_count.map(|count| count / threads_count + u64::from(index < count % threads_count));
        // Thread 0 takes arrival 0, `threads_count`, ...: together they are evenly spaced.
        let arrivals = rate.map(|rate| Arrivals {
            first_at: (index as f64 * 1e9 / rate) as u64,
            interval_ns: threads_count as f64 * 1e9 / rate,
            count: 0,
        });
        Self { left, end_at, arrivals, begun: arrivals.is_none(), stopped: false }
    }

    /// The connections are open: arrivals, and the time of the run, count from now. Only the first call matters.
    pub fn begin(&mut self, now: u64) {
        if let (false, Some(arrivals)) = (self.begun, &mut self.arrivals) {
            arrivals.first_at += now;
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
                arrivals.count += 1;
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
        let at = self.arrivals.map_or(now, |arrivals| arrivals.next_at());
        Some(self.end_at.map_or(at, |end_at| at.min(end_at)))
    }

    /// Arrivals that were due by `now`, within the run's time, and found no free connection.
    pub fn missed_count(&self, now: u64) -> u64 {
        let Some(arrivals) = self.arrivals else { return 0 };
        let until = self.end_at.map_or(now, |end_at| end_at.min(now));
        let elapsed_ns = until.saturating_sub(arrivals.first_at) as f64;
        let due_count = (elapsed_ns / arrivals.interval_ns).ceil() as u64;
        due_count.saturating_sub(arrivals.count).min(self.left.unwrap_or(u64::MAX))
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
        let mut pace = Pace::share(1, 2, None, Some(10_000_000), Some(1000.0));
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
        let mut pace = Pace::share(0, 1, None, Some(10), Some(1e9));
        assert!(!pace.is_over(50));
        pace.begin(50);
        assert_eq!(pace.claim(51), Claim::Begin { intended_at: Some(50) });
        assert!(!pace.is_over(59) && pace.is_over(60));
    }

    #[test]
    fn a_stopped_pace_is_over() {
        let mut pace = Pace::share(0, 1, Some(5), None, None);
        pace.stop();
        assert_eq!(pace.claim(0), Claim::Over);
    }
}
