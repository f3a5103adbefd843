//! A table of names with a number each, for ten million of them: all names in one run of octets, and a word for each
//! place where one may be found. A lookup reads one line of words, as a rule, and the name.

use std::hash::{BuildHasher, RandomState};

/// Low bits of a word that are of the name's hash, so that another name is hardly ever looked at.
const FINGERPRINT_BITS: u32 = 24;
/// Octets before a name: its length and its number.
const HEADER_LEN: usize = 4;
const PLACES_COUNT_LEAST: usize = 8;

/// Immutable but for its numbers once built. Which names meet is drawn anew for each table, so that nobody can choose
/// names that all have to be looked at.
#[derive(Debug, Default)]
pub struct NameTable {
    /// Length, number (two octets each, least significant first) and octets of each name.
    names: Vec<u8>,
    /// 0, or where in `names` it is, plus 1, and the fingerprint. A power of two, never more than three quarters used.
    words: Vec<u64>,
    count: usize,
    secret: RandomState,
}

/// Where a table has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position(usize);

impl NameTable {
    /// How many names it has.
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The number of a name.
    pub fn get(&self, name: &[u8]) -> Option<u16> {
        self.find(name).ok().map(|position| self.number(position))
    }

    /// Where the name is, which is added with `number` if it was not there; whether it was. At most 65,535 octets.
    pub fn insert(&mut self, name: &[u8], number: u16) -> (Position, bool) {
        if (self.count + 1) * 4 > self.words.len() * 3 {
            self.grow();
        }
        let place = match self.find(name) {
            Ok(position) => return (position, true),
            Err(place) => place,
        };
        let position = self.names.len();
        self.names.extend_from_slice(&(name.len() as u16).to_le_bytes());
        self.names.extend_from_slice(&number.to_le_bytes());
        self.names.extend_from_slice(name);
        self.words[place] = word(position, self.secret.hash_one(name));
        self.count += 1;
        (Position(position), false)
    }

    pub fn number(&self, Position(at): Position) -> u16 {
        u16::from_le_bytes([self.names[at + 2], self.names[at + 3]])
    }

    pub fn set_number(&mut self, Position(at): Position, number: u16) {
        self.names[at + 2..at + HEADER_LEN].copy_from_slice(&number.to_le_bytes());
    }

    pub fn name(&self, Position(at): Position) -> &[u8] {
        let len = usize::from(u16::from_le_bytes([self.names[at], self.names[at + 1]]));
        &self.names[at + HEADER_LEN..at + HEADER_LEN + len]
    }

    /// In the order in which they were added.
    pub fn positions(&self) -> impl Iterator<Item = Position> + use<'_> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let position = Position(at);
            (at < self.names.len()).then(|| {
                at += HEADER_LEN + self.name(position).len();
                position
            })
        })
    }

    /// No more names are to come.
    pub fn shrink(&mut self) {
        self.names.shrink_to_fit();
    }

    /// Octets of memory.
    pub fn memory_len(&self) -> usize {
        self.names.capacity() + self.words.capacity() * size_of::<u64>()
    }

    /// The name, or the free place for it. There always is one.
    fn find(&self, name: &[u8]) -> Result<Position, usize> {
        if self.words.is_empty() {
            return Err(0);
        }
        let mask = self.words.len() - 1;
        let hash = self.secret.hash_one(name);
        let mut place = first_place(hash) & mask;
        loop {
            let found = self.words[place];
            if found == 0 {
                return Err(place);
            }
            let position = Position((found >> FINGERPRINT_BITS) as usize - 1);
            if fingerprint(found) == fingerprint(hash) && self.name(position) == name {
                return Ok(position);
            }
            place = (place + 1) & mask;
        }
    }

    fn grow(&mut self) {
        let mask = (self.words.len() * 2).max(PLACES_COUNT_LEAST) - 1;
        let mut words = vec![0; mask + 1];
        for position in self.positions() {
            let hash = self.secret.hash_one(self.name(position));
            let mut place = first_place(hash) & mask;
            while words[place] != 0 {
                place = (place + 1) & mask;
            }
            words[place] = word(position.0, hash);
        }
        self.words = words;
    }
}

fn word(position: usize, hash: u64) -> u64 {
    (position as u64 + 1) << FINGERPRINT_BITS | fingerprint(hash)
}

fn fingerprint(hash: u64) -> u64 {
    hash & ((1 << FINGERPRINT_BITS) - 1)
}

/// Of other bits than the fingerprint.
fn first_place(hash: u64) -> usize {
    (hash >> FINGERPRINT_BITS) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map(
            names in proptest::collection::vec((proptest::collection::vec(0..4_u8, 0..5), any::<u16>()), 0..300),
            others in proptest::collection::vec(proptest::collection::vec(0..4_u8, 0..5), 0..50),
        ) {
            let (mut table, mut map) = (NameTable::default(), HashMap::new());
            for (name, number) in &names {
                let (position, was_there) = table.insert(name, *number);
                prop_assert_eq!(was_there, map.contains_key(name));
                map.entry(name.clone()).or_insert(*number);
                prop_assert_eq!(table.name(position), &name[..]);
            }
            prop_assert_eq!(table.len(), map.len());
            for name in names.iter().map(|(name, _)| name).chain(&others) {
                prop_assert_eq!(table.get(name), map.get(name).copied());
            }
            let listed: HashMap<_, _> =
                table.positions().map(|at| (table.name(at).to_vec(), table.number(at))).collect();
            prop_assert_eq!(listed, map);
        }
    }

    #[test]
    fn a_million_names_take_little_more_than_their_octets() {
        let name = |at: u32| format!("mailbox-{at}@example.com");
        let mut table = NameTable::default();
        for at in 0..1_000_000 {
            table.insert(name(at).as_bytes(), (at % 7) as u16);
        }
        table.shrink();
        let octets: usize = (0..1_000_000).map(|at| name(at).len()).sum();
        assert!(table.memory_len() <= octets + 21 * 1_000_000, "{}", table.memory_len() - octets);
        assert!((0..1_000_000).step_by(97).all(|at| table.get(name(at).as_bytes()) == Some((at % 7) as u16)));
        assert_eq!(table.get(b"mailbox-1000000@example.com"), None);
    }
}
