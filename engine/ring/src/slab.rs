//! Fixed-capacity slots with generations: the home of everything that a completion can name.

use crate::token::GENERATION_MASK;

/// Names one occupant of one slot. Stale once that occupant is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub slot: u32,
    pub generation: u32,
}

#[derive(Debug)]
struct Slot<T> {
    /// Counts occupants; wraps at 24 bits, as in a `Token`.
    generation: u32,
    value: Option<T>,
}

/// At most `capacity` values, each under a [`Key`]. The address space for all of them is taken at once, so that nothing
/// is ever moved; memory grows with the highest number ever held.
#[derive(Debug)]
pub struct Slab<T> {
    slots: Vec<Slot<T>>,
    /// Empty slots, used last-in first-out so that few are touched.
    free: Vec<u32>,
    capacity: usize,
}

impl<T> Slab<T> {
    pub fn new(capacity: usize) -> Self {
        Self { slots: Vec::with_capacity(capacity), free: Vec::new(), capacity }
    }

    /// Gives the value back when all slots are taken.
    pub fn insert(&mut self, value: T) -> Result<Key, T> {
        if let Some(slot) = self.free.pop() {
            let entry = &mut self.slots[slot as usize];
            entry.value = Some(value);
            return Ok(Key { slot, generation: entry.generation });
        }
        if self.slots.len() == self.capacity {
            return Err(value);
        }
        let slot = self.slots.len() as u32;
        self.slots.push(Slot { generation: 0, value: Some(value) });
        Ok(Key { slot, generation: 0 })
    }

    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let entry = self.slots.get_mut(key.slot as usize)?;
        if entry.generation == key.generation { entry.value.as_mut() } else { None }
    }

    pub fn get(&self, key: Key) -> Option<&T> {
        let entry = self.slots.get(key.slot as usize)?;
        if entry.generation == key.generation { entry.value.as_ref() } else { None }
    }

    /// Removes the occupant; its key is stale from now on.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        let entry = self.slots.get_mut(key.slot as usize)?;
        if entry.generation != key.generation {
            return None;
        }
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1) & GENERATION_MASK;
        self.free.push(key.slot);
        Some(value)
    }

    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The keys of all occupants.
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.value.is_some())
            .map(|(slot, entry)| Key { slot: slot as u32, generation: entry.generation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_finds_nothing() {
        let mut slab = Slab::new(2);
        let first = slab.insert('a').expect("room");
        slab.insert('b').expect("room");
        assert_eq!(slab.insert('c'), Err('c'));
        assert_eq!(slab.remove(first), Some('a'));
        assert_eq!(slab.remove(first), None);
        let third = slab.insert('c').expect("room");
        assert_eq!(third.slot, first.slot);
        assert_eq!(slab.get_mut(first), None);
        assert_eq!(slab.get(third), Some(&'c'));
        assert_eq!(slab.len(), 2);
        assert_eq!(slab.keys().count(), 2);
    }
}
