//! How many messages of a shard may be under way at once. What a dead disk or a silent next hop holds up ends here: the
//! rest waits in the spool.

use crate::limits::{
    DELIVERED_CONTENT_LEN_MAX, DELIVERIES_COUNT_MAX, FINISHED_COUNT_MAX, RELAY_RETRIES_COUNT_MAX,
    RELAYS_COUNT_MAX, RETRIES_COUNT_MAX,
};

/// What an attempt takes of the room, from its beginning to its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// A next hop has to do with it.
    pub relays: bool,
    pub is_retry: bool,
    /// Octets of memory.
    pub content_len: usize,
}

/// The attempts under way.
#[derive(Debug, Default)]
pub(super) struct Room {
    deliveries: Under,
    relays: Under,
    content_len: usize,
}

#[derive(Debug, Default)]
struct Under {
    count: usize,
    retries_count: usize,
}

impl Room {
    pub(super) fn begin(&mut self, load: Load) {
        let under = self.under(load);
        under.count += 1;
        under.retries_count += usize::from(load.is_retry);
        self.content_len += load.content_len;
    }

    pub(super) fn end(&mut self, load: Load) {
        let under = self.under(load);
        under.count -= 1;
        under.retries_count -= usize::from(load.is_retry);
        self.content_len -= load.content_len;
    }

    fn under(&mut self, load: Load) -> &mut Under {
        if load.relays { &mut self.relays } else { &mut self.deliveries }
    }

    pub(super) fn count(&self) -> usize {
        self.deliveries.count + self.relays.count
    }

    pub(super) fn retries_count(&self) -> usize {
        self.deliveries.retries_count + self.relays.retries_count
    }

    /// Whether another first attempt may begin. `finished_count`: messages tried and neither acknowledged nor deferred.
    /// Where a message goes is known only once it is read, so that each kind needs a place.
    pub(super) fn is_left(&self, finished_count: usize) -> bool {
        self.deliveries.count < DELIVERIES_COUNT_MAX
            && self.relays.count < RELAYS_COUNT_MAX
            && self.content_len < DELIVERED_CONTENT_LEN_MAX
            && finished_count < FINISHED_COUNT_MAX
    }

    /// Whether another later attempt may.
    pub(super) fn is_left_for_retry(&self, finished_count: usize) -> bool {
        self.deliveries.retries_count < RETRIES_COUNT_MAX
            && self.relays.retries_count < RELAY_RETRIES_COUNT_MAX
            && self.is_left(finished_count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Load = Load { relays: false, is_retry: false, content_len: 1 };

    /// As many of these as there is room for.
    fn fill(room: &mut Room, load: Load) -> usize {
        let mut count = 0;
        while if load.is_retry { room.is_left_for_retry(0) } else { room.is_left(0) } {
            room.begin(load);
            count += 1;
            assert!(count < 1_000_000, "{load:?} has no bound");
        }
        count
    }

    #[test]
    fn each_kind_has_its_places_and_retries_half_of_them() {
        for (load, expected) in [
            (SMALL, DELIVERIES_COUNT_MAX),
            (Load { relays: true, ..SMALL }, RELAYS_COUNT_MAX),
            (Load { is_retry: true, ..SMALL }, RETRIES_COUNT_MAX),
            (Load { relays: true, is_retry: true, ..SMALL }, RELAY_RETRIES_COUNT_MAX),
        ] {
            let mut room = Room::default();
            assert_eq!(fill(&mut room, load), expected, "{load:?}");
            assert!(!room.is_left_for_retry(0), "no retry while a kind is full of them: {load:?}");
            assert_eq!(room.is_left(0), load.is_retry, "fresh mail passes by retries: {load:?}");
            room.end(load);
            assert_eq!(fill(&mut room, load), 1, "{load:?}");
            (0..expected).for_each(|_| room.end(load));
            assert_eq!((room.count(), room.retries_count(), room.content_len), (0, 0, 0));
        }
    }

    #[test]
    fn content_that_is_held_is_bounded_but_for_the_last() {
        const LEN: usize = DELIVERED_CONTENT_LEN_MAX / 4;
        for is_retry in [false, true] {
            let load = Load { relays: true, is_retry, content_len: LEN };
            let mut room = Room::default();
            assert_eq!(fill(&mut room, load), 4);
            room.end(load);
            assert_eq!(fill(&mut room, Load { content_len: LEN - 1, ..load }), 2, "an octet is left");
        }
        let mut room = Room::default();
        assert_eq!(fill(&mut room, Load { content_len: usize::MAX / 2, ..SMALL }), 1, "whatever its length");
    }

    #[test]
    fn what_is_finished_and_not_acknowledged_is_bounded() {
        let room = Room::default();
        assert!(room.is_left(FINISHED_COUNT_MAX - 1) && room.is_left_for_retry(FINISHED_COUNT_MAX - 1));
        assert!(!room.is_left(FINISHED_COUNT_MAX) && !room.is_left_for_retry(FINISHED_COUNT_MAX));
    }
}
