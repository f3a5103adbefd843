//! CRC-32C (RFC 3720 §12.1), by which the spool and the PROXY header know what was damaged.

use crc_fast::CrcAlgorithm::Crc32Iscsi;
use crc_fast::{Digest, crc32_iscsi};

/// Of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc32_iscsi(bytes)
}

/// Of what `crc` is the checksum of, and `bytes` behind it.
pub fn crc32c_append(crc: u32, bytes: &[u8]) -> u32 {
    let mut digest = Digest::new_with_init_state(Crc32Iscsi, u64::from(!crc));
    digest.update(bytes);
    // Of 32 bits.
    digest.finalize() as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The other crate is what spools were written with.
        #[test]
        fn another_implementation_finds_the_same(
            bytes in prop::collection::vec(any::<u8>(), 0..5000),
            cut in 0..5000usize,
            crc in any::<u32>(),
        ) {
            let (first, second) = bytes.split_at(cut.min(bytes.len()));
            prop_assert_eq!(crc32c(&bytes), ::crc32c::crc32c(&bytes));
            prop_assert_eq!(crc32c_append(crc32c(first), second), crc32c(&bytes));
            prop_assert_eq!(crc32c_append(crc, &bytes), ::crc32c::crc32c_append(crc, &bytes));
        }
    }
}
