//! Provided buffers: one pool of receive buffers that the kernel picks from when bytes arrive, so that a connection
//! on which nothing comes holds none.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

use crate::Lent;

/// The only buffer group of a ring.
pub(crate) const GROUP: u16 = 0;
const PAGE_LEN: usize = 4096;

/// The pool and the ring of descriptors that the kernel takes from. Both live at fixed addresses until dropped.
#[derive(Debug)]
pub(crate) struct Buffers {
    entries: NonNull<BufRingEntry>,
    pool: NonNull<u8>,
    /// A power of two.
    count: u16,
    buffer_len: u32,
    /// Our copy of the ring's tail; the kernel reads the shared one.
    tail: u16,
}

impl Buffers {
    /// `count` must be a power of two of at most 32,768 (a kernel rule).
    pub(crate) fn register(submitter: &Submitter<'_>, count: u16, buffer_len: u32) -> io::Result<Self> {
        if !count.is_power_of_two() || buffer_len == 0 {
            return Err(io::Error::other(
                "the number of receive buffers must be a power of two, their length not 0",
            ));
        }
        let entries = allocate(entries_layout(count)).cast();
        let pool = allocate(pool_layout(count, buffer_len));
        let mut buffers = Self { entries, pool, count, buffer_len, tail: 0 };
        // SAFETY: `entries` is page-aligned, zeroed, `count` entries long, and freed only in `drop`, which the owner
        // runs after the kernel's ring is gone.
        unsafe { submitter.register_buf_ring_with_flags(entries.as_ptr() as u64, count, GROUP, 0)? };
        (0..count).for_each(|index| buffers.offer(index));
        buffers.publish();
        Ok(buffers)
    }

    /// A buffer that the kernel has filled, as told by a completion.
    pub(crate) fn lend(&self, buffer_index: u16, len: u32) -> Lent {
        debug_assert!(buffer_index < self.count && len <= self.buffer_len);
        Lent { buffer_index, len }
    }

    pub(crate) fn bytes(&self, lent: &Lent) -> &[u8] {
        let offset = usize::from(lent.buffer_index % self.count) * self.buffer_len as usize;
        let len = lent.len.min(self.buffer_len) as usize;
        // SAFETY: offset + len lies in the pool by the two lines above. A `Lent` is made only from a completion and
        // consumed by `give_back`, so the kernel does not write to this buffer while the borrow lives.
        unsafe { std::slice::from_raw_parts(self.pool.as_ptr().add(offset), len) }
    }

    pub(crate) fn give_back(&mut self, lent: Lent) {
        self.offer(lent.buffer_index);
        self.publish();
    }

    /// Writes the descriptor of one buffer at the tail.
    fn offer(&mut self, buffer_index: u16) {
        let position = usize::from(self.tail & (self.count - 1));
        // SAFETY: position < count. The kernel reads entries from its head to the published tail only, and this one is
        // beyond the tail: at most `count` buffers exist and this one is not in the ring.
        let entry = unsafe { &mut *self.entries.as_ptr().add(position) };
        let offset = usize::from(buffer_index) * self.buffer_len as usize;
        entry.set_addr(self.pool.as_ptr() as u64 + offset as u64);
        entry.set_len(self.buffer_len);
        entry.set_bid(buffer_index);
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&self) {
        // SAFETY: the tail lies in the first entry's reserved field (kernel ABI), is 2-aligned and valid as long as
        // `entries`; the kernel reads it with acquire ordering.
        let shared = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries.as_ptr()).cast_mut()) };
        shared.store(self.tail, Ordering::Release);
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: allocated in `register` with the same layouts; the owner drops the kernel's ring first.
        unsafe {
            dealloc(self.entries.as_ptr().cast(), entries_layout(self.count));
            dealloc(self.pool.as_ptr(), pool_layout(self.count, self.buffer_len));
        }
    }
}

fn entries_layout(count: u16) -> Layout {
    layout(usize::from(count) * size_of::<BufRingEntry>())
}

fn pool_layout(count: u16, buffer_len: u32) -> Layout {
    layout(usize::from(count) * buffer_len as usize)
}

fn layout(len: usize) -> Layout {
    Layout::from_size_align(len, PAGE_LEN).expect("65,535 * u32::MAX is below isize::MAX")
}

fn allocate(layout: Layout) -> NonNull<u8> {
    // SAFETY: count and buffer_len are checked to be above 0, so the size is not 0.
    let memory = unsafe { alloc_zeroed(layout) };
    NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout))
}
