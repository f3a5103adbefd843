//! How long a message waits for its next attempt.

use std::time::Duration;

/// The wait after this many failures: the last repeats.
pub(super) fn retry_wait(waits: &[Duration], failures_count: u32) -> Duration {
    let index = usize::try_from(failures_count).unwrap_or(usize::MAX).saturating_sub(1);
    waits.get(index).or_else(|| waits.last()).copied().unwrap_or(Duration::from_secs(60))
}

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
