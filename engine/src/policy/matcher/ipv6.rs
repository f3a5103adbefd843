//! IPv6 addresses to classes, in at most six dependent cache lines up to five million intervals.
//!
//! A root table has an entry for the high bits of the address; the addresses behind one entry are a *bucket*. A bucket
//! of one interval is its class, right in the root. Others are a static B-tree of nodes with 48 starts: one leaf for up
//! to 48 intervals, three levels above the leaves for up to five million. A bucket of few intervals, as there are many
//! where a long list is spread evenly, is a small leaf. The lines of a node lie at places that are known as soon as the
//! node is, so they are fetched at the same time; what waits for them is the next node, or at last the line with the
//! class.
//!
//! Starts are kept as the 64 bits behind the root. Only a bucket with networks longer than that, such as single
//! hosts, has the whole 128.

use super::classes::Class;
use super::sweep::Interval;

/// High bits that the root is indexed by: the larger root only where its buckets would fill half a small leaf.
const ROOT_BITS_LEAST: u32 = 12;
const ROOT_BITS_MOST: u32 = 20;
/// Starts of a small leaf.
const SMALL_LEN: usize = 24;

/// A bucket: two bits of kind, three of levels above the leaves, then its class or the number of its uppermost node.
#[derive(Clone, Copy, Debug)]
struct Entry(u32);

#[derive(Clone, Copy, Debug)]
enum Bucket {
    One(Class),
    /// A small leaf, with starts of 64 bits.
    Small(u32),
    /// Starts of 64 bits.
    Narrow {
        levels: u32,
        node: u32,
    },
    /// Starts of 128 bits.
    Wide {
        levels: u32,
        node: u32,
    },
}

/// A start in a node.
trait Start: Copy + Ord + std::fmt::Debug {
    const MAX: Self;
}

impl Start for u64 {
    const MAX: Self = Self::MAX;
}

impl Start for u128 {
    const MAX: Self = Self::MAX;
}

/// The starts of intervals or children, by the cache line, and what they start. Starts that are left over are the
/// greatest number, so that the greatest address finds all of them.
#[derive(Debug)]
#[repr(align(64))]
struct Node<K, const LINES: usize, const PER_LINE: usize> {
    starts: [[K; PER_LINE]; LINES],
    /// Of a leaf; those left over are the last one.
    classes: [[Class; PER_LINE]; LINES],
    /// Of a node above leaves.
    first_child: u32,
    children_count: u32,
}

/// Nodes of the trees of all buckets; the children of a node lie beside one another.
#[derive(Debug)]
struct Forest<K, const LINES: usize, const PER_LINE: usize>(Vec<Node<K, LINES, PER_LINE>>);

#[derive(Debug)]
pub(super) struct Ipv6Table {
    root_bits: u32,
    root: Vec<Entry>,
    small: Forest<u64, { SMALL_LEN / 8 }, 8>,
    narrow: Forest<u64, 6, 8>,
    wide: Forest<u128, 12, 4>,
}

impl Entry {
    const KIND_SHIFT: u32 = 30;
    const LEVELS_SHIFT: u32 = 27;

    fn new(bucket: Bucket) -> Self {
        let (kind, levels, value) = match bucket {
            Bucket::One(class) => (0, 0, u32::from(class)),
            Bucket::Small(node) => (1, 0, node),
            Bucket::Narrow { levels, node } => (2, levels, node),
            Bucket::Wide { levels, node } => (3, levels, node),
        };
        assert!(levels < 8 && value >> Self::LEVELS_SHIFT == 0, "48 to the 8th intervals fit into no memory");
        Self(kind << Self::KIND_SHIFT | levels << Self::LEVELS_SHIFT | value)
    }

    fn bucket(self) -> Bucket {
        let node = self.0 & ((1 << Self::LEVELS_SHIFT) - 1);
        let levels = self.0 >> Self::LEVELS_SHIFT & 7;
        match self.0 >> Self::KIND_SHIFT {
            0 => Bucket::One(node as Class),
            1 => Bucket::Small(node),
            2 => Bucket::Narrow { levels, node },
            _ => Bucket::Wide { levels, node },
        }
    }
}

impl<K: Start, const LINES: usize, const PER_LINE: usize> Node<K, LINES, PER_LINE> {
    /// Starts of a node, and so children of one.
    const FANOUT: usize = LINES * PER_LINE;
    const FITS: () = assert!(PER_LINE * size_of::<K>() == 64);

    fn new(starts: impl ExactSizeIterator<Item = K>) -> Self {
        let () = Self::FITS;
        let mut node = Self {
            starts: [[K::MAX; PER_LINE]; LINES],
            classes: [[0; PER_LINE]; LINES],
            first_child: 0,
            children_count: starts.len() as u32,
        };
        for (at, start) in starts.enumerate() {
            node.starts[at / PER_LINE][at % PER_LINE] = start;
        }
        node
    }

    /// Which of the starts is the last that is not above `key`; the first one never is.
    fn place(&self, key: K) -> (usize, usize) {
        let line: usize = self.starts[1..].iter().map(|line| usize::from(line[0] <= key)).sum();
        let within: usize = self.starts[line][1..].iter().map(|start| usize::from(*start <= key)).sum();
        (line, within)
    }
}

impl<K: Start, const LINES: usize, const PER_LINE: usize> Forest<K, LINES, PER_LINE> {
    /// Adds the tree of a bucket; the levels above its leaves, and its uppermost node.
    fn add(&mut self, bucket: &[Interval<K>]) -> (u32, u32) {
        // The nodes of one level, by the starts that the level above knows them by.
        let mut level: Vec<K> = Vec::new();
        let mut first = self.0.len() as u32;
        for intervals in bucket.chunks(Node::<K, LINES, PER_LINE>::FANOUT) {
            let mut leaf = Node::new(intervals.iter().map(|interval| interval.start));
            leaf.classes = [[intervals[intervals.len() - 1].class; PER_LINE]; LINES];
            for (class, interval) in leaf.classes.as_flattened_mut().iter_mut().zip(intervals) {
                *class = interval.class;
            }
            level.push(intervals[0].start);
            self.0.push(leaf);
        }
        let mut levels = 0;
        while level.len() > 1 {
            let mut first_child = first;
            first = self.0.len() as u32;
            for starts in level.chunks(Node::<K, LINES, PER_LINE>::FANOUT) {
                let node = Node::new(starts.iter().copied());
                self.0.push(Node { first_child, ..node });
                first_child += starts.len() as u32;
            }
            level = level.iter().copied().step_by(Node::<K, LINES, PER_LINE>::FANOUT).collect();
            levels += 1;
        }
        (levels, first)
    }

    fn class(&self, levels: u32, mut node: u32, key: K, mut on_load: impl FnMut()) -> Class {
        for _ in 0..levels {
            on_load();
            let above = &self.0[node as usize];
            let (line, within) = above.place(key);
            node = above.first_child + ((line * PER_LINE + within) as u32).min(above.children_count - 1);
        }
        on_load();
        let leaf = &self.0[node as usize];
        let (line, within) = leaf.place(key);
        on_load();
        leaf.classes[line][within]
    }

    fn memory_len(&self) -> usize {
        self.0.capacity() * size_of::<Node<K, LINES, PER_LINE>>()
    }
}

impl Ipv6Table {
    /// Of intervals that ascend from 0 on.
    pub(super) fn new(intervals: &[Interval<u128>]) -> Self {
        let high = |interval: &Interval<u128>| interval.start >> (128 - ROOT_BITS_MOST);
        let buckets_count = intervals.chunk_by(|a, b| high(a) == high(b)).count();
        let is_large =
            intervals.len() >= buckets_count * SMALL_LEN / 2 && intervals.len() > 1 << ROOT_BITS_LEAST;
        let root_bits = if is_large { ROOT_BITS_MOST } else { ROOT_BITS_LEAST };
        let mut table = Self {
            root_bits,
            root: Vec::new(),
            small: Forest(Vec::new()),
            narrow: Forest(Vec::new()),
            wide: Forest(Vec::new()),
        };
        let mut bucket = Vec::new();
        let mut rest = intervals;
        let mut class = intervals[0].class;
        table.root = (0..1_u128 << root_bits)
            .map(|high| {
                bucket.clear();
                let first = high << (128 - root_bits);
                if rest.first().is_none_or(|interval| interval.start != first) {
                    bucket.push(Interval { start: 0, class });
                }
                while let Some((interval, behind)) =
                    rest.split_first().filter(|(interval, _)| interval.start >> (128 - root_bits) == high)
                {
                    bucket.push(Interval { start: interval.start << root_bits, class: interval.class });
                    (class, rest) = (interval.class, behind);
                }
                Entry::new(table.add(&bucket))
            })
            .collect();
        table.small.0.shrink_to_fit();
        table.narrow.0.shrink_to_fit();
        table.wide.0.shrink_to_fit();
        table
    }

    /// `on_load` is called for each cache line whose place depends on the one before.
    pub(super) fn class(&self, address: u128, mut on_load: impl FnMut()) -> Class {
        on_load();
        let key = address << self.root_bits;
        match self.root[(address >> (128 - self.root_bits)) as usize].bucket() {
            Bucket::One(class) => class,
            Bucket::Small(node) => self.small.class(0, node, (key >> 64) as u64, on_load),
            Bucket::Narrow { levels, node } => self.narrow.class(levels, node, (key >> 64) as u64, on_load),
            Bucket::Wide { levels, node } => self.wide.class(levels, node, key, on_load),
        }
    }

    pub(super) fn memory_len(&self) -> usize {
        let nodes = self.small.memory_len() + self.narrow.memory_len() + self.wide.memory_len();
        self.root.capacity() * size_of::<Entry>() + nodes
    }

    /// The starts are what is behind the root, at the upper end of the number.
    fn add(&mut self, bucket: &[Interval<u128>]) -> Bucket {
        if let [one] = bucket {
            return Bucket::One(one.class);
        }
        if bucket.iter().any(|interval| interval.start << 64 != 0) {
            let (levels, node) = self.wide.add(bucket);
            return Bucket::Wide { levels, node };
        }
        let narrow: Vec<Interval<u64>> = bucket
            .iter()
            .map(|interval| Interval { start: (interval.start >> 64) as u64, class: interval.class })
            .collect();
        if narrow.len() <= SMALL_LEN {
            return Bucket::Small(self.small.add(&narrow).1);
        }
        let (levels, node) = self.narrow.add(&narrow);
        Bucket::Narrow { levels, node }
    }
}
