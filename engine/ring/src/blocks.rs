//! Bytes at an address and in an amount that a direct write or read of any disk takes.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error, realloc};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// What address, length and place in the file of a direct write are multiples of: no disk asks for more.
pub const BLOCK_LEN: usize = 4096;

/// A growing list of bytes, like `Vec<u8>`, whose address and capacity are multiples of [`BLOCK_LEN`]. Holds no memory
/// until something is put into it.
pub struct BlockBuffer {
    /// `capacity` bytes from here are ours, `len` of them have been written to; dangling while `capacity` is 0.
    start: NonNull<u8>,
    len: usize,
    capacity: usize,
}

impl BlockBuffer {
    pub const fn new() -> Self {
        Self { start: NonNull::dangling(), len: 0, capacity: 0 }
    }

    pub fn with_capacity(capacity: usize) -> Self {
        let mut buffer = Self::new();
        buffer.reserve(capacity);
        buffer
    }

    pub const fn len(&self) -> usize {
        self.len
    }

    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that fit without another allocation.
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets the bytes, keeps the memory.
    pub const fn clear(&mut self) {
        self.len = 0;
    }

    /// Keeps the first `len` bytes, or all if there are fewer.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Has room for `additional` more bytes. Grows to twice the capacity at least, so that appending is cheap.
    pub fn reserve(&mut self, additional: usize) {
        if additional > self.capacity - self.len {
            let needed = self.len.checked_add(additional).expect("a length is below usize::MAX");
            self.grow(needed.max(self.capacity.saturating_mul(2)));
        }
    }

    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        // SAFETY: `reserve` made the `bytes.len()` bytes behind `len` ours, and `bytes` cannot lie in them, since it is
        // borrowed while `self` is borrowed mutably.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.as_ptr().add(self.len), bytes.len());
        }
        self.len += bytes.len();
    }

    /// Cuts to `len` bytes, or appends copies of `byte` up to it.
    pub fn resize(&mut self, len: usize, byte: u8) {
        if len > self.len {
            self.reserve(len - self.len);
            // SAFETY: `reserve` made the bytes from `self.len` to `len` ours.
            unsafe { self.start.as_ptr().add(self.len).write_bytes(byte, len - self.len) };
        }
        self.len = len;
    }

    /// Appends zeros to the next multiple of [`BLOCK_LEN`].
    pub fn pad_to_block(&mut self) {
        self.resize(self.len.next_multiple_of(BLOCK_LEN), 0);
    }

    fn grow(&mut self, capacity: usize) {
        let new = layout(capacity);
        // SAFETY: the size of `new` is not 0, as something was to be put into it. Where there is memory already, it was
        // allocated with the layout of `self.capacity`, and the alignment stays.
        let start = unsafe {
            match self.capacity {
                0 => alloc(new),
                held => realloc(self.start.as_ptr(), layout(held), new.size()),
            }
        };
        self.start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(new));
        self.capacity = new.size();
    }
}

fn layout(capacity: usize) -> Layout {
    let layout = Layout::from_size_align(capacity, BLOCK_LEN).map(|layout| layout.pad_to_align());
    layout.expect("a capacity is below isize::MAX")
}

// SAFETY: the memory belongs to this value alone, as that of a `Vec<u8>` does.
unsafe impl Send for BlockBuffer {}
// SAFETY: a shared reference only reads.
unsafe impl Sync for BlockBuffer {}

impl Drop for BlockBuffer {
    fn drop(&mut self) {
        if self.capacity > 0 {
            // SAFETY: allocated by `grow` with this layout.
            unsafe { dealloc(self.start.as_ptr(), layout(self.capacity)) };
        }
    }
}

impl Default for BlockBuffer {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for BlockBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes from `start` have been written to; with a length of 0 a dangling address will do.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for BlockBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl From<&[u8]> for BlockBuffer {
    fn from(bytes: &[u8]) -> Self {
        let mut buffer = Self::new();
        buffer.extend_from_slice(bytes);
        buffer
    }
}

impl<const N: usize> From<&[u8; N]> for BlockBuffer {
    fn from(bytes: &[u8; N]) -> Self {
        Self::from(&bytes[..])
    }
}

impl fmt::Debug for BlockBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockBuffer({} of {} bytes)", self.len, self.capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BLOCK_LEN;

    fn assert_aligned(buffer: &BlockBuffer) {
        assert!(buffer.as_ptr().addr().is_multiple_of(BLOCK_LEN) || buffer.capacity() == 0);
        assert!(buffer.capacity().is_multiple_of(BLOCK_LEN) && buffer.len() <= buffer.capacity());
    }

    #[test]
    fn it_holds_what_a_vector_would_hold_and_stays_aligned() {
        let (mut buffer, mut vector) = (BlockBuffer::new(), Vec::new());
        assert_eq!((buffer.capacity(), &buffer[..]), (0, &[][..]));
        // Lengths on both sides of a block, of a doubling, and of nothing.
        for (step, len) in [0, 1, 4094, 1, 1, 4095, 9000, 0, 70_000, 3].into_iter().enumerate() {
            let piece: Vec<u8> = (0..len).map(|at| (at * 7 + step) as u8).collect();
            buffer.extend_from_slice(&piece);
            vector.extend_from_slice(&piece);
            assert_aligned(&buffer);
            assert_eq!(&buffer[..], vector);
        }
        for len in [10_000, 12_288, 12_289, 0, 5] {
            buffer.resize(len, 0xee);
            vector.resize(len, 0xee);
            assert_aligned(&buffer);
            assert_eq!(&buffer[..], vector, "{len}");
        }
        buffer[4] = 1;
        vector[4] = 1;
        buffer.pad_to_block();
        vector.resize(4096, 0);
        assert_eq!(&buffer[..], vector);
        buffer.pad_to_block();
        assert_eq!(buffer.len(), 4096);
        buffer.truncate(9000);
        buffer.truncate(2);
        assert_eq!(&buffer[..], &vector[..2]);
    }

    #[test]
    fn memory_is_kept_until_it_is_dropped() {
        let mut buffer = BlockBuffer::with_capacity(5000);
        assert_eq!((buffer.capacity(), buffer.len()), (8192, 0));
        let address = buffer.as_ptr();
        buffer.extend_from_slice(&[1; 8192]);
        buffer.clear();
        buffer.resize(8192, 2);
        assert_eq!((buffer.as_ptr(), buffer.capacity()), (address, 8192));
        assert_eq!(BlockBuffer::with_capacity(0).capacity(), 0);
        buffer.pad_to_block();
        assert_eq!(BlockBuffer::from(b"bytes").as_ref(), b"bytes");
    }
}
