//! The process's table of descriptors, and what they refer to.

use crate::Fd;

/// Numbers 0 to 2 are taken, as in any process.
const FD_FIRST: usize = 3;

/// What a descriptor refers to, by its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Object {
    Listener(usize),
    Connection(usize),
    File(usize),
    Bell(usize),
}

/// An open file description: it lives as long as a number or an operation in flight refers to it, so a number that is
/// closed while a `recv` is armed closes no connection.
#[derive(Debug)]
struct Description {
    object: Object,
    references: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Free,
    Open(usize),
    /// Closed, but its completion is not out: in the kernel no later `accept` overtakes it with the same number.
    Closing,
}

#[derive(Debug, Default)]
pub(super) struct Descriptors {
    entries: Vec<Entry>,
    descriptions: Vec<Description>,
}

impl Descriptors {
    /// Opens the lowest free number, as the kernel does. Returns the description too.
    pub(super) fn open(&mut self, object: Object) -> (Fd, usize) {
        self.entries.resize(self.entries.len().max(FD_FIRST), Entry::Closing);
        let free = self.entries.iter().position(|entry| *entry == Entry::Free);
        let number = free.unwrap_or(self.entries.len());
        if number == self.entries.len() {
            self.entries.push(Entry::Free);
        }
        let description = self.descriptions.len();
        self.descriptions.push(Description { object, references: 1 });
        self.entries[number] = Entry::Open(description);
        (Fd(number as i32), description)
    }

    /// The description behind a number, if it is open.
    pub(super) fn find(&self, fd: Fd) -> Option<usize> {
        match self.entries.get(usize::try_from(fd.0).ok()?)? {
            Entry::Open(description) => Some(*description),
            _ => None,
        }
    }

    pub(super) fn object(&self, description: usize) -> Object {
        self.descriptions[description].object
    }

    pub(super) fn retain(&mut self, description: usize) {
        self.descriptions[description].references += 1;
    }

    /// Gives one reference up; the object when it was the last.
    pub(super) fn release(&mut self, description: usize) -> Option<Object> {
        let description = &mut self.descriptions[description];
        description.references -= 1;
        (description.references == 0).then_some(description.object)
    }

    /// Takes an open number away from its description, whose reference the caller then releases. The number stays
    /// unused until [`free`](Self::free).
    pub(super) fn close(&mut self, fd: Fd) -> Option<usize> {
        let description = self.find(fd)?;
        self.entries[fd.0 as usize] = Entry::Closing;
        Some(description)
    }

    pub(super) fn free(&mut self, fd: Fd) {
        self.entries[fd.0 as usize] = Entry::Free;
    }

    pub(super) fn open_count(&self) -> usize {
        self.numbers().count()
    }

    /// The open numbers and what they refer to.
    pub(super) fn numbers(&self) -> impl Iterator<Item = (Fd, Object)> {
        self.entries.iter().enumerate().filter_map(|(number, entry)| match entry {
            Entry::Open(description) => Some((Fd(number as i32), self.object(*description))),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_number_is_used_again_and_the_description_outlives_it() {
        let mut descriptors = Descriptors::default();
        let (first, description) = descriptors.open(Object::File(0));
        let (second, _) = descriptors.open(Object::File(1));
        assert_eq!((first, second), (Fd(3), Fd(4)));
        descriptors.retain(description);
        assert_eq!(descriptors.close(first), Some(description));
        assert_eq!(descriptors.release(description), None);
        assert_eq!((descriptors.find(first), descriptors.close(first)), (None, None));
        assert_eq!(descriptors.open(Object::File(2)).0, Fd(5));
        descriptors.free(first);
        assert_eq!(descriptors.open(Object::File(3)).0, Fd(3));
        assert_eq!(descriptors.release(description), Some(Object::File(0)));
        assert_eq!(
            (descriptors.find(Fd(-1)), descriptors.find(Fd(0)), descriptors.find(Fd(99))),
            (None, None, None)
        );
        assert_eq!(descriptors.open_count(), 3);
    }
}
