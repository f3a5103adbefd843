//! Time as an argument: the worker reads both clocks once a turn and hands them down.

use std::time::Duration;

/// One reading of the clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Since an arbitrary start; never goes back. For deadlines.
    pub monotonic: Duration,
    /// Since 1970-01-01 00:00 UTC. For trace fields, ids and records.
    pub unix: Duration,
}

impl Now {
    /// Microseconds since 1970, the unit of ids and records.
    pub fn unix_us(self) -> u64 {
        u64::try_from(self.unix.as_micros()).unwrap_or(u64::MAX)
    }
}
