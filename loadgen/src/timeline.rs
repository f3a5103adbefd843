//! What happened when: throughput, errors and CPU over a run's time, in bounded memory.

use serde::Serialize;

use crate::limits::TIMELINE_POINTS_COUNT_MAX;

/// Totals at a moment, since the run's start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Point {
    pub at_secs: f64,
    pub accepted: u64,
    pub errors: u64,
    /// Open connections now.
    pub open: u64,
    /// CPU time of this process.
    pub cpu_secs: f64,
    /// Time that the cores of this machine were not idle.
    pub machine_secs: f64,
}

/// Points at even distances, which double when there are too many.
#[derive(Clone, Debug)]
pub struct Timeline {
    points: Vec<Point>,
    interval_secs: f64,
}

/// Rates between points: one value of each list belongs to the time up to the same place in `at_secs`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Rates {
    pub at_secs: Vec<f64>,
    pub messages_per_sec: Vec<f64>,
    pub errors_per_sec: Vec<f64>,
    pub connections_open: Vec<u64>,
    pub cpu_cores: Vec<f64>,
    pub machine_cpu_cores: Vec<f64>,
}

impl Timeline {
    /// `interval_secs`: how often there is to be a point, at first.
    pub fn new(interval_secs: f64) -> Self {
        Self { points: Vec::with_capacity(TIMELINE_POINTS_COUNT_MAX + 1), interval_secs }
    }

    /// The next point is due.
    pub fn is_due(&self, at_secs: f64) -> bool {
        self.points.last().is_none_or(|last| at_secs >= last.at_secs + self.interval_secs)
    }

    pub fn add(&mut self, point: Point) {
        if self.points.len() >= TIMELINE_POINTS_COUNT_MAX {
            let mut index = 0;
            self.points.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.interval_secs *= 2.0;
        }
        self.points.push(point);
    }

    /// The last one. Where the one before is too near for a rate between them, it takes its place.
    pub fn end(&mut self, point: Point) {
        let near = |last: &Point| point.at_secs - last.at_secs < self.interval_secs / 2.0;
        if self.points.len() > 1 && self.points.last().is_some_and(near) {
            self.points.pop();
        }
        self.add(point);
    }

    pub fn rates(&self) -> Rates {
        let mut rates = Rates::default();
        for pair in self.points.windows(2) {
            let secs = pair[1].at_secs - pair[0].at_secs;
            // A run may be over at once.
            if secs <= 0.0 {
                continue;
            }
            let rounded = |value: f64| (value * 1e3).round() / 1e3;
            let grown = |of: fn(&Point) -> f64| rounded((of(&pair[1]) - of(&pair[0])).max(0.0) / secs);
            rates.at_secs.push(rounded(pair[1].at_secs));
            rates.messages_per_sec.push(grown(|point| point.accepted as f64));
            rates.errors_per_sec.push(grown(|point| point.errors as f64));
            rates.connections_open.push(pair[1].open);
            rates.cpu_cores.push(grown(|point| point.cpu_secs));
            rates.machine_cpu_cores.push(grown(|point| point.machine_secs));
        }
        rates
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_takes_no_more_points_and_loses_no_message() {
        let mut timeline = Timeline::new(1.0);
        let mut last_secs = 0.0;
        for second in 0..10_000 {
            let at_secs = f64::from(second);
            if timeline.is_due(at_secs) {
                let accepted = 7 * second as u64;
                timeline.add(Point { at_secs, accepted, cpu_secs: at_secs / 2.0, ..Point::default() });
                last_secs = at_secs;
            }
        }
        let rates = timeline.rates();
        assert!(
            (TIMELINE_POINTS_COUNT_MAX / 2 - 1..TIMELINE_POINTS_COUNT_MAX).contains(&rates.at_secs.len())
        );
        assert_eq!(rates.at_secs.last(), Some(&last_secs));
        let (points_count, at_secs) = (rates.at_secs.len(), last_secs + 0.1);
        timeline.end(Point { at_secs, accepted: (7.0 * at_secs) as u64, ..Point::default() });
        assert_eq!(timeline.rates().at_secs.len(), points_count, "too near for a rate");
        assert!(rates.messages_per_sec.iter().all(|&rate| rate == 7.0));
        assert!(rates.cpu_cores.iter().all(|&cores| cores == 0.5));
        assert_eq!(Timeline::new(1.0).rates().at_secs.len(), 0);
    }
}
