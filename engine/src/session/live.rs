//! Which configurations the transactions of a worker were begun under.

use crate::limits::OLDER_GENERATIONS_COUNT_MAX;

/// Counts of one worker, of its own: no other thread has anything to do with them. A transaction that began under
/// a configuration too old to be kept goes on under the newest.
#[derive(Debug, Default)]
pub struct LiveTransactions {
    /// Newest first: its number, and the transactions open that began under it. Older ones without any are left out.
    generations: [(u32, u32); 1 + OLDER_GENERATIONS_COUNT_MAX],
}

impl LiveTransactions {
    /// From now on transactions begin under `number`, which is above all before it.
    pub fn advance(&mut self, number: u32) {
        let [newest, older, oldest] = self.generations;
        // Of three that are in use the oldest gives way.
        self.generations = match (newest.1, older.1) {
            (0, 0) => [(number, 0), oldest, (0, 0)],
            (0, _) => [(number, 0), older, oldest],
            (_, 0) => [(number, 0), newest, oldest],
            (_, _) => [(number, 0), newest, older],
        };
    }

    /// The newest generation.
    pub fn newest(&self) -> u32 {
        self.generations[0].0
    }

    /// Whether a generation is the newest, or one that a transaction goes on under.
    pub fn is_live(&self, number: u32) -> bool {
        let [newest, older @ ..] = self.generations;
        newest.0 == number || older.iter().any(|(older, count)| *older == number && *count > 0)
    }

    /// A transaction begins; under which generation.
    pub(crate) fn begin(&mut self) -> u32 {
        self.generations[0].1 += 1;
        self.newest()
    }

    /// A transaction that began under this generation has ended. Where that was given up, nobody counts.
    pub(crate) fn end(&mut self, number: u32) {
        if let Some((_, count)) = self.generations.iter_mut().find(|(it, count)| *it == number && *count > 0)
        {
            *count -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_older_ones_are_kept_while_they_are_in_use() {
        let mut live = LiveTransactions::default();
        live.advance(1);
        assert_eq!(live.begin(), 1);
        live.advance(2);
        // Nobody began under 2: it does not push 1 out.
        live.advance(3);
        assert!(live.is_live(1) && !live.is_live(2) && live.is_live(3));
        assert_eq!(live.begin(), 3);
        live.advance(4);
        assert!(live.is_live(1) && live.is_live(3) && live.is_live(4));
        assert_eq!(live.begin(), 4);
        live.advance(5);
        assert!(!live.is_live(1) && live.is_live(3) && live.is_live(4) && live.is_live(5));
        // The one that was given up ends: no other is counted for it.
        live.end(1);
        assert!(live.is_live(3) && live.is_live(4));
        live.end(3);
        live.end(4);
        assert!(!live.is_live(3) && !live.is_live(4) && live.is_live(5));
    }

    #[test]
    fn the_newest_lives_without_transactions() {
        let mut live = LiveTransactions::default();
        live.advance(7);
        assert!(live.is_live(7) && live.newest() == 7);
        live.begin();
        live.end(7);
        assert!(live.is_live(7));
    }
}
