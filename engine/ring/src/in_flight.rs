//! The bytes that the kernel works on: held here from submission to completion, so that nobody can free or change them.

use crate::Token;

/// Bytes by index; the index travels through the kernel in place of the caller's token.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    entries: Vec<Option<(Token, Vec<u8>)>>,
    free: Vec<u32>,
}

impl InFlight {
    /// Takes the bytes; their heap memory stays where it is until `remove`.
    pub(crate) fn insert(&mut self, token: Token, bytes: Vec<u8>) -> u32 {
        if let Some(index) = self.free.pop() {
            self.entries[index as usize] = Some((token, bytes));
            return index;
        }
        self.entries.push(Some((token, bytes)));
        self.entries.len() as u32 - 1
    }

    pub(crate) fn remove(&mut self, index: u32) -> Option<(Token, Vec<u8>)> {
        let entry = self.entries.get_mut(index as usize)?.take()?;
        self.free.push(index);
        Some(entry)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.len() == self.free.len()
    }

    /// Gives the memory up for good: for a ring that ends while the kernel may still read it.
    pub(crate) fn leak(&mut self) {
        std::mem::forget(std::mem::take(&mut self.entries));
    }
}
