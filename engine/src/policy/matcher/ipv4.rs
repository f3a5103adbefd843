//! IPv4 addresses to classes, in at most three dependent cache lines.
//!
//! A root table has an entry for the high bits of the address; the addresses behind one entry are a *bucket*. What the
//! entry says of its bucket depends on how many intervals it has:
//!
//! ```text
//! 1            the class itself
//! up to 16     a leaf: one line with 16 starts and 16 classes
//! up to 512    a line with the starts of up to 32 leaves, which lie behind it
//! more         a table with the class of each address
//! ```

use super::classes::Class;
use super::sweep::Interval;

/// High bits that the root is indexed by: few where there are few intervals.
const ROOT_BITS_LEAST: u32 = 17;
const ROOT_BITS_MOST: u32 = 18;
/// From so many intervals on the root is the large one: buckets have a leaf each then, on average.
const INTERVALS_COUNT_MANY: usize = 1 << 19;
const LEAF_LEN: usize = 16;
const LEAVES_COUNT_MAX: usize = 32;

/// Where a bucket's classes are; the kind is in the two highest bits.
#[derive(Clone, Copy, Debug)]
struct Entry(u32);

#[derive(Clone, Copy, Debug)]
enum Bucket {
    One(Class),
    /// At this line.
    Leaf(u32),
    /// From this line on: separators, then leaves.
    Leaves(u32),
    /// From this line on: a class for each address.
    Dense(u32),
}

/// One cache line.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Line([u16; 32]);

#[derive(Debug)]
pub(super) struct Ipv4Table {
    /// Low bits of an address, which tell it from others of its bucket.
    low_bits: u32,
    root: Vec<Entry>,
    lines: Vec<Line>,
}

impl Entry {
    const KIND_SHIFT: u32 = 30;

    fn new(bucket: Bucket) -> Self {
        let (kind, value) = match bucket {
            Bucket::One(class) => (0, u32::from(class)),
            Bucket::Leaf(line) => (1, line),
            Bucket::Leaves(line) => (2, line),
            Bucket::Dense(line) => (3, line),
        };
        debug_assert!(value >> Self::KIND_SHIFT == 0, "2^32 addresses have fewer lines");
        Self(kind << Self::KIND_SHIFT | value)
    }

    fn bucket(self) -> Bucket {
        let value = self.0 & ((1 << Self::KIND_SHIFT) - 1);
        match self.0 >> Self::KIND_SHIFT {
            0 => Bucket::One(value as Class),
            1 => Bucket::Leaf(value),
            2 => Bucket::Leaves(value),
            _ => Bucket::Dense(value),
        }
    }
}

impl Line {
    /// Up to 16 intervals by the low bits of their starts, the first of which is 0. Starts that are left over are the
    /// greatest number, with the last class: the greatest address finds the right one among them too.
    fn leaf(intervals: &[Interval<u16>]) -> Self {
        let last = intervals.last().expect("a bucket has an interval").class;
        let mut line = [u16::MAX; 32];
        line[LEAF_LEN..].fill(last);
        for (at, interval) in intervals.iter().enumerate() {
            (line[at], line[LEAF_LEN + at]) = (interval.start, interval.class);
        }
        Self(line)
    }

    fn class(&self, low: u16) -> Class {
        let (starts, classes) = self.0.split_at(LEAF_LEN);
        // The first one always is. All of them in numbers of their own width, so that it is a few vector instructions.
        let count: u16 = starts.iter().map(|start| u16::from(*start <= low)).sum();
        classes[usize::from(count) - 1]
    }

    /// The starts of all leaves but the first, whose start is 0, and at the end the index of the last leaf.
    fn separators(leaves: &[&[Interval<u16>]]) -> Self {
        let mut line = [u16::MAX; 32];
        for (at, leaf) in leaves[1..].iter().enumerate() {
            line[at] = leaf[0].start;
        }
        line[LEAVES_COUNT_MAX - 1] = leaves.len() as u16 - 1;
        Self(line)
    }

    fn leaf_index(&self, low: u16) -> u16 {
        let (last, starts) = self.0.split_last().expect("32 numbers");
        starts.iter().map(|start| u16::from(*start <= low)).sum::<u16>().min(*last)
    }
}

impl Ipv4Table {
    /// Of intervals that ascend from 0 on.
    pub(super) fn new(intervals: &[Interval<u32>]) -> Self {
        let is_large = intervals.len() >= INTERVALS_COUNT_MANY;
        let root_bits = if is_large { ROOT_BITS_MOST } else { ROOT_BITS_LEAST };
        let mut table = Self { low_bits: 32 - root_bits, root: Vec::new(), lines: Vec::new() };
        let mut bucket = Vec::new();
        let mut rest = intervals;
        let mut class = intervals[0].class;
        table.root = (0..1_u32 << root_bits)
            .map(|high| {
                bucket.clear();
                let first = high << table.low_bits;
                if rest.first().is_none_or(|interval| interval.start != first) {
                    bucket.push(Interval { start: 0, class });
                }
                while let Some((interval, behind)) =
                    rest.split_first().filter(|(interval, _)| interval.start >> table.low_bits == high)
                {
                    bucket.push(Interval { start: table.low(interval.start), class: interval.class });
                    (class, rest) = (interval.class, behind);
                }
                Entry::new(table.add(&bucket))
            })
            .collect();
        table.lines.shrink_to_fit();
        table
    }

    /// `on_load` is called for each cache line whose place depends on the one before.
    pub(super) fn class(&self, address: u32, mut on_load: impl FnMut()) -> Class {
        let low = self.low(address);
        on_load();
        match self.root[(address >> self.low_bits) as usize].bucket() {
            Bucket::One(class) => class,
            Bucket::Leaf(line) => {
                on_load();
                self.lines[line as usize].class(low)
            }
            Bucket::Leaves(line) => {
                on_load();
                let index = self.lines[line as usize].leaf_index(low);
                on_load();
                self.lines[line as usize + 1 + usize::from(index)].class(low)
            }
            Bucket::Dense(line) => {
                on_load();
                self.lines[line as usize + usize::from(low) / 32].0[usize::from(low) % 32]
            }
        }
    }

    pub(super) fn memory_len(&self) -> usize {
        self.root.capacity() * size_of::<Entry>() + self.lines.capacity() * size_of::<Line>()
    }

    fn low(&self, address: u32) -> u16 {
        (address & ((1 << self.low_bits) - 1)) as u16
    }

    fn add(&mut self, bucket: &[Interval<u16>]) -> Bucket {
        let line = self.lines.len() as u32;
        match bucket.len() {
            1 => Bucket::One(bucket[0].class),
            2..=LEAF_LEN => {
                self.lines.push(Line::leaf(bucket));
                Bucket::Leaf(line)
            }
            len if len <= LEAF_LEN * LEAVES_COUNT_MAX => {
                let leaves: Vec<_> = bucket.chunks(LEAF_LEN).collect();
                self.lines.push(Line::separators(&leaves));
                self.lines.extend(leaves.into_iter().map(Line::leaf));
                Bucket::Leaves(line)
            }
            _ => {
                let mut classes = vec![0; 1 << self.low_bits];
                for (at, interval) in bucket.iter().enumerate() {
                    let end = bucket.get(at + 1).map_or(classes.len(), |next| usize::from(next.start));
                    classes[usize::from(interval.start)..end].fill(interval.class);
                }
                let lines = classes.as_chunks::<32>().0.iter();
                self.lines.extend(lines.map(|classes| Line(*classes)));
                Bucket::Dense(line)
            }
        }
    }
}
