//! Memory that batches are built in, used again and again.

use ringmx_ring::BlockBuffer;

use super::Ticket;
use crate::limits::{
    BUFFER_KEPT_LEN_MAX, BUFFERS_KEPT_COUNT_MAX, BUFFERS_KEPT_LEN_MAX, TICKET_LISTS_KEPT_COUNT_MAX,
};

/// Empty buffers and lists.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    free: Vec<BlockBuffer>,
    free_len: usize,
    ticket_lists: Vec<Vec<Ticket>>,
}

impl Buffers {
    pub(super) fn take(&mut self) -> BlockBuffer {
        let buffer = self.free.pop().unwrap_or_default();
        self.free_len -= buffer.capacity();
        buffer
    }

    pub(super) fn give_back(&mut self, buffer: BlockBuffer) {
        let len = buffer.capacity();
        let is_kept = (1..=BUFFER_KEPT_LEN_MAX).contains(&len)
            && self.free_len + len <= BUFFERS_KEPT_LEN_MAX
            && self.free.len() < BUFFERS_KEPT_COUNT_MAX;
        if is_kept {
            self.free_len += len;
            self.free.push(buffer);
        }
    }

    pub(super) fn take_tickets(&mut self) -> Vec<Ticket> {
        self.ticket_lists.pop().unwrap_or_default()
    }

    /// Moves the list's tickets to `tickets`.
    pub(super) fn drain_tickets(&mut self, mut list: Vec<Ticket>, tickets: &mut Vec<Ticket>) {
        tickets.append(&mut list);
        if self.ticket_lists.len() < TICKET_LISTS_KEPT_COUNT_MAX {
            self.ticket_lists.push(list);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::BATCH_LEN_SOFT_MAX;

    #[test]
    fn what_is_kept_is_bounded_in_bytes_and_in_number() {
        let mut buffers = Buffers::default();
        buffers.give_back(BlockBuffer::with_capacity(BUFFER_KEPT_LEN_MAX + 1));
        buffers.give_back(BlockBuffer::new());
        assert_eq!(buffers.take().capacity(), 0, "too large, and nothing at all");
        (0..9).for_each(|_| buffers.give_back(BlockBuffer::with_capacity(BATCH_LEN_SOFT_MAX)));
        assert_eq!((buffers.free.len(), buffers.free_len), (8, BUFFERS_KEPT_LEN_MAX));
        (0..8).for_each(|_| drop(buffers.take()));
        (0..200).for_each(|_| buffers.give_back(BlockBuffer::with_capacity(1)));
        assert_eq!(buffers.free.len(), BUFFERS_KEPT_COUNT_MAX);
        (0..=TICKET_LISTS_KEPT_COUNT_MAX).for_each(|_| buffers.drain_tickets(vec![1], &mut Vec::new()));
        assert_eq!(buffers.ticket_lists.len(), TICKET_LISTS_KEPT_COUNT_MAX);
    }
}
