//! Files whose writes reach the disk whole when they are durable, and in any part when the power fails before that.

use super::Random;
use crate::Fd;

/// What a disk writes as one: after a power cut a sector is old or new, never mixed.
const SECTOR_LEN: usize = 512;
/// A larger file is a wrong offset.
pub(super) const FILE_LEN_MAX: u64 = 1 << 30;

/// What is on disk after a power cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    files: Vec<(Fd, Vec<u8>)>,
}

impl Disk {
    pub(super) fn new(files: Vec<(Fd, Vec<u8>)>) -> Self {
        Self { files }
    }

    /// The file that was created last under this number.
    ///
    /// # Panics
    /// If there was none.
    pub fn file(&self, fd: Fd) -> &[u8] {
        let found = self.files.iter().rfind(|(number, _)| *number == fd);
        found.map_or_else(|| panic!("no file was created as {fd:?}"), |(_, content)| content)
    }

    /// All files in the order of their creation.
    pub fn into_files(self) -> impl Iterator<Item = Vec<u8>> {
        self.files.into_iter().map(|(_, content)| content)
    }
}

/// What a power cut does to a write that a reader sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Certainty {
    /// It is on disk.
    Durable,
    /// Any part of it may be on disk; the next sync makes it certain.
    Cached,
    /// Any part of it may be on disk; the kernel has called it clean after an error, and no sync looks at it again.
    Lost,
}

#[derive(Debug)]
struct Written {
    number: u64,
    offset: usize,
    bytes: Vec<u8>,
    certainty: Certainty,
}

impl Written {
    fn overlaps(&self, offset: usize, len: usize) -> bool {
        self.offset < offset + len && offset < self.offset + self.bytes.len()
    }
}

/// One file: what is surely on disk, and what came after in order.
#[derive(Debug)]
pub(super) struct File {
    stable: Vec<u8>,
    /// Writes that are not durable, and durable ones that lie upon them.
    log: Vec<Written>,
    writes_count: u64,
}

impl File {
    pub(super) fn new(content: Vec<u8>) -> Self {
        Self { stable: content, log: Vec::new(), writes_count: 0 }
    }

    pub(super) fn writes_count(&self) -> u64 {
        self.writes_count
    }

    pub(super) fn write(&mut self, offset: usize, bytes: &[u8], certainty: Certainty) {
        self.writes_count += 1;
        // A durable write upon nothing uncertain is certain; else its place in the order matters.
        if certainty == Certainty::Durable
            && !self.log.iter().any(|written| written.overlaps(offset, bytes.len()))
        {
            return apply(&mut self.stable, offset, bytes);
        }
        self.log.push(Written { number: self.writes_count, offset, bytes: bytes.to_vec(), certainty });
    }

    /// The first `before` writes are durable now, or will never be if the sync fails.
    pub(super) fn sync(&mut self, before: u64, succeeds: bool) {
        let cached =
            |written: &&mut Written| written.number <= before && written.certainty == Certainty::Cached;
        let certainty = if succeeds { Certainty::Durable } else { Certainty::Lost };
        self.log.iter_mut().filter(cached).for_each(|written| written.certainty = certainty);
    }

    /// What a reader sees.
    pub(super) fn content(&self) -> Vec<u8> {
        let mut content = self.stable.clone();
        self.log.iter().for_each(|written| apply(&mut content, written.offset, &written.bytes));
        content
    }

    /// The least that is on disk after a power cut now.
    pub(super) fn durable(&self) -> Vec<u8> {
        let mut content = self.stable.clone();
        let durable = self.log.iter().filter(|written| written.certainty == Certainty::Durable);
        durable.for_each(|written| apply(&mut content, written.offset, &written.bytes));
        content
    }

    /// What is on disk after a power cut that met `in_flight` writes on their way.
    pub(super) fn after_power_cut(&self, in_flight: &[(usize, &[u8])], random: &mut Random) -> Vec<u8> {
        let mut content = self.stable.clone();
        for written in &self.log {
            match written.certainty {
                Certainty::Durable => apply(&mut content, written.offset, &written.bytes),
                Certainty::Cached | Certainty::Lost => {
                    tear(&mut content, written.offset, &written.bytes, random)
                }
            }
        }
        in_flight.iter().for_each(|(offset, bytes)| tear(&mut content, *offset, bytes, random));
        content
    }
}

fn apply(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

/// Applies any subset of the write's sectors. None, all, and a first part are as likely as a random subset, which for a
/// long write would otherwise never be one of them.
fn tear(content: &mut Vec<u8>, offset: usize, bytes: &[u8], random: &mut Random) {
    let sectors_count = (offset + bytes.len()).div_ceil(SECTOR_LEN) - offset / SECTOR_LEN;
    let shape = random.below(4);
    let first_part = random.below(sectors_count as u64 + 1) as usize;
    let mut start = 0;
    for sector in 0..sectors_count {
        let end = ((offset / SECTOR_LEN + sector + 1) * SECTOR_LEN - offset).min(bytes.len());
        let reached = match shape {
            0 => false,
            1 => true,
            2 => sector < first_part,
            _ => random.chance(0.5),
        };
        if reached {
            apply(content, offset + start, &bytes[start..end]);
        }
        start = end;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_torn_write_is_any_subset_of_its_sectors_and_each_sector_is_whole() {
        // Octets 100..1400 touch three sectors: 100..512, 512..1024, 1024..1400.
        let mut seen = HashSet::new();
        for seed in 0..500 {
            let mut content = vec![0; 2048];
            tear(&mut content, 100, &[1; 1300], &mut Random::new(seed));
            let sectors = [&content[100..512], &content[512..1024], &content[1024..1400]];
            assert!(sectors.iter().all(|sector| sector.iter().all(|byte| *byte == sector[0])), "seed {seed}");
            assert!(content[..100].iter().chain(&content[1400..]).all(|byte| *byte == 0), "seed {seed}");
            seen.insert(sectors.map(|sector| sector[0]));
        }
        assert_eq!(seen.len(), 8);
    }

    #[test]
    fn a_durable_write_upon_an_uncertain_one_is_whole() {
        for seed in 0..100 {
            let mut file = File::new(vec![0; 1024]);
            file.write(0, &[1; 1024], Certainty::Cached);
            file.write(256, &[2; 512], Certainty::Durable);
            let content = file.after_power_cut(&[], &mut Random::new(seed));
            assert!(content[256..768].iter().all(|byte| *byte == 2), "seed {seed}");
            assert!(content[..256].iter().all(|byte| *byte == content[0]), "seed {seed}");
            assert_eq!((file.content()[0], file.durable()[0]), (1, 0));
        }
    }

    #[test]
    fn a_sync_makes_certain_what_was_written_before_it_unless_it_failed() {
        let mut file = File::new(Vec::new());
        file.write(0, &[1; 512], Certainty::Cached);
        file.sync(file.writes_count(), false);
        file.write(512, &[2; 512], Certainty::Cached);
        let before = file.writes_count();
        file.write(1024, &[3; 512], Certainty::Cached);
        file.sync(before, true);
        let outcomes: HashSet<[bool; 3]> = (0..100)
            .map(|seed| {
                let content = file.after_power_cut(&[], &mut Random::new(seed));
                [0, 512, 1024].map(|at| content.get(at).is_some_and(|byte| *byte != 0))
            })
            .collect();
        let expected = [[false, false], [false, true], [true, false], [true, true]];
        assert_eq!(outcomes, expected.map(|[first, third]| [first, true, third]).into());
    }

    #[test]
    fn an_uncertain_write_may_leave_the_file_as_short_as_it_was() {
        let mut file = File::new(Vec::new());
        file.write(0, &[1; 600], Certainty::Cached);
        let lens: HashSet<usize> =
            (0..100).map(|seed| file.after_power_cut(&[], &mut Random::new(seed)).len()).collect();
        assert_eq!(lens, HashSet::from([0, 512, 600]));
    }
}
