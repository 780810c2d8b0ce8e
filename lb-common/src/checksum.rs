//! The Internet checksum, whole and by difference (RFC 1071, RFC 1624 equation 3).
//!
//! Sums are kept in native byte order of 16-bit words as they lie in memory: the ones' complement sum does not care.

use crate::wire::{Be16, Be32};

/// A ones' complement sum before folding. Adding up to 65,536 words cannot overflow it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(pub u64);

impl Sum {
    #[inline(always)]
    pub const fn word(self, word: Be16) -> Self {
        Self(self.0 + word.raw() as u64)
    }

    #[inline(always)]
    pub const fn long(self, long: Be32) -> Self {
        Self(self.0 + long.raw() as u64)
    }

    #[inline(always)]
    pub const fn raw(self, value: u64) -> Self {
        Self(self.0 + value)
    }

    #[inline(always)]
    pub const fn plus(self, other: Sum) -> Self {
        Self(self.0 + other.0)
    }

    /// Takes `old` out and puts `new` in.
    #[inline(always)]
    pub const fn replace32(self, old: u32, new: u32) -> Self {
        Self(self.0 + (!old) as u64 + new as u64)
    }

    #[inline(always)]
    pub const fn replace16(self, old: u16, new: u16) -> Self {
        Self(self.0 + (!old) as u64 + new as u64)
    }

    /// Folded to 16 bits, not complemented. Congruent to the sum modulo 65,535.
    #[inline(always)]
    pub const fn fold(self) -> u16 {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        sum as u16
    }

    /// The folded sum as the 32-bit difference that `bpf_l4_csum_replace` takes.
    #[inline(always)]
    pub const fn fold32(self) -> u32 {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let sum = (sum & 0xffff_ffff) + (sum >> 32);
        sum as u32
    }
}

/// `check` after the checksummed bytes changed by `change` (RFC 1624 eq. 3: HC' = ~(~HC + ~m + m')).
#[inline(always)]
pub const fn update(check: Be16, change: Sum) -> u16 {
    !Sum((!check.raw()) as u64 + change.0).fold()
}

/// Sum of a byte slice; an odd last byte is padded with zero (RFC 1071 section 1).
pub fn sum_bytes(bytes: &[u8]) -> Sum {
    let mut total = 0u64;
    let mut words = bytes.chunks_exact(2);
    for word in &mut words {
        total += u16::from_ne_bytes([word[0], word[1]]) as u64;
    }
    if let [last] = words.remainder() {
        total += u16::from_ne_bytes([*last, 0]) as u64;
    }
    Sum(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rfc1624_example() {
        // RFC 1624 section 4: HC = 0xDD2F, m = 0x5555, m' = 0x3285 gives 0x0000.
        let change = Sum::default().replace16(0x5555, 0x3285);
        assert_eq!(update(Be16::new(u16::from_be(0xDD2F)), change), 0x0000);
    }

    proptest! {
        #[test]
        fn update_equals_recompute(mut bytes in proptest::collection::vec(any::<u8>(), 20..64), new: u32, at in 0usize..4) {
            let at = at * 4;
            let before = Be16::new(u16::from_be(!sum_bytes(&bytes).fold()));
            let old = u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
            bytes[at..at + 4].copy_from_slice(&new.to_ne_bytes());
            let updated = update(before, Sum::default().replace32(old, new));
            let recomputed = !sum_bytes(&bytes).fold();
            // 0x0000 and 0xffff are the same number in ones' complement.
            prop_assert!(updated == recomputed || (updated ^ recomputed) == 0xffff && (updated == 0 || recomputed == 0));
        }
    }
}
