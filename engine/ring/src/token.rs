//! What an operation is for, packed into the 64 bits that a ring hands back.

/// `kind: 7 | generation: 24 | slot: 32`; the highest bit is the ring's own. The generation tells a completion of a
/// slot's former user from one of its present user.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(u64);

const SLOT_BITS: u32 = 32;
const GENERATION_BITS: u32 = 24;
pub(crate) const GENERATION_MASK: u32 = (1 << GENERATION_BITS) - 1;
/// Set by the ring on operations whose bytes it holds; a caller's kind stays below 128.
const HELD: u64 = 1 << 63;

impl Token {
    /// `kind` is the caller's and below 128; higher bits of `kind` and `generation` are cut off.
    pub const fn new(kind: u8, generation: u32, slot: u32) -> Self {
        let high = ((kind & 0x7f) as u64) << GENERATION_BITS | (generation & GENERATION_MASK) as u64;
        Self(high << SLOT_BITS | slot as u64)
    }

    pub const fn kind(self) -> u8 {
        (self.0 >> (SLOT_BITS + GENERATION_BITS)) as u8
    }

    pub const fn generation(self) -> u32 {
        (self.0 >> SLOT_BITS) as u32 & GENERATION_MASK
    }

    pub const fn slot(self) -> u32 {
        self.0 as u32
    }

    pub(crate) const fn to_user_data(self) -> u64 {
        self.0
    }

    /// `user_data` of an operation whose bytes the ring holds at `index`.
    pub(crate) const fn held(index: u32) -> u64 {
        HELD | index as u64
    }

    pub(crate) const fn from_user_data(user_data: u64) -> Source {
        if user_data & HELD == 0 { Source::Token(Self(user_data)) } else { Source::Held(user_data as u32) }
    }
}

/// Where the token of a completion is found.
pub(crate) enum Source {
    Token(Token),
    Held(u32),
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token(kind {}, generation {}, slot {})", self.kind(), self.generation(), self.slot())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_kernel() {
        for (kind, generation, slot) in [(0, 0, 0), (127, GENERATION_MASK, u32::MAX), (5, 77, 1234)] {
            let token = Token::new(kind, generation, slot);
            assert_eq!((token.kind(), token.generation(), token.slot()), (kind, generation, slot));
            assert!(matches!(Token::from_user_data(token.to_user_data()), Source::Token(t) if t == token));
        }
        assert!(matches!(Token::from_user_data(Token::held(9)), Source::Held(9)));
    }
}
