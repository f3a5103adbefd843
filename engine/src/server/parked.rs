//! Input that waits for its session.

/// Received, but not consumed: the beginning of a command, or what came while a commit is pending. Holds no memory when
/// it is empty.
///
/// A session that is given it takes one message at a time. So the front is not thrown away each time but when it is the
/// greater part: each octet is moved once on average, however many messages there are.
#[derive(Debug, Default)]
pub(super) struct Parked {
    octets: Vec<u8>,
    /// Octets at the front that have been consumed; fewer than half of all.
    consumed_len: u32,
    /// What of it is in the worker's sum.
    pub(super) counted_len: u32,
}

impl Parked {
    pub(super) fn len(&self) -> usize {
        self.octets.len() - self.consumed_len as usize
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds at the end. Memory comes from `spare` if there was none.
    pub(super) fn extend(&mut self, octets: &[u8], spare: &mut Vec<Vec<u8>>) {
        if self.octets.capacity() == 0 {
            self.octets = spare.pop().unwrap_or_default();
        }
        self.octets.extend_from_slice(octets);
    }

    /// Lends the octets out, to be given back by [`Self::put_back`]: those to consume begin at the second value.
    pub(super) fn take(&mut self) -> (Vec<u8>, usize) {
        let from = std::mem::take(&mut self.consumed_len);
        (std::mem::take(&mut self.octets), from as usize)
    }

    /// The first `consumed` of the octets are done with. Returns the memory when it is not needed any more.
    pub(super) fn put_back(&mut self, mut octets: Vec<u8>, mut consumed: usize) -> Vec<u8> {
        if consumed == octets.len() {
            return octets;
        }
        if consumed >= octets.len() / 2 {
            octets.drain(..consumed);
            consumed = 0;
        }
        (self.octets, self.consumed_len) = (octets, consumed as u32);
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_come_out_in_order_and_are_moved_once_on_average() {
        let (mut parked, mut spare) = (Parked::default(), vec![Vec::with_capacity(64)]);
        let all: Vec<u8> = (0..100_000u32).map(|number| number as u8).collect();
        parked.extend(&all[..60_000], &mut spare);
        assert_eq!((parked.len(), spare.len()), (60_000, 0));
        parked.extend(&all[60_000..], &mut spare);
        let (mut seen, mut moved) = (Vec::new(), 0);
        while !parked.is_empty() {
            let (octets, from) = parked.take();
            let piece = &octets[from..octets.len().min(from + 7)];
            seen.extend_from_slice(piece);
            let consumed = from + piece.len();
            drop(parked.put_back(octets, consumed));
            if parked.consumed_len == 0 {
                moved += parked.len();
            }
        }
        assert_eq!(seen, all);
        assert!(moved <= all.len(), "{moved} octets were moved");
    }

    #[test]
    fn what_is_empty_holds_no_memory() {
        let (mut parked, mut spare) = (Parked::default(), Vec::new());
        parked.extend(b"NOOP\r\n", &mut spare);
        let (octets, from) = parked.take();
        let back = parked.put_back(octets, from + 6);
        assert!(back.capacity() >= 6 && parked.octets.capacity() == 0 && parked.is_empty());
    }
}
