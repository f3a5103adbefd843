//! A disk that remembers every write and every flush in order, and what a power cut can leave of them.
//!
//! The model: a flush that was answered makes durable what was written before it. Of what was written since, any
//! subset is on the disk, in whole or in some of its sectors. A sector never holds half of a write.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use ::tests::random::Random;

/// Octets that a disk writes whole or not at all.
pub(crate) const SECTOR_LEN: usize = 512;
const PAGE_LEN: usize = 4096;

type Page = [u8; PAGE_LEN];

/// What is on a disk. Pages that nobody wrote to are zeros and take no memory; a clone shares pages until one of
/// both is written to.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pages: Vec<Option<Arc<Page>>>,
}

impl Image {
    /// Blank, of `len` octets, a multiple of 4096.
    pub(crate) fn blank(len: u64) -> Self {
        let pages_count = usize::try_from(len).expect("an image that fits into memory") / PAGE_LEN;
        Self { pages: vec![None; pages_count] }
    }

    pub(crate) fn len(&self) -> u64 {
        (self.pages.len() * PAGE_LEN) as u64
    }

    /// Reads up to `len` octets, fewer at the end.
    pub(crate) fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let len = self.len().saturating_sub(offset).min(len as u64) as usize;
        let mut out = vec![0; len];
        for (page, within, part) in parts(offset, len) {
            if let Some(page) = &self.pages[page] {
                out[part.clone()].copy_from_slice(&page[within..within + part.len()]);
            }
        }
        out
    }

    /// Writes it as a sparse file.
    pub(crate) fn save(&self, path: &Path) -> io::Result<()> {
        let file = File::create(path)?;
        file.set_len(self.len())?;
        let written =
            self.pages.iter().enumerate().filter_map(|(number, page)| Some((number, page.as_ref()?)));
        for (number, page) in written {
            file.write_all_at(&page[..], (number * PAGE_LEN) as u64)?;
        }
        Ok(())
    }

    /// Writes what lies within the disk.
    pub(crate) fn write(&mut self, offset: u64, octets: &[u8]) {
        let len = self.len().saturating_sub(offset).min(octets.len() as u64) as usize;
        for (page, within, part) in parts(offset, len) {
            let page = self.pages[page].get_or_insert_with(|| Arc::new([0; PAGE_LEN]));
            Arc::make_mut(page)[within..within + part.len()].copy_from_slice(&octets[part]);
        }
    }
}

/// The pieces of a range that lie within one page each: the page, where in it, and which of the range's octets.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (usize, usize, std::ops::Range<usize>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let absolute = usize::try_from(offset).ok()? + at;
        let within = absolute % PAGE_LEN;
        let part = at..(at + PAGE_LEN - within).min(len);
        at = part.end;
        (!part.is_empty()).then_some((absolute / PAGE_LEN, within, part))
    })
}

/// What happened to a disk.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Write {
        offset: u64,
        octets: Vec<u8>,
    },
    /// All that was written before is durable.
    Flush,
}

/// Replays a log and cuts the power in it, at one position after the other.
#[derive(Debug)]
pub(crate) struct Replay<'a> {
    events: &'a [Event],
    /// What the events below `applied` left for sure.
    durable: Image,
    applied: usize,
}

/// What a power cut left.
#[derive(Debug)]
pub(crate) struct Cut {
    pub image: Image,
    /// Writes that no flush covered.
    pub unsynced_count: usize,
    /// Those of them that reached the disk whole, and in part.
    pub kept_count: usize,
    pub torn_count: usize,
}

impl<'a> Replay<'a> {
    pub(crate) fn new(blank: Image, events: &'a [Event]) -> Self {
        Self { events, durable: blank, applied: 0 }
    }

    /// Cuts the power when `position` events had happened, not before the position of an earlier cut.
    pub(crate) fn cut(&mut self, position: usize, random: &mut Random) -> Cut {
        let flush = self.events[..position].iter().rposition(|event| matches!(event, Event::Flush));
        let durable = flush.map_or(0, |flush| flush + 1).max(self.applied);
        for event in &self.events[self.applied..durable] {
            if let Event::Write { offset, octets } = event {
                self.durable.write(*offset, octets);
            }
        }
        self.applied = durable;
        let mut cut = Cut { image: self.durable.clone(), unsynced_count: 0, kept_count: 0, torn_count: 0 };
        // Of twelve writes so many reach the disk; often none at all, which is what a missing sync shows in.
        let share = *random.pick(&[0, 0, 0, 1, 6, 11, 12]);
        let may_tear = random.one_in(2);
        for event in &self.events[durable.min(position)..position] {
            let Event::Write { offset, octets } = event else { continue };
            cut.unsynced_count += 1;
            if random.below(12) >= share {
                continue;
            }
            if may_tear && random.one_in(2) {
                cut.torn_count += 1;
                tear(&mut cut.image, *offset, octets, random);
            } else {
                cut.kept_count += 1;
                cut.image.write(*offset, octets);
            }
        }
        cut
    }
}

/// Writes any subset of the sectors.
fn tear(image: &mut Image, offset: u64, octets: &[u8], random: &mut Random) {
    for (number, sector) in octets.chunks(SECTOR_LEN).enumerate() {
        if random.one_in(2) {
            image.write(offset + (number * SECTOR_LEN) as u64, sector);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_reads_what_was_written_as_a_plain_array_does() {
        const LEN: usize = 5 * PAGE_LEN;
        let (mut image, mut plain) = (Image::blank(LEN as u64), vec![0; LEN]);
        let mut random = Random::new(1);
        for round in 0..500 {
            let offset = random.below(LEN);
            let octets = vec![round as u8; random.below(3 * PAGE_LEN)];
            let end = (offset + octets.len()).min(LEN);
            plain[offset..end].copy_from_slice(&octets[..end - offset]);
            let before = image.clone();
            image.write(offset as u64, &octets);
            let (at, len) = (random.below(LEN), random.below(2 * PAGE_LEN));
            assert_eq!(image.read(at as u64, len), plain[at..(at + len).min(LEN)]);
            drop(before);
        }
    }

    fn write(sector: u64, octet: u8) -> Event {
        Event::Write { offset: sector * SECTOR_LEN as u64, octets: vec![octet; 2 * SECTOR_LEN] }
    }

    #[test]
    fn a_cut_keeps_what_was_flushed_and_any_sectors_of_the_rest() {
        let events =
            [write(0, 1), Event::Flush, write(0, 2), write(1, 3), write(4, 4), Event::Flush, write(0, 5)];
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..50_000 {
            let mut replay = Replay::new(Image::blank(PAGE_LEN as u64), &events);
            let mut random = Random::new(seed);
            let first = |cut: &Cut| -> Vec<u8> {
                cut.image.read(0, PAGE_LEN).chunks(SECTOR_LEN).map(|sector| sector[0]).collect()
            };
            assert!(
                replay
                    .cut(1, &mut random)
                    .image
                    .read(2 * SECTOR_LEN as u64, PAGE_LEN)
                    .iter()
                    .all(|&o| o == 0)
            );
            let sectors = first(&replay.cut(5, &mut random));
            assert!([1, 2].contains(&sectors[0]) && [1, 2, 3].contains(&sectors[1]));
            assert!(
                [0, 3].contains(&sectors[2]) && [0, 4].contains(&sectors[4]) && [0, 4].contains(&sectors[5])
            );
            seen.insert(sectors);
            assert_eq!(first(&replay.cut(6, &mut random)), [2, 3, 3, 0, 4, 4, 0, 0]);
        }
        assert_eq!(seen.len(), 2 * 3 * 2 * 2 * 2, "every state that the model has");
    }
}
