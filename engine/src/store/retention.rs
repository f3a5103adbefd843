//! How long the files of delivered mail stay readable before they are used again.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use super::stock::Spare;

/// What `[spool] retain` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// That long after the last acknowledgement.
    Time(Duration),
    /// Up to that many octets of files, of all shards together; the oldest go first.
    Octets(u64),
}

/// Files with nothing left to deliver that are not to be used again yet, the oldest first.
#[derive(Debug)]
pub(super) struct Retained {
    retention: Option<Retention>,
    files: VecDeque<RetainedFile>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct RetainedFile {
    pub shard: u16,
    pub kind: RetainedKind,
    /// When the last of its records, or its message, was acknowledged.
    pub since: SystemTime,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum RetainedKind {
    Segment(Spare),
    /// Of a large message.
    Content {
        number: u32,
        len: u64,
    },
}

impl RetainedFile {
    fn len(&self) -> u64 {
        match self.kind {
            RetainedKind::Segment(spare) => spare.capacity,
            RetainedKind::Content { len, .. } => len,
        }
    }
}

impl Retained {
    pub(super) fn new(retention: Option<Retention>, mut former: Vec<RetainedFile>) -> Self {
        former.sort_by_key(|file| file.since);
        Self { retention, files: former.into() }
    }

    pub(super) fn push(&mut self, file: RetainedFile) {
        self.files.push_back(file);
    }

    /// The oldest, if it has stayed long enough.
    pub(super) fn pop_due(&mut self, now: SystemTime) -> Option<RetainedFile> {
        let is_due = match self.retention {
            None => true,
            Some(Retention::Time(_)) => self.due_in(now).is_some_and(|wait| wait.is_zero()),
            Some(Retention::Octets(octets)) => self.files.iter().map(RetainedFile::len).sum::<u64>() > octets,
        };
        if is_due { self.files.pop_front() } else { None }
    }

    /// When [`Self::pop_due`] is to be asked again; `None` where time alone changes nothing.
    pub(super) fn due_in(&self, now: SystemTime) -> Option<Duration> {
        let Some(Retention::Time(time)) = self.retention else { return None };
        let oldest = self.files.front()?;
        // A clock that was set back keeps nothing for longer than a file that came back now.
        let age = now.duration_since(oldest.since).unwrap_or_default();
        Some(time.saturating_sub(age))
    }

    /// The oldest whatever its age, of this shard if it has one: the disk is full, and mail that comes is worth more
    /// than mail that went.
    pub(super) fn give_up(&mut self, shard: Option<u16>) -> Option<RetainedFile> {
        let of_shard = self.files.iter().position(|file| Some(file.shard) == shard);
        self.files.remove(of_shard.unwrap_or(0))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: SystemTime = SystemTime::UNIX_EPOCH;

    fn retained(retention: Option<Retention>) -> Retained {
        let at = |shard: u16, secs: u64, kind| RetainedFile {
            shard,
            kind,
            since: START + Duration::from_secs(secs),
        };
        let segment = |epoch| RetainedKind::Segment(Spare { number: 1, epoch, capacity: 100 });
        let mut retained = Retained::new(retention, vec![at(0, 20, segment(20)), at(1, 10, segment(10))]);
        retained.push(at(1, 30, RetainedKind::Content { number: 30, len: 100 }));
        retained
    }

    fn mark(file: RetainedFile) -> u64 {
        match file.kind {
            RetainedKind::Segment(spare) => spare.epoch,
            RetainedKind::Content { number, .. } => u64::from(number),
        }
    }

    fn due(retained: &mut Retained, secs: u64) -> Vec<u64> {
        let now = START + Duration::from_secs(secs);
        std::iter::from_fn(|| retained.pop_due(now)).map(mark).collect()
    }

    #[test]
    fn without_a_retention_nothing_stays() {
        assert_eq!(due(&mut retained(None), 0), [10, 20, 30]);
    }

    #[test]
    fn by_time_each_stays_as_long_as_it_is_to() {
        let mut retained = retained(Some(Retention::Time(Duration::from_secs(5))));
        assert_eq!(due(&mut retained, 14), [0; 0]);
        assert_eq!(retained.due_in(START + Duration::from_secs(12)), Some(Duration::from_secs(3)));
        assert_eq!(due(&mut retained, 26), [10, 20]);
        assert_eq!(due(&mut retained, 0), [0; 0], "a clock that was set back");
        assert_eq!(due(&mut retained, 35), [30]);
        assert_eq!(retained.due_in(START), None);
    }

    #[test]
    fn by_octets_the_oldest_go_first() {
        let mut retained = retained(Some(Retention::Octets(250)));
        assert_eq!(due(&mut retained, 0), [10]);
        assert_eq!(due(&mut retained, 1000), [0; 0]);
    }

    #[test]
    fn a_full_disk_takes_the_oldest_of_its_shard_first() {
        let mut retained = retained(Some(Retention::Octets(1000)));
        let mut given = Vec::new();
        while let Some(file) = retained.give_up(Some(0)) {
            given.push(mark(file));
        }
        assert_eq!(given, [20, 10, 30]);
    }
}
