//! What of the deferred segments counts: made of their records in the order in which they were written.
//!
//! A record that names an origin replaces it: a copy replaces a record of the intake or, after a compaction, one of a
//! deferred segment; of two copies of one origin the later counts. An update changes the envelope of the record that it
//! names; the last one counts.

use super::commit::Place;
use super::index::{Entry, Spot};
use super::record::RecordKind;
use crate::protocol::deferral::Deferral;

/// Collects records of one shard's deferred segments, oldest segment first.
#[derive(Debug, Default)]
pub struct Backlog {
    segments: Vec<Piece>,
    messages: Vec<Message>,
    /// What each copy was made of, and which message it is; those that are acknowledged too.
    origins: Vec<(Place, Option<u32>)>,
    /// Records that a later one replaces, without an acknowledgement that says so.
    replaced: Vec<Place>,
}

/// A deferred message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    pub entry: Entry,
    /// When the next attempt is due, in microseconds since 1970; `None` for one that is held.
    pub due_unix_us: Option<u64>,
    is_replaced: bool,
}

/// What counts of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    pub epoch: u64,
    pub slot: u32,
    /// Bytes of records that count.
    pub live_len: u64,
    /// Index of its first message.
    first: usize,
}

/// What counts of all of them.
#[derive(Debug)]
pub struct Summary {
    pub segments: Vec<Piece>,
    pub messages: Vec<Message>,
    /// To be acknowledged as moved, before any segment is used again.
    pub replaced: Vec<Place>,
    /// Records elsewhere of which there is a copy; ascending.
    pub copied: Vec<Place>,
}

impl Deferral {
    /// The record that this one replaces or updates.
    pub fn origin(&self) -> Place {
        Place { epoch: self.origin_epoch, offset: self.origin_offset }
    }
}

impl Backlog {
    /// What follows is of the segment with this epoch, greater than that of those before. `slot` is its number in the
    /// index, which grows with the epoch.
    pub fn segment(&mut self, epoch: u64, slot: u32) {
        self.segments.push(Piece { epoch, slot, live_len: 0, first: self.messages.len() });
    }

    /// A record at `offset`, `len` bytes long there. `origin` is the record that it names.
    pub fn record(
        &mut self,
        kind: RecordKind,
        offset: u64,
        len: u64,
        origin: Option<Place>,
        due_unix_us: Option<u64>,
        is_acknowledged: bool,
    ) {
        match (kind, origin) {
            (RecordKind::Update, Some(of)) => self.update(offset, len, of, due_unix_us),
            (RecordKind::Update, None) => {}
            _ => self.message(offset, len, origin, due_unix_us, is_acknowledged),
        }
    }

    fn message(
        &mut self,
        offset: u64,
        len: u64,
        origin: Option<Place>,
        due_unix_us: Option<u64>,
        is_acknowledged: bool,
    ) {
        let number = u32::try_from(self.messages.len()).ok().filter(|_| !is_acknowledged);
        self.origins.extend(origin.map(|origin| (origin, number)));
        if let Some(former) = origin.and_then(|origin| self.find(origin)) {
            self.replace(former);
        }
        let (Some(segment), false) = (self.segments.last_mut(), is_acknowledged) else { return };
        segment.live_len += len;
        let entry = Entry::new(Spot::new(segment.slot, offset, len));
        self.messages.push(Message { entry, due_unix_us, is_replaced: false });
    }

    fn update(&mut self, offset: u64, len: u64, of: Place, due_unix_us: Option<u64>) {
        let Some(number) = self.find(of) else { return };
        let Some(segment) = self.segments.last_mut() else { return };
        segment.live_len += len;
        let slot = segment.slot;
        let message = &mut self.messages[number];
        let former = message.entry.update();
        message.entry.set_update(Spot::new(slot, offset, len));
        message.due_unix_us = due_unix_us;
        self.free(former);
    }

    pub fn finish(mut self) -> Summary {
        // Stable: copies of one origin stay in the order in which they were written.
        self.origins.sort_by_key(|(origin, _)| (origin.epoch, origin.offset));
        let earlier: Vec<u32> = (self.origins.windows(2))
            .filter(|pair| pair[0].0 == pair[1].0)
            .filter_map(|pair| pair[0].1)
            .collect();
        for number in earlier {
            self.replace(number as usize);
        }
        let mut copied: Vec<Place> = self.origins.iter().map(|(origin, _)| *origin).collect();
        copied.dedup();
        copied.retain(|place| self.piece(place.epoch).is_none());
        self.messages.retain(|message| !message.is_replaced);
        let Self { segments, messages, replaced, .. } = self;
        Summary { segments, messages, replaced, copied }
    }

    fn piece(&self, epoch: u64) -> Option<usize> {
        self.segments.binary_search_by_key(&epoch, |segment| segment.epoch).ok()
    }

    /// The message whose record stands there.
    fn find(&self, place: Place) -> Option<usize> {
        let piece = self.piece(place.epoch)?;
        let first = self.segments[piece].first;
        let end = self.segments.get(piece + 1).map_or(self.messages.len(), |next| next.first);
        let at = self.messages[first..end]
            .binary_search_by_key(&place.offset, |message| message.entry.message.offset())
            .ok()?;
        Some(first + at).filter(|&number| !self.messages[number].is_replaced)
    }

    fn replace(&mut self, number: usize) {
        let Message { entry, is_replaced, .. } = &mut self.messages[number];
        if std::mem::replace(is_replaced, true) {
            return;
        }
        let entry = *entry;
        let epoch = self.by_slot(entry.message.slot).map(|piece| self.segments[piece].epoch);
        self.replaced.extend(epoch.map(|epoch| Place { epoch, offset: entry.message.offset() }));
        self.free(Some(entry.message));
        self.free(entry.update());
    }

    fn by_slot(&self, slot: u32) -> Option<usize> {
        self.segments.binary_search_by_key(&slot, |segment| segment.slot).ok()
    }

    fn free(&mut self, spot: Option<Spot>) {
        let Some(spot) = spot else { return };
        if let Some(piece) = self.by_slot(spot.slot) {
            self.segments[piece].live_len -= spot.record_len();
        }
    }
}

impl Summary {
    /// Whether there is a copy of the record at this place of another segment.
    pub fn is_copied(&self, place: Place) -> bool {
        is_copied(&self.copied, place)
    }
}

/// Whether `place` is among these, which are ascending.
pub fn is_copied(copied: &[Place], place: Place) -> bool {
    copied.binary_search_by_key(&(place.epoch, place.offset), |copied| (copied.epoch, copied.offset)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTAKE: Place = Place { epoch: 2, offset: 4160 };
    const LEN: u64 = 80;

    fn place(epoch: u64, offset: u64) -> Place {
        Place { epoch, offset }
    }

    /// Two deferred segments, of epochs 5 and 9; slots as their index gives them.
    fn backlog(first: impl FnOnce(&mut Backlog), second: impl FnOnce(&mut Backlog)) -> Summary {
        let mut backlog = Backlog::default();
        backlog.segment(5, 0);
        first(&mut backlog);
        backlog.segment(9, 4);
        second(&mut backlog);
        backlog.finish()
    }

    fn found(summary: &Summary) -> Vec<(u32, u64, Option<u64>, Option<u64>)> {
        let describe = |message: &Message| {
            let (at, update) = (message.entry.message, message.entry.update());
            (at.slot, at.offset(), update.map(Spot::offset), message.due_unix_us)
        };
        summary.messages.iter().map(describe).collect()
    }

    fn live(summary: &Summary) -> Vec<u64> {
        summary.segments.iter().map(|piece| piece.live_len).collect()
    }

    #[test]
    fn a_copy_stands_for_its_record_of_the_intake() {
        let summary = backlog(|b| b.message(4160, LEN, Some(INTAKE), Some(7), false), |_| {});
        assert_eq!(found(&summary), [(0, 4160, None, Some(7))]);
        assert!(summary.is_copied(INTAKE) && !summary.is_copied(place(2, 4168)));
        assert_eq!((live(&summary), summary.replaced), (vec![LEN, 0], vec![]));
    }

    #[test]
    fn a_copy_that_is_acknowledged_stands_for_its_record_too() {
        let summary = backlog(|b| b.message(4160, LEN, Some(INTAKE), Some(7), true), |_| {});
        assert_eq!((found(&summary), live(&summary)), (vec![], vec![0, 0]));
        assert!(summary.is_copied(INTAKE));
    }

    #[test]
    fn the_last_update_counts() {
        let summary = backlog(
            |b| {
                b.message(4160, LEN, Some(INTAKE), Some(7), false);
                b.update(4240, 24, place(5, 4160), Some(8));
            },
            |b| {
                b.update(4160, 32, place(5, 4160), None);
                b.update(4192, 32, place(5, 9999), Some(1));
                b.update(4224, 32, place(77, 4160), Some(1));
            },
        );
        assert_eq!(found(&summary), [(0, 4160, Some(4160), None)]);
        assert_eq!(live(&summary), [LEN, 32], "updates that were replaced, or of no message, are dead");
    }

    #[test]
    fn after_a_compaction_the_later_copy_counts() {
        let summary = backlog(
            |b| {
                b.message(4160, LEN, Some(INTAKE), Some(7), false);
                b.update(4240, 24, place(5, 4160), Some(8));
            },
            |b| b.message(4160, 88, Some(place(5, 4160)), Some(8), false),
        );
        assert_eq!(found(&summary), [(4, 4160, None, Some(8))]);
        assert_eq!((live(&summary), &summary.replaced[..]), (vec![0, 88], &[place(5, 4160)][..]));
        assert!(summary.is_copied(INTAKE), "known as long as the first copy is there");
    }

    #[test]
    fn of_two_copies_of_one_record_the_later_counts() {
        for is_acknowledged in [false, true] {
            let summary = backlog(
                |b| {
                    b.message(4160, LEN, Some(INTAKE), Some(7), false);
                    b.message(4240, LEN, Some(place(2, 8256)), Some(7), false);
                },
                |b| b.message(4160, LEN, Some(INTAKE), Some(9), is_acknowledged),
            );
            let mut expected = vec![(0, 4240, None, Some(7))];
            expected.extend((!is_acknowledged).then_some((4, 4160, None, Some(9))));
            assert_eq!((found(&summary), &summary.replaced[..]), (expected, &[place(5, 4160)][..]));
            assert_eq!(live(&summary), [LEN, if is_acknowledged { 0 } else { LEN }]);
        }
    }

    #[test]
    fn a_copy_without_an_origin_is_a_message_all_the_same() {
        let summary = backlog(|b| b.message(4160, LEN, None, None, false), |_| {});
        assert_eq!((found(&summary).len(), summary.copied.len()), (1, 0));
    }
}
