//! The memory that the sessions of one worker share: a budget for envelopes and content, and buffers that are used
//! again.
//!
//! Nobody waits for memory. What a session holds beyond its fair part under [`Pressure`] goes to a file, and a new
//! transaction is told to come back later before those that exist run out of it.

use ringmx_ring::{BLOCK_LEN, BlockBuffer};

use crate::limits;

/// Buffers come in sizes of one block and its doublings, up to [`limits::CHUNK_LEN_MAX`].
pub(super) type SizeClass = usize;
pub(super) const CLASS_MAX: SizeClass = (limits::CHUNK_LEN_MAX / BLOCK_LEN).ilog2() as SizeClass;

/// How short memory is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Pressure {
    #[default]
    None,
    /// More than half of the budget is held: what is not small goes to files.
    High,
    /// More than three quarters: what is more than one block goes to files.
    Severe,
}

#[derive(Debug)]
pub(super) struct Memory {
    /// Octets of envelopes and content of all sessions, by capacity; also what is being written to files.
    held_len: usize,
    len_max: usize,
    /// No new transaction until less is held.
    full: bool,
    spare: [Vec<BlockBuffer>; CLASS_MAX + 1],
    spare_len: usize,
}

impl Memory {
    pub(super) fn new(len_max: usize) -> Self {
        Self { held_len: 0, len_max, full: false, spare: Default::default(), spare_len: 0 }
    }

    pub(super) fn held_len(&self) -> usize {
        self.held_len
    }

    pub(super) fn pressure(&self) -> Pressure {
        if self.held_len > self.len_max / 4 * 3 {
            Pressure::Severe
        } else if self.held_len > self.len_max / 2 {
            Pressure::High
        } else {
            Pressure::None
        }
    }

    /// Whether there is none for a new transaction: from seven eighths of the budget on, until less than three quarters
    /// are held.
    pub(super) fn is_full(&mut self) -> bool {
        let mark = if self.full { self.len_max / 4 * 3 } else { self.len_max / 8 * 7 };
        self.full = self.held_len > mark;
        self.full
    }

    /// An empty buffer of this size. Always: what keeps memory bounded is who may ask ([`Pressure`]).
    pub(super) fn take(&mut self, class: SizeClass) -> BlockBuffer {
        let buffer = match self.spare[class].pop() {
            Some(buffer) => {
                self.spare_len -= buffer.capacity();
                buffer
            }
            None => BlockBuffer::with_capacity(BLOCK_LEN << class),
        };
        self.held_len += buffer.capacity();
        buffer
    }

    pub(super) fn give_back(&mut self, mut buffer: BlockBuffer) {
        let len = buffer.capacity();
        self.shrink(len);
        if self.spare_len + len <= limits::SPARE_BUFFERS_LEN_MAX {
            buffer.clear();
            self.spare_len += len;
            self.spare[class_of(len)].push(buffer);
        }
    }

    /// Counts what is held in another way. False, and nothing counted, when it is beyond the budget.
    pub(super) fn grow(&mut self, len: usize) -> bool {
        let fits = self.held_len.saturating_add(len) <= self.len_max;
        if fits {
            self.held_len += len;
        }
        fits
    }

    pub(super) fn shrink(&mut self, len: usize) {
        self.held_len = self.held_len.checked_sub(len).expect("what is given back was counted");
    }
}

/// The greatest size of which `capacity` holds a whole buffer.
fn class_of(capacity: usize) -> SizeClass {
    ((capacity / BLOCK_LEN).max(1).ilog2() as SizeClass).min(CLASS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_is_used_again_and_bounded() {
        let mut memory = Memory::new(usize::MAX);
        let buffer = memory.take(3);
        let address = buffer.as_ptr();
        assert_eq!((buffer.capacity(), memory.held_len()), (32 << 10, 32 << 10));
        memory.give_back(buffer);
        assert_eq!((memory.held_len(), memory.take(2).as_ptr() == address), (0, false));
        assert_eq!(memory.take(3).as_ptr(), address);
        let count = 2 * limits::SPARE_BUFFERS_LEN_MAX / limits::CHUNK_LEN_MAX;
        let buffers: Vec<BlockBuffer> = (0..count).map(|_| memory.take(CLASS_MAX)).collect();
        buffers.into_iter().for_each(|buffer| memory.give_back(buffer));
        assert!(memory.spare_len <= limits::SPARE_BUFFERS_LEN_MAX);
        assert!(memory.spare_len > limits::SPARE_BUFFERS_LEN_MAX - limits::CHUNK_LEN_MAX);
    }

    #[test]
    fn marks_have_a_high_and_a_low_side() {
        let mut memory = Memory::new(800);
        let mut hold = |len: usize| {
            memory.held_len = len;
            (memory.pressure(), memory.is_full())
        };
        assert_eq!(hold(400), (Pressure::None, false));
        assert_eq!(hold(401), (Pressure::High, false));
        assert_eq!(hold(700), (Pressure::Severe, false));
        assert_eq!(hold(701), (Pressure::Severe, true));
        assert_eq!(hold(601), (Pressure::Severe, true));
        assert_eq!(hold(600), (Pressure::High, false));
        assert_eq!(hold(700), (Pressure::Severe, false));
        assert!(!memory.grow(101) && memory.grow(100) && memory.held_len() == 800);
    }
}
