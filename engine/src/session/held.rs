//! Content as it comes in: in memory while it is small, then in a file of its own, with only its end in memory.
//!
//! ```text
//!                     beyond the inline size, or memory is short
//! [ all in memory ] ───────────────────────────────────────────> [ wants a file ] ──use_file──> [ streams to it ]
//!        │ end-of-data: goes into the batch                            room is 0      full buffers go to next_write
//! ```
//!
//! Buffers are aligned and hold whole blocks, so that those that wait in memory are written to the file as they are:
//! what the client sent is copied once on its way to a file, and twice on its way to a batch.

use std::collections::VecDeque;

use ringmx_ring::{BLOCK_LEN, BlockBuffer};

use super::memory::{CLASS_MAX, Memory, Pressure, SizeClass};
use crate::checksum;
use crate::limits;

/// A piece of content for the file of its message.
#[derive(Debug)]
pub struct Piece {
    /// Where in the file, a multiple of the block.
    pub offset: u64,
    /// Whole blocks; behind the end of the content there are zeros.
    pub bytes: BlockBuffer,
}

/// Content that is in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spilled {
    /// Of the file, as [`Session::use_file`](super::Session::use_file) was told.
    pub file: u32,
    /// Octets of content.
    pub len: u64,
    /// CRC32C of them.
    pub crc: u32,
}

#[derive(Debug, Default)]
pub(super) struct Held {
    /// In memory and not given to a file, in order. All but the last are full.
    parts: VecDeque<BlockBuffer>,
    parts_len: usize,
    /// Octets of the whole content.
    len: u64,
    /// Size of the last buffer taken.
    class: SizeClass,
    file: Option<u32>,
    /// Octets given to the file and not yet written.
    in_flight_len: usize,
    /// CRC32C of what was given to the file.
    crc: u32,
    /// Octets from which on it wants a file.
    inline_len_max: usize,
    /// As it was when input came last, so that whoever asks afterwards gets the same answers.
    pressure: Pressure,
}

impl Held {
    /// Octets of the whole content.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// What is in memory.
    pub(super) fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.parts.iter().map(|part| &part[..])
    }

    pub(super) fn file(&self) -> Option<u32> {
        self.file
    }

    /// Empty, ready for content.
    pub(super) fn begin(&mut self, inline_len_max: usize) {
        self.inline_len_max = inline_len_max;
    }

    pub(super) fn feel(&mut self, pressure: Pressure) {
        self.pressure = pressure;
    }

    /// Octets that may be appended now; 0 means that the caller has something to do first, which is a file to bring or
    /// a piece to write.
    pub(super) fn room(&self) -> usize {
        let inline_len_max = self.inline_len_max;
        let len_max = match (self.file, self.pressure) {
            (None, Pressure::None) => inline_len_max,
            (None, Pressure::High) => inline_len_max.min(limits::PRESSED_CONTENT_LEN_MAX),
            (None, Pressure::Severe) => inline_len_max.min(BLOCK_LEN),
            (Some(_), Pressure::None) => 2 * limits::CHUNK_LEN_MAX,
            // One block collects while others are written.
            (Some(_), Pressure::High | Pressure::Severe) => 2 * BLOCK_LEN,
        };
        len_max.saturating_sub(self.parts_len + self.in_flight_len)
    }

    pub(super) fn append(&mut self, mut bytes: &[u8], memory: &mut Memory) {
        self.len += bytes.len() as u64;
        self.parts_len += bytes.len();
        while !bytes.is_empty() {
            let Some(last) = self.parts.back_mut().filter(|last| last.len() < last.capacity()) else {
                let buffer = memory.take(self.next_class());
                self.parts.push_back(buffer);
                continue;
            };
            let (now, rest) = bytes.split_at(bytes.len().min(last.capacity() - last.len()));
            last.extend_from_slice(now);
            bytes = rest;
        }
    }

    /// Each buffer is twice the one before: a client that drips holds little, one that streams writes long pieces.
    fn next_class(&mut self) -> SizeClass {
        self.class = if self.pressure > Pressure::None { 0 } else { (self.class + 1).min(CLASS_MAX) };
        self.class
    }

    pub(super) fn use_file(&mut self, number: u32) {
        self.file = Some(number);
    }

    /// The next piece to write, if there is one. `ended`: no content follows.
    pub(super) fn next_piece(&mut self, ended: bool, memory: &mut Memory) -> Option<Piece> {
        self.file?;
        let offset = self.len - self.parts_len as u64;
        let is_last = self.parts.len() == 1;
        let first = self.parts.front_mut()?;
        let mut rest = None;
        if is_last && !ended && first.len() < first.capacity() {
            let whole_len = first.len() / BLOCK_LEN * BLOCK_LEN;
            if self.pressure == Pressure::None || whole_len == 0 {
                return None;
            }
            // Only what is less than a block stays in memory.
            if whole_len < first.len() {
                let mut block = memory.take(0);
                block.extend_from_slice(&first[whole_len..]);
                rest = Some(block);
            }
            first.truncate(whole_len);
        }
        let mut bytes = self.parts.pop_front()?;
        self.parts.extend(rest);
        self.parts_len -= bytes.len();
        self.crc = checksum::crc32c_append(self.crc, &bytes);
        bytes.pad_to_block();
        self.in_flight_len += bytes.len();
        Some(Piece { offset, bytes })
    }

    /// `len` octets of pieces are in the file.
    pub(super) fn written(&mut self, len: usize) {
        self.in_flight_len -= len;
    }

    /// What the record says of the file, once all pieces have been given to it.
    pub(super) fn spilled(&self) -> Option<Spilled> {
        let file = self.file.filter(|_| self.parts.is_empty())?;
        Some(Spilled { file, len: self.len, crc: self.crc })
    }

    /// Gives all memory back. What the caller was given to write is its own affair from now on.
    pub(super) fn clear(&mut self, memory: &mut Memory) {
        self.parts.drain(..).for_each(|part| memory.give_back(part));
        let parts = std::mem::take(&mut self.parts);
        *self = Self { parts, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INLINE_LEN: usize = 40_000;

    /// What may happen to content, in any order.
    #[derive(Clone, Debug)]
    enum Step {
        Input(usize),
        Pressure(Pressure),
        /// The oldest write ends.
        Written,
    }

    fn step() -> impl Strategy<Value = Step> {
        let pressure = prop_oneof![Just(Pressure::None), Just(Pressure::High), Just(Pressure::Severe)];
        prop_oneof![
            4 => (0..100_000usize).prop_map(Step::Input),
            1 => pressure.prop_map(Step::Pressure),
            3 => Just(Step::Written),
        ]
    }

    /// A file that takes pieces in any order, and the writes under way.
    #[derive(Default)]
    struct Disk {
        image: Vec<u8>,
        in_flight: VecDeque<usize>,
    }

    impl Disk {
        fn take_pieces(&mut self, held: &mut Held, ended: bool, memory: &mut Memory) {
            while let Some(Piece { offset, bytes }) = held.next_piece(ended, memory) {
                assert!(offset.is_multiple_of(BLOCK_LEN as u64) && bytes.len().is_multiple_of(BLOCK_LEN));
                assert_eq!(offset as usize, self.image.len(), "each piece stands behind the one before");
                self.image.extend_from_slice(&bytes);
                self.in_flight.push_back(bytes.len());
                memory.give_back(bytes);
            }
        }

        fn end_write(&mut self, held: &mut Held) {
            self.in_flight.pop_front().into_iter().for_each(|len| held.written(len));
        }
    }

    proptest! {
        #[test]
        fn content_is_whole_wherever_it_is(steps in prop::collection::vec(step(), 0..40)) {
            let (mut held, mut memory, mut disk) = (Held::default(), Memory::new(usize::MAX), Disk::default());
            let mut expected = Vec::new();
            held.begin(INLINE_LEN);
            for step in steps {
                match step {
                    Step::Pressure(pressure) => held.feel(pressure),
                    Step::Written => disk.end_write(&mut held),
                    Step::Input(len) => {
                        let input: Vec<u8> = (0..len).map(|at| (at + expected.len()) as u8).collect();
                        let taken = &input[..len.min(held.room())];
                        held.append(taken, &mut memory);
                        expected.extend_from_slice(taken);
                        if held.room() == 0 && held.file().is_none() {
                            held.use_file(7);
                        }
                    }
                }
                disk.take_pieces(&mut held, false, &mut memory);
                let waits_for_nothing = held.room() == 0 && disk.in_flight.is_empty();
                prop_assert!(!waits_for_nothing || held.file().is_none(), "{held:?}");
                prop_assert!(memory.held_len() <= 2 * INLINE_LEN + 2 * limits::CHUNK_LEN_MAX);
            }
            disk.take_pieces(&mut held, true, &mut memory);
            prop_assert_eq!(held.len(), expected.len() as u64);
            if held.file().is_some() {
                let crc = crc32c::crc32c(&expected);
                prop_assert_eq!(held.spilled(), Some(Spilled { file: 7, len: held.len(), crc }));
                prop_assert!(disk.image.len() < expected.len() + BLOCK_LEN);
                prop_assert_eq!(&disk.image[..expected.len()], expected);
            } else {
                prop_assert_eq!((held.parts().collect::<Vec<_>>().concat(), held.spilled()), (expected, None));
            }
            held.clear(&mut memory);
            prop_assert_eq!((memory.held_len(), held.len(), held.file()), (0, 0, None));
        }
    }

    #[test]
    fn memory_of_a_drip_is_a_block_once_memory_is_short() {
        let (mut held, mut memory) = (Held::default(), Memory::new(usize::MAX));
        held.begin(INLINE_LEN);
        held.append(&[1; 39_000], &mut memory);
        held.feel(Pressure::High);
        assert_eq!(held.room(), 0);
        held.use_file(1);
        let mut in_flight = Vec::new();
        while let Some(piece) = held.next_piece(false, &mut memory) {
            in_flight.push(piece.bytes);
        }
        let written_len: usize = in_flight.iter().map(|bytes| bytes.len()).sum();
        assert_eq!(written_len, 39_000 / BLOCK_LEN * BLOCK_LEN);
        in_flight.into_iter().for_each(|bytes| memory.give_back(bytes));
        held.written(written_len);
        assert_eq!(memory.held_len(), BLOCK_LEN);
        assert!(held.room() > 0);
    }
}
