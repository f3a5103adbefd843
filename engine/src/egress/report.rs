//! Log lines of what goes wrong, once in a while for each topic: a route that fails for every message must not fill the
//! disk with lines too.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// Between two lines on the same topic.
const LINE_INTERVAL: Duration = Duration::from_secs(60);

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Topic {
    /// Deliveries of the route at this position.
    Route(usize),
    /// Messages of the route at this position for which its next hop has no place.
    Full(usize),
    NoRoute,
    Envelope,
    Acknowledgements,
    /// Writing undelivered mail to deferred segments.
    Deferring,
    Spool,
    Damage,
    /// Telling senders.
    Notices,
    /// Mail that nobody can be told of.
    Undeliverable,
    /// Writing the events stream.
    Events,
}

#[derive(Debug, Default)]
pub(super) struct Report {
    topics: HashMap<Topic, Spoken>,
}

#[derive(Debug)]
struct Spoken {
    at: Instant,
    suppressed_count: u64,
}

impl Report {
    /// Calls `line` with the number of lines left out since the last, unless that one is too recent.
    pub(super) fn problem(&mut self, topic: Topic, line: impl FnOnce(u64)) {
        let now = Instant::now();
        match self.topics.get_mut(&topic) {
            Some(spoken) if now < spoken.at + LINE_INTERVAL => spoken.suppressed_count += 1,
            spoken => {
                line(spoken.map_or(0, |spoken| spoken.suppressed_count));
                self.topics.insert(topic, Spoken { at: now, suppressed_count: 0 });
            }
        }
    }

    /// The topic is well again: true if it was not.
    pub(super) fn is_over(&mut self, topic: Topic) -> bool {
        !self.topics.is_empty() && self.topics.remove(&topic).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_speaks_once_until_it_is_over() {
        let mut report = Report::default();
        let mut lines = 0;
        for _ in 0..3 {
            report.problem(Topic::Route(1), |_| lines += 1);
        }
        report.problem(Topic::Route(2), |_| lines += 1);
        assert_eq!(lines, 2);
        assert!(report.is_over(Topic::Route(1)) && !report.is_over(Topic::Route(1)));
        report.problem(Topic::Route(1), |suppressed_count| assert_eq!(suppressed_count, 0));
    }
}
