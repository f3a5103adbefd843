//! Names of messages.

/// Names one message for good: `<run>-<connection>-<number>`, of fixed width. A number is used for one attempt only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    pub run: u64,
    pub connection: u32,
    pub number: u64,
}

impl Token {
    pub const LEN: usize = 16 + 1 + 6 + 1 + 10;

    /// Writes the token into exactly [`LEN`](Self::LEN) octets; `connection` and `number` keep their lowest digits.
    pub fn write(&self, out: &mut [u8]) {
        assert_eq!(out.len(), Self::LEN);
        for (index, place) in out[..16].iter_mut().enumerate() {
            *place = b"0123456789abcdef"[(self.run >> (60 - 4 * index)) as usize & 15];
        }
        out[16] = b'-';
        decimal(u64::from(self.connection), &mut out[17..23]);
        out[23] = b'-';
        decimal(self.number, &mut out[24..]);
    }
}

fn decimal(mut value: u64, out: &mut [u8]) {
    for place in out.iter_mut().rev() {
        *place = b'0' + (value % 10) as u8;
        value /= 10;
    }
}
