//! The bytes that the kernel works on: held here from submission to completion, so that nobody can free or change them.

use crate::{BlockBuffer, Payload, Token};

/// Bytes of either kind.
#[derive(Debug)]
pub(crate) enum Held {
    Bytes(Vec<u8>),
    Blocks(BlockBuffer),
}

impl Held {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Blocks(blocks) => blocks,
        }
    }

    /// What the caller gets back.
    pub(crate) fn into_payload(self) -> Payload {
        match self {
            Self::Bytes(bytes) => Payload::Returned(bytes),
            Self::Blocks(blocks) => Payload::Written(blocks),
        }
    }
}

/// Bytes by index; the index travels through the kernel in place of the caller's token.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    entries: Vec<Option<(Token, Held)>>,
    free: Vec<u32>,
}

impl InFlight {
    /// Takes the bytes; their heap memory stays where it is until `remove`.
    pub(crate) fn insert(&mut self, token: Token, held: Held) -> u32 {
        if let Some(index) = self.free.pop() {
            self.entries[index as usize] = Some((token, held));
            return index;
        }
        self.entries.push(Some((token, held)));
        self.entries.len() as u32 - 1
    }

    pub(crate) fn remove(&mut self, index: u32) -> Option<(Token, Held)> {
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
