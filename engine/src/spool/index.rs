//! The index of deferred messages: where each stands and when its next attempt is due. 32 octets a message, so that a
//! million of them cost tens of megabytes; everything else is in the records.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};

use super::record::RECORD_ALIGN;

/// Octets of memory that an indexed message takes: its entry and its place in the queue of those that wait. The two
/// vectors may have room for as many again.
pub const INDEXED_LEN: usize = size_of::<Entry>() + size_of::<u64>();
/// Messages that an index can hold: as many as a handle in the queue can tell apart. Beyond it messages stay in their
/// segments without being worked on until there is room.
pub const INDEXED_COUNT_MAX: usize = 1 << HANDLE_BITS;
/// Low bits of an item of the queue, which hold the handle; the others hold the time in milliseconds since the
/// index's base, enough for 34 years.
const HANDLE_BITS: u32 = 24;
const MS_MAX: u64 = (1 << (64 - HANDLE_BITS)) - 1;

/// Names an entry until it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(u32);

/// Where a record stands: in the segment with this number, which the index's owner gives out, at this offset; and how
/// long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    pub slot: u32,
    offset_units: u32,
    len_units: u32,
}

/// One deferred message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The record with the content.
    pub message: Spot,
    /// The last update to its envelope; [`Spot::NONE`] where there is none.
    update: Spot,
}

/// Entries by handle, and those that wait in the order of their due times.
#[derive(Debug, Default)]
pub struct Index {
    /// A removed one has [`Spot::NONE`] for its message and, as its update's slot, the next that is free.
    entries: Vec<Entry>,
    first_free: Option<Handle>,
    count: usize,
    queue: BinaryHeap<Reverse<u64>>,
    /// Milliseconds since 1970 that the queue's times count from.
    base_unix_ms: u64,
}

impl Spot {
    const NONE: Self = Self { slot: u32::MAX, offset_units: u32::MAX, len_units: u32::MAX };

    /// `offset` and `len` are a record's: multiples of 8, below 32 GiB.
    pub fn new(slot: u32, offset: u64, len: u64) -> Self {
        let units = |octets: u64| u32::try_from(octets / RECORD_ALIGN as u64).unwrap_or(u32::MAX - 1);
        Self { slot, offset_units: units(offset), len_units: units(len) }
    }

    pub fn offset(self) -> u64 {
        u64::from(self.offset_units) * RECORD_ALIGN as u64
    }

    pub fn record_len(self) -> u64 {
        u64::from(self.len_units) * RECORD_ALIGN as u64
    }
}

impl Entry {
    pub fn new(message: Spot) -> Self {
        Self { message, update: Spot::NONE }
    }

    pub fn update(&self) -> Option<Spot> {
        Some(self.update).filter(|&spot| spot != Spot::NONE)
    }

    /// The record that has the present envelope.
    pub fn envelope(&self) -> Spot {
        self.update().unwrap_or(self.message)
    }

    pub fn set_update(&mut self, spot: Spot) {
        self.update = spot;
    }
}

impl Index {
    /// Nothing in it is due before `now_unix_ms`.
    pub fn new(now_unix_ms: u64) -> Self {
        Self { base_unix_ms: now_unix_ms, ..Self::default() }
    }

    /// Adds a message that does not wait yet; gives it back when there is no room.
    pub fn insert(&mut self, entry: Entry) -> Result<Handle, Entry> {
        self.count += 1;
        if let Some(handle) = self.first_free {
            let slot = &mut self.entries[handle.index()];
            self.first_free = Some(Handle(slot.update.slot)).filter(|next| next.0 != u32::MAX);
            *slot = entry;
            return Ok(handle);
        }
        match u32::try_from(self.entries.len()) {
            Ok(next) if self.entries.len() < INDEXED_COUNT_MAX => {
                self.entries.push(entry);
                Ok(Handle(next))
            }
            _ => {
                self.count -= 1;
                Err(entry)
            }
        }
    }

    /// Lets a message wait; it must not wait already.
    pub fn schedule(&mut self, handle: Handle, due_unix_ms: u64) {
        let due = due_unix_ms.saturating_sub(self.base_unix_ms).min(MS_MAX);
        self.queue.push(Reverse(due << HANDLE_BITS | u64::from(handle.0)));
    }

    /// A message that waits no longer.
    pub fn pop_due(&mut self, now_unix_ms: u64) -> Option<Handle> {
        self.next_due().filter(|&due| due <= now_unix_ms)?;
        self.queue.pop().map(|Reverse(item)| Handle((item & (INDEXED_COUNT_MAX as u64 - 1)) as u32))
    }

    /// In milliseconds since 1970.
    pub fn next_due(&self) -> Option<u64> {
        self.queue.peek().map(|Reverse(item)| self.base_unix_ms + (item >> HANDLE_BITS))
    }

    /// Lets these messages be due at once, whether they wait or not. Looks at all that wait.
    pub fn hasten(&mut self, mut handles: HashSet<Handle>) {
        let handle_of = |item: u64| Handle((item & (INDEXED_COUNT_MAX as u64 - 1)) as u32);
        let hastened = |Reverse(item): Reverse<u64>| {
            let handle = handle_of(item);
            Reverse(if handles.remove(&handle) { u64::from(handle.0) } else { item })
        };
        let mut items: Vec<_> = std::mem::take(&mut self.queue).into_iter().map(hastened).collect();
        items.extend(handles.into_iter().map(|handle| Reverse(u64::from(handle.0))));
        self.queue = items.into();
    }

    pub fn get(&self, handle: Handle) -> Entry {
        self.entries[handle.index()]
    }

    pub fn set(&mut self, handle: Handle, entry: Entry) {
        self.entries[handle.index()] = entry;
    }

    /// Removes a message that does not wait.
    pub fn remove(&mut self, handle: Handle) -> Entry {
        let next = self.first_free.map_or(u32::MAX, |next| next.0);
        let free = Entry { message: Spot::NONE, update: Spot { slot: next, ..Spot::NONE } };
        self.first_free = Some(handle);
        self.count -= 1;
        std::mem::replace(&mut self.entries[handle.index()], free)
    }

    /// All messages, and where their records stand.
    pub fn entries(&self) -> impl Iterator<Item = (Handle, &Entry)> {
        let entries = (0..).map(Handle).zip(&self.entries);
        entries.filter(|(_, entry)| entry.message != Spot::NONE)
    }

    /// The messages with a record in this segment.
    pub fn handles_in(&self, slot: u32) -> impl Iterator<Item = Handle> {
        self.entries()
            .filter(move |(_, entry)| entry.message.slot == slot || entry.update.slot == slot)
            .map(|(handle, _)| handle)
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// What [`Self::new`] was given.
    pub fn base_unix_ms(&self) -> u64 {
        self.base_unix_ms
    }

    /// Messages that wait for their time.
    pub fn waiting_count(&self) -> usize {
        self.queue.len()
    }
}

impl Handle {
    fn index(self) -> usize {
        self.0 as usize
    }
}

const _: () = assert!(INDEXED_LEN == 32);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const BASE: u64 = 1_763_780_000_000;

    #[derive(Clone, Debug)]
    enum Step {
        Insert {
            slot: u32,
            due: u64,
        },
        PopAndReschedule {
            now: u64,
            due: u64,
        },
        PopAndRemove {
            now: u64,
        },
        Update {
            slot: u32,
        },
        /// Those in the slot are due at once.
        Hasten {
            slot: u32,
        },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..4u32, 0..50u64).prop_map(|(slot, due)| Step::Insert { slot, due }),
            (0..50u64, 0..90u64).prop_map(|(now, due)| Step::PopAndReschedule { now, due }),
            (0..50u64).prop_map(|now| Step::PopAndRemove { now }),
            (0..4u32).prop_map(|slot| Step::Update { slot }),
            (0..4u32).prop_map(|slot| Step::Hasten { slot }),
        ]
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_map(steps in proptest::collection::vec(step(), 0..200)) {
            let mut index = Index::new(BASE);
            // Due time and records by handle.
            let mut naive: BTreeMap<Handle, (u64, Entry)> = BTreeMap::new();
            let pop = |index: &mut Index, naive: &mut BTreeMap<Handle, (u64, Entry)>, now: u64| {
                let first = naive.values().map(|(due, _)| *due).min().filter(|&due| due <= now);
                let handle = index.pop_due(BASE + now);
                assert_eq!(handle.map(|handle| naive[&handle].0), first);
                handle
            };
            for (number, step) in (0u64..).zip(steps) {
                match step {
                    Step::Insert { slot, due } => {
                        let entry = Entry::new(Spot::new(slot, 8 * number, 64));
                        let handle = index.insert(entry).unwrap();
                        prop_assert!(naive.insert(handle, (due, entry)).is_none(), "a handle given twice");
                        index.schedule(handle, BASE + due);
                    }
                    Step::PopAndReschedule { now, due } => {
                        if let Some(handle) = pop(&mut index, &mut naive, now) {
                            index.schedule(handle, BASE + due);
                            naive.get_mut(&handle).unwrap().0 = due;
                        }
                    }
                    Step::PopAndRemove { now } => {
                        if let Some(handle) = pop(&mut index, &mut naive, now) {
                            prop_assert_eq!(Some(index.remove(handle)), naive.remove(&handle).map(|(_, e)| e));
                        }
                    }
                    Step::Update { slot } => {
                        if let Some((&handle, (_, entry))) = naive.iter_mut().next() {
                            entry.set_update(Spot::new(slot, 8 * number, 64));
                            index.set(handle, *entry);
                        }
                    }
                    Step::Hasten { slot } => {
                        let wanted = index.handles_in(slot).collect::<HashSet<_>>();
                        wanted.iter().for_each(|handle| naive.get_mut(handle).unwrap().0 = 0);
                        index.hasten(wanted);
                    }
                }
                prop_assert_eq!((index.len(), index.waiting_count()), (naive.len(), naive.len()));
                let in_slot = |entry: &Entry| {
                    entry.message.slot == 1 || entry.update().is_some_and(|update| update.slot == 1)
                };
                let expected: Vec<_> =
                    naive.iter().filter(|(_, (_, entry))| in_slot(entry)).map(|(&handle, _)| handle).collect();
                prop_assert_eq!(index.handles_in(1).collect::<Vec<_>>(), expected);
            }
        }
    }

    #[test]
    fn what_is_held_can_be_hastened_too() {
        let mut index = Index::new(BASE);
        let held = index.insert(Entry::new(Spot::new(0, 8, 64))).unwrap();
        let waiting = index.insert(Entry::new(Spot::new(0, 16, 64))).unwrap();
        index.schedule(waiting, BASE + 5);
        index.hasten(HashSet::from([held]));
        assert_eq!((index.pop_due(BASE), index.pop_due(BASE)), (Some(held), None));
    }

    #[test]
    fn an_entry_knows_its_records() {
        let mut entry = Entry::new(Spot::new(3, 4160, 72));
        assert_eq!((entry.envelope(), entry.update()), (Spot::new(3, 4160, 72), None));
        entry.set_update(Spot::new(4, 8256, 80));
        assert_eq!((entry.envelope().offset(), entry.message.offset()), (8256, 4160));
        assert_eq!((entry.envelope().record_len(), entry.message.record_len()), (80, 72));
    }

    #[test]
    fn a_time_far_away_stays_behind_all_others() {
        let mut index = Index::new(BASE);
        for due in [u64::MAX, 0, BASE + 5] {
            let handle = index.insert(Entry::new(Spot::new(0, due & 0xff8, 64))).unwrap();
            index.schedule(handle, due);
        }
        assert_eq!(index.next_due(), Some(BASE), "what was due before counts as due now");
        let order: Vec<_> = std::iter::from_fn(|| index.pop_due(u64::MAX)).map(|handle| handle.0).collect();
        assert_eq!(order, [1, 2, 0]);
    }
}
