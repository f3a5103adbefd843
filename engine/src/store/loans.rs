//! Fresh batches on loan: the worker hands what it has just written to the reader, who then need not ask the disk (a
//! direct write leaves nothing in the page cache), and gets the memory back for another batch. No lock, no allocation,
//! and a bound: a reader that lags behind reads the disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_queue::ArrayQueue;
use ringmx_ring::BlockBuffer;

use crate::limits::{LENT_COUNT_MAX, LENT_LEN_MAX};
use crate::stats::LINES_LEN;

/// What one shard has on loan, and what has come back.
#[derive(Debug)]
pub(super) struct Loans {
    /// Capacities, not lengths.
    lent_len: AtomicUsize,
    spent: ArrayQueue<BlockBuffer>,
}

const _: () = assert!(align_of::<Loans>() >= LINES_LEN);

/// A batch in memory. Dropped, its memory goes back to the worker.
#[derive(Debug)]
pub(super) struct Loan {
    /// In its segment.
    offset: u64,
    bytes: BlockBuffer,
    home: Arc<Loans>,
}

impl Loans {
    pub(super) fn new() -> Self {
        // Enough for two segments: the one that ends and the one that begins.
        Self { lent_len: AtomicUsize::new(0), spent: ArrayQueue::new(2 * LENT_COUNT_MAX) }
    }

    /// Worker: lends a batch to the readers of `queue`; gives it back if they have enough.
    pub(super) fn lend(
        self: &Arc<Self>,
        queue: &ArrayQueue<Loan>,
        offset: u64,
        bytes: BlockBuffer,
    ) -> Option<BlockBuffer> {
        // The worker alone adds: what it sees here can only have become less.
        if self.lent_len.load(Ordering::Acquire) + bytes.capacity() > LENT_LEN_MAX || queue.is_full() {
            return Some(bytes);
        }
        self.lent_len.fetch_add(bytes.capacity(), Ordering::AcqRel);
        drop(queue.push(Loan { offset, bytes, home: Arc::clone(self) }));
        None
    }

    /// Worker: memory that has come back.
    pub(super) fn take_spent(&self) -> Option<BlockBuffer> {
        self.spent.pop()
    }
}

impl Loan {
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }

    /// The bytes of its segment from `at` on; `at` is not before its offset.
    pub(super) fn bytes_from(&self, at: u64) -> &[u8] {
        let skipped = usize::try_from(at - self.offset).unwrap_or(usize::MAX);
        self.bytes.get(skipped..).unwrap_or_default()
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.home.lent_len.fetch_sub(bytes.capacity(), Ordering::AcqRel);
        // No room: then there are buffers enough.
        drop(self.home.spent.push(bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lent_is_bounded_and_comes_back() {
        let (loans, queue) = (Arc::new(Loans::new()), ArrayQueue::new(LENT_COUNT_MAX));
        let quarter = || BlockBuffer::with_capacity(LENT_LEN_MAX / 4);
        for at in 0..4 {
            assert!(loans.lend(&queue, at, quarter()).is_none());
        }
        assert!(loans.lend(&queue, 4, quarter()).is_some(), "the bytes are lent out");
        drop(queue.pop());
        assert_eq!(loans.take_spent().map(|buffer| buffer.capacity()), Some(LENT_LEN_MAX / 4));
        assert!(loans.take_spent().is_none());
        assert!(loans.lend(&queue, 4, quarter()).is_none());
        drop(queue);
        assert_eq!(loans.lent_len.load(Ordering::Relaxed), 0, "a segment that goes gives all back");
        let queue = ArrayQueue::new(2);
        let lent = (0..3).filter(|at| loans.lend(&queue, *at, BlockBuffer::with_capacity(1)).is_none());
        assert_eq!(lent.count(), 2, "the queue is full");
    }

    #[test]
    fn a_loan_is_read_from_any_place_in_it() {
        let (loans, queue) = (Arc::new(Loans::new()), ArrayQueue::new(1));
        assert!(loans.lend(&queue, 4096, BlockBuffer::from(b"batch")).is_none());
        let loan = queue.pop().expect("lent");
        assert_eq!((loan.offset(), loan.end()), (4096, 4101));
        assert_eq!((loan.bytes_from(4096), loan.bytes_from(4099)), (&b"batch"[..], &b"ch"[..]));
        assert_eq!((loan.bytes_from(4101), loan.bytes_from(9999)), (&b""[..], &b""[..]));
    }
}
