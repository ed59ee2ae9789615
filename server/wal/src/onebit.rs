//! Was this one flipped bit? A torn write leaves whole sectors of other bytes; a decayed bit leaves a record that is
//! one bit from valid. CRC32C tells the two apart: it is linear, so each single wrong bit has a known difference.
//!
//! What it promises: any single wrong bit in a checked range is found, in time linear in the range; the caller
//! re-verifies the corrected bytes with checksums of their own, so chance agreement does not count.
//! What is absent: repair. A log with a flipped bit is damaged (rules.md 1), also where the bit is known.

/// Castagnoli's polynomial, reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// Which bit of `len` bytes must be flipped so that a checksum that came out `found` would be `wanted`.
/// Bit 0 is the lowest of the first byte; `len * 8 + n` is bit n of the stored checksum itself.
pub(crate) fn wrong_bit(len: usize, wanted: u32, found: u32) -> Option<u64> {
    let bits = len as u64 * 8;
    let mut difference = wanted ^ found;
    if difference.is_power_of_two() {
        return Some(bits + u64::from(difference.trailing_zeros()));
    }
    // A wrong bit p leaves 1, shifted through the register once for each bit from p on: shift back until 1 shows.
    for shifts in 1..=bits {
        difference = if difference & 1 << 31 != 0 { (difference ^ POLYNOMIAL) << 1 | 1 } else { difference << 1 };
        if difference == 1 {
            return Some(bits - shifts);
        }
    }
    None
}

/// Whether some single flip makes `valid` true; for short ranges whose checksum's place depends on the bytes.
pub(crate) fn any_flip(bytes: &mut [u8], mut valid: impl FnMut(&[u8]) -> bool) -> bool {
    (0..bytes.len() * 8).any(|bit| {
        bytes[bit / 8] ^= 1 << (bit % 8);
        let is = valid(bytes);
        bytes[bit / 8] ^= 1 << (bit % 8);
        is
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_bit_is_named_and_noise_is_not() {
        let mut bytes: Vec<u8> = (0..97u32).map(|n| (n * 31) as u8).collect();
        let crc = crc32c::crc32c_append(0x1234_5678, &bytes);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(wrong_bit(97, crc, crc32c::crc32c_append(0x1234_5678, &bytes)), Some(bit as u64));
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(wrong_bit(97, crc ^ 1 << 7, crc), Some(97 * 8 + 7));
        bytes[3] ^= 0x81;
        assert_eq!(wrong_bit(97, crc, crc32c::crc32c_append(0x1234_5678, &bytes)), None);
        assert_eq!(wrong_bit(97, crc, crc), None);
    }

    #[test]
    fn any_flip_restores_the_bytes() {
        let mut bytes = [1, 2, 3];
        assert!(any_flip(&mut bytes, |b| *b == [1, 2, 7]));
        assert!(!any_flip(&mut bytes, |b| *b == [1, 2, 4]));
        assert_eq!(bytes, [1, 2, 3]);
    }
}
